"""report.html of a sweep: the front, the chosen settings, every setting, and how to repeat it."""

from collections.abc import Mapping
from typing import Any

from clear_ref.evaluation.selection import HALVES

from . import front, html_frame
from .columns import number
from .html_frame import details, table, text
from .page_style import STYLE
from .sweep_tables import (
    cell,
    columns_of,
    missed,
    quality_note,
    rule_in_words,
    title,
    zero_note,
)
from .thresholds import percent

HALVES_STYLE = """
th.half { text-align: center; border-left: 1px solid var(--line); }
.halves td:not(.words) { white-space: nowrap; }
td.words { min-width: 14rem; } td.words, th.words { padding-left: 1rem; }
"""


def page(summary: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The page as HTML text.

    summary  what sweep.json holds
    record   what settings.json holds
    """
    body = [
        f"<h1>{text(headline(summary))}</h1>",
        f'<p class="soft">{text(title(summary))}.</p>',
        "<h2>What each method forgets and what it keeps</h2>",
        '<p class="soft">A small dot is a setting; a large dot is the setting that the rule '
        "chose. A line joins those settings of a method that none of its other settings beats in "
        "both numbers. All numbers here are of the reporting half of the records, which the rule "
        "did not see."
        "</p>",
        front.fronts(summary),
        "<h2>The chosen settings</h2>",
        f'<p class="soft">{text(_rule(summary))}</p>',
        _chosen(summary),
        "<h2>How to read and repeat it</h2>",
        details("Every setting", _every(summary)),
        details("Commands of the chosen settings", _commands(summary)),
        details("Settings of all runs", _settings(record)),
    ]
    style = html_frame.STYLE + STYLE + front.STYLE + HALVES_STYLE
    return html_frame.page(f"clear_ref · {title(summary)}", style, "\n".join(body))


def headline(summary: Mapping[str, Any]) -> str:
    """What the best chosen setting does on the reporting half.

    The best one has the lowest Forget on the choosing half, of those that meet the rule's
    condition; 0 comes last, as in evaluation/selection.py.
    """
    forget, retain = summary["pair"]
    base = summary["models"]["base"]["reporting"]
    chosen = [p for p in summary["points"] if p["chosen"] and p["meets"]]
    if not chosen:
        return "No setting of any method keeps as much of Retain as the rule asks for"
    before = [point["choosing"][forget] for point in chosen]
    best = chosen[before.index(min(before, key=lambda value: (value == 0, value)))]
    scores = best["reporting"]
    words = (
        f"{best['method']} lowers Forget from {number(base[forget], 2)} to "
        f"{number(scores[forget], 2)}"
    )
    if not base[retain]:
        return words
    return f"{words} and keeps {percent(scores[retain] / base[retain])} of Retain"


def _rule(summary: Mapping[str, Any]) -> str:
    sentence = (
        f"The rule {summary['rule']} was stated before the runs: {rule_in_words(summary['rule'])}. "
        f"It saw the choosing half of the forget and retain records (split by seed "
        f"{summary['split_seed']})."
    )
    missing = missed(summary)
    if missing:
        sentence += (
            f" No setting of {', '.join(missing)} meets the condition; shown is the one that keeps "
            "most of Retain."
        )
    notes = [note for note in (zero_note(summary), quality_note(summary)) if note]
    return " ".join([sentence, *(f"{note}." for note in notes)])


def _chosen(summary: Mapping[str, Any]) -> str:
    rows = [([name], scores, "") for name, scores in summary["models"].items()]
    rows += [([p["method"]], p, p["words"]) for p in summary["points"] if p["chosen"]]
    return _halves_table(summary, ["model"], rows)


def _every(summary: Mapping[str, Any]) -> str:
    rows = []
    for point in summary["points"]:
        words = point["words"] + (f", failed: {point['failed']}" if point["failed"] else "")
        mark = "chosen" if point["chosen"] else ""
        rows.append(([point["number"], point["method"], mark], point, words))
    return _halves_table(summary, ["", "method", ""], rows)


def _halves_table(
    summary: Mapping[str, Any],
    heads: list[str],
    rows: list[tuple[list[Any], Mapping[str, Any], str]],
) -> str:
    """A table with the numbers of both halves; the first of two head rows names the halves.

    heads  of the first columns
    rows   (first cells, scores by half, the setting in words)
    """
    columns = columns_of(summary)
    groups = "".join(f'<th class="half" colspan="{len(columns)}">{h} half</th>' for h in HALVES)
    names = "".join(f"<th class=n>{text(heading)}</th>" for _ in HALVES for _, heading in columns)
    first = "".join(f"<th>{text(head)}</th>" for head in heads)
    lines = []
    for cells, scores, words in rows:
        numbers = _numbers(scores, columns) if "reporting" in scores else [""] * 2 * len(columns)
        lines.append(
            "<tr>"
            + "".join(f"<td>{text(cell)}</td>" for cell in cells)
            + "".join(f"<td class=n>{text(value)}</td>" for value in numbers)
            + f'<td class="words">{text(words)}</td></tr>'
        )
    above = f'<tr><th colspan="{len(heads)}"></th>{groups}<th></th></tr>'
    head = f"<thead>{above}<tr>{first}{names}<th class=words>setting</th></tr></thead>"
    body = f"<tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table class="halves">{head}{body}</table></div>'


def _numbers(scores: Mapping[str, Any], columns: list[tuple[str, str]]) -> list[str]:
    return [cell(scores[half], metric) for half in HALVES for metric, _ in columns]


def _commands(summary: Mapping[str, Any]) -> str:
    lines = [point["command"] for point in summary["points"] if point["chosen"]]
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def _settings(record: Mapping[str, Any]) -> str:
    rows = [
        [name, entry["value"], entry["source"]]
        for name, entry in record["settings"].items()
        if name != "points"
    ]
    rows += [[f"version of {name}", value, ""] for name, value in record["versions"].items()]
    rows += [[f"SHA-256 of {name}", value, ""] for name, value in record["inputs"].items()]
    return table(["setting", "value", "source"], rows)
