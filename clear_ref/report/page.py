"""report.html: one self-contained page of a run. It loads nothing: pictures are inside it, charts are inline SVG."""

import base64
import html
import math

from ..errors import UserError
from ..evaluation.metrics import SETS, definitions
from .table import COLUMNS, LEGEND, PARTS, columns_of, headings, number

PICTURES = ("image/png", "image/jpeg", "image/webp")
MOST_POINTS = 300

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --card: #fff; --ink: #1d1f23; --soft: #686c74; --line: #e2dfd9;
  --base: #9aa0a8; --gold: #c08a1e; --other: #2f6fb2; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e7e6e3;
  --soft: #9a9ea6; --line: #34383e; --base: #7b818a; --gold: #d9a441; --other: #6aa7e6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.1rem 4rem; }
h1 { font-size: clamp(1.35rem, 4.2vw, 1.95rem); line-height: 1.25; margin: 0 0 .5rem; letter-spacing: -.012em;
  text-wrap: balance; }
h2 { font-size: 1.12rem; margin: 2.8rem 0 .7rem; }
h3 { font-size: .92rem; margin: 1.4rem 0 .6rem; color: var(--soft); font-weight: 600; }
p { margin: .4rem 0; } p.soft { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .42rem .75rem .42rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } td.n, th.n { text-align: right; }
@media (max-width: 32rem) { table { font-size: .8rem; } th, td { padding-right: .45rem; } }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .9rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem .85rem; }
figcaption { font-size: .88rem; font-weight: 600; } svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11.5px; fill: var(--ink); } svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); }
.base { fill: var(--base); } .gold { fill: var(--gold); } .other { fill: var(--other); }
.curve { fill: none; stroke: var(--other); stroke-width: 1.5; stroke-linejoin: round; }
.example { display: flex; flex-wrap: wrap; gap: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .9rem; margin: 0 0 .9rem; }
.example img { width: 8.5rem; height: 8.5rem; object-fit: contain; border-radius: 6px; background: var(--page); }
.example div { flex: 1 1 17rem; min-width: 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem .9rem; margin: .4rem 0 0; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { white-space: pre-wrap; font: .82rem/1.5 ui-monospace, Menlo, Consolas, monospace; margin: .4rem 0 1rem; }
code { font: .82rem ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
"""

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page(run: dict) -> str:
    """The page as HTML text. Whatever stands in `run` is shown as text, never as markup.

    run["models"]    {name: metrics} as metrics.score returns them, one or more, in the order to show; "base" and
                     "gold" are those two, every other name is an unlearned model
    all that follows may be missing
    run["method"], run["semantics"], run["modality"], run["seed"], run["impl"], run["steps"]    words of the head
    run["seconds"]   {what: seconds}
    run["trace"]     {name: [row]}, rows of trace.jsonl: {"step", "loss", "terms": {term: value}, ...}; under one name,
                     the loss and each term get a panel; under several (methods, or stages of one), the loss of each
    run["examples"]  [{"task", "image": bytes or None, "mime", "question", "expected", "generated": {model: text}}]
    run["settings"]  {group: {name: {"value", "source"}}}
    run["inputs"]    {file: sha256}
    run["versions"]  {package: version}
    raises           UserError without a model, or for a picture that is neither PNG, JPEG nor WebP
    """
    models = run["models"]
    if not models:
        raise UserError("report: no model to show; expected the metrics of one or more")
    title = " · ".join(["clear_ref", *(str(run[key]) for key in ("method", "semantics", "modality") if run.get(key))])
    body = [f"<h1>{_text(headline(run))}</h1>", f'<p class="soft">{_facts(run)}</p>',
            "<h2>Result</h2>", _leaderboard(models), *_other_leaderboards(models),
            f'<p class="soft">{_text(LEGEND)} Good forgetting is like gold, which never saw the forget set.</p>',
            "<h2>Side by side</h2>", _bars(models)]
    if run.get("trace"):
        body += ["<h2>Training</h2>", _traces(run["trace"])]
    if run.get("examples"):
        body += ["<h2>What the models say</h2>", _examples(run["examples"])]
    body += ["<h2>Every task</h2>", _per_task(models), "<h2>How to read and repeat it</h2>", _definitions(models)]
    for group, settings in (run.get("settings") or {}).items():
        rows = [[name, found["value"], found["source"]] for name, found in settings.items()]
        body.append(_details(f"Settings: {group}", _table(["setting", "value", "source of the value"], rows)))
    for key, columns in (("inputs", ["file", "sha256"]), ("versions", ["package", "version"])):
        if run.get(key):
            body.append(_details(key.capitalize(), _table(columns, run[key].items())))
    return FRAME.format(title=_text(title), style=STYLE, body="\n".join(body))


def headline(run: dict) -> str:
    """What happened, in one sentence: the method, and Forget and Retain (of text where no picture was asked about)."""
    models, subject = run["models"], str(run.get("method") or "evaluation")
    subject += f", {run['semantics']} semantics" if run.get("semantics") else ""
    unlearned = [name for name in models if name not in ("base", "gold")]
    if len(unlearned) > 1:
        found = {name: models[name].get("forget_quality") for name in unlearned}
        known = {name: value for name, value in found.items() if value is not None}
        return f"{subject}: {len(unlearned)} unlearned models" + (
            f"; most like gold on Forget is {max(known, key=known.get)} (forget quality {max(known.values()):.2f})"
            if known else "")
    after = models[unlearned[0] if unlearned else list(models)[-1]]
    shown = [metric for metric in ("forget", "retain") if after.get(metric) is not None]
    shown = shown or [metric for metric in ("text_forget", "text_retain", "real") if after.get(metric) is not None]
    moved = []
    for metric in shown:
        value, before, gold = (found.get(metric) for found in (after, models.get("base", {}), models.get("gold", {})))
        change = f"{before:.2f} → {value:.2f}" if unlearned and before is not None else f"{value:.2f}"
        heading = next(heading for key, heading, _ in COLUMNS if key == metric)
        moved.append(f"{heading} {change}" + (f" (gold {gold:.2f})" if unlearned and gold is not None else ""))
    if after.get("forget_quality") is not None:
        moved.append(f"forget quality {after['forget_quality']:.2f}")
    return f"{subject}: " + (", ".join(moved) or "no reported number could be computed")


def _text(value) -> str:
    return html.escape(str(value))


def _facts(run: dict) -> str:
    facts = [f"{key} {run[key]}" for key in ("modality", "seed", "impl") if run.get(key) is not None]
    facts += [f"{run['steps']} steps"] if run.get("steps") is not None else []
    facts += [f"{what} {seconds:.1f} s" for what, seconds in (run.get("seconds") or {}).items()]
    return _text(" · ".join(facts))


def _table(header, rows, numbers=()) -> str:
    """A table; `numbers` are the columns set flush right. Cells are text."""
    cell = lambda tag, i, value: f'<{tag}{" class=n" if i in numbers else ""}>{_text(value)}</{tag}>'
    lines = ["<tr>" + "".join(cell(tag, i, value) for i, value in enumerate(row)) + "</tr>"
             for tag, row in [("th", header), *(("td", row) for row in rows)]]
    return '<div class="scroll"><table>' + "\n".join(lines) + "</table></div>"


def _details(heading: str, inside: str) -> str:
    return f"<details><summary>{_text(heading)}</summary>{inside}</details>"


def _leaderboard(models) -> str:
    shown = columns_of(list(models.values()))
    rows = [[name, *(number(metrics.get(metric)) for metric, _, _ in shown)] for name, metrics in models.items()]
    return _table(["model", *headings(shown)], rows, range(1, 1 + len(shown)))


def _other_leaderboards(models) -> list[str]:
    """A heading and a leaderboard for each other set of definitions that the models were scored by."""
    names = dict.fromkeys(name for metrics in models.values() for name in metrics.get("also", ()))
    return [text for name in names for text in (
        f"<h3>{_text(name)} definitions</h3>", _leaderboard({model: metrics["also"][name] for model, metrics in models.items()}))]


def _per_task(models) -> str:
    rows = [[task, name, *(number(found[part]) for part in PARTS), found["n"]]
            for task in dict.fromkeys(task for metrics in models.values() for task in metrics["tasks"])
            for name, metrics in models.items() for found in [metrics["tasks"].get(task)] if found]
    return _table(["task", "model", "rouge", "probability", "truth ratio", "n"], rows, range(2, 6))


def _bars(models) -> str:
    """One panel a metric, one bar a model, from 0 to 1."""
    longest = max(len(name) for name in models)
    left = min(150, 12 + 6.3 * longest)
    panels = []
    for metric, heading, arrow in COLUMNS:
        values = {name: metrics.get(metric) for name, metrics in models.items()}
        if any(value is not None for value in values.values()):
            marks = []
            for i, (name, value) in enumerate(values.items()):
                y, width = 20 * i, 0.0 if value is None else (260 - left) * min(max(value, 0.0), 1.0)
                kind = name if name in ("base", "gold") else "other"
                shown = name if len(name) <= 22 else name[:21] + "…"
                marks += [f'<text x="0" y="{y + 14}">{_text(shown)}</text>',
                          f'<rect class="{kind}" x="{left:.1f}" y="{y + 4}" width="{width:.1f}" height="13" rx="2"/>',
                          f'<text class="soft" x="{left + width + 5:.1f}" y="{y + 14}">{number(value)}</text>']
            panels.append(_figure(f"{heading} {arrow}", marks, 20 * len(values) + 4))
    return f'<div class="panels">{"".join(panels)}</div>'


def _figure(heading: str, marks, height: float) -> str:
    return (f'<figure><figcaption>{_text(heading)}</figcaption><svg viewBox="0 0 300 {height:.0f}" role="img" '
            f'aria-label="{_text(heading)}">{"".join(marks)}</svg></figure>')


def _traces(trace) -> str:
    """Curves against the optimiser step: loss and terms of one training, or the loss of each of several."""
    if len(trace) == 1:
        [rows] = trace.values()
        terms = list(dict.fromkeys(term for row in rows for term in row.get("terms", {})))
        curves = {"loss": [(row["step"], row["loss"]) for row in rows]}
        if len(terms) > 1:
            curves |= {f"term: {term}": [(row["step"], row["terms"].get(term)) for row in rows] for term in terms}
    else:
        curves = {f"{name}: loss": [(row["step"], row["loss"]) for row in rows] for name, rows in trace.items()}
    return f'<div class="panels">{"".join(_curve(heading, points) for heading, points in curves.items())}</div>'


def _curve(heading: str, points) -> str:
    """One line over the steps; more than MOST_POINTS steps are averaged in equal groups, and the heading says so."""
    points = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    if not points:
        return _figure(f"{heading}: no finite value", [], 1)
    group = -(-len(points) // MOST_POINTS)
    if group > 1:
        heading += f" (means of {group} steps)"
        parts = [points[i:i + group] for i in range(0, len(points), group)]
        points = [tuple(math.fsum(column) / len(part) for column in zip(*part)) for part in parts]
    steps, values = zip(*points)
    low, high = min(values), max(values)
    spans = ((max(steps) - min(steps)) or 1, (high - low) or 1)
    line = " ".join(f"{6 + 288 * (step - min(steps)) / spans[0]:.1f},{112 - 88 * (value - low) / spans[1]:.1f}"
                    for step, value in points)
    marks = [f'<line class="axis" x1="6" x2="294" y1="{y}" y2="{y}"/>' for y in (24, 112)]
    marks += [f'<polyline class="curve" points="{line}"/>', f'<text class="soft" x="6" y="18">{high + 0.0:.4g}</text>',
              f'<text class="soft" x="6" y="126">{low + 0.0:.4g}</text>',
              f'<text class="soft" x="294" y="126" text-anchor="end">step {min(steps):.0f} to {max(steps):.0f}</text>']
    return _figure(heading, marks, 130)


def _examples(examples) -> str:
    cards, task = [], None
    for example in examples:
        if example["task"] != task:
            task = example["task"]
            cards.append(f"<h3>{_text(task)}</h3>")
        said = {"expected": example["expected"], **example["generated"]}
        texts = "".join(f"<dt>{_text(who)}</dt><dd>{_text(text) or '<i>nothing</i>'}</dd>"
                        for who, text in said.items())
        cards.append(f'<div class="example">{_picture(example)}<div><b>{_text(example["question"])}</b>'
                     f"<dl>{texts}</dl></div></div>")
    return "\n".join(cards)


def _picture(example) -> str:
    if example.get("image") is None:
        return ""
    if example.get("mime") not in PICTURES:
        raise UserError(f"report: a picture has type {example.get('mime')!r}; expected one of {', '.join(PICTURES)}")
    data = base64.b64encode(example["image"]).decode("ascii")
    return f'<img alt="the picture asked about" src="data:{example["mime"]};base64,{data}">'


def _definitions(models) -> str:
    """Every metric's definition: the name that the metrics carry, and our text if it is one of ours."""
    texts = {(metric, found.name): found.text for name in SETS for metric, found in definitions(name).items()}
    every = [found for metrics in models.values() for found in (metrics, *metrics.get("also", {}).values())]
    named = dict.fromkeys(pair for metrics in every for pair in metrics.get("definitions", {}).items())
    blocks = [f"<b>{_text(pair[0])}</b> = {_text(pair[1])}<pre>{_text(texts.get(pair, 'defined elsewhere'))}</pre>"
              for pair in named]
    return _details("Definitions of the metrics", "".join(blocks))
