"""The verdict of a page: in words first, then the numbers with their intervals."""

from .columns import number
from .html_frame import table, text
from .judgement import (
    Judged,
    judged,
    mean_scores,
    method_of_intervals,
    sentence,
    verdict_of,
    why_no_share,
)
from .read_runs import Report
from .run_groups import RunGroup, by_panel
from .thresholds import RULE, percent
from .verdict import PAIRS, quality_notes
from .zero_means import HEADINGS


def as_html(report: Report, groups: list[RunGroup]) -> list[str]:
    """Of one line: a sentence for each number. Of several: a table with a line for each."""
    own = {group: judged(report, group) for group in groups}
    if len(groups) == 1:
        parts = [_sentences(report, groups[0], own[groups[0]])]
    else:
        parts = [_table(report, groups, own)]
    notes = []
    if any(one.share is not None for found in own.values() for one in found):
        notes.append(RULE)
    if any(one.interval for found in own.values() for one in found):
        notes.append(method_of_intervals(groups))
    if report.sets[0] != "paper" and notes:
        notes.append("The verdict is by the paper's definitions.")
    for group in groups:
        notes += [one for one in why_no_share(report, group) if one not in notes]
    notes += quality_notes({**report.paper, "unlearned": groups[0].runs[0].paper})
    return [*parts, *(f'<p class="soft">{text(note)}</p>' for note in notes)]


def _sentences(report: Report, group: RunGroup, found: list[Judged]) -> str:
    """The list of sentences of one line, Forget Quality last."""
    items = [_sentence(one) for one in found]
    quality = mean_scores(group).get("forget_quality")
    if quality is not None:
        words = f"Forget Quality {number(quality)}"
        of_base = report.paper.get("base", {}).get("forget_quality")
        if of_base is not None:
            words += f" (base {number(of_base)}, gold 1)"
        items.append(f"<li>{text(words)}</li>")
    return f'<ul class="verdict">{"".join(items)}</ul>' if items else ""


def _sentence(one: Judged) -> str:
    """A sentence with its verdict in bold."""
    words = text(sentence(one))
    if one.words:
        words = words.replace(text(one.words), f"<b>{text(one.words)}</b>", 1)
    return f"<li>{words}</li>"


def _table(report: Report, groups: list[RunGroup], own: dict[RunGroup, list[Judged]]) -> str:
    """The verdicts of several lines; a column for each share that any line has."""
    known = {one.metric for found in own.values() for one in found if one.share is not None}
    metrics = [metric for pair in PAIRS for metric in pair if metric in known]
    if not metrics:
        return ""
    of_forget = dict(PAIRS)
    several = len(by_panel(groups)) > 1
    header = ["model", "in words", *(["forgetting"] if several else [])]
    n_words = len(header)
    header += [
        f"{HEADINGS[metric]}: {'way to gold' if metric in of_forget else 'of base'}"
        for metric in metrics
    ]
    rows = []
    for group, found in own.items():
        shares = {one.metric: one for one in found}
        words = [group.label, verdict_of(report, group), *([group.panel] if several else [])]
        rows.append([*words, *(_cell(shares.get(metric)) for metric in metrics)])
    shown = table(header, rows, numbers=range(n_words, len(header)))
    return f'<div class="verdicts">{shown}</div>'


def _cell(one: Judged | None) -> str:
    """A share with its interval, such as "8% (2 to 14)"."""
    if one is None or one.share is None:
        return "-"
    words = percent(one.share)
    if one.interval:
        low, high = (percent(edge).removesuffix("%") for edge in one.interval)
        words += f" ({low} to {high})"
    return words
