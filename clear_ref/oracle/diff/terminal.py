"""A DiffReport as text for the terminal."""

from .comparison import STAGES
from .report import DiffReport, FindingFields


def text(report: DiffReport) -> str:
    """A line for each stage, then the first that differs, by how much, and what explains it."""
    method = "no method named"
    if report["method"]:
        method = f"{report['method']} ({report['semantics']})"
    lines = [f"{report['dump']}: {method}", ""]
    for stage in report["stages"]:
        state = "same" if stage["same"] else "DIFFERS"
        line = (
            f"  {state:8} {title(stage):32} largest difference {stage['error']:<9.3g} "
            f"allowed {stage['tolerance']:<9.3g}"
        )
        if not stage["same"]:
            line += f" {stage['n_off']} of {stage['n']} places"
        lines.append(line)
    lines += [f"  not compared: {reason}" for reason in report["not_compared"]]
    lines.append("")
    if report["first"] is not None:
        lines += first_difference(report["first"])
        lines += [
            f"explained by {mistake['name']}: {mistake['what']}"
            + (f" Here: {mistake['detail']}." if mistake["detail"] else "")
            + f" Seen: {mistake['seen']}"
            for mistake in report["mistakes"]
        ]
        if not report["mistakes"]:
            lines.append("no known mistake explains it")
    elif report["stages"]:
        lines.append("nothing differs in what was compared")
    else:
        lines.append("nothing could be compared")
    return "\n".join(lines)


def title(stage: FindingFields) -> str:
    """The name of a stage: batch/stage, term/NAME or loss."""
    if stage["stage"] == "terms":
        return f"term/{stage['batch']}"
    if stage["batch"]:
        return f"{stage['batch']}/{stage['stage']}"
    return stage["stage"]


def first_difference(first: FindingFields) -> list[str]:
    """Two lines: the place of the first difference with both numbers, and the tolerance."""
    has_place = first["batch"] and first["stage"] != "terms"
    where = f" at {place(first)}" if has_place else ""
    return [
        f"first difference: {title(first)}{where}: "
        f"theirs {first['theirs']:.9g}, ours {first['ours']:.9g}",
        f"allowed {first['tolerance']:.3g}: {first['reason']}",
    ]


def place(first: FindingFields) -> str:
    """The place of a difference in words, with its token if one is known."""
    words = [first["place"]]
    if first["token"]:
        before_logits = STAGES.index(first["stage"]) < STAGES.index("logits")
        words.append(f"{'token' if before_logits else 'predicting token'} {first['token']}")
    return ", ".join(words)
