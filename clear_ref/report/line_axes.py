"""Axes of the small charts: where a value is drawn, grid lines at round numbers, names.

The drawing has 300 x 146 units, with y growing downwards.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .html_frame import text
from .label_placement import Point

LEFT = 42
RIGHT = 284
TOP = 12
BOTTOM = 112
HEIGHT = 146
MOST_STEPS = 5
LARGEST = 1e299  # an axis shows no value beyond this one


def tick_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, the least of which an axis of this length has at most 5."""
    if span < 1 / LARGEST:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / MOST_STEPS))
    return next(
        step
        for step in (power, 2 * power, 5 * power, 10 * power)
        if span / step <= MOST_STEPS * (1 + 1e-9)
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Two or more multiples of a round number, the first not above `low`, the last not below
    `high`."""
    low, high = max(low, -LARGEST), min(high, LARGEST)
    step = tick_step(high - low)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [k * step for k in range(first, last + 1)]


@dataclass(frozen=True)
class Axes:
    """The axes of one chart: x from the first step to the last one, y from tick to tick.

    x_ticks         numbers below the x axis; (): round numbers of steps
    x_name, y_name  names of the axes; the figure's caption names y where y_name is ""
    """

    first: float
    last: float
    ticks: Sequence[float]
    x_ticks: Sequence[float] = ()
    x_name: str = "step"
    y_name: str = ""

    def place(self, step: float, value: float) -> Point:
        """Where a value is drawn; one beyond the axis is at its end."""
        low, high = self.ticks[0], self.ticks[-1]
        across = (step - self.first) / ((self.last - self.first) or 1)
        up = (min(max(value, low), high) - low) / ((high - low) or 1)
        return LEFT + (RIGHT - LEFT) * across, BOTTOM - (BOTTOM - TOP) * up

    def line(self, kind: str, points: Iterable[Point]) -> str:
        """A line through (step, value) of each point; kind: its class."""
        drawn = []
        for point in points:
            x, y = self.place(*point)
            drawn.append(f"{x:.1f},{y:.1f}")
        return f'<polyline class="curve {kind}" points="{" ".join(drawn)}"/>'

    def marks(self) -> list[str]:
        """Grid lines with their numbers, and the names of the axes."""
        drawn = []
        for tick in self.ticks:
            _, y = self.place(self.first, tick)
            drawn += [
                f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
                f'<text class="soft" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">'
                f"{tick:.3g}</text>",
            ]
        for step in self.x_ticks or self._steps():
            x, _ = self.place(step, self.ticks[0])
            drawn.append(
                f'<text class="soft" x="{x:.1f}" y="{BOTTOM + 14}" text-anchor="middle">'
                f"{step:g}</text>"
            )
        middle = (LEFT + RIGHT) // 2
        drawn.append(
            f'<text class="soft" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{text(self.x_name)}</text>"
        )
        if self.y_name:
            drawn.append(
                f'<text class="soft" x="{LEFT + 4}" y="{TOP - 2}">{text(self.y_name)}</text>'
            )
        return drawn

    def _steps(self) -> list[int]:
        """Round numbers of steps on the axis; its ends, if there are fewer than two."""
        step = max(1, round(tick_step(self.last - self.first)))
        first = math.ceil(self.first / step)
        found = [k * step for k in range(first, math.floor(self.last / step) + 1)]
        return found if len(found) > 1 else sorted({round(self.first), round(self.last)})
