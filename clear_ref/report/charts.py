"""Small charts as inline SVG: truth ratios of base, gold and a model, and losses against the optimiser step."""

import math

from clear_ref.evaluation.definitions import QUALITY_TASKS
from clear_ref.evaluation.quality import histogram

from .html_frame import figure, text
from .leaderboard import MARK, PANELS, Row
from .table import number

MOST_POINTS, FEWER_POINTS = 300, 100  # of a line: alone in its panel, one of several
TONES = {
    "both": "other",
    "visual": "third",
    "text": "second",
}  # a curve's colour, where several modalities share a panel


def panels_of(figures) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="panels">{"".join(figures)}</div>'


def truth_ratios(lines: list[Row], logs: dict) -> list[str]:
    """A figure for each row: shares of the forget records by R / (1 + R), in Forget Quality's ten bins, of base, gold, the model.

    logs     {"base", "gold": {task: log}}; of a row with several seeds the first one's log is drawn
    returns  [] where no model was evaluated on a forget task
    """
    task = next((task for task in QUALITY_TASKS for row in lines if task in row.runs[0].logs), None)
    if task is None:
        return []
    known = {
        model: histogram({"task": task, **found[task]})
        for model, found in logs.items()
        if task in found
    }
    shares = [
        known | {"other": histogram({"task": task, **row.runs[0].logs[task]})} for row in lines
    ]
    highest = max(float(share.max()) for found in shares for share in found.values())
    return [_histogram(row, found, highest) for row, found in zip(lines, shares)]


def _histogram(row: Row, shares: dict, highest: float) -> str:
    """Step lines over ten bins, gold's area tinted."""
    at = lambda i, share: f"{8 + 284 * i / 10:.1f} {104 - 88 * share / highest:.1f}"
    drawn = [
        '<line class="axis" x1="8" x2="292" y1="104" y2="104"/><line class="axis" x1="150" x2="150" y1="16" y2="104"/>'
    ]
    for kind, own in sorted(
        shares.items(), key=lambda entry: ("gold", "base", "other").index(entry[0])
    ):
        steps = [
            point
            for i, share in enumerate(map(float, own))
            for point in (at(i, share), at(i + 1, share))
        ]
        if kind == "gold":
            drawn.append(f'<path class="area" d="M{at(0, 0)} L{" L".join(steps)} L{at(10, 0)} z"/>')
        drawn.append(f'<path class="step {kind}" d="M{" L".join(steps)}"/>')
    drawn += [
        f'<text class="soft" x="8" y="12">{number(highest, 2)}</text>',
        '<text class="soft" x="8" y="118">0</text>',
        '<text class="soft" x="150" y="118" text-anchor="middle">0.5</text>',
        '<text class="soft" x="292" y="118" text-anchor="end">1</text>',
    ]
    quality = row.runs[0].paper.get("forget_quality")
    note = "" if quality is None else f"FQ {number(quality, 2)}"
    told = {
        "model" if kind == "other" else kind: " ".join(number(float(share), 2) for share in own)
        for kind, own in shares.items()
    }
    about = (
        f"{row.label}, {PANELS.get(row.panel, row.panel)}: shares by R / (1 + R) in ten bins. "
        + "; ".join(f"{kind} {own}" for kind, own in told.items())
    )
    return figure(row.label + f" {MARK}" * bool(row.collapsed), drawn, 122, about, note=note)


def learning(lines: list[Row]) -> str:
    """Losses against the optimiser step as markup: of one run the loss and each term, of several the losses, a panel for each
    method and stage; "" where no run was trained."""
    runs = [(row, run) for row in lines for run in row.runs if run.trace]
    if len(runs) == 1:
        return panels_of(
            figure for stage, rows in runs[0][1].trace.items() for figure in _terms(stage, rows)
        )
    grouped = {}
    for row, run in runs:
        for stage, rows in run.trace.items():
            heading = row.label if stage == run.name else f"{row.label}, {stage}"
            points = [(one["step"], one["loss"]) for one in rows]
            grouped.setdefault(heading, []).append((TONES.get(run.modality, "other"), points))
    return (
        panels_of(curves(heading, own, FEWER_POINTS) for heading, own in grouped.items())
        if grouped
        else ""
    )


def _terms(stage: str, rows) -> list[str]:
    """The loss of one stage, and its terms if there are several."""
    terms = list(dict.fromkeys(term for row in rows for term in row["terms"]))
    found = [curves(f"{stage}: loss", [("other", [(row["step"], row["loss"]) for row in rows])])]
    return found + [
        curves(
            f"{stage}: {term}", [("other", [(row["step"], row["terms"].get(term)) for row in rows])]
        )
        for term in terms
        if len(terms) > 1
    ]


def curves(heading: str, lines, most: int = MOST_POINTS) -> str:
    """One figure of lines [(tone, [(step, value)])] on common axes.

    A value that is not finite is left out; a line of more than `most` points is averaged in equal groups; both are said.
    """
    finite = [
        (
            tone,
            [(step, value) for step, value in points if value is not None and math.isfinite(value)],
        )
        for tone, points in lines
    ]
    left_out = sum(value is not None for _, points in lines for _, value in points) - sum(
        len(points) for _, points in finite
    )
    notes = [f"{left_out} not finite left out"] if left_out else []
    finite = [(tone, points) for tone, points in finite if points]
    if not finite:
        return figure(heading, [], 1, note="no finite value")
    group = max(-(-len(points) // most) for _, points in finite)
    if group > 1:
        notes.append(f"means of {group} steps")
        finite = [
            (
                tone,
                [
                    tuple(math.fsum(column) / len(part) for column in zip(*part))
                    for part in (points[i : i + group] for i in range(0, len(points), group))
                ],
            )
            for tone, points in finite
        ]
    steps, values = zip(*(point for _, points in finite for point in points))
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    across, up = (last - first) or 1, (high - low) or 1
    drawn = [f'<line class="axis" x1="8" x2="292" y1="{y}" y2="{y}"/>' for y in (20, 104)]
    for tone, points in finite:
        line = " ".join(
            f"{8 + 284 * (step - first) / across:.1f},{104 - 84 * (value - low) / up:.1f}"
            for step, value in points
        )
        drawn.append(f'<polyline class="curve {tone}" points="{line}"/>')
    drawn += [
        f'<text class="soft" x="8" y="14">{high + 0.0:.4g}</text>',
        f'<text class="soft" x="8" y="118">{low + 0.0:.4g}</text>',
        f'<text class="soft" x="292" y="118" text-anchor="end">step {first:.0f} to {last:.0f}</text>',
    ]
    about = f"{heading}: from {finite[0][1][0][1] + 0.0:.4g} to {finite[0][1][-1][1] + 0.0:.4g}"
    return figure(heading, drawn, 122, about, note=", ".join(notes))


def key(marks) -> str:
    """A legend: [(class of the line, words)]."""
    lines = [
        f'<span><svg viewBox="0 0 26 10" aria-hidden="true"><line class="{kind}" x1="1" x2="25" y1="5" y2="5"/></svg> '
        f"{text(words)}</span>"
        for kind, words in marks
    ]
    return f'<p class="key">{"".join(lines)}</p>'
