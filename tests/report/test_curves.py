"""The page's charts of scores over steps, read back from the SVG and compared by hand."""

import pytest

from clear_ref.common.errors import UserError
from clear_ref.report import charts as small_charts
from clear_ref.report import curves, line_axes, page, read_runs, run_groups
from tests.helpers import made_runs
from tests.helpers.html_reader import Reader

LINES = [
    {
        "stage": "scrub",
        "step": 0,
        "epoch": 0,
        "forget": 0.6,
        "retain": 0.7,
        "forget_quality": 0.25,
        "nll_forget": 0.5,
        "nll_retain": 0.25,
        "choosing": {"forget": 0.5},
    },
    {"stage": "scrub", "step": 20, "epoch": 0, "forget": 0.2, "retain": 0.65, "nll_forget": 7.5},
    {"stage": "scrub", "step": 40, "epoch": 1, "forget": 0.0, "retain": 1.0, "nll_forget": 9.0},
]


def charts(tmp_path, *runs):
    """(figures, their tags) of the page of these runs."""
    report = read_runs.read(
        [made_runs.write(tmp_path / f"run{i}", **run) for i, run in enumerate(runs)]
    )
    figures = curves.charts(run_groups.run_groups(report), report.paper)
    return figures, [Reader(figure).tags for figure in figures]


def points_of(tags):
    """{class: [(x, y)]} of the lines of a figure."""
    return {
        found["class"]: [tuple(map(float, pair.split(","))) for pair in found["points"].split()]
        for tag, found in tags
        if tag == "polyline"
    }


def test_scores_are_where_their_numbers_are(tmp_path):
    """x from 42 at step 0 to 284 at step 40; y from 112 at 0 to 12 at 1; gold's Forget is 0.1."""
    figures, tags = charts(tmp_path, {"curve": LINES, "kept": 20})
    assert len(figures) == 2 and "scrub: scores" in figures[0]
    assert points_of(tags[0]) == {
        "curve other": [(42, 52), (163, 92), (284, 112)],
        "curve second": [(42, 42), (163, 47), (284, 12)],
        "curve quality": [(42, 87)],
    }
    straight = {found["class"]: found for tag, found in tags[0] if tag == "line"}
    assert straight["curve goal"]["y1"] == straight["curve goal"]["y2"] == "102.0"
    assert straight["kept"]["x1"] == straight["kept"]["x2"] == "163.0"
    words = Reader(figures[0]).text
    for tick in ("0", "0.2", "0.4", "0.6", "0.8", "1", "10", "20", "30", "40", "step", "kept"):
        assert tick in words, tick


def test_the_nll_has_a_round_axis_of_its_own(tmp_path):
    """From 0 to 10 in steps of 2."""
    _, tags = charts(tmp_path, {"curve": LINES})
    assert points_of(tags[1]) == {
        "curve other": [(42, 107), (163, 37), (284, 22)],
        "curve second": [(42, 109.5)],
    }


@pytest.mark.parametrize(
    "high, step",
    [(1.0, 0.2), (9.0, 2.0), (40, 10), (7.9, 2.0), (0.05, 0.01), (2, 0.5), (0.0, 1.0)],
)
def test_the_steps_of_an_axis_by_hand(high, step):
    assert line_axes.tick_step(high) == pytest.approx(step, rel=1e-12)


def test_axes_end_at_round_numbers():
    """By hand: at most five steps of 1, 2 or 5 times a power of ten that hold all values."""
    assert line_axes.round_ticks(-7.3, 4.1) == [-10, -5, 0, 5]
    assert line_axes.round_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert line_axes.round_ticks(0.031, 0.0789) == pytest.approx(
        [0.03, 0.04, 0.05, 0.06, 0.07, 0.08]
    )
    assert line_axes.round_ticks(3.0, 3.0) == [3, 4] and line_axes.round_ticks(0.0, 0.0) == [0, 1]
    for values in ([(7, 0.5)], [(1, -1e308), (2, 1e308)], [(1, 0.0), (2, 5e-324)], [(1, 1e20)]):
        markup = small_charts.curves("loss", [("other", values)])
        drawn = points_of(Reader(markup).tags)["curve other"]
        assert len(drawn) == len(values) and "nan" not in markup


def test_runs_without_evaluations_have_no_such_chart(tmp_path):
    figures, _ = charts(tmp_path, {"curve": LINES, "method": "npo"}, {"method": "kl"})
    assert all("npo: " in figure for figure in figures) and len(figures) == 2
    report = read_runs.read([made_runs.write(tmp_path / "plain")])
    assert "Scores during the training" not in page.page(report)
    report = read_runs.read([tmp_path / "run0"])
    text = page.page(report)
    assert "Scores during the training" in text and not Reader(text).wrong


def test_seeds_share_a_chart_and_other_definitions_have_no_line_of_gold(tmp_path):
    settings = {"metrics": "released"}
    runs = [{"curve": LINES, "seed": seed, "settings": settings} for seed in (0, 1)]
    figures, tags = charts(tmp_path, *runs)
    assert len(figures) == 2
    assert sum(found.get("class") == "curve other" for _, found in tags[0]) == 2
    assert not any(found.get("class") == "curve goal" for _, found in tags[0])


@pytest.mark.parametrize(
    "line, message",
    [
        ({"step": "1"}, "curve.jsonl:1: step is '1'"),
        ({"step": 1, "forget": [0.5]}, r"curve.jsonl:1: forget is \[0.5\]"),
    ],
)
def test_a_damaged_curve_is_one_line(line, message, tmp_path):
    with pytest.raises(UserError, match=message):
        charts(tmp_path, {"curve": [line]})
