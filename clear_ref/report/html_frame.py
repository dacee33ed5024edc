"""The frame of every HTML page: its style, its one script, and the building blocks of its body.

The script only sorts tables: the page is complete without it.
"""

import base64
import hashlib
import html
from collections.abc import Collection, Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --page: #faf9f7; --card: #fff; --ink: #1b1d21; --soft: #62666e;
  --line: #e3e0da;
  --base: #7c828c; --gold: #a8740c; --other: #2563a8; --lost: #a33a2c; --second: #0f766e;
  --third: #8a4b9c; --best: #e8eff8; }
@media (prefers-color-scheme: dark) { :root { --page: #141619; --card: #1b1e22; --ink: #e6e5e1;
  --soft: #9ca1a9; --line: #31353b; --base: #8d939d; --gold: #dda83f; --other: #71aeea;
  --lost: #e8897b; --second: #4fb8ad;
  --third: #c994d8; --best: #21303f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.6rem 1.1rem 5rem; }
h1 { font-size: clamp(1.35rem, 4.2vw, 1.95rem); line-height: 1.25; margin: 0 0 .5rem;
  letter-spacing: -.012em;
  text-wrap: balance; }
h2 { font-size: 1.16rem; margin: 3.2rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.7rem 0 .6rem; font-weight: 600; }
h4 { font-size: .84rem; margin: 1rem 0 .2rem; font-weight: 600; color: var(--soft); }
p { margin: .4rem 0; max-width: 46rem; } p.soft, li { color: var(--soft); font-size: .88rem; }
ul { margin: .6rem 0; padding-left: 1.1rem; max-width: 46rem; }
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--page) 1.5rem, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  min-width: 100%; }
th, td { padding: .42rem .75rem .42rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } td.n, th.n { text-align: right;
  white-space: nowrap; }
tbody th { color: var(--ink); font-weight: 400; } tbody td { overflow-wrap: anywhere;
  min-width: 4.5rem; }
th:last-child, td:last-child { padding-right: 0; }
details td:first-child { min-width: 8.5rem; }
@media (max-width: 32rem) { table { font-size: .8rem; } th, td { padding-right: .5rem; } }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr));
  gap: .9rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem .85rem; min-width: 0; }
figcaption { font-size: .86rem; font-weight: 600; overflow-wrap: anywhere; }
figcaption span { color: var(--soft);
  font-weight: 400; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11.5px; fill: var(--ink); } svg .soft { fill: var(--soft); }
svg .axis { stroke: var(--line); stroke-width: .8; }
details { border-top: 1px solid var(--line); padding: .6rem 0; } summary { cursor: pointer;
  font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere;
  font: .82rem/1.5 ui-monospace, Menlo, Consolas, monospace; margin: .4rem 0 1rem; }
code { font: .82rem ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
"""

# Each heading of a table of class "sort" becomes a button. The lines of base and gold are in a
# tbody of their own, which is not sorted.
SCRIPT = """
for (const table of document.querySelectorAll("table.sort")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[table.tBodies.length - 1];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort"), first = column ? "descending" : "ascending";
      const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      heads.forEach(other => other.setAttribute("aria-sort", other === head ? next : "none"));
      const sign = next === "ascending" ? 1 : -1;
      const value = row => row.cells[column].dataset.value;
      [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (column ? x - y : x.localeCompare(y));
      }).forEach(row => body.append(row));
    });
  });
}
"""

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
{script}</body>
</html>
"""


def page(title: str, style: str, body: str, script: str = "") -> str:
    """A page as HTML text.

    Its content security policy forbids loading anything, and forbids every script but the given
    one, which it names by its hash.
    title    text; it is escaped
    style, body, script    markup; they are inserted unchanged
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        policy += f"; script-src 'sha256-{digest}'"
        script = f"<script>{script}</script>\n"
    return FRAME.format(policy=policy, title=text(title), style=style, body=body, script=script)


def text(value: object) -> str:
    """Any value as text of a page, never as markup."""
    return html.escape(str(value))


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], numbers: Collection[int] = ()
) -> str:
    """A table of texts in a box that scrolls sideways.

    numbers    the columns that are aligned to the right
    """
    lines = [_row("td", values, numbers) for values in rows]
    head = _row("th", header, numbers)
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(tag: str, values: Iterable[object], numbers: Collection[int]) -> str:
    """One line of a table; tag is th or td."""
    cells = []
    for column, value in enumerate(values):
        start = f"<{tag} class=n>" if column in numbers else f"<{tag}>"
        cells.append(f"{start}{text(value)}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def details(heading: str, inside: str) -> str:
    """A part that is folded until the reader opens it; `inside` is markup."""
    return f"<details><summary>{text(heading)}</summary>{inside}</details>"


def figure(
    heading: str,
    marks: Iterable[str],
    height: float,
    about: str = "",
    width: int = 300,
    note: str = "",
) -> str:
    """A chart of SVG marks with a caption.

    about    what the chart shows, in words (default: the heading)
    note     text after the heading
    """
    words = text(about or heading)
    caption = text(heading)
    if note:
        caption += f" <span>{text(note)}</span>"
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{words}">'
        f"<title>{words}</title>{''.join(marks)}</svg></figure>"
    )
