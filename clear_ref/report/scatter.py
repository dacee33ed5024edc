"""A chart of Forget against Retain: one mark per model, with its name beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clear_ref.evaluation.metrics import Scores

from .columns import number
from .html_frame import figure, text
from .label_placement import (
    FONT_SIZE,
    LINE_HEIGHT,
    Box,
    Point,
    groups_of_near,
    leader,
    lines_of_block,
    place,
    text_width,
)
from .leaderboard import MARK
from .run_groups import RunGroup
from .thresholds import COLLAPSED

# The drawing and the margins around the plot.
WIDTH = 420
LEFT = 36
RIGHT = 8
TOP = 24
BOTTOM = 40
TICK_STEPS = (0.02, 0.05, 0.1, 0.2)
# (x, y) of each chart: of the numbers about pictures, and of those about text.
AXES = (("retain", "forget"), ("text_retain", "text_forget"))
NAMES = {
    "retain": "Retain",
    "forget": "Forget",
    "text_retain": "Retain text",
    "text_forget": "Forget text",
}


@dataclass(frozen=True)
class Mark:
    """One model of a chart.

    kind     base, gold, other, or lost: Retain has collapsed
    seeds    (x, y) of each seed, in the units of the metrics
    mean     (x, y) of the mark
    """

    name: str
    kind: str
    seeds: list[Point]

    @property
    def mean(self) -> Point:
        return (
            math.fsum(x for x, _ in self.seeds) / len(self.seeds),
            math.fsum(y for _, y in self.seeds) / len(self.seeds),
        )


@dataclass(frozen=True)
class Scale:
    """The scales of a chart: the values at the edges of the plot, and its ticks."""

    x_low: float
    x_high: float
    x_ticks: list[float]
    y_low: float
    y_high: float
    y_ticks: list[float]
    height: int

    @property
    def plot(self) -> Box:
        return Box(LEFT, TOP, WIDTH - RIGHT - LEFT, self.height - BOTTOM - TOP)

    def __call__(self, point: Point) -> Point:
        """Place of a value in the drawing."""
        bottom = self.height - BOTTOM
        across = self.plot.width / (self.x_high - self.x_low)
        up = self.plot.height / (self.y_high - self.y_low)
        return (LEFT + across * (point[0] - self.x_low), bottom - up * (point[1] - self.y_low))


def ticks(values: Sequence[float], least: float = 0.2) -> tuple[float, float, list[float]]:
    """(low, high, ticks) of an axis from 0 to 1 that shows the values with some room around them.

    least    the shortest range of an axis
    ticks    in steps of 0.02, 0.05, 0.1 or 0.2
    """
    low = min(values)
    high = max(values)
    room = max(0.12 * (high - low), (least - (high - low)) / 2, 0.02)
    low = max(-0.04, low - room)
    high = min(1.04, high + room)
    step = next((step for step in TICK_STEPS if (high - low) / step <= 6), TICK_STEPS[-1])
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    multiples = [k * step for k in range(first, last + 1)]
    return low, high, [value for value in multiples if -1e-9 < value < 1 + 1e-9]


def scatters(groups: list[RunGroup], models: dict[str, Scores], heading: str) -> list[str]:
    """The charts of one panel: of the numbers about pictures, and of those about text.

    A chart shows the models that have both of its numbers; without an unlearned model it is left
    out.
    groups   of the panel; a group's mark is the mean of its runs, with a small dot for each of
             several runs
    models   {"base", "gold": metrics by the paper's definitions}; the groups' are by them too
    """
    charts = []
    for x_metric, y_metric in AXES:
        marks = _marks(groups, models, x_metric, y_metric)
        if any(mark.kind in ("lost", "other") for mark in marks):
            charts.append(_chart(marks, NAMES[x_metric], NAMES[y_metric], heading))
    return charts


def _marks(
    groups: list[RunGroup], models: dict[str, Scores], x_metric: str, y_metric: str
) -> list[Mark]:
    """The models of which every seed has both numbers."""
    candidates = [(name, name, [metrics]) for name, metrics in models.items()]
    for group in groups:
        name = group.label + (f" {MARK}" if group.collapsed else "")
        kind = "lost" if group.collapsed else "other"
        candidates.append((name, kind, [run.paper for run in group.runs]))
    marks = []
    for name, kind, seeds in candidates:
        points = [(metrics.get(x_metric), metrics.get(y_metric)) for metrics in seeds]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if len(known) == len(points):
            marks.append(Mark(name, kind, known))
    return marks


def _chart(marks: list[Mark], x_name: str, y_name: str, heading: str) -> str:
    """The chart of these marks."""
    # More than thirteen names need more room.
    height = 320 + 9 * max(0, len(marks) - 13)
    points = [point for mark in marks for point in mark.seeds]
    x_axis = ticks([x for x, _ in points])
    y_axis = ticks([y for _, y in points])
    scale = Scale(*x_axis, *y_axis, height)
    drawn, taken = _collapse_area(marks, scale)
    drawn += axes(scale, x_name, y_name)
    for mark in marks:
        drawn += _seeds(mark, scale)
    names, unnamed = place_names(marks, scale, taken)
    drawn += names
    # Drawn in reverse order, so that base is on top.
    drawn += [draw_mark(mark.kind, *scale(mark.mean)) for mark in reversed(marks)]
    note = f"without room for the names {', '.join(unnamed)}" if unnamed else ""
    numbers = "; ".join(
        f"{mark.name} {number(mark.mean[0], 2)}, {number(mark.mean[1], 2)}" for mark in marks
    )
    title = f"{y_name} against {x_name}"
    return figure(title, drawn, height, f"{heading}: {title}. {numbers}", WIDTH, note)


def _collapse_area(marks: list[Mark], scale: Scale) -> tuple[list[str], list[Box]]:
    """The tinted area in which Retain has collapsed, and the box that its text takes."""
    base = next((mark.mean for mark in marks if mark.kind == "base"), None)
    edge = scale((COLLAPSED * base[0], 0.0))[0] if base else LEFT
    if edge <= LEFT:
        return [], []
    width = edge - LEFT
    words = f"below {number(COLLAPSED, 1)} of base"
    drawn = [
        f'<rect class="gone" x="{LEFT}" y="{TOP}" width="{width:.1f}" '
        f'height="{scale.height - BOTTOM - TOP}"/>'
    ]
    if text_width(words) + 8 >= width:
        return drawn, []
    drawn.append(f'<text class="soft" x="{LEFT + 5}" y="{TOP + 14}">{text(words)}</text>')
    return drawn, [Box(LEFT, TOP, text_width(words) + 8, 20)]


def axes(scale: Scale, x_name: str, y_name: str) -> list[str]:
    """Grid lines, their numbers, and the names of the axes."""
    right = WIDTH - RIGHT
    height = scale.height
    bottom = height - BOTTOM
    drawn = []
    for tick in scale.x_ticks:
        x, _ = scale((tick, scale.y_low))
        drawn += [
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>',
            f'<text class="soft" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{tick:.2f}</text>",
        ]
    for tick in scale.y_ticks:
        _, y = scale((scale.x_low, tick))
        drawn += [
            f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="soft" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{tick:.2f}</text>",
        ]
    return [
        *drawn,
        f'<text x="{right}" y="{height - 7}" text-anchor="end">{x_name} → better</text>',
        f'<text x="0" y="14">{y_name} ↓ better</text>',
        f'<text class="soft" x="0" y="{height - 7}">↘ forgets, and keeps the rest</text>',
    ]


def _seeds(mark: Mark, scale: Scale) -> list[str]:
    """A small dot for each seed and a line from the mean to it; [] for one seed."""
    if len(mark.seeds) == 1:
        return []
    x, y = scale(mark.mean)
    drawn = []
    for seed in mark.seeds:
        seed_x, seed_y = scale(seed)
        drawn += [
            f'<line class="ray {mark.kind}" x1="{x:.1f}" y1="{y:.1f}" '
            f'x2="{seed_x:.1f}" y2="{seed_y:.1f}"/>',
            f'<circle class="seed {mark.kind}" cx="{seed_x:.1f}" cy="{seed_y:.1f}" r="2"/>',
        ]
    return drawn


def place_names(marks: list[Mark], scale: Scale, taken: list[Box]) -> tuple[list[str], list[str]]:
    """(the names as SVG, the names for which there is no room)."""
    points = [scale(mark.mean) for mark in marks]
    blocks = []
    sizes = []
    for group in groups_of_near(points):
        names = [marks[i].name for i in group]
        block = [[marks[group[k]] for k in line] for line in lines_of_block(names)]
        width = max(text_width(", ".join(mark.name for mark in line) + ",") for line in block)
        blocks.append(block)
        sizes.append((group[0], width, LINE_HEIGHT * len(block)))
    boxes = place(points, sizes, scale.plot, taken)
    drawn = []
    unnamed = []
    for (first, _, _), block, box in zip(sizes, blocks, boxes, strict=True):
        if box is None:
            unnamed += [mark.name for line in block for mark in line]
        else:
            drawn += _block(points[first], block, box)
    return drawn, unnamed


def _block(point: Point, block: list[list[Mark]], box: Box) -> list[str]:
    """A block of names in its box, aligned to the mark's side, and the line to a distant mark."""
    x, y = point
    drawn = []
    line = leader(point, box)
    if line:
        end = line[-1]
        drawn.append(
            f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" '
            f'x2="{end.x + 0.5:.1f}" y2="{end.y + 0.5:.1f}"/>'
        )
    if box.x >= x:
        anchor, start = "start", box.x
    elif box.x + box.width <= x:
        anchor, start = "end", box.x + box.width
    else:
        anchor, start = "middle", box.x + box.width / 2
    for k, marks in enumerate(block):
        words = ", ".join(f'<tspan class="{mark.kind}">{text(mark.name)}</tspan>' for mark in marks)
        if k + 1 < len(block):
            words += ","
        line_y = box.y + FONT_SIZE - 1 + LINE_HEIGHT * k
        drawn.append(
            f'<text class="name" x="{start:.1f}" y="{line_y:.1f}" text-anchor="{anchor}">'
            f"{words}</text>"
        )
    return drawn


def draw_mark(kind: str, x: float, y: float) -> str:
    """Base is an open square, gold a diamond, a model a disc, a collapsed model a ring."""
    if kind == "base":
        return f'<rect class="mark base" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    if kind == "gold":
        return (
            f'<path class="mark gold" d="M{x:.1f} {y - 6.5:.1f} l6.5 6.5 l-6.5 6.5 l-6.5 -6.5 z"/>'
        )
    return f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
