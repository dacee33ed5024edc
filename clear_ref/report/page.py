"""report.html: one self-contained page of one run or of many. Pictures are inside it, charts are inline SVG."""

from clear_ref.common.errors import UserError
from clear_ref.evaluation.metrics import SETS, definitions

from . import charts, html_frame, samples, settings_tables
from .formats import title as title_of
from .html_frame import details, text
from .leaderboard import MARK, PANELS, Row, Table, legend, panels, rows, tables
from .read_runs import Report
from .scatter import scatters
from .table import COLUMNS, PARTS, number

STYLE = """
table.sort th button { all: unset; cursor: pointer; white-space: nowrap; }
table.sort th button:hover { color: var(--ink); }
table.sort th button:focus-visible { outline: 2px solid var(--other); outline-offset: 2px; border-radius: 2px; }
table.sort th[aria-sort=descending] button::after { content: " ▾"; } table.sort th[aria-sort=ascending] button::after {
  content: " ▴"; }
tr.base th, tr.gold th { font-weight: 600; } tr.lost > * { color: var(--soft); } tr.lost th { color: var(--lost); }
table.sort td:last-child { padding-right: .35rem; } table.sort th:last-child { padding-right: .35rem; }
table.sort th:first-child { position: sticky; left: 0; background: var(--page); }
tbody.start tr:last-child > * { border-bottom: 2px solid var(--line); }
td.best b { background: var(--best); border-radius: 4px; padding: .12rem .3rem; margin-right: -.3rem; }
td small { color: var(--soft); font-size: .82em; }
.scatters { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: .9rem;
  margin-top: 1.1rem; }
.scatters figure { max-width: 38rem; }
@media (max-width: 32rem) { .scatters figure { padding: .6rem .4rem; } }
.gone { fill: var(--lost); opacity: .07; }
.mark.base { fill: none; stroke-width: 2; } .mark.gold { fill: var(--gold); } .mark.other { fill: var(--other); }
.mark.lost { fill: var(--card); stroke: var(--lost); stroke-width: 2; }
.seed.other { fill: var(--other); opacity: .5; } .seed.lost { fill: var(--lost); opacity: .5; }
.ray { stroke-width: 1; opacity: .3; } .ray.other { stroke: var(--other); } .ray.lost { stroke: var(--lost); }
.leader { stroke: var(--soft); stroke-width: .7; opacity: .7; }
svg .name { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .name .base, svg .name .gold { font-weight: 600; } svg .name .lost { fill: var(--lost); }
.step, .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .curve { stroke-width: 1.3; }
.key line { stroke-width: 2; }
.base { stroke: var(--base); } .step.base, .key .base { stroke-dasharray: 4 3; } .gold { stroke: var(--gold); }
.other { stroke: var(--other); } .second { stroke: var(--second); } .third { stroke: var(--third); }
.mark.gold, .mark.other { stroke: none; } svg .name tspan { stroke: var(--card); } .step.other { stroke-width: 2; }
.area { fill: var(--gold); opacity: .14; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; font-size: .86rem; color: var(--soft); margin: .7rem 0; }
.key svg { display: inline-block; width: 1.7rem; vertical-align: .12em; }
.card { display: flex; flex-wrap: wrap; gap: .9rem 1.2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .9rem 1rem; margin: 0 0 .9rem; }
.card img { width: 8rem; height: 8rem; object-fit: contain; border-radius: 6px; background: var(--page); }
.card > div { flex: 1 1 17rem; min-width: 0; overflow-wrap: anywhere; }
.asked { margin: 0; } .asked:not(:first-child) { margin-top: 1.1rem; padding-top: .9rem; border-top: 1px solid var(--line); }
.asked span { color: var(--soft); font-size: .8rem; white-space: nowrap; }
dl { margin: .35rem 0 0; font-size: .9rem; } dl.said { columns: 2 20rem; column-gap: 1.6rem; }
dl > div { break-inside: avoid; padding: .2rem 0; } dt { color: var(--soft); font-size: .8rem; line-height: 1.35; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; line-height: 1.4; } dd i { color: var(--soft); }
.card details { padding: .45rem 0 0; border: 0; } .card summary { font-size: .84rem; color: var(--soft); }
"""
KEY = (("gold", "gold"), ("base", "base"), ("other", "unlearned"))


def page(report: Report, cards=(), notes=()) -> str:
    """The page as HTML text. Whatever stands in a run is shown as text, never as markup.

    cards    the records to show: samples.cards
    notes    sentences that the reader must know, such as why there are no pictures
    raises   UserError without a run, and for one that stands there twice
    """
    if not report.runs:
        raise UserError("report: no run to show; expected one or more")
    lines = rows(report)
    found = tables(report, lines)
    notes = [
        *notes,
        *(
            [f"Without a result, as they failed: {', '.join(report.failed)}."]
            if report.failed
            else []
        ),
    ]
    body = [
        f"<h1>{text(headline(report, lines))}</h1>",
        f'<p class="soft">{text(facts(lines))}</p>',
        *(f'<p class="soft">{text(note)}</p>' for note in notes),
        "<h2>Result</h2>",
        "<ul>" + "".join(f"<li>{text(one)}</li>" for one in legend(found, report)) + "</ul>",
        *_results(report, lines, found),
    ]
    body += _ratios(report, lines)
    learned = charts.learning(lines)
    if learned:
        tones = {
            charts.TONES[run.modality]: PANELS[run.modality].lower()
            for run in report.runs
            if run.modality in charts.TONES
        }
        body += [
            "<h2>Training</h2>",
            '<p class="soft">The loss of every optimiser step, a scale for each panel.</p>',
            charts.key(tones.items()) if len(tones) > 1 else "",
            learned,
        ]
    if cards:
        first = (
            " Of several seeds the first one's text is shown."
            if any(len(row.runs) > 1 for row in lines)
            else ""
        )
        body += [
            "<h2>What the models say</h2>",
            f'<p class="soft">Greedy answers; models that said the same stand together.{first}</p>',
            samples.as_html(cards),
        ]
    body += [
        "<h2>How to read and repeat it</h2>",
        details("Every task", _per_task(report, lines)),
        _definitions(report),
        settings_tables.as_html(report, lines),
    ]
    names = list(dict.fromkeys(row.label for row in lines))
    title = f"clear_ref · {names[0] if len(names) == 1 else f'{len(report.runs)} runs'}"
    return html_frame.page(title, html_frame.STYLE + STYLE, "\n".join(body), html_frame.SCRIPT)


def headline(report: Report, lines: list[Row]) -> str:
    """What happened, in one sentence: of one run Forget and Retain (of text where no picture was asked about), of several which
    is most like gold among those that kept Retain."""
    name = report.sets[0]
    if len(report.runs) > 1:
        known = {
            row: [run.metrics[name].get("forget_quality") for run in row.runs]
            for row in lines
            if not row.collapsed
        }
        known = {
            row: sum(values) / len(values) for row, values in known.items() if None not in values
        }
        count = f"{len(report.runs)} runs"
        if all(run.semantics for run in report.runs):
            count += f" of {len({run.name for run in report.runs})} methods"
        if not known:
            return count
        first = max(known, key=known.get)
        where = (
            f" ({PANELS.get(first.panel, first.panel).lower()})"
            if len({row.panel for row in lines}) > 1
            else ""
        )
        before = report.metrics.get("base", {}).get(name, {}).get("forget_quality")
        quality = number(known[first], 2) + (
            "" if before is None else f" (base {number(before, 2)})"
        )
        return f"{count}: most like gold, with Retain kept, is {first.label}{where}, forget quality {quality}"
    [run] = report.runs
    after = run.metrics[name]
    before, gold = (report.metrics.get(model, {}).get(name, {}) for model in ("base", "gold"))
    shown = [metric for metric in ("forget", "retain") if after.get(metric) is not None]
    shown = shown or [
        metric for metric in ("text_forget", "text_retain", "real") if after.get(metric) is not None
    ]
    moved = []
    for metric in shown:
        heading = next(heading for key, heading, _ in COLUMNS if key == metric)
        change = f"{number(before[metric], 2)} → " if before.get(metric) is not None else ""
        beside = f" (gold {number(gold[metric], 2)})" if gold.get(metric) is not None else ""
        moved.append(f"{heading} {change}{number(after[metric], 2)}{beside}")
    if after.get("forget_quality") is not None:
        moved.append(f"forget quality {number(after['forget_quality'], 2)}")
    subject = f"{run.name}, {run.semantics} semantics" if run.semantics else run.name
    return f"{subject}: " + (", ".join(moved) or "no reported number could be computed")


def facts(lines: list[Row]) -> str:
    """What all runs share, in one line: modalities, meanings, seeds, implementation; of one run its steps and seconds too."""
    runs, found = [run for row in lines for run in row.runs], []
    for words, values in (
        ("{}", [PANELS.get(row.panel, row.panel).lower() for row in lines]),
        ("{} semantics", [run.semantics for run in runs if run.semantics]),
        ("seed {}", [run.seed for run in runs if run.seed is not None]),
        ("token terms {}", [run.summary["impl"] for run in runs]),
    ):
        if values:
            found.append(words.format(", ".join(map(str, dict.fromkeys(values)))))
    if len(runs) == 1:
        found += [f"{runs[0].summary['steps']} steps"] if "steps" in runs[0].summary else []
        found += [f"{what} {seconds:.1f} s" for what, seconds in runs[0].summary["seconds"].items()]
    return " · ".join(found)


def _results(report: Report, lines: list[Row], found: list[Table]):
    """A heading, the tables and the scatter of every panel."""
    for panel, own in panels(lines).items():
        for table in (table for table in found if table.panel == panel):
            yield f"<h3>{text(title_of(table, report.sets))}</h3>"
            yield _leaderboard(table)
        yield f'<div class="scatters">{"".join(scatters(own, report.paper, PANELS.get(panel, panel)))}</div>'


def _leaderboard(table: Table) -> str:
    """A table that the script can sort: base's and gold's lines in a body of their own, each cell with its number in full."""
    heads = "".join(
        f'<th scope="col" class="n">{text(heading)} {arrow}</th>'
        for _, heading, arrow in table.columns
    )
    bodies = []
    for start in (True, False):
        own = [line for line in table.lines if (line.kind != "unlearned") == start]
        if own:
            bodies.append(
                f"<tbody{' class=start' if start else ''}>"
                + "\n".join(map(_line, own))
                + "</tbody>"
            )
    return (
        f'<div class="scroll"><table class="sort"><thead><tr><th scope="col">model</th>{heads}</tr></thead>'
        + "\n".join(bodies)
        + "</table></div>"
    )


def _line(line) -> str:
    cells = []
    for cell in line.cells:
        mean, _, deviation = cell.text.partition("±")
        shown = f"<b>{text(mean)}</b>" if cell.best else text(mean)
        shown += f" <small>±{text(deviation)}</small>" if deviation else ""
        value = "" if cell.value is None else repr(cell.value)
        cells.append(f'<td class="n{" best" * cell.best}" data-value="{value}">{shown}</td>')
    name = text(line.label) + f' <abbr title="Retain collapsed">{MARK}</abbr>' * line.collapsed
    kind = "lost" if line.collapsed else line.kind
    return f'<tr class="{kind}"><th scope="row" data-value="{text(line.label)}">{name}</th>{"".join(cells)}</tr>'


def _ratios(report: Report, lines: list[Row]) -> list[str]:
    """The section of truth ratios; [] where no forget task was evaluated."""
    figures = [
        (panel, charts.truth_ratios(own, report.logs)) for panel, own in panels(lines).items()
    ]
    if not any(own for _, own in figures):
        return []
    seeds = (
        " Of several seeds the first one is drawn."
        if any(len(row.runs) > 1 for row in lines)
        else ""
    )
    known = [(kind, words) for kind, words in KEY if kind == "other" or kind in report.logs]
    return [
        "<h2>Truth ratios of the forget set</h2>",
        '<p class="soft">Shares of the records by R / (1 + R), in the ten bins that Forget Quality (FQ) compares with gold. '
        "On the left the right answer is likelier than the wrong ones, at 0.5 they are equally likely; a model that has "
        f"forgotten looks like gold.{seeds}</p>",
        charts.key(known),
        *(
            part
            for panel, own in figures
            for part in (f"<h3>{text(PANELS.get(panel, panel))}</h3>", charts.panels_of(own))
        ),
    ]


def _per_task(report: Report, lines: list[Row]) -> str:
    """The parts behind the numbers: a line for each task and run, by the first set of definitions."""
    name = report.sets[0]
    several = len({row.panel for row in lines}) > 1
    every = [(model, "", "", sets[name]) for model, sets in report.metrics.items()]
    every += [
        (row.label, row.panel, run.seed, run.metrics[name]) for row in lines for run in row.runs
    ]
    found = [
        [
            task,
            model + (f", {panel}" if several and panel else ""),
            "" if seed is None else seed,
            *(number(metrics["tasks"][task][part]) for part in PARTS),
            metrics["tasks"][task]["n"],
        ]
        for task in dict.fromkeys(task for _, _, _, metrics in every for task in metrics["tasks"])
        for model, panel, seed, metrics in every
        if task in metrics["tasks"]
    ]
    return html_frame.table(
        ["task", "model", "seed", "rouge", "probability", "truth ratio", "n"], found, range(2, 7)
    )


def _definitions(report: Report) -> str:
    """Every metric's definition: the name that the metrics carry, and its text."""
    texts = {
        (metric, found.name): found.text
        for name in SETS
        for metric, found in definitions(name).items()
    }
    named = dict.fromkeys(
        pair
        for run in report.runs
        for sets in run.metrics.values()
        for pair in sets["definitions"].items()
    )
    return details(
        "Definitions of the metrics",
        "".join(
            f"<b>{text(pair[0])}</b> = {text(pair[1])}<pre>{text(texts.get(pair, 'defined elsewhere'))}</pre>"
            for pair in named
        ),
    )
