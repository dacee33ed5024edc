"""The front of a sweep: what each method can forget for what it keeps, in one chart.

A setting is on its method's front if no other setting of the method is at least as good in both
numbers and better in one. All numbers are those of the reporting half.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .columns import PAPER_COLUMNS, number
from .html_frame import figure, text
from .label_placement import Point
from .scatter import WIDTH, Mark, Scale, axes, draw_mark, place_names, ticks

HALF = "reporting"
TONES = ("other", "second", "third", "lost")
DASHES = ("", "7 3", "2 3")
STYLE = """
.front { fill: none; stroke-width: 1.4; opacity: .85; }
.tried { opacity: .5; stroke: none; }
.tried.other, .pick.other { fill: var(--other); }
.tried.second, .pick.second { fill: var(--second); }
.tried.third, .pick.third { fill: var(--third); }
.tried.lost, .pick.lost { fill: var(--lost); }
.front.lost { stroke: var(--lost); }
.pick { stroke: var(--card); stroke-width: 1.5; }
"""


def on_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other one dominates, by ascending x.

    points  (x, y); a larger x and a smaller y are better. Of equal points the first is kept.
    """
    kept = []
    for i, (x, y) in enumerate(points):
        dominated = any(
            (u >= x and v <= y and (u > x or v < y)) or ((u, v) == (x, y) and k < i)
            for k, (u, v) in enumerate(points)
        )
        if not dominated:
            kept.append(i)
    return sorted(kept, key=lambda i: points[i])


def tone(number_of_method: int) -> tuple[str, str]:
    """(class of the colour, dash pattern) of a method; twelve methods have different ones."""
    return TONES[number_of_method % len(TONES)], DASHES[
        number_of_method // len(TONES) % len(DASHES)
    ]


def fronts(summary: Mapping[str, Any]) -> str:
    """The charts of a sweep: Forget against Retain and, where there is gold, against FQ.

    summary  what sweep.json holds
    """
    forget, retain = summary["pair"]
    charts = [_chart(summary, retain, forget)]
    if "gold" in summary["models"]:
        charts.append(_chart(summary, "forget_quality", forget))
    return f'<div class="scatters">{"".join(charts)}</div>'


def _chart(summary: Mapping[str, Any], x_metric: str, y_metric: str) -> str:
    """The chart of one pair of numbers."""
    names = {metric: heading for metric, heading, _ in PAPER_COLUMNS}
    done = [point for point in summary["points"] if not point["failed"]]
    place = {id(p): (p[HALF][x_metric], p[HALF][y_metric]) for p in done}
    models = [
        Mark(name, name, [(scores[HALF][x_metric], scores[HALF][y_metric])])
        for name, scores in summary["models"].items()
        if scores[HALF].get(x_metric) is not None
    ]
    methods = list(dict.fromkeys(point["method"] for point in done))
    chosen = [p for p in done if p["chosen"]]
    marks = [*models, *(Mark(p["method"], "other", [place[id(p)]]) for p in chosen)]
    height = 360 + 9 * max(0, len(marks) - 10)
    all_places = [*place.values(), *(mark.mean for mark in models)]
    scale = Scale(*ticks([x for x, _ in all_places]), *ticks([y for _, y in all_places]), height)
    drawn = axes(scale, names[x_metric], names[y_metric])
    for index, method in enumerate(methods):
        drawn += _front([p for p in done if p["method"] == method], place, scale, tone(index))
    labels, unnamed = place_names(marks, scale, [])
    drawn += [*labels, *(draw_mark(mark.kind, *scale(mark.mean)) for mark in models)]
    for point in chosen:
        x, y = scale(place[id(point)])
        kind, _ = tone(methods.index(point["method"]))
        drawn.append(
            f'<circle class="pick {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
            f"<title>{text(_words(point, place))}</title></circle>"
        )
    heading = f"{names[y_metric]} against {names[x_metric]}"
    about = "; ".join(
        f"{mark.name} {number(mark.mean[0], 2)}, {number(mark.mean[1], 2)}" for mark in marks
    )
    note = f"without room for the names {', '.join(unnamed)}" if unnamed else ""
    return figure(heading, drawn, height, f"{heading}. {about}", WIDTH, note)


def _front(
    points: Sequence[Mapping[str, Any]],
    place: Mapping[int, Point],
    scale: Scale,
    look: tuple[str, str],
) -> list[str]:
    """A method's settings as small dots, and the line through those on its front."""
    kind, dash = look
    places = [place[id(point)] for point in points]
    drawn = [
        f'<circle class="tried {kind}" cx="{scale(xy)[0]:.1f}" cy="{scale(xy)[1]:.1f}" r="2.5">'
        f"<title>{text(_words(point, place))}</title></circle>"
        for point, xy in zip(points, places, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (scale(places[i]) for i in on_front(places)))
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return [f'<polyline class="front {kind}" points="{line}"{dashes}/>', *drawn]


def _words(point: Mapping[str, Any], place: Mapping[int, Point]) -> str:
    x, y = place[id(point)]
    return f"{point['method']}: {point['words']} ({number(x)}, {number(y)})"
