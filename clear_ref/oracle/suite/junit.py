"""The verdicts of `conform` as JUnit XML, for continuous integration."""

from clear_ref.oracle.vectors.conform_result import ConformResult
from clear_ref.oracle.vectors.conform_text import explanation
from clear_ref.oracle.vectors.verdict import Verdict

from .run_suite import junit

NOT_JUDGED = "loss right, gradient not judged"


def of_result(result: ConformResult) -> bytes:
    """The XML: a test suite for the function, a test case for each case, its method as class name.

    pass and acceptable are passed (with what was accepted as system-out), loss_only is skipped,
    fail is a failure with its reason and cause, or an error where nothing could be judged.
    """
    properties = {
        "golden vectors": result["vectors"]["version"],
        "set": result["vectors"]["set"],
        "semantics": ",".join(result["semantics"]),
        "framework": result["framework"],
        "dtype": result["dtype"],
        "strict": str(result["strict"]).lower(),
    }
    cases = []
    for verdict in result["cases"]:
        cases.append((verdict["method"], verdict["id"], _kind(verdict), _message(verdict)))
    return junit(result["impl"], properties, cases)


def _kind(verdict: Verdict) -> str:
    nothing_judged = verdict["verdict"] == "fail" and verdict["loss"] is None
    return "error" if nothing_judged else verdict["verdict"]


def _message(verdict: Verdict) -> str:
    why = explanation(verdict).removeprefix(": ")
    if verdict["verdict"] == "loss_only":
        return NOT_JUDGED
    if verdict["verdict"] != "fail" or verdict["loss"] is None:
        return why
    loss = f"loss {verdict['loss']:.6g}, expected {verdict['expected']:.6g}"
    return f"{loss}: {why}" if why else loss
