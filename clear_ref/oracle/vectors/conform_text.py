"""What `conform` prints in the terminal: a table of methods, then the failed cases."""

from .conform_result import ConformResult, MethodSummary
from .verdict import Verdict

HEAD = (
    f"{'method':12} {'pass':>5} {'accept.':>7} {'fail':>5} {'loss off':>9} {'grad. off':>9}"
    "  explained by"
)
UNITS_OF_ERRORS = (
    "loss off: difference / sum of the terms' sizes; "
    "grad. off: largest difference / largest gradient"
)


def text(result: ConformResult, every_case: bool = False) -> str:
    """A line for each method, then one for each group of failed cases with the same explanation.

    every_case  one line for each case instead of the groups
    """
    counts = ", ".join(f"{count} {name}" for name, count in result["counts"].items())
    lines = [
        f"{result['impl']} ({result['framework']}, {result['dtype']}), tested for "
        f"{', '.join(result['semantics'])}: {counts}",
        "",
        HEAD,
    ]
    lines += [_method_line(method, summary) for method, summary in result["methods"].items()]
    if every_case:
        case_lines = [_case_line([verdict]) for verdict in result["cases"]]
    else:
        case_lines = [_case_line(group) for group in _groups_of_failed(result["cases"])]
    if case_lines:
        lines += ["", *case_lines]
    return "\n".join([*lines, "", UNITS_OF_ERRORS])


def _method_line(method: str, summary: MethodSummary) -> str:
    explanations = []
    for name, count in summary["meanings"].items():
        explanations.append(f"{_semantics_named(name)} ({count})")
    most_first = sorted(summary["mistakes"].items(), key=lambda pair: -pair[1])
    for name, count in most_first:
        explanations.append(f"{name} ({count})")
    gradient_error = "-"
    if summary["gradient_error"] is not None:
        gradient_error = f"{summary['gradient_error']:.1e}"
    return (
        f"{method:12} {summary['pass']:5} {summary['acceptable']:7} {summary['fail']:5} "
        f"{summary['error']:9.1e} {gradient_error:>9}  {', '.join(explanations)}"
    )


def _groups_of_failed(verdicts: list[Verdict]) -> list[list[Verdict]]:
    """Failed cases of the same method with the same explanation, together."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict["verdict"] == "fail":
            groups.setdefault((verdict["method"], _explanation(verdict)), []).append(verdict)
    return list(groups.values())


def _case_line(group: list[Verdict]) -> str:
    """One line for cases with the same explanation: the first case, and how many more there are."""
    first = group[0]
    n_more = len(group) - 1
    more = f" and {n_more} more" if n_more else ""
    return (
        f"{first['verdict']:10} {first['id']}{more}: loss {first['loss']:.6g}, "
        f"expected {first['expected']:.6g}{_explanation(first)}"
    )


def _explanation(verdict: Verdict) -> str:
    if verdict["verdict"] == "pass":
        return ""
    names = list(verdict["mistakes"])
    if verdict["meaning"]:
        names.insert(0, _semantics_named(verdict["meaning"]))
    return ": " + (", ".join(names) or "no known mistake")


def _semantics_named(name: str) -> str:
    """ "released" as "released semantics"; ", the options ignored" is kept at the end."""
    semantics, comma, ignored = name.partition(",")
    return f"{semantics} semantics{comma}{ignored}"
