"""The front of a sweep holds the settings that no other one beats, and its page and CSV show the
numbers of the right half.

The fronts are by hand.
"""

import csv
import io

from clear_ref.report import sweep_page, sweep_tables
from clear_ref.report.front import on_front, tone
from tests.helpers.html_reader import Reader
from tests.helpers.made_sweep import RECORD, SUMMARY, point


def test_a_point_is_on_the_front_if_no_other_one_is_better():
    # x high and y low are better: (3, 1) beats (2, 1) and (2, 2); (4, 3) has the highest x
    points = [(2, 1), (3, 1), (2, 2), (4, 3), (4, 3), (1, 0)]
    assert on_front(points) == [5, 1, 3]
    assert on_front([(1.0, 1.0)]) == [0]


def test_every_method_has_its_own_look():
    assert len({tone(k) for k in range(12)}) == 12


def test_the_page_is_whole_and_says_what_the_best_setting_does():
    page = sweep_page.page(SUMMARY, RECORD)
    reader = Reader(page)
    assert not reader.open and not reader.wrong
    words = " ".join(reader.text)
    # reporting half: npo 0.31 of base 0.61; Retain 0.76 of base's 0.81 is 94 %
    assert "npo lowers Forget from 0.61 to 0.31 and keeps 94% of Retain" in words
    assert "No setting of kl meets the condition" in words
    assert "failed: the loss is nan & <i>" in words and "<i>" not in page.replace("&lt;i&gt;", "")
    assert "python -m clear_ref.run npo --lr 2e-3" in words
    assert page.count("<svg") == 2 and page.count('class="pick') == 4
    assert "http" not in page.replace("http-equiv", "")


def test_the_headline_is_of_the_method_that_is_best_on_the_choosing_half():
    """kl is better on the reporting half and a 0 hides its other parts: neither is the headline."""
    points = [point(1, "npo", 0.3, 0.75, True, lr="1"), point(2, "kl", 0.31, 0.75, True, lr="1")]
    points.append(point(3, "scrub", 0.0, 0.75, True, lr="1"))
    points[1]["reporting"]["forget"] = 0.05
    assert sweep_page.headline({**SUMMARY, "points": points}).startswith("npo lowers Forget")


def test_the_table_marks_a_method_that_misses_the_condition():
    printed = sweep_tables.terminal(SUMMARY)
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert lines["npo"].split()[1:7] == ["0.300", "0.750", "0.500", "0.310", "0.760", "0.500"]
    assert lines["kl"].startswith("kl *") and "this one keeps most" in printed
    assert "failed: kl lr <b>: the loss is nan & <i>" in printed


def test_the_csv_has_every_setting_and_every_half():
    rows = list(csv.DictReader(io.StringIO(sweep_tables.csv_text(SUMMARY))))
    assert [row["lr"] for row in rows] == ["1e-3", "2e-3", "1e-3", "<b>"]
    assert float(rows[1]["choosing_forget"]) == 0.3 and float(rows[1]["reporting_forget"]) == 0.31
    assert float(rows[1]["all_retain"]) == 0.77
    assert [row["chosen"] for row in rows] == ["", "yes", "yes", ""]
    assert rows[3]["failed"] and rows[3]["all_forget"] == ""


def test_a_zero_that_hides_its_parts_is_marked_and_explained():
    zeroed = point(1, "npo", 0.0, 0.79, chosen=True, lr="1e-3")
    zeroed["choosing"]["zeros"] = ["forget"]
    summary = {**SUMMARY, "points": [zeroed]}
    for words in (sweep_tables.terminal(summary), sweep_page.page(summary, RECORD)):
        assert words.count("0.000‡") == (1 if words.startswith("sweep") else 2)
        assert "‡ a harmonic mean that is 0 because a part of it is 0" in words
    assert "‡" not in sweep_tables.terminal(SUMMARY)
