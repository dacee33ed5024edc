"""report.html: one self-contained page of one run or of many.

Pictures are inside it, and charts are inline SVG.
"""

from collections.abc import Iterable, Sequence

from clear_ref.common.errors import UserError
from clear_ref.common.guards import guards_of, line
from clear_ref.evaluation.choices import LEAKAGE
from clear_ref.evaluation.definitions import SETS, definitions, label_of

from . import charts, curves, html_frame, samples, settings_tables, verdict_section, zero_means
from .columns import PARTS, number
from .command_line import command_line, with_settings_file
from .formats import title as title_of
from .headline import facts, headline
from .html_frame import details, text
from .leaderboard import MARK, PANELS, Line, Table, legend, tables
from .page_style import STYLE
from .read_runs import Report
from .record_intervals import MEANING, as_text
from .run_groups import RunGroup, by_panel, run_groups
from .samples import Card
from .scatter import scatters

# (class of a line, its name in the legend) in the histograms.
KEY = (("gold", "gold"), ("base", "base"), ("other", "unlearned"))


def page(
    report: Report,
    cards: Sequence[Card] = (),
    notes: Iterable[str] = (),
    visual: Sequence[str] = (),
) -> str:
    """The page as HTML text. Texts from a run are shown as text, never as markup.

    cards    the records to show: samples.cards
    notes    sentences that the reader must know, such as why there are no pictures
    visual   markup of the tables of `visual` runs
    raises   UserError if there is no run, or if a run is there twice
    """
    if not report.runs:
        raise UserError("report: no run to show; expected one or more")
    groups = run_groups(report)
    body = [
        *_top(report, groups, notes),
        *_warnings(groups),
        *_results(report, groups),
        *visual,
        *_truth_ratios(report, groups),
        *_scores_over_steps(report, groups),
        *_training(report, groups),
        *_samples(groups, cards),
        "<h2>How to read and repeat it</h2>",
        _commands(groups),
        details("Every task", _per_task(report, groups)),
        details("95 % intervals of every number", _intervals(report, groups)),
        _definitions(report),
        settings_tables.as_html(report, groups),
    ]
    labels = {group.label for group in groups}
    title = groups[0].label if len(labels) == 1 else f"{len(report.runs)} runs"
    style = html_frame.STYLE + STYLE
    return html_frame.page(f"clear_ref · {title}", style, "\n".join(body), html_frame.SCRIPT)


def _top(report: Report, groups: list[RunGroup], notes: Iterable[str]) -> list[str]:
    """The headline, what all runs share, the verdict, and the notes."""
    paragraphs = list(notes)
    if report.failed:
        paragraphs.append(f"Failed, without a result: {', '.join(report.failed)}.")
    return [
        f"<h1>{text(headline(report, groups))}</h1>",
        f'<p class="soft">{text(facts(groups))}</p>',
        *verdict_section.as_html(report, groups),
        *(f'<p class="soft">{text(paragraph)}</p>' for paragraph in paragraphs),
    ]


def _warnings(groups: list[RunGroup]) -> list[str]:
    """The section of the guards that fired; [] without any."""
    items = []
    for group in groups:
        for run in group.runs:
            name = f"{settings_tables.name_of(group, run)}: " if len(groups) > 1 else ""
            items += [f"<li>{text(name + line(guard))}</li>" for guard in guards_of(run.summary)]
    if not items:
        return []
    return ["<h2>Warnings</h2>", f"<ul>{''.join(dict.fromkeys(items))}</ul>"]


def _commands(groups: list[RunGroup]) -> str:
    """The commands that repeat the runs: of one run shown, of several folded."""
    runs = [(group, run) for group in groups for run in group.runs]
    blocks = []
    for group, run in runs:
        name = settings_tables.name_of(group, run) if len(runs) > 1 else ""
        heading = f"<h4>{text(name)}</h4>" if name else ""
        lines = [with_settings_file(run.record, run.where), command_line(run.record)]
        blocks.append(f"{heading}<pre>{text(chr(10).join(lines))}</pre>")
    about = (
        '<p class="soft">Each pair does the same: all settings from the file, or the given ones '
        "spelled out, with the defaults for the rest.</p>"
    )
    if len(runs) == 1:
        return f"<h3>The command that repeats this run</h3>{about}{blocks[0]}"
    return details("The commands that repeat these runs", about + "".join(blocks))


def _results(report: Report, groups: list[RunGroup]) -> list[str]:
    """The legend; of every panel a heading, its tables and its scatter charts."""
    all_tables = tables(report, groups)
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in legend(all_tables, report))
    parts = ["<h2>Result</h2>", f"<ul>{items}</ul>"]
    for panel, own in by_panel(groups).items():
        for table in all_tables:
            if table.panel == panel:
                parts.append(f"<h3>{text(title_of(table, report.sets))}</h3>")
                parts.append(_leaderboard(table))
        figures = "".join(scatters(own, report.paper, PANELS.get(panel, panel)))
        parts.append(f'<div class="scatters">{figures}</div>')
    return parts


def _leaderboard(table: Table) -> str:
    """A table that the script can sort.

    The lines of base and gold are in a tbody of their own. Each cell has its number in full.
    """
    heads = "".join(
        f'<th scope="col" class="n">{text(heading)} {arrow}</th>'
        for _, heading, arrow in table.columns
    )
    base_and_gold = [line for line in table.lines if line.kind != "unlearned"]
    unlearned = [line for line in table.lines if line.kind == "unlearned"]
    bodies = []
    if base_and_gold:
        bodies.append("<tbody class=start>" + "\n".join(map(_line, base_and_gold)) + "</tbody>")
    if unlearned:
        bodies.append("<tbody>" + "\n".join(map(_line, unlearned)) + "</tbody>")
    return (
        '<div class="scroll"><table class="sort"><thead><tr><th scope="col">model</th>'
        f"{heads}</tr></thead>" + "\n".join(bodies) + "</table></div>"
    )


def _line(line: Line) -> str:
    """One line of a leaderboard."""
    cells = []
    for cell in line.cells:
        mean, _, deviation = cell.text.partition("±")
        shown = f"<b>{text(mean)}</b>" if cell.best else text(mean)
        if deviation:
            shown += f" <small>±{text(deviation)}</small>"
        if cell.zero:
            shown += f'<abbr title="0 because of a part">{zero_means.MARK}</abbr>'
        value = "" if cell.value is None else repr(cell.value)
        kind = "n best" if cell.best else "n"
        title = ""
        if cell.interval:
            over = "records" if line.seeds == 1 else "seeds"
            title = f' title="95 % interval over the {over}: {as_text(cell.interval)}"'
        cells.append(f'<td class="{kind}" data-value="{value}"{title}>{shown}</td>')
    label = text(line.label)
    name = label
    if line.collapsed:
        name += f' <abbr title="Retain collapsed">{MARK}</abbr>'
    kind = "lost" if line.collapsed else line.kind
    return (
        f'<tr class="{kind}"><th scope="row" data-value="{label}">{name}</th>{"".join(cells)}</tr>'
    )


def _has_several_seeds(groups: list[RunGroup]) -> bool:
    return any(len(group.runs) > 1 for group in groups)


def _truth_ratios(report: Report, groups: list[RunGroup]) -> list[str]:
    """The section of truth ratios; [] if no forget task was evaluated."""
    figures = {
        panel: charts.truth_ratios(own, report.logs) for panel, own in by_panel(groups).items()
    }
    if not any(figures.values()):
        return []
    seeds = " Of several seeds the first one is drawn." if _has_several_seeds(groups) else ""
    parts = [
        "<h2>Truth ratios of the forget set</h2>",
        '<p class="soft">Shares of the records by R / (1 + R), in the ten bins that Forget '
        "Quality (FQ) compares with gold. On the left the right answer is likelier than the wrong "
        "ones, at 0.5 they are equally likely; a model that has forgotten looks like gold."
        f"{seeds}</p>",
        charts.key((kind, words) for kind, words in KEY if kind == "other" or kind in report.logs),
    ]
    for panel, own in figures.items():
        parts.append(f"<h3>{text(PANELS.get(panel, panel))}</h3>")
        parts.append(charts.panels_of(own))
    return parts


def _scores_over_steps(report: Report, groups: list[RunGroup]) -> list[str]:
    """The section of the evaluations between steps; [] if no run made any (--evaluate-every)."""
    figures = curves.charts(groups, report.paper)
    if not figures:
        return []
    return [
        "<h2>Scores during the training</h2>",
        '<p class="soft">Evaluations between the optimiser steps, with adapters that are not '
        "merged; step 0 is the model before. The answer nll is that of the training answers, in "
        "nats for each token.</p>",
        charts.key(curves.KEY.items()),
        charts.panels_of(figures),
    ]


def _training(report: Report, groups: list[RunGroup]) -> list[str]:
    """The section of learning curves; [] if no run was trained."""
    curves = charts.learning(groups)
    if not curves:
        return []
    tones = {
        charts.TONES[run.modality]: PANELS[run.modality].lower()
        for run in report.runs
        if run.modality in charts.TONES
    }
    return [
        "<h2>Training</h2>",
        '<p class="soft">The loss of every optimiser step, a scale for each panel.</p>',
        charts.key(tones.items()) if len(tones) > 1 else "",
        curves,
    ]


def _samples(groups: list[RunGroup], cards: Sequence[Card]) -> list[str]:
    """The section of the models' answers; [] without cards."""
    if not cards:
        return []
    seeds = " Of several seeds the first one's text is shown." if _has_several_seeds(groups) else ""
    about = "Greedy answers of base, of the unlearned models and of gold, in this order."
    about += f" Marked: words that base did not say.{seeds}"
    return [
        "<h2>Answers of the models</h2>",
        f'<p class="soft">{about}</p>',
        samples.as_html(cards),
    ]


def _per_task(report: Report, groups: list[RunGroup]) -> str:
    """The parts of the numbers: a line for each task and run, by the first set of definitions."""
    definition_set = report.sets[0]
    several_panels = len({group.panel for group in groups}) > 1
    models = [(name, "", sets[definition_set]) for name, sets in report.metrics.items()]
    for group in groups:
        name = f"{group.label}, {group.panel}" if several_panels else group.label
        for run in group.runs:
            seed = "" if run.seed is None else str(run.seed)
            models.append((name, seed, run.metrics[definition_set]))
    rows = []
    for task in dict.fromkeys(task for _, _, metrics in models for task in metrics["tasks"]):
        for name, seed, metrics in models:
            if task in metrics["tasks"]:
                parts = metrics["tasks"][task]
                numbers = [number(parts[part]) for part in PARTS]
                rows.append([task, name, seed, *numbers, parts["n"]])
    header = ["task", "model", "seed", "rouge", "probability", "truth ratio", "n"]
    return html_frame.table(header, rows, numbers=range(2, 7))


def _intervals(report: Report, groups: list[RunGroup]) -> str:
    """A line for each number of each model: value, interval over the records, definition."""
    models = [(name, "", report.metrics[name], report.intervals[name]) for name in report.metrics]
    for group in groups:
        for run in group.runs:
            seed = "" if run.seed is None else str(run.seed)
            models.append((group.label, seed, run.metrics, run.intervals))
    rows = []
    for label, seed, sets, found in models:
        for name, scores in sets.items():
            for metric, interval in found[name].items():
                task, _, part = metric.partition(" ")
                value = scores["tasks"][task][part] if part else scores[metric]
                definition = "" if part else label_of(scores["definitions"][metric])
                rows.append(
                    [label, seed, name, metric, number(value), as_text(interval, 3), definition]
                )
    header = ["model", "seed", "set", "number", "value", "95 % interval", "definition"]
    about = f'<p class="soft">{text(MEANING)}.</p>'
    return about + html_frame.table(header, rows, numbers=(4, 5))


def _definitions(report: Report) -> str:
    """Every metric's definition: the name that the metrics carry, version, direction and text."""
    texts = {}
    for name in (*SETS, LEAKAGE):
        for metric, definition in definitions(name).items():
            about = f"version {definition.version}; a higher value: {definition.direction}"
            texts[metric, definition.name] = f"{about}; {definition.source}\n{definition.text}"
    used: dict[tuple[str, str], None] = {}
    for run in report.runs:
        for scores in run.metrics.values():
            used |= dict.fromkeys(scores["definitions"].items())
    blocks = []
    for metric, name in used:
        words = texts.get((metric, name), "defined elsewhere")
        blocks.append(f"<b>{text(metric)}</b> = {text(name)}<pre>{text(words)}</pre>")
    return details("Definitions of the metrics", "".join(blocks))
