"""Charts of scores and answer nll over the optimiser steps, from the evaluations of curve.jsonl.

Steps begin at 0, the start of the training. Scores have an axis from 0 to 1, the nll one from 0 to
a round number.
"""

import math
from collections.abc import Mapping, Sequence

from clear_ref.evaluation.metrics import Scores

from .columns import number
from .html_frame import figure
from .label_placement import Point
from .line_axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, Axes, round_ticks
from .read_runs import Run
from .run_groups import RunGroup

# {class of a line: its words in the legend}
KEY = {
    "other": "Forget",
    "second": "Retain",
    "third": "Real",
    "quality": "Forget Quality",
    "goal": "Forget of gold",
}
# Of each chart: its words, and {number of a line of curve.jsonl: class of its line}
SCORES = (
    (
        "scores",
        {"forget": "other", "retain": "second", "real": "third", "forget_quality": "quality"},
    ),
    ("scores of text", {"text_forget": "other", "text_retain": "second", "text_real": "third"}),
)
NLL = ("nll of training answers", {"nll_forget": "other", "nll_retain": "second"})


def charts(groups: Sequence[RunGroup], models: Mapping[str, Scores]) -> list[str]:
    """The figures of every group whose runs were evaluated between their steps.

    groups   lines of the leaderboard; of several seeds each has its lines in the same figures
    models   {"base", "gold": metrics by the paper's definitions}
    """
    figures = []
    for group in groups:
        runs = [run for run in group.runs if run.curve]
        if not runs:
            continue
        for words, classes in SCORES:
            gold = _gold(runs, models, words)
            figures += _chart(f"{group.label}: {words}", runs, classes, 1.0, gold)
        words, classes = NLL
        values = [value for run in runs for name in classes for _, value in _points(run, name)]
        if values:
            figures += _chart(f"{group.label}: {words}", runs, classes, max(values), None)
    return figures


def _points(run: Run, name: str) -> list[Point]:
    """(step, value) of a number; a value that is not finite is left out."""
    found = [(line["step"], line[name]) for line in run.curve if name in line]
    return [point for point in found if math.isfinite(point[1])]


def _gold(runs: Sequence[Run], models: Mapping[str, Scores], words: str) -> float | None:
    """Gold's Forget, if the runs' curves are by the same definitions."""
    by_paper = all(_definitions(run) in ("paper", "all") for run in runs)
    if "gold" not in models or not by_paper:
        return None
    return models["gold"].get("forget" if words == SCORES[0][0] else "text_forget")


def _definitions(run: Run) -> object:
    """The value of the run's setting metrics; None if its settings.json has none."""
    settings = run.record["settings"]
    return settings["metrics"]["value"] if "metrics" in settings else None


def _chart(
    heading: str,
    runs: Sequence[Run],
    classes: Mapping[str, str],
    high: float,
    gold: float | None,
) -> list[str]:
    """One figure of the numbers that were evaluated; [] if there is none.

    high  the axis goes from 0 to this value or the next round one
    gold  a value for a horizontal line; None: none
    """
    last = max(line["step"] for run in runs for line in run.curve) or 1
    axes = Axes(0, last, round_ticks(0.0, high))
    lines = []
    words = []
    for name, kind in classes.items():
        for run in runs:
            points = _points(run, name)
            if points:
                lines.append(axes.line(kind, points))
                words.append(f"{name} {', '.join(number(value, 3) for _, value in points)}")
    if not lines:
        return []
    if gold is not None:
        _, y = axes.place(0, gold)
        line = f'x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        lines.insert(0, f'<line class="curve goal" {line}/>')
    marks = [*axes.marks(), *_kept(axes, runs), *lines]
    steps = ", ".join(str(line["step"]) for line in runs[0].curve)
    about = f"{heading}, at the steps {steps}: {'; '.join(words)}"
    return [figure(heading, marks, HEIGHT, about)]


def _kept(axes: Axes, runs: Sequence[Run]) -> list[str]:
    """A vertical line at the step whose weights a run has kept (--keep), named."""
    drawn = []
    for run in runs:
        if "kept" not in run.summary:
            continue
        x, top = axes.place(run.summary["kept"]["step"], math.inf)
        anchor = "end" if x > (LEFT + RIGHT) / 2 else "start"
        drawn += [
            f'<line class="kept" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{BOTTOM}"/>',
            f'<text class="soft" x="{x:.1f}" y="{TOP - 2}" text-anchor="{anchor}">kept</text>',
        ]
    return drawn
