"""The page's charts and samples, read back from the SVG and compared with numbers by hand."""

import itertools
import math
import random
import re

import pytest

from clear_ref.report import charts, label_placement, read_runs, run_groups, scatter
from tests.helpers import made_runs
from tests.helpers.html_reader import Reader

FRAME = label_placement.Box(36, 24, 376, 256)
NAMES = [
    "retain_ft",
    "grad_ascent †",
    "grad_diff",
    "kl",
    "idk",
    "dpo †",
    "npo",
    "scrub",
    "llmu",
    "rmu",
    "sku",
    "base",
    "gold",
]


def read(tmp_path, *runs):
    report = read_runs.read(
        [made_runs.write(tmp_path / f"run{i}", **run) for i, run in enumerate(runs)]
    )
    return report, run_groups.run_groups(report)


def tags(markup, name):
    return [attributes for tag, attributes in Reader(markup).tags if tag == name]


# ---- scatter


def crowds():
    """Marks that make it hard to place their names.

    All at one point, on a line, in a tight grid, in two corners, at random (eight draws).
    """
    yield [(200.0, 150.0)] * 13
    yield [(60.0 + 8 * i, 150.0) for i in range(13)]
    yield [(200.0 + 8 * (i % 4), 150.0 + 8 * (i // 4)) for i in range(13)]
    yield [(41.0, 29.0)] * 6 + [(407.0, 275.0)] * 7
    for seed in range(8):
        draw = random.Random(seed)
        width = draw.choice([20, 60, 300])
        yield [(50 + width * draw.random(), 40 + 0.6 * width * draw.random()) for _ in range(13)]


@pytest.mark.slow
@pytest.mark.parametrize("points", list(crowds()))
def test_every_name_is_placed_and_none_covers_a_name_or_a_mark(points):
    groups = label_placement.groups_of_near(points)
    assert sorted(i for group in groups for i in group) == list(range(13)), "each mark in one group"
    blocks = [[NAMES[i] for i in group] for group in groups]
    sizes = [
        (group[0], label_placement.text_width(max(block, key=len)), 13.5 * len(block))
        for group, block in zip(groups, blocks, strict=True)
    ]
    boxes = label_placement.place(points, sizes, FRAME)
    assert None not in boxes
    corners = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes]

    def apart(a, b):
        return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]

    assert all(apart(a, b) for a, b in itertools.combinations(corners, 2))
    assert all(
        apart(box, (x - 4.5, y - 4.5, x + 4.5, y + 4.5)) for box in corners for x, y in points
    )
    assert all(36 <= x0 and 24 <= y0 and x1 <= 412 and y1 <= 280 for x0, y0, x1, y1 in corners)
    assert [(box.width, box.height) for box in boxes] == [size[1:] for size in sizes]


def test_marks_on_each_other_share_a_block_and_others_do_not():
    assert label_placement.groups_of_near([(0, 0), (100, 0), (3, 3), (6, 6), (100, 8)]) == [
        [0, 2, 3],
        [1],
        [4],
    ]
    assert label_placement.lines_of_block(["a" * 20, "b" * 20, "c"]) == [[0], [1, 2]]


def test_no_room_is_none_and_not_an_overlap():
    assert (
        label_placement.place(
            [(10, 10), (12, 30)], [(0, 500, 14), (1, 20, 14)], label_placement.Box(0, 0, 100, 40)
        )[0]
        is None
    )


def test_a_lone_name_is_beside_its_mark_without_a_line():
    [box] = label_placement.place([(200, 150)], [(0, 40, 13.5)], FRAME)
    assert (
        box.x == 207
        and box.y < 150 < box.y + box.height
        and label_placement.leader((200, 150), box) == []
    )


def test_marks_are_where_their_numbers_are_and_have_the_class_of_their_kind(tmp_path):
    """Linear scales, Forget upwards, Retain to the right.

    base (0.7, 0.6), gold (0.72, 0.1), npo (0.5, 0.35), dpo (0.1, 0.02)
    """
    report, lines = read(
        tmp_path,
        {"method": "npo", "retain": 0.5, "forget": 0.35},
        {"method": "dpo", "retain": 0.1, "forget": 0.02},
    )
    first, second = scatter.scatters(lines, report.paper, "H")
    discs = {
        attributes["class"]: (float(attributes["cx"]), float(attributes["cy"]))
        for attributes in tags(first, "circle")
    }
    [base] = [
        attributes for attributes in tags(first, "rect") if attributes["class"] == "mark base"
    ]
    x, y = float(base["x"]) + 5, float(base["y"]) + 5
    (npo_x, npo_y), (dpo_x, dpo_y) = discs["mark other"], discs["mark lost"]
    across, up = (x - dpo_x) / (0.7 - 0.1), (dpo_y - y) / (0.6 - 0.02)
    assert across > 0 and up > 0 and npo_x - dpo_x == pytest.approx(0.4 * across, abs=0.2)
    assert dpo_y - npo_y == pytest.approx(0.33 * up, abs=0.2)
    gone = next(attributes for attributes in tags(first, "rect") if attributes["class"] == "gone")
    assert float(gone["x"]) + float(gone["width"]) == pytest.approx(
        dpo_x + 0.25 * across, abs=0.2
    ), "half of base's 0.7"
    about = tags(first, "svg")[0]
    assert about["role"] == "img" and about["aria-label"] == (
        "H: Forget against Retain. base 0.70, 0.60; gold 0.72, 0.10; dpo † 0.10, 0.02; "
        "npo 0.50, 0.35"
    )
    words = Reader(first).text
    assert {"base", "gold", "dpo †", "npo", "Retain → better", "Forget ↓ better"} <= set(
        words
    ) and "text" in second


def test_seeds_are_small_dots_around_their_mean(tmp_path):
    report, lines = read(
        tmp_path,
        *(
            {"seed": seed, "retain": level, "forget": 0.3}
            for seed, level in ((0, 0.5), (1, 0.6), (2, 0.7))
        ),
    )
    [first, _] = scatter.scatters(lines, report.paper, "H")
    discs = tags(first, "circle")
    mean = [float(one["cx"]) for one in discs if one["class"] == "mark other"]
    dots = [float(one["cx"]) for one in discs if one["class"] == "seed other"]
    assert (
        len(mean) == 1
        and len(dots) == 3
        and sum(dots) / 3 == pytest.approx(mean[0], abs=0.1)
        and dots[0] < dots[1] < dots[2]
    )


def test_a_model_without_the_numbers_is_in_no_scatter(tmp_path):
    report, lines = read(tmp_path, {"only": ["eval_text_forget", "eval_text_retain"]})
    [figure] = scatter.scatters(lines, report.paper, "H")
    assert "Forget text against Retain text" in Reader(figure).text
    report, lines = read(tmp_path / "real", {"only": ["eval_real_world_wo_options"]})
    assert scatter.scatters(lines, report.paper, "H") == []


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.31, 0.33], [0.0, 0.0], [0.2, 0.61, 0.4]])
def test_axes_hold_their_values_with_round_ticks(values):
    low, high, ticks = scatter.ticks(values)
    assert low < min(values) and max(values) < high and high - low > 0.13, (
        "close numbers are not torn apart"
    )
    assert (
        2 <= len(ticks) <= 8
        and low - 1e-9 <= ticks[0]
        and ticks[-1] <= high + 1e-9
        and 0 <= ticks[0]
        and ticks[-1] < 1 + 1e-9
    )
    assert all(abs(tick * 100 - round(tick * 100)) < 1e-9 for tick in ticks)


# ---- truth ratios


def test_truth_ratios_by_hand(tmp_path):
    """R = 1 - level. R / (1 + R) is 1/3 for npo at 0.5 (bin 3), 0.2857 for base at 0.6 (bin 2) and
    0.4737 for gold at 0.1 (bin 4)."""
    report, lines = read(tmp_path, {"method": "npo", "forget": 0.5})
    [figure] = charts.truth_ratios(lines, report.logs)
    for kind, where in (("base", 2), ("gold", 4), ("other", 3)):
        [path] = [one["d"] for one in tags(figure, "path") if one["class"] == f"step {kind}"]
        points = [tuple(map(float, point.split())) for point in path[1:].split(" L")]
        # The plot is from 42 to 284 and from 112 up to 12, which is a share of 1.
        assert len(points) == 20 and points[0][0] == 42 and points[-1][0] == 284
        heights = [112 - points[2 * i][1] for i in range(10)]
        assert heights == [100 if i == where else 0 for i in range(10)], kind
    words = Reader(figure).text
    assert {"npo ", "FQ 0.17", "0.25", "0.5", "1", "R / (1 + R)", "share of records"} <= set(words)
    label = tags(figure, "svg")[0]["aria-label"]
    assert "model 0.00 0.00 0.00 1.00 0.00" in label and "gold 0.00 0.00 0.00 0.00 1.00" in label


def test_a_language_model_is_drawn_by_its_forget_questions_and_one_without_any_not_at_all(tmp_path):
    report, lines = read(
        tmp_path, {"only": ["eval_text_forget", "eval_text_retain"], "text_forget": 0.5}
    )
    assert len(charts.truth_ratios(lines, report.logs)) == 1
    report, lines = read(tmp_path / "none", {"only": ["eval_log"]})
    assert charts.truth_ratios(lines, report.logs) == []


# ---- learning curves


def points_of(markup):
    return [
        [tuple(map(float, point.split(","))) for point in line["points"].split()]
        for line in tags(markup, "polyline")
    ]


def test_a_curve_by_hand():
    """Steps 1, 2, 3 with values 4, 2, 3.

    x is 42, 163, 284; y is 12 (the top) for 4, 112 (the bottom) for 2, and 62 for 3. Ticks are the
    round numbers 2, 2.5, 3, 3.5, 4 and every step; the axis of steps has a name.
    """
    markup = charts.curves("loss", [("other", [(1, 4.0), (2, 2.0), (3, 3.0)])])
    assert points_of(markup) == [[(42, 12), (163, 112), (284, 62)]]
    assert Reader(markup).text[-9:] == ["2", "2.5", "3", "3.5", "4", "1", "2", "3", "step"]


def test_a_long_trace_is_thinned_and_says_so_and_a_value_that_is_not_finite_is_left_out():
    rows_of = [(i + 1, math.nan if i == 7 else 1e4 - i) for i in range(3001)]
    markup = charts.curves("ga", [("other", rows_of)])
    [line] = points_of(markup)
    assert (
        len(line) == 300
        and "nan" not in markup
        and "1 not finite left out, means of 10 steps" in " ".join(Reader(markup).text)
    )
    assert "no finite value" in charts.curves("ga", [("other", [(1, math.inf)])])
    assert "left out" not in charts.curves("ga", [("other", [(1, 1.0), (2, None)])]), (
        "a term that a phase has not"
    )


def test_one_run_shows_its_terms_and_several_a_panel_for_each_method(tmp_path):
    _, lines = read(tmp_path, {"method": "npo"})
    assert re.findall("<figcaption>([^<]*)", charts.learning(lines)) == [
        "npo: loss",
        "npo: a",
        "npo: b",
    ]
    stages = [
        {"stage": stage, "step": i, "loss": 1.0 * i, "terms": {"a": 1.0}}
        for stage in ("reference", "sku")
        for i in (1, 2)
    ]
    _, lines = read(
        tmp_path / "more",
        {"method": "npo"},
        {"method": "npo", "seed": 1},
        {"method": "npo", "modality": "text"},
        {"method": "sku", "trace": stages},
    )
    markup = charts.learning(lines)
    assert re.findall("<figcaption>([^<]*)", markup) == ["npo", "sku, reference", "sku"]
    assert [line["class"] for line in tags(markup, "polyline")] == ["curve other"] * 2 + [
        "curve second"
    ] + ["curve other"] * 2
    report = read_runs.read([made_runs.write_evaluated(tmp_path / "e")])
    assert charts.learning(run_groups.run_groups(report)) == ""
