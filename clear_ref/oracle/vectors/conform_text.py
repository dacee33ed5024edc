"""What `conform` prints in the terminal: a table of methods, then the cases that do not pass."""

from collections import Counter

from .conform_result import ConformResult, MethodSummary
from .verdict import Verdict

HEAD = (
    f"{'method':12} {'pass':>5} {'loss only':>9} {'accept.':>7} {'fail':>5} {'loss off':>9} "
    f"{'grad. off':>9}  explained by"
)
UNITS_OF_ERRORS = (
    "loss off: difference / sum of the terms' sizes; "
    "grad. off: largest difference / largest gradient"
)
NO_GRADIENT = "loss only: the loss is right, no gradient was returned, so it is not judged"
NAMES = {
    "pass": "pass",
    "loss_only": "loss right, gradient not judged",
    "acceptable": "acceptable",
    "fail": "fail",
}


def text(result: ConformResult, every_case: bool = False) -> str:
    """A line for each method, then one for each group of cases with the same explanation.

    every_case  one line for each case instead of the groups
    """
    counts = ", ".join(f"{count} {NAMES[name]}" for name, count in result["counts"].items())
    lines = [
        f"{result['impl']} ({result['framework']}, {result['dtype']}), tested for "
        f"{', '.join(result['semantics'])}: {counts}",
        _arithmetic_line(result["cases"]),
        "",
        HEAD,
    ]
    lines += [_method_line(method, summary) for method, summary in result["methods"].items()]
    if every_case:
        case_lines = [_case_line([verdict]) for verdict in result["cases"]]
    else:
        case_lines = [_case_line(group) for group in _groups(result["cases"])]
    if case_lines:
        lines += ["", *case_lines]
    used = result["vectors"]
    lines += ["", f"golden vectors {used['version']}, {used['set']} set", UNITS_OF_ERRORS]
    if result["counts"]["loss_only"]:
        lines.append(NO_GRADIENT)
    return "\n".join(lines)


def _arithmetic_line(verdicts: list[Verdict]) -> str:
    """In which arithmetic the results are right."""
    right = [v for v in verdicts if v["verdict"] in ("pass", "loss_only")]
    judged = Counter(verdict["arithmetic"] for verdict in right)
    parts = ", ".join(f"{name} ({count} cases)" for name, count in judged.items())
    return f"right to the rounding of: {parts or 'none'}"


def _method_line(method: str, summary: MethodSummary) -> str:
    explanations = [f"{name} ({count})" for name, count in summary["causes"].items()]
    return (
        f"{method:12} {summary['pass']:5} {summary['loss_only']:9} {summary['acceptable']:7} "
        f"{summary['fail']:5} {_number(summary['error']):>9} "
        f"{_number(summary['gradient_error']):>9}  {', '.join(explanations)}"
    ).rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _groups(verdicts: list[Verdict]) -> list[list[Verdict]]:
    """Acceptable and failed cases of the same method with the same explanation, together."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict["verdict"] in ("acceptable", "fail"):
            key = (verdict["method"], verdict["verdict"], explanation(verdict))
            groups.setdefault(key, []).append(verdict)
    return list(groups.values())


def _case_line(group: list[Verdict]) -> str:
    """One line for cases with the same explanation: the first case, and how many more there are."""
    first = group[0]
    n_more = len(group) - 1
    more = f" and {n_more} more" if n_more else ""
    loss = "no loss" if first["loss"] is None else f"loss {first['loss']:.6g}"
    return (
        f"{first['verdict']:10} {first['id']}{more}: {loss}, "
        f"expected {first['expected']:.6g}{explanation(first)}"
    )


def explanation(verdict: Verdict) -> str:
    """ ": " and what explains a case that does not pass; "" for one that does."""
    if verdict["verdict"] in ("pass", "loss_only"):
        return ""
    shown = verdict["cause"] or ""
    if verdict["same_numbers"]:
        shown += f" (the same numbers: {', '.join(verdict['same_numbers'])})"
    if verdict["verdict"] == "acceptable":
        asked = verdict["id"].split("/")[1]
        who = ", a meaning of other projects" if verdict["cause_kind"] == "peer" else ""
        return f": accepted as {shown}{who}, not {asked} semantics"
    if verdict["reason"]:
        return f": {verdict['reason']}" + (f"; {shown}" if _is_named(verdict) else "")
    return f": {shown}" if _is_named(verdict) else f": no known mistake: {shown}"


def _is_named(verdict: Verdict) -> bool:
    return verdict["cause_kind"] not in (None, "place")
