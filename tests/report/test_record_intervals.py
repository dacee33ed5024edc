"""Every number of a table, of the page and of leaderboard.csv has its 95 % interval over the
records, the one that `bootstrap` gives; seeds in one line have none.

Run: python -m pytest tests/report/test_record_intervals.py.
"""

import csv
import io
import re

from clear_ref.evaluation import bootstrap, metrics
from clear_ref.report import formats, page, read_runs, record_intervals, terminal
from clear_ref.report.run_groups import run_groups
from tests.helpers import made_runs


def made(path, *runs):
    for number, values in enumerate(runs):
        made_runs.write(path / f"run{number}", **values)
    return read_runs.read([path / f"run{number}" for number in range(len(runs))], "all")


def test_page_and_csv_show_the_interval_of_every_number_of_one_run(tmp_path):
    report = made(tmp_path, {"method": "npo", "forget": 0.3}, {"method": "kl", "seed": 0})
    own, gold = made_runs.logs({**made_runs.BASE, "forget": 0.3}), made_runs.logs(made_runs.GOLD)
    row = list(csv.DictReader(io.StringIO(formats.as_csv(report, run_groups(report)))))
    row = next(one for one in row if one["model"].startswith("npo"))
    text = page.page(report)
    for name in metrics.SETS:
        scores = metrics.score(own, gold, name)
        found = bootstrap.intervals(own, gold, name, scores)
        for metric, (low, high) in found.items():
            if " " in metric or "qa" in metric or "name" in metric:  # of texts, which differ
                continue
            cells = row[f"{name}.{metric}.low"], row[f"{name}.{metric}.high"]
            assert tuple(map(float, cells)) == (low, high), (name, metric)
            assert f"<td>{metric}</td>" in text
    shown = re.findall(r'title="95 % interval over the records: ([^"]+)"', text)
    assert len(shown) > 40 and "95 % intervals of every number" in text


def test_a_line_of_several_seeds_has_no_interval_over_records(tmp_path):
    report = made(tmp_path, *({"method": "npo", "seed": seed} for seed in (0, 1)))
    text = page.page(report)
    lines = re.findall(r'<tr class="(\w+)">(.*?)</tr>', text, re.S)
    of = {kind: "over the records" in cells for kind, cells in lines if "data-value" in cells}
    assert of["base"] and of["gold"] and not of["unlearned"]


def test_the_terminal_shows_them_below_the_leaderboard_and_old_summaries_have_none():
    logs = made_runs.logs(made_runs.BASE, n=12)
    gold = made_runs.logs(made_runs.GOLD, n=12)
    scores = metrics.score(logs, gold)
    summary = {
        "models": {"base": scores},
        "intervals": {"base": record_intervals.of_sets({"paper": scores}, logs, gold)},
    }
    lines = terminal.intervals(summary)
    low, high = bootstrap.intervals(logs, gold, "paper", scores)["forget"]
    assert lines[0].startswith("95 % interval over the records: percentile bootstrap")
    assert lines[2].split()[:3] == ["model", "Forget", "↓"] and lines[-1] == ""
    assert lines[3].split()[:2] == ["base", f"{low:.2f}–{high:.2f}"]
    del summary["intervals"]
    assert terminal.intervals(summary) == []


def test_an_interval_as_text():
    assert record_intervals.as_text((0.125, 0.5)) == "0.12–0.50"
    assert record_intervals.as_text((-3.0, 0.5), 1) == "-3.0 to 0.5"
    assert record_intervals.as_text(None) == "-"
