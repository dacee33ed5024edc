"""What a command returns to run.py, and how it is printed."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Output:
    """What a command found.

    found    the JSON object of --json
    text     makes the text for people from `found`
    check    called with `found` after it is printed; raises RunFailed or UserError if the
             command fails
    """

    found: Mapping[str, Any]
    text: Callable[[Any], str]
    check: Callable[[Any], None] | None = None


def show(output: Output, as_json: bool) -> None:
    """Print one JSON object or the text for people; then raise the command's error if it fails."""
    if as_json:
        print(json.dumps(jsonable(output.found), ensure_ascii=False, allow_nan=False), flush=True)
    else:
        print(output.text(output.found), flush=True)
    if output.check is not None:
        output.check(output.found)


def jsonable(value: Any) -> Any:
    """The same value; infinity and NaN, which JSON cannot hold, become the strings inf and nan."""
    if isinstance(value, Mapping):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
