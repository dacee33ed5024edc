"""Places names beside the marks of a chart so that no name covers a mark or another name.

Names of marks at nearly the same place are put together into one block. Lengths are in units of
the drawing; y grows downwards.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

FONT_SIZE = 11.5
LINE_HEIGHT = FONT_SIZE + 2
# Marks nearer than this are named together, in lines of at most this length.
NEAR = 7
LONGEST_LINE = 170
# A mark takes this much room in each direction.
MARK_RADIUS = 5
# A name is placed where its distance from its mark is least. These are added to the distance: if
# the line from name to mark passes another mark, another line, another block; if nowhere is room.
MARK_PASSED = 40
LINE_PASSED = 40
BLOCK_PASSED = 500
NO_ROOM = 1e6
NARROW = set("ijltfrI.,:;'|()[]!-/ ")
WIDE = set("mwMW@%†±—") | set("ABCDEFGHJKLNOPQRSTUVXYZ_")

Point = tuple[float, float]
Block = tuple[int, float, float]
"""Number of its mark, width, height."""


@dataclass(frozen=True)
class Box:
    """A rectangle of the drawing; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: "Box") -> bool:
        """Whether the two rectangles share an area."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def inside(self, other: "Box") -> bool:
        """Whether this rectangle is completely within the other."""
        return (
            self.x >= other.x
            and self.y >= other.y
            and self.x + self.width <= other.x + other.width
            and self.y + self.height <= other.y + other.height
        )


def text_width(words: str) -> float:
    """An upper estimate of the width of a text in FONT_SIZE, for any of the page's fonts."""
    return 1.04 * FONT_SIZE * sum(map(_sign_width, words))


def _sign_width(sign: str) -> float:
    """Width of one character, as a share of the font size."""
    if sign in NARROW:
        return 0.4
    if sign in WIDE:
        return 0.84
    return 0.62 if sign < "\u2000" else 1.05


def groups_of_near(points: Sequence[Point]) -> list[list[int]]:
    """Numbers of the points, in groups, sorted by their first point.

    Two points are in one group if they are less than NEAR apart, directly or through others.
    """
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        near: list[list[int]] = []
        others: list[list[int]] = []
        for group in groups:
            is_near = any(math.dist(point, points[j]) < NEAR for j in group)
            (near if is_near else others).append(group)
        merged = sorted([i, *(j for group in near for j in group)])
        groups = [*others, merged]
    return sorted(groups)


def lines_of_block(names: Sequence[str]) -> list[list[int]]:
    """Numbers of the names on each line of a block, as many on a line as LONGEST_LINE allows."""
    lines: list[list[int]] = [[]]
    for i in range(len(names)):
        longer = ", ".join(names[j] for j in (*lines[-1], i))
        if lines[-1] and text_width(longer) > LONGEST_LINE:
            lines.append([])
        lines[-1].append(i)
    return lines


def place(
    marks: Sequence[Point], blocks: Sequence[Block], frame: Box, taken: Sequence[Box] = ()
) -> list[Box | None]:
    """A box for each block of names near its mark: in the frame, over no mark and no other block.

    marks    (x, y) of all marks
    taken    boxes that are used already
    returns  boxes in the order of the blocks; None if there is no room

    The method is greedy: one block after the other is put at the free place with the least cost.
    Several orders of the blocks are tried, and the one with the least total cost is used.
    """

    def n_marks_near(i: int) -> int:
        own = marks[blocks[i][0]]
        return sum(math.dist(own, mark) < 60 for mark in marks)

    keys: list[Callable[[int], float]] = [
        n_marks_near,
        lambda i: marks[blocks[i][0]][0],
        lambda i: marks[blocks[i][0]][1],
        lambda i: blocks[i][1],
    ]
    results = []
    for sign in (-1, 1):
        for key in keys:
            order = sorted(range(len(blocks)), key=_signed(sign, key))
            results.append(_place_in_order(marks, blocks, frame, taken, order))
    return min(results, key=lambda result: result[0])[1]


def _signed(sign: int, key: Callable[[int], float]) -> Callable[[int], tuple[float, int]]:
    """A sort key: by the key, ascending or descending, then by the number of the block."""
    return lambda i: (sign * key(i), i)


def _place_in_order(
    marks: Sequence[Point],
    blocks: Sequence[Block],
    frame: Box,
    taken: Sequence[Box],
    order: list[int],
) -> tuple[float, list[Box | None]]:
    """(total cost, boxes) of the blocks placed in this order."""
    mark_boxes = [
        Box(x - MARK_RADIUS, y - MARK_RADIUS, 2 * MARK_RADIUS, 2 * MARK_RADIUS) for x, y in marks
    ]
    used = list(taken)
    lines: list[Box] = []
    boxes: list[Box | None] = [None] * len(blocks)
    total = 0.0
    for i in order:
        mark, width, height = blocks[i]
        others = [
            box
            for box, point in zip(mark_boxes, marks, strict=True)
            if math.dist(marks[mark], point) > NEAR
        ]
        least = NO_ROOM
        for distance, box in _around(marks[mark], width, height, frame):
            if distance >= least:
                break
            is_free = not any(box.meets(other) for other in (*used, *mark_boxes, *lines))
            if box.inside(frame) and is_free:
                line = leader(marks[mark], box)
                cost = distance + _passed(line, others, lines, used)
                if cost < least:
                    least = cost
                    boxes[i] = box
        total += least
        placed = boxes[i]
        if placed is not None:
            used.append(placed)
            lines += leader(marks[mark], placed)
    return total, boxes


def _passed(line: list[Box], marks: list[Box], lines: list[Box], blocks: list[Box]) -> float:
    """The cost of what a line passes: marks, other lines, blocks of names."""
    n_marks = sum(_meets_any(line, mark) for mark in marks)
    n_blocks = sum(_meets_any(line, block) for block in blocks)
    passes_line = any(_meets_any(line, other) for other in lines)
    return MARK_PASSED * n_marks + BLOCK_PASSED * n_blocks + LINE_PASSED * passes_line


def _meets_any(line: list[Box], other: Box) -> bool:
    return any(piece.meets(other) for piece in line)


def _around(mark: Point, width: float, height: float, frame: Box) -> Iterator[tuple[float, Box]]:
    """(distance, box) around a mark, by distance, in sixteen directions each."""
    farthest = math.hypot(frame.width, frame.height)
    for step in range(int(farthest / 7)):
        distance = 7 + 7 * step
        for turn in (0, 8, 1, -1, 4, -4, 2, -2, 3, -3, 7, -7, 6, -6, 5, -5):
            angle = math.pi * turn / 8
            x = mark[0] + math.cos(angle) * (distance + width / 2) - width / 2
            y = mark[1] + math.sin(angle) * (distance + height / 2) - height / 2
            yield distance, Box(x, y, width, height)


def leader(mark: Point, box: Box) -> list[Box]:
    """The line from a mark to its name, as small boxes along it; [] if the name is next to it."""
    x, y = mark
    end_x = min(max(x, box.x), box.x + box.width)
    end_y = min(max(y, box.y), box.y + box.height)
    length = math.hypot(end_x - x, end_y - y)
    if length < 12:
        return []
    n = int(length / 3)
    pieces = []
    for k in range(2, n + 1):
        pieces.append(Box(x + (end_x - x) * k / n - 0.5, y + (end_y - y) * k / n - 0.5, 1, 1))
    return pieces
