"""Finished `visual` runs, read for their page and tables: the numbers, and what each was given."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import is_number, shown
from clear_ref.common.files import read_json
from clear_ref.common.run_directory import RunRecord
from clear_ref.common.settings import COMMAND_LINE
from clear_ref.visual import columns, recipes, world_recipes
from clear_ref.visual.method_names import METHOD_NAMES, STAGES
from clear_ref.visual.store import reason_of

from . import visual_numbers
from .given_settings import word

PATHS = frozenset({"data", "network", "forget_names", "holdout_names"})
TRAIN = "train "  # begins the name of a stage's recipe in settings.json
# Settings that a title says in another way, the directory, and what changes no number.
SHOWN_ELSEWHERE = run_directory.WITHOUT_EFFECT | {
    *("method", "semantics", "metrics", "splits", "networks", "processes")
}
Found = Mapping[str, Any]


@dataclass(frozen=True)
class VisualRun:
    """One run.

    found   what its metrics.json holds; "out" is its directory, "given" the words of `given_words`
    record  what its settings.json holds
    """

    found: Found
    record: RunRecord


def run_of(where: Path, found: Found, record: RunRecord) -> VisualRun:
    """The run in this directory, as it is named now."""
    return VisualRun(
        {**found, "out": str(where), "given": given_words(record, found["semantics"])}, record
    )


def read(directory: Path) -> VisualRun | None:
    """The finished `visual` run of a directory; None for a run of another command.

    Its numbers are compared with its results (visual_numbers.py).
    raises  UserError for a run that has not finished, and for files that it does not write
    """
    settings, path = directory / run_directory.SETTINGS_FILE, directory / run_directory.METRICS_FILE
    if not settings.exists() or read_json(settings).get("command") != "visual":
        return None
    record = run_directory.read_record(settings)
    if not path.is_file():
        raise UserError(
            f"report {directory}: holds no {path.name}, as a run that has not finished; "
            "finish it with --resume"
        )
    try:
        found = read_json(path)
    except UserError as error:
        raise _no_summary(path, reason_of(error, path)) from None
    if not _is_summary(found):
        raise _no_summary(path, "it has other keys or types")
    problem = _other_semantics(found, record) or visual_numbers.problem(directory, found)
    if problem:
        raise _no_summary(path, problem)
    return run_of(directory, found, record)


def _other_semantics(found: Found, record: RunRecord) -> str:
    """That metrics.json names another semantics than settings.json; "" if it does not."""
    own = record["settings"].get("semantics", {"value": found["semantics"]})["value"]
    if own == found["semantics"]:
        return ""
    return f"semantics is {shown(found['semantics'])}, and {shown(own)} in settings.json"


def _no_summary(path: Path, why: str) -> UserError:
    """The error of a metrics.json that is not that of the run."""
    return UserError(
        f"{path}: is not the summary of a finished visual run ({why}); the same command with "
        "--resume writes it again"
    )


def _is_summary(found: Found) -> bool:
    """Whether this is what metrics.json of a finished `visual` run holds."""
    models, metrics, failed = found.get("models"), found.get("metrics"), found.get("failed", [])
    return (
        isinstance(models, dict)
        and all(_is_model(sets) for sets in models.values())
        and isinstance(metrics, list)
        and len(metrics) > 0
        and all(isinstance(name, str) and name in columns.WORDS for name in metrics)
        and all(type(found.get(name)) is int for name in ("splits", "names", "pictures"))
        and isinstance(found.get("semantics"), str)
        and isinstance(failed, list)
        and all(isinstance(each, str) for each in failed)
    )


def _is_model(sets: object) -> bool:
    """Whether these are the numbers of one stage, in each definition."""
    return isinstance(sets, dict) and all(
        isinstance(sets.get(definition), dict)
        and all(_is_number(sets[definition].get(name)) for name in columns.COLUMNS)
        for definition in columns.WORDS
    )


def _is_number(found: object) -> bool:
    """Whether this is a Number of visual/columns.py."""
    return isinstance(found, dict) and (
        (found.get("value") is None or is_number(found["value"]))
        and is_number(found.get("spread"))
        and type(found.get("n")) is int
    )


def given_words(record: RunRecord, semantics: str) -> list[str]:
    """["size 16", "base.epochs 1", "twins.distance kl"]: what the command line named.

    Of a recipe the values that are not the defaults of its stage, of a path its last two parts.
    Those of SHOWN_ELSEWHERE are left out.
    """
    words: list[str] = []
    for name, entry in (record["settings"] | record.get("options", {})).items():
        if entry["source"] != COMMAND_LINE or name in SHOWN_ELSEWHERE:
            continue
        if name.startswith(TRAIN):
            words += _recipe_words(name.removeprefix(TRAIN), str(entry["value"]), record, semantics)
        elif name in PATHS:
            words.append(word(name, "/".join(Path(str(entry["value"])).parts[-2:])))
        else:
            words.append(word(name, entry["value"]))
    return words


def _recipe_words(stage: str, values: str, record: RunRecord, semantics: str) -> list[str]:
    """The values of a recipe that are not the defaults of its stage."""
    is_mini = record.get("recipe") == "mini"
    defaults: list[str] = []
    if stage in STAGES:
        of = world_recipes.recipe_of if is_mini else recipes.recipe_of
        defaults = [f"{name} {value}" for name, value in asdict(of(stage, semantics)).items()]
    return [f"{stage}.{each}" for each in values.split(", ") if each not in defaults]


def failures(found: Found) -> dict[str, str]:
    """{method: why its training failed}; of several splits the first reason, and how many.

    A reason that names no method has the name "".
    """
    reasons: dict[str, list[str]] = {}
    for reason in found.get("failed", ()):
        named = [method for method in METHOD_NAMES if f", {method} (" in reason]
        reasons.setdefault(named[0] if named else "", []).append(reason)
    return {
        method: own[0] + (f"; failures in all: {len(own)}" if len(own) > 1 else "")
        for method, own in reasons.items()
    }
