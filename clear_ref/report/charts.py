"""Small charts as inline SVG: truth ratios of base, gold and a model, and losses over steps."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from clear_ref.evaluation.definitions import QUALITY_TASKS
from clear_ref.evaluation.log_format import Log, Logs
from clear_ref.evaluation.quality import histogram

from . import line_axes
from .columns import number
from .html_frame import figure, text
from .leaderboard import MARK, PANELS
from .line_axes import Axes, round_ticks
from .read_runs import TraceLine
from .run_groups import RunGroup

N_BINS = 10
# The most points of a curve: alone in its panel, and beside other curves.
MOST_POINTS = 300
FEWER_POINTS = 100
# {modality: class of a curve}, for panels with several modalities.
TONES = {"both": "other", "visual": "third", "text": "second"}
DRAWING_ORDER = ("gold", "base", "other")

Point = tuple[float, float]
Curve = tuple[str, Sequence[tuple[int, float | None]]]
"""Class of the line, and its (step, value)."""


def panels_of(figures: Iterable[str]) -> str:
    """Figures side by side, as many as the page has room for."""
    return f'<div class="panels">{"".join(figures)}</div>'


def truth_ratios(groups: list[RunGroup], logs: dict[str, Logs]) -> list[str]:
    """A figure for each group: a histogram of the forget records by R / (1 + R), in ten bins.

    It shows base, gold and the model; Forget Quality compares the same ten bins.
    logs     {"base", "gold": {task: log}}; of a group, the log of its first run is drawn
    returns  [] if no model was evaluated on a forget task
    """
    task = _forget_task(groups)
    if task is None:
        return []
    shared = {model: _shares(task, own[task]) for model, own in logs.items() if task in own}
    all_shares = []
    for group in groups:
        all_shares.append(shared | {"other": _shares(task, group.runs[0].logs[task])})
    highest = max(float(share.max()) for shares in all_shares for share in shares.values())
    return [
        _histogram(group, shares, highest) for group, shares in zip(groups, all_shares, strict=True)
    ]


def _forget_task(groups: list[RunGroup]) -> str | None:
    """The first forget task on which a model was evaluated."""
    for task in QUALITY_TASKS:
        if any(task in group.runs[0].logs for group in groups):
            return task
    return None


def _shares(task: str, log: Log) -> np.ndarray:
    """[10] shares of the records by R / (1 + R)."""
    named: Log = log if "task" in log else {**log, "task": task}
    return histogram(named)


def _histogram(group: RunGroup, shares: dict[str, np.ndarray], highest: float) -> str:
    """Step lines over ten bins; the area below gold's line is tinted.

    highest    the largest share that the figures of the page have
    """
    axes = Axes(
        first=0.0,
        last=1.0,
        ticks=round_ticks(0.0, highest),
        x_ticks=(0.0, 0.25, 0.5, 0.75, 1.0),
        x_name="R / (1 + R)",
        y_name="share of records",
    )
    marks = axes.marks()

    def point(bin_edge: int, share: float) -> str:
        return "{:.1f} {:.1f}".format(*axes.place(bin_edge / N_BINS, share))

    for kind in sorted(shares, key=DRAWING_ORDER.index):
        steps = []
        for i, share in enumerate(map(float, shares[kind])):
            steps += [point(i, share), point(i + 1, share)]
        line = " L".join(steps)
        if kind == "gold":
            area = f"M{point(0, 0)} L{line} L{point(N_BINS, 0)} z"
            marks.append(f'<path class="area" d="{area}"/>')
        marks.append(f'<path class="step {kind}" d="M{line}"/>')
    quality = group.runs[0].paper.get("forget_quality")
    note = "" if quality is None else f"FQ {number(quality, 2)}"
    numbers = []
    for kind, own in shares.items():
        name = "model" if kind == "other" else kind
        numbers.append(f"{name} {' '.join(number(float(share), 2) for share in own)}")
    panel = PANELS.get(group.panel, group.panel)
    about = f"{group.label}, {panel}: shares by R / (1 + R) in ten bins. {'; '.join(numbers)}"
    heading = group.label + (f" {MARK}" if group.collapsed else "")
    return figure(heading, marks, line_axes.HEIGHT, about, note=note)


def learning(groups: list[RunGroup]) -> str:
    """Losses over the optimiser steps, as markup; "" if no run was trained.

    Of one run: the loss and each term. Of several: the losses, a panel for each method and stage.
    """
    runs = [(group, run) for group in groups for run in group.runs if run.trace]
    if not runs:
        return ""
    if len(runs) == 1:
        figures = []
        for stage, lines in runs[0][1].trace.items():
            figures += _loss_and_terms(stage, lines)
        return panels_of(figures)
    by_heading: dict[str, list[Curve]] = {}
    for group, run in runs:
        for stage, lines in run.trace.items():
            heading = group.label if stage == run.name else f"{group.label}, {stage}"
            points = [(line["step"], line["loss"]) for line in lines]
            tone = TONES.get(run.modality, "other")
            by_heading.setdefault(heading, []).append((tone, points))
    return panels_of(curves(heading, own, FEWER_POINTS) for heading, own in by_heading.items())


def _loss_and_terms(stage: str, lines: list[TraceLine]) -> list[str]:
    """The loss of one stage, and its terms if there are several."""
    losses = [(line["step"], line["loss"]) for line in lines]
    figures = [curves(f"{stage}: loss", [("other", losses)])]
    terms = dict.fromkeys(term for line in lines for term in line["terms"])
    if len(terms) > 1:
        for term in terms:
            values = [(line["step"], line["terms"].get(term)) for line in lines]
            figures.append(curves(f"{stage}: {term}", [("other", values)]))
    return figures


def curves(heading: str, lines: Sequence[Curve], most: int = MOST_POINTS) -> str:
    """One figure of lines on common axes.

    A value that is not finite is left out. A line of more than `most` points is replaced by means
    of groups of equal size. A note in the figure says so in both cases.
    """
    finite, n_left_out = _finite(lines)
    notes = [f"{n_left_out} not finite left out"] if n_left_out else []
    if not finite:
        return figure(heading, [], 1, note="no finite value")
    size = max(-(-len(points) // most) for _, points in finite)
    if size > 1:
        notes.append(f"means of {size} steps")
        finite = [(tone, _means_of_groups(points, size)) for tone, points in finite]
    steps = [step for _, points in finite for step, _ in points]
    values = [value for _, points in finite for _, value in points]
    axes = Axes(min(steps), max(steps), round_ticks(min(values), max(values)))
    marks = axes.marks()
    marks += [axes.line(tone, points) for tone, points in finite]
    first_line = finite[0][1]
    # Adding 0.0 turns -0.0 into 0.0.
    about = f"{heading}: from {first_line[0][1] + 0.0:.4g} to {first_line[-1][1] + 0.0:.4g}"
    return figure(heading, marks, line_axes.HEIGHT, about, note=", ".join(notes))


def _finite(lines: Sequence[Curve]) -> tuple[list[tuple[str, list[Point]]], int]:
    """(lines with finite values only, number of values left out); None is not counted."""
    finite = []
    n_left_out = 0
    for tone, points in lines:
        kept: list[Point] = []
        for step, value in points:
            if value is None:
                continue
            if math.isfinite(value):
                kept.append((step, value))
            else:
                n_left_out += 1
        if kept:
            finite.append((tone, kept))
    return finite, n_left_out


def _means_of_groups(points: list[Point], size: int) -> list[Point]:
    """The mean step and mean value of each group of `size` points; the last may be smaller."""
    means = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        step = math.fsum(step for step, _ in group) / len(group)
        value = math.fsum(value for _, value in group) / len(group)
        means.append((step, value))
    return means


def key(marks: Iterable[tuple[str, str]]) -> str:
    """A legend: [(class of the line, words)]."""
    entries = []
    for kind, words in marks:
        line = f'<line class="{kind}" x1="1" x2="25" y1="5" y2="5"/>'
        entries.append(
            f'<span><svg viewBox="0 0 26 10" aria-hidden="true">{line}</svg> {text(words)}</span>'
        )
    return f'<p class="key">{"".join(entries)}</p>'
