"""An explained batch as one self-contained page: every token coloured by where descent moves it, then all numbers."""

import html
from math import isfinite

from clear_ref.report import html_frame

from . import terminal
from .method_file import describe

# Blue and orange are told apart in every common colour blindness, full and dashed lines without any colour.
TOKENS = """
:root { --up: 0 98 190; --down: 224 110 0; --pull: 118 82 170; }
@media (prefers-color-scheme: dark) { :root { --up: 60 140 235; --down: 235 125 30; --pull: 160 120 220; } }
.tokens { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem .9rem;
  margin: .4rem 0 .9rem; line-height: 2.15; overflow-wrap: anywhere; font-size: .95rem; white-space: pre-wrap; }
.t { padding: .16rem .04rem .1rem; margin-right: 1px; border-radius: 3px; border-bottom: 2px solid transparent;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.up { background: rgb(var(--up) / var(--a)); border-bottom-color: rgb(var(--up)); }
.down { background: rgb(var(--down) / var(--a)); border-bottom: 2px dashed rgb(var(--down)); }
.pull { background: rgb(var(--pull) / var(--a)); border-bottom-color: rgb(var(--pull)); }
.t.prompt, .t.padding, .t.image { color: var(--soft); } .t.answer { font-weight: 600; }
.t.up, .t.down, .t.pull { color: var(--ink); }
.t.image, .t.padding { border: 1px solid var(--line); border-bottom-width: 2px; padding: .1rem .35rem;
  font-size: .8rem; }
.key { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; font-size: .88rem; color: var(--soft); margin: .7rem 0; }
.key .t { color: var(--ink); font-weight: 600; --a: .45; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: .9rem; }
h3 b { color: var(--ink); } td.up, td.down, td.pull { border-radius: 0; border-bottom: 1px solid var(--line); }
"""


def page(found: list[dict]) -> str:
    """The page of one explained batch, or of the same in two meanings. Nothing in it is shown as markup."""
    first = found[0]
    names = [one["semantics"] for one in found]
    body = [
        f"<h1>{_text(describe(first['method'])['about'])}</h1>",
        f'<p class="soft">{_text(first["teacher"])}</p>',
    ]
    for one in found:
        [meaning] = describe(first["method"], one["semantics"])["meanings"].values()
        terms = ", ".join(f"{name} {value:.5g}" for name, value in one["terms"].items())
        body += [
            f"<h2>{_text(terminal.title(one))}</h2>",
            f"<pre>{_text(chr(10).join(meaning['formula']))}</pre>",
            f'<p class="soft">Source: {_text(meaning["source"])}. Terms: {_text(terms)}.</p>',
        ]
    body.append(_key(first["hidden"]))
    largest = [_largest(one) for one in found]
    for part in terminal.beside(first, found[-1]):
        shown = [i for i, there in enumerate(part["in"][: len(found)]) if there]
        where = "" if all(part["in"]) else f" ({names[shown[0]]} alone)"
        body += [
            f"<h2>{_text(part['batch'])}, record {part['record']}{_text(where)}</h2>",
            f"<p>{_text(part['question'])}</p>",
            '<div class="pair">',
        ]
        for i in shown:
            record = found[i]["batches"][part["batch"]][part["record"]]
            share = sum(line["contribution"] for line in record["lines"])
            body.append(
                f"<div><h3>{_text(names[i])}: {share:.5g} of the loss</h3>{_tokens(record, largest[i])}</div>"
            )
        body += ["</div>", _numbers(found, part, largest)]
    legend = terminal.HIDDEN_LEGEND if first["hidden"] else terminal.LEGEND
    body += ["<h2>How to read it</h2>", f"<p>{_text(legend)}</p>"]
    title = " · ".join(["clear_ref explain", first["method"], *names])
    return html_frame.page(title, html_frame.STYLE + TOKENS, "\n".join(body))


def _text(value) -> str:
    return html.escape(str(value))


def _key(hidden: bool) -> str:
    marks = (
        [("pull", "hidden state is pulled; the darker, the harder")]
        if hidden
        else [("up", "descent makes the token more likely"), ("down", "less likely")]
    )
    spans = [
        f'<span><span class="t {kind}">&nbsp;token&nbsp;</span> {_text(about)}</span>'
        for kind, about in marks
    ]
    spans.append(
        "<span>no colour: untouched. Bold: answer. A meaning's strongest push has the full tone.</span>"
    )
    return f'<div class="key">{"".join(spans)}</div>'


def _largest(found: dict) -> float:
    """The strongest push of a meaning."""
    sizes = [
        abs(_push(line))
        for records in found["batches"].values()
        for record in records
        for line in record["lines"]
    ]
    return max([size for size in sizes if isfinite(size)], default=0.0)


def _push(line: dict) -> float:
    value = line.get("gradient", line.get("d_logp"))
    return 0.0 if value is None else value


def _tone(line: dict, largest: float) -> tuple[str, str]:
    """(class, style) of a token: the square root of the push, so that small ones are seen beside large ones."""
    push = _push(line)
    if not isfinite(push) or push == 0 or not largest or abs(push) < 1e-9 * largest:
        return "", ""
    kind = "pull" if "gradient" in line else "up" if push < 0 else "down"
    return f" {kind}", f' style="--a:{0.08 + 0.62 * (abs(push) / largest) ** 0.5:.3f}"'


def _tokens(record: dict, largest: float) -> str:
    """The record's tokens as running text."""
    spans = []
    for line in terminal.folded(record["lines"]):
        if line["kind"] == "after the end":
            continue
        tone, style = _tone(line, largest)
        shown, before = terminal.piece(line), ""
        if (
            line["kind"] not in ("image", "padding") and line["token"].strip()
        ):  # the blank before a word stays uncoloured
            shown = line["token"].strip()
            before = " " * line["token"].startswith(" ")
        about = ", ".join(
            f"{key} {terminal.number(line[key], 4)}"
            for key in ("nll", "d_logp", "d_logit", "gradient", "contribution")
            if line.get(key) is not None
        )
        spans.append(
            f'{before}<span class="t {_text(line["kind"])}{tone}"{style} title="{_text(about)}">{_text(shown)}</span>'
            + "\n" * line["token"].count("\n")
        )
    return f'<div class="tokens">{"".join(spans)}</div>'


def _numbers(found: list[dict], part: dict, largest: list[float]) -> str:
    """Every number of a record, behind a heading that opens."""
    if len(found) == 2:
        push = "|dL/dh|" if found[0]["hidden"] else "d logp"
        names = [*(one["semantics"] for one in found), "difference"]
        headings = [
            "pos",
            "kind",
            "token",
            *(f"contribution {name}" for name in names),
            *(f"{push} {name}" for name in names),
        ]
        rows = [
            [
                terminal.number(line["position"], 6),
                line["kind"],
                terminal.piece(line),
                *(
                    terminal.number(value)
                    for key in ("contribution", "push")
                    for value in line[key]
                ),
            ]
            for line in part["lines"]
        ]
        words = (1, 2)
    else:
        all_headings, sections = terminal.table(found[0])
        headings = all_headings[part["batch"]]
        rows = next(
            cells for name, s, _, cells in sections if (name, s) == (part["batch"], part["record"])
        )
        words = (2, 3, len(headings) - 1)
    cell = lambda tag, i, value: f"<{tag}{'' if i in words else ' class=n'}>{_text(value)}</{tag}>"  # noqa: E731
    lines = [
        "<tr>" + "".join(cell(tag, i, value) for i, value in enumerate(row)) + "</tr>"
        for tag, row in [("th", headings), *(("td", row) for row in rows)]
    ]
    return f'<details><summary>All numbers</summary><div class="scroll"><table>{"".join(lines)}</table></div></details>'
