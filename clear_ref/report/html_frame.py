"""The frame of every page: its style, and the one script, which only sorts tables: a page is whole without it."""

import base64
import hashlib
import html

STYLE = """
:root { color-scheme: light dark; --page: #faf9f7; --card: #fff; --ink: #1b1d21; --soft: #62666e; --line: #e3e0da;
  --base: #7c828c; --gold: #a8740c; --other: #2563a8; --lost: #a33a2c; --second: #0f766e; --third: #8a4b9c; --best: #e8eff8; }
@media (prefers-color-scheme: dark) { :root { --page: #141619; --card: #1b1e22; --ink: #e6e5e1;
  --soft: #9ca1a9; --line: #31353b; --base: #8d939d; --gold: #dda83f; --other: #71aeea; --lost: #e8897b; --second: #4fb8ad;
  --third: #c994d8; --best: #21303f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.6rem 1.1rem 5rem; }
h1 { font-size: clamp(1.35rem, 4.2vw, 1.95rem); line-height: 1.25; margin: 0 0 .5rem; letter-spacing: -.012em;
  text-wrap: balance; }
h2 { font-size: 1.16rem; margin: 3.2rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.7rem 0 .6rem; font-weight: 600; }
h4 { font-size: .84rem; margin: 1rem 0 .2rem; font-weight: 600; color: var(--soft); }
p { margin: .4rem 0; max-width: 46rem; } p.soft, li { color: var(--soft); font-size: .88rem; }
ul { margin: .6rem 0; padding-left: 1.1rem; max-width: 46rem; }
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--page) 1.5rem, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .42rem .75rem .42rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } td.n, th.n { text-align: right; white-space: nowrap; }
tbody th { color: var(--ink); font-weight: 400; } tbody td { overflow-wrap: anywhere; min-width: 4.5rem; }
th:last-child, td:last-child { padding-right: 0; }
@media (max-width: 32rem) { table { font-size: .8rem; } th, td { padding-right: .5rem; } }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: .9rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem .85rem; min-width: 0; }
figcaption { font-size: .86rem; font-weight: 600; overflow-wrap: anywhere; } figcaption span { color: var(--soft);
  font-weight: 400; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11.5px; fill: var(--ink); } svg .soft { fill: var(--soft); }
svg .axis { stroke: var(--line); stroke-width: .8; }
details { border-top: 1px solid var(--line); padding: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { white-space: pre-wrap; font: .82rem/1.5 ui-monospace, Menlo, Consolas, monospace; margin: .4rem 0 1rem; }
code { font: .82rem ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
"""

# Each heading of a table of class "sort" becomes a button; base's and gold's lines are another tbody and stay on top.
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
    """A page as HTML text. Its policy lets nothing be loaded and no script run but the one given, named by its hash.

    title    is text; style, body and script stand as they are
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        policy += f"; script-src 'sha256-{digest}'"
        script = f"<script>{script}</script>\n"
    return FRAME.format(policy=policy, title=text(title), style=style, body=body, script=script)


def text(value) -> str:
    """Any value as text of a page, never as markup."""
    return html.escape(str(value))


def table(header, rows, numbers=()) -> str:
    """A table of texts in a box that scrolls sideways; `numbers` are the columns set flush right."""
    cell = lambda tag, i, value: f"<{tag}{' class=n' if i in numbers else ''}>{text(value)}</{tag}>"
    row = lambda tag, values: (
        "<tr>" + "".join(cell(tag, i, value) for i, value in enumerate(values)) + "</tr>"
    )
    body = "\n".join(row("td", values) for values in rows)
    return f'<div class="scroll"><table><thead>{row("th", header)}</thead><tbody>{body}</tbody></table></div>'


def details(heading: str, inside: str) -> str:
    """A part that is folded until it is opened; `inside` is markup."""
    return f"<details><summary>{text(heading)}</summary>{inside}</details>"


def figure(
    heading: str, marks, height: float, about: str = "", width: int = 300, note: str = ""
) -> str:
    """A captioned chart of SVG marks; `about` says in words what it shows (default: the heading), `note` follows the heading."""
    words = text(about or heading)
    note = f" <span>{text(note)}</span>" if note else ""
    return (
        f'<figure><figcaption>{text(heading)}{note}</figcaption><svg viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{words}"><title>{words}</title>{"".join(marks)}</svg></figure>'
    )
