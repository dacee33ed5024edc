"""Explanations as one HTML page without links: tokens coloured by their push, then all numbers."""

import html
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType

from clear_ref.report import html_frame
from clear_ref.report.samples import Picture, image_tag

from . import terminal
from .explanation import ExplainedRecord, Explanation, Line, MistakeAbout
from .folding import FoldedLine, folded, number_in
from .method_file import describe
from .side_by_side import ComparedRecord, side_by_side

# Blue and orange look different in every common colour blindness, full and dashed lines also
# without colour.
TOKEN_STYLE = """
:root { --up: 0 98 190; --down: 224 110 0; --pull: 118 82 170; }
@media (prefers-color-scheme: dark) {
  :root { --up: 60 140 235; --down: 235 125 30; --pull: 160 120 220; }
}
.tokens { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .8rem .9rem; margin: .4rem 0 .9rem; line-height: 2.15; overflow-wrap: anywhere;
  font-size: .95rem; white-space: pre-wrap; }
.w { display: inline-block; max-width: 100%; overflow-wrap: anywhere; line-height: 1.5; }
.t { padding: .16rem 0 .1rem; border-bottom: 2px solid transparent;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.t:first-child { border-radius: 3px 0 0 3px; } .t:last-child { border-radius: 0 3px 3px 0; }
.t:only-child { border-radius: 3px; }
.asked { display: flex; gap: .9rem; align-items: center; margin: .4rem 0 1rem; }
.asked img { width: 7rem; height: 7rem; object-fit: contain; border-radius: 6px; }
.up { background: rgb(var(--up) / var(--a)); border-bottom-color: rgb(var(--up)); }
.down { background: rgb(var(--down) / var(--a)); border-bottom: 2px dashed rgb(var(--down)); }
.pull { background: rgb(var(--pull) / var(--a)); border-bottom-color: rgb(var(--pull)); }
.t.prompt, .t.padding, .t.image { color: var(--soft); } .t.answer { font-weight: 600; }
.t.up, .t.down, .t.pull { color: var(--ink); }
.t.image, .t.padding { border: 1px solid var(--line); border-bottom-width: 2px;
  padding: .1rem .35rem; font-size: .8rem; }
.key { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; font-size: .88rem; color: var(--soft);
  margin: .7rem 0; }
.key .t { color: var(--ink); font-weight: 600; --a: .45; }
.pair { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
h3 b { color: var(--ink); }
td.up, td.down, td.pull { border-radius: 0; border-bottom: 1px solid var(--line); }
"""


Pictures = Mapping[tuple[str, int], Picture]
"""{(batch, number of its record): picture}."""


def page(explanations: list[Explanation], pictures: Pictures = MappingProxyType({})) -> str:
    """The page of one explanation, or of two under different semantics.

    pictures  of the records that have one
    Text from the data is escaped, so that it never becomes markup.
    """
    first = explanations[0]
    names = [explanation["semantics"] for explanation in explanations]
    body = [
        f"<h1>{_text(describe(first['method'])['about'])}</h1>",
        f'<p class="soft">{_text(first["teacher"])}</p>',
    ]
    for explanation in explanations:
        body += _summary(explanation)
    body.append(_key(first["hidden"]))
    largest = [_largest_push(explanation) for explanation in explanations]
    for record in side_by_side(first, explanations[-1]):
        picture = pictures.get((record["batch"], record["record"]))
        body += _record(explanations, record, largest, picture)
    body += ["<h2>How to read it</h2>", f"<p>{_text(terminal.legend(first))}</p>"]
    title = " · ".join(["clear_ref explain", first["method"], *names])
    return html_frame.page(title, html_frame.STYLE + TOKEN_STYLE, "\n".join(body))


def _text(value: object) -> str:
    return html.escape(str(value))


def _summary(explanation: Explanation) -> list[str]:
    """The heading of one explanation, its formula, its source and its terms."""
    if "mistake" in explanation:
        return _mistake_summary(explanation, explanation["mistake"])
    description = describe(explanation["method"], explanation["semantics"])
    [variant] = description["meanings"].values()
    terms = ", ".join(f"{name} {value:.5g}" for name, value in explanation["terms"].items())
    formula = "\n".join(variant["formula"])
    return [
        f"<h2>{_text(terminal.title(explanation))}</h2>",
        f"<pre>{_text(formula)}</pre>",
        f'<p class="soft">Source: {_text(variant["source"])}. Terms: {_text(terms)}.</p>',
    ]


def _mistake_summary(explanation: Explanation, about: MistakeAbout) -> list[str]:
    """The heading of a known mistake or another project's meaning, and what it is."""
    terms = ", ".join(f"{name} {value:.5g}" for name, value in explanation["terms"].items())
    return [
        f"<h2>{_text(terminal.title(explanation))}</h2>",
        f"<pre>{_text(about['what'])}</pre>",
        f'<p class="soft">{_text(about["kind"].capitalize())}. Seen in: {_text(about["seen"])}. '
        f"Terms: {_text(terms)}.</p>",
        f'<p class="soft">{_text(about["stored"].capitalize())}.</p>',
    ]


def _key(hidden: bool) -> str:
    """What the colours mean."""
    marks = [("up", "descent makes the token more likely"), ("down", "less likely")]
    if hidden:
        marks = [("pull", "hidden state is pulled; the darker, the harder")]
    spans = [
        f'<span><span class="t {kind}">&nbsp;token&nbsp;</span> {_text(about)}</span>'
        for kind, about in marks
    ]
    spans.append(
        "<span>no colour: untouched. Bold: answer. "
        "The strongest push under a semantics has the full tone.</span>"
    )
    return f'<div class="key">{"".join(spans)}</div>'


def _record(
    explanations: list[Explanation],
    record: ComparedRecord,
    largest: list[float],
    picture: Picture | None,
) -> list[str]:
    """One record: picture, tokens in colour in each explanation that has it, all numbers."""
    name = record["batch"]
    shown = [i for i in range(len(explanations)) if record["in"][i]]
    where = ""
    if not all(record["in"]):
        where = f" ({explanations[shown[0]]['semantics']} alone)"
    body = [
        f"<h2>{_text(name)}, record {record['record']}{_text(where)}</h2>",
        _asked(record["question"], picture),
        '<div class="pair">',
    ]
    for i in shown:
        own = explanations[i]["batches"][name][record["record"]]
        share = sum(line["contribution"] for line in own["lines"])
        heading = f"{_text(explanations[i]['semantics'])}: {share:.5g} of the loss"
        body.append(f"<div><h3>{heading}</h3>{_tokens(own, largest[i])}</div>")
    return [*body, "</div>", _numbers(explanations, record)]


def _asked(question: str, picture: Picture | None) -> str:
    """The question, beside its picture if it has one."""
    shown = f"<p>{_text(question)}</p>"
    if picture is None:
        return shown
    return f'<div class="asked">{image_tag(picture, "the picture asked about")}{shown}</div>'


def _largest_push(explanation: Explanation) -> float:
    """The largest finite push of an explanation."""
    pushes = [
        abs(_push(line))
        for records in explanation["batches"].values()
        for record in records
        for line in record["lines"]
    ]
    return max([push for push in pushes if isfinite(push)], default=0.0)


def _push(line: Line) -> float:
    """|d loss / d h| of a hidden state, otherwise d_logp; 0 where there is none."""
    push = line["gradient"] if "gradient" in line else line["d_logp"]
    return 0.0 if push is None else push


def _tone(line: Line, largest: float) -> tuple[str, str]:
    """(class, style) of a token.

    The tone is the square root of the push, so that small pushes are visible beside large ones.
    """
    push = _push(line)
    if not isfinite(push) or push == 0 or not largest or abs(push) < 1e-9 * largest:
        return "", ""
    kind = "up" if push < 0 else "down"
    if "gradient" in line:
        kind = "pull"
    return f" {kind}", f' style="--a:{0.08 + 0.62 * (abs(push) / largest) ** 0.5:.3f}"'


def _tokens(record: ExplainedRecord, largest: float) -> str:
    """The record's tokens as running text; a word is not broken between its tokens."""
    lines = [line for line in folded(record["lines"]) if line["kind"] != "after the end"]
    parts = []
    for word in in_words(lines):
        spans = "".join(_token(line, largest) for line in word)
        before = " " if _is_plain(word[0]) and word[0]["token"].startswith(" ") else ""
        after = "\n" * sum(line["token"].count("\n") for line in word)
        parts.append(f'{before}<span class="w">{spans}</span>{after}')
    return f'<div class="tokens">{"".join(parts)}</div>'


def in_words(lines: list[FoldedLine]) -> list[list[FoldedLine]]:
    """The tokens of each word; a special token, a blank and a picture are words of their own.

    A token that begins with a blank begins a word; so does the first one of the answer.
    """
    words: list[list[FoldedLine]] = []
    for line in lines:
        last = words[-1][-1] if words else None
        goes_on = (
            last is not None
            and _is_plain(line)
            and _is_plain(last)
            and not line["token"].startswith(" ")
            and line["kind"] == last["kind"]
        )
        if goes_on:
            words[-1].append(line)
        else:
            words.append([line])
    return words


def _is_plain(line: FoldedLine) -> bool:
    """Whether a token is text with letters: no picture, no padding, no blank, no special token."""
    token = line["token"].strip()
    is_special = token.startswith("<") and token.endswith(">")
    return line["kind"] not in ("image", "padding") and bool(token) and not is_special


def _token(line: FoldedLine, largest: float) -> str:
    """One token; its numbers are shown when the pointer is on it."""
    tone, style = _tone(line, largest)
    shown = terminal.piece(line)
    if line["kind"] not in ("image", "padding") and line["token"].strip():
        # The blank before a word has no colour.
        shown = line["token"].strip()
    about = []
    for key in ("nll", "d_logp", "d_logit", "gradient", "contribution"):
        value = number_in(line, key)
        if value is not None:
            about.append(f"{key} {terminal.number(value, 4)}")
    return (
        f'<span class="t {_text(line["kind"])}{tone}"{style} '
        f'title="{_text(", ".join(about))}">{_text(shown)}</span>'
    )


def _numbers(explanations: list[Explanation], record: ComparedRecord) -> str:
    """Every number of a record, in a table that opens with a click."""
    first = explanations[0]
    if len(explanations) == 2:
        headings = terminal.compared_headings(first, explanations[1])
        rows = [terminal.compared_cells(line) for line in record["lines"]]
    else:
        headings = terminal.record_headings(first, record["batch"])
        rows = terminal.record_rows(first, record["batch"], record["record"])
    words = terminal.left_aligned(headings)
    lines = [_table_row("th", headings, words)]
    lines += [_table_row("td", row, words) for row in rows]
    return (
        '<details><summary>All numbers</summary><div class="scroll">'
        f"<table>{''.join(lines)}</table></div></details>"
    )


def _table_row(tag: str, cells: list[str], words: list[int]) -> str:
    """One row of a table; tag: th or td; words: the numbers of the columns without numbers."""
    parts = []
    for i, cell in enumerate(cells):
        style = "" if i in words else " class=n"
        parts.append(f"<{tag}{style}>{_text(cell)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"
