"""Forget against Retain: one mark a model, every one named beside its mark, no name over another.

Marks that lie on each other cannot be told apart, so their names stand together in one block.
"""

import math
from dataclasses import dataclass

from .html_frame import figure, text
from .leaderboard import COLLAPSED, MARK, Row
from .table import number

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 420, 36, 8, 24, 40
SIZE = 11.5  # of a name, in units of the drawing
NEAR, LINE = 7, 170  # marks nearer than this are named together; the longest line of such a block
# What counts as distance: a line over another's mark, over another line, over another's name; no place at all.
MARK_PASSED, LINE_PASSED, BLOCK_PASSED, NO_ROOM = 40, 40, 500, 1e6
NARROW, WIDE = set("ijltfrI.,:;'|()[]!-/ "), set("mwMW@%†±—") | set("ABCDEFGHJKLNOPQRSTUVXYZ_")
AXES = (("retain", "forget"), ("text_retain", "text_forget"))
NAMES = {
    "retain": "Retain",
    "forget": "Forget",
    "text_retain": "Retain text",
    "text_forget": "Forget text",
}


@dataclass(frozen=True)
class Box:
    """A rectangle of the drawing."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: "Box") -> bool:
        """Whether the two share an area."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def inside(self, other: "Box") -> bool:
        """Whether this one lies within the other."""
        return (
            self.x >= other.x
            and self.y >= other.y
            and self.x + self.width <= other.x + other.width
            and self.y + self.height <= other.y + other.height
        )


def text_width(words: str) -> float:
    """Width of a name set in SIZE, rather too large: fonts differ, and names must not touch in any."""
    return (
        1.04
        * SIZE
        * sum(
            0.4 if sign in NARROW else 0.84 if sign in WIDE else 0.62 if sign < "\u2000" else 1.05
            for sign in words
        )
    )


def together(points) -> list[list[int]]:
    """The points in groups: those less than NEAR apart, directly or through others, are in one; by their first point."""
    groups = []
    for i, (x, y) in enumerate(points):
        met = [
            group
            for group in groups
            if any(math.hypot(x - points[j][0], y - points[j][1]) < NEAR for j in group)
        ]
        groups = [group for group in groups if group not in met] + [
            sorted([i, *(j for group in met for j in group)])
        ]
    return sorted(groups)


def block_of(names) -> list[list[int]]:
    """Which names stand on which line of a block: as many on one as fit into LINE units."""
    lines = [[]]
    for i, name in enumerate(names):
        if lines[-1] and text_width(", ".join(names[j] for j in (*lines[-1], i))) > LINE:
            lines.append([])
        lines[-1].append(i)
    return lines


def place(marks, blocks, frame: Box, taken=()) -> list[Box | None]:
    """A box for each block of names near its mark: within the frame, over no mark and no other block.

    marks    [(x, y)] of all marks, which take 5 units in each direction
    blocks   [(number of its mark, width, height)]                            taken   boxes that are used already
    returns  boxes in the order of the blocks, None where no room is left. Greedy: one block after the other at the nearest free
             place, where what its line to the mark passes counts as distance too; of several orders the one with least distance
    """
    at = lambda i: marks[blocks[i][0]]
    crowded = [
        sum(math.hypot(x - at(i)[0], y - at(i)[1]) < 60 for x, y in marks)
        for i in range(len(blocks))
    ]
    orders = [
        sorted(range(len(blocks)), key=lambda i: (sign * by(i), i))
        for sign in (-1, 1)
        for by in (
            lambda i: crowded[i],
            lambda i: at(i)[0],
            lambda i: at(i)[1],
            lambda i: blocks[i][1],
        )
    ]
    return min(
        (_placed(marks, blocks, frame, taken, order) for order in orders),
        key=lambda found: found[0],
    )[1]


def _placed(marks, blocks, frame: Box, taken, order) -> tuple[float, list[Box | None]]:
    """(sum of distances, boxes) of the blocks placed in this order."""
    solid = [Box(x - 5, y - 5, 10, 10) for x, y in marks]
    there, lines, found, total = list(taken), [], [None] * len(blocks), 0.0
    for i in order:
        mark, width, height = blocks[i]
        x, y = marks[mark]
        others = [
            one
            for one, (mark_x, mark_y) in zip(solid, marks)
            if math.hypot(x - mark_x, y - mark_y) > NEAR
        ]
        least = NO_ROOM
        for distance, box in _around(x, y, width, height, math.hypot(frame.width, frame.height)):
            if distance >= least:
                break
            if box.inside(frame) and not any(
                box.meets(other) for other in (*there, *solid, *lines)
            ):
                line = leader(x, y, box)
                marks_passed, blocks_passed = (
                    sum(any(piece.meets(other) for piece in line) for other in barred)
                    for barred in (others, there)
                )
                cost = (
                    distance
                    + MARK_PASSED * marks_passed
                    + BLOCK_PASSED * blocks_passed
                    + LINE_PASSED * any(piece.meets(other) for piece in line for other in lines)
                )
                if cost < least:
                    least, found[i] = cost, box
        total += least
        if found[i]:
            there.append(found[i])
            lines += leader(x, y, found[i])
    return total, found


def _around(x: float, y: float, width: float, height: float, farthest: float):
    """(distance, box) around a point, in growing distance, in sixteen directions each."""
    for step in range(int(farthest / 7)):
        distance = 7 + 7 * step
        for turn in (0, 8, 1, -1, 4, -4, 2, -2, 3, -3, 7, -7, 6, -6, 5, -5):
            across, down = math.cos(math.pi * turn / 8), math.sin(math.pi * turn / 8)
            yield (
                distance,
                Box(
                    x + across * (distance + width / 2) - width / 2,
                    y + down * (distance + height / 2) - height / 2,
                    width,
                    height,
                ),
            )


def leader(x: float, y: float, box: Box) -> list[Box]:
    """The line from a mark to a name that stands away from it, as small boxes along it; [] for a name right beside its mark."""
    ends = min(max(x, box.x), box.x + box.width), min(max(y, box.y), box.y + box.height)
    length = math.hypot(ends[0] - x, ends[1] - y)
    if length < 12:
        return []
    n = int(length / 3)
    return [
        Box(x + (ends[0] - x) * k / n - 0.5, y + (ends[1] - y) * k / n - 0.5, 1, 1)
        for k in range(2, n + 1)
    ]


def ticks(values, least: float = 0.2) -> tuple[float, float, list[float]]:
    """(low, high, ticks) of an axis that holds the values with some room, in steps of 0.02, 0.05, 0.1 or 0.2, of 0 to 1."""
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), (least - (high - low)) / 2, 0.02)
    low, high = max(-0.04, low - room), min(1.04, high + room)
    step = next(step for step in (0.02, 0.05, 0.1, 0.2) if (high - low) / step <= 6 or step == 0.2)
    shown = [
        k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    return low, high, [value for value in shown if -1e-9 < value < 1 + 1e-9]


def scatters(lines: list[Row], models: dict, heading: str) -> list[str]:
    """One panel's figures: of the pictures' numbers, and of the text's, as far as models have both numbers of a pair.

    lines    the panel's rows: the mean of a row's runs is its mark, each run a small dot when there are several
    models   {"base", "gold": metrics by the paper's definitions}, as those of the runs are
    """
    marks = [(name, name, [found]) for name, found in models.items()]
    marks += [
        (
            row.label + f" {MARK}" * bool(row.collapsed),
            "lost" if row.collapsed else "other",
            [run.paper for run in row.runs],
        )
        for row in lines
    ]
    found = []
    for pair in AXES:
        known = [
            (name, kind, [(one[pair[0]], one[pair[1]]) for one in every])
            for name, kind, every in marks
            if all(one.get(metric) is not None for one in every for metric in pair)
        ]
        if any(kind in ("lost", "other") for _, kind, _ in known):
            found.append(_drawn(known, pair, heading))
    return found


def _drawn(marks, pair, heading: str) -> str:
    """The chart of marks [(name, kind, [(x, y) of each seed])]."""
    means = [
        tuple(math.fsum(column) / len(seeds) for column in zip(*seeds)) for _, _, seeds in marks
    ]
    height = 320 + 9 * max(0, len(marks) - 13)
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    (x0, x1, x_ticks), (y0, y1, y_ticks) = (
        ticks([point[axis] for _, _, seeds in marks for point in seeds]) for axis in (0, 1)
    )
    across, up = (right - LEFT) / (x1 - x0), (bottom - TOP) / (y1 - y0)
    at = lambda point: (LEFT + across * (point[0] - x0), bottom - up * (point[1] - y0))
    drawn, taken = [], []
    base = next((mean for (_, kind, _), mean in zip(marks, means) if kind == "base"), None)
    edge = at((COLLAPSED * base[0], y0))[0] if base else LEFT
    if edge > LEFT:
        words = f"below {number(COLLAPSED, 1)} of base"
        drawn.append(
            f'<rect class="gone" x="{LEFT}" y="{TOP}" width="{edge - LEFT:.1f}" height="{bottom - TOP}"/>'
        )
        if text_width(words) + 8 < edge - LEFT:
            drawn.append(f'<text class="soft" x="{LEFT + 5}" y="{TOP + 14}">{text(words)}</text>')
            taken.append(Box(LEFT, TOP, text_width(words) + 8, 20))
    for tick in x_ticks:
        x = at((tick, y0))[0]
        drawn += [
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>',
            f'<text class="soft" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:.2f}</text>',
        ]
    for tick in y_ticks:
        y = at((x0, tick))[1]
        drawn += [
            f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="soft" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.2f}</text>',
        ]
    drawn += [
        f'<text x="{right}" y="{height - 7}" text-anchor="end">{NAMES[pair[0]]} → better</text>',
        f'<text x="0" y="14">{NAMES[pair[1]]} ↓ better</text>',
        f'<text class="soft" x="0" y="{height - 7}">↘ forgets, and keeps the rest</text>',
    ]
    points = [at(mean) for mean in means]
    for (_, kind, seeds), (x, y) in zip(marks, points):
        for seed_x, seed_y in map(at, seeds if len(seeds) > 1 else ()):
            drawn += [
                f'<line class="ray {kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{seed_x:.1f}" y2="{seed_y:.1f}"/>',
                f'<circle class="seed {kind}" cx="{seed_x:.1f}" cy="{seed_y:.1f}" r="2"/>',
            ]
    groups = together(points)
    blocks = [
        [[marks[group[k]] for k in line] for line in block_of([marks[i][0] for i in group])]
        for group in groups
    ]
    sizes = [
        (
            group[0],
            max(text_width(", ".join(name for name, _, _ in line) + ",") for line in block),
            (SIZE + 2) * len(block),
        )
        for group, block in zip(groups, blocks)
    ]
    boxes = place(points, sizes, Box(LEFT, TOP, right - LEFT, bottom - TOP), taken)
    for (mark, _, _), block, box in zip(sizes, blocks, boxes):
        if box:
            drawn += _named(*points[mark], block, box)
    drawn += [
        _mark(kind, x, y) for (_, kind, _), (x, y) in reversed(list(zip(marks, points)))
    ]  # base's frame lies on top
    unnamed = [
        name
        for block, box in zip(blocks, boxes)
        if box is None
        for line in block
        for name, _, _ in line
    ]
    note = "without room for the names " + ", ".join(unnamed) if unnamed else ""
    about = f"{heading}: {NAMES[pair[1]]} against {NAMES[pair[0]]}. " + "; ".join(
        f"{name} {number(x, 2)}, {number(y, 2)}" for (name, _, _), (x, y) in zip(marks, means)
    )
    return figure(f"{NAMES[pair[1]]} against {NAMES[pair[0]]}", drawn, height, about, WIDTH, note)


def _named(x: float, y: float, block, box: Box) -> list[str]:
    """A block of names in its box, flush with the mark's side, and the line to the mark where it stands away."""
    line, drawn = leader(x, y, box), []
    if line:
        drawn.append(
            f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{line[-1].x + 0.5:.1f}" y2="{line[-1].y + 0.5:.1f}"/>'
        )
    anchor, start = (
        ("start", box.x)
        if box.x >= x
        else ("end", box.x + box.width)
        if box.x + box.width <= x
        else ("middle", box.x + box.width / 2)
    )
    for k, names in enumerate(block):
        words = ", ".join(
            f'<tspan class="{kind}">{text(name)}</tspan>' for name, kind, _ in names
        ) + "," * (k + 1 < len(block))
        drawn.append(
            f'<text class="name" x="{start:.1f}" y="{box.y + SIZE - 1 + (SIZE + 2) * k:.1f}" text-anchor="{anchor}">'
            f"{words}</text>"
        )
    return drawn


def _mark(kind: str, x: float, y: float) -> str:
    """Base an open square, gold a diamond, a model a disc, one whose Retain collapsed a ring."""
    if kind == "base":
        return f'<rect class="mark base" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    if kind == "gold":
        return (
            f'<path class="mark gold" d="M{x:.1f} {y - 6.5:.1f} l6.5 6.5 l-6.5 6.5 l-6.5 -6.5 z"/>'
        )
    return f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
