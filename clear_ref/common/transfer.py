"""What a function returned or raised, in a form that JSON can hold: for results of processes."""

from collections.abc import Callable
from typing import Any

from .errors import RunFailed, UserError

KINDS: dict[str, type[Exception]] = {"UserError": UserError, "RunFailed": RunFailed}


def attempt(compute: Callable[[], Any]) -> dict[str, Any]:
    """{"result": what `compute` returned}, or {"error": kind, "message": text}.

    Errors of other kinds are raised.
    """
    try:
        return {"result": compute()}
    except UserError as error:
        return {"error": "UserError", "message": str(error)}
    except RunFailed as error:
        return {"error": "RunFailed", "message": str(error)}


def result_of(answer: dict[str, Any]) -> Any:
    """The result in what `attempt` returned; raises the error that it holds instead."""
    if "error" in answer:
        raise KINDS[answer["error"]](answer["message"])
    return answer["result"]
