"""Every number of a table, of the page, of leaderboard.csv, .md and .tex and of the terminal has
its 95 % interval: of one run over the records, the one that `bootstrap` gives; of several seeds of
their mean, by Student's t.

Run: python -m pytest tests/report/test_record_intervals.py.
"""

import csv
import io
import re

from clear_ref.evaluation import bootstrap, metrics
from clear_ref.report import (
    columns,
    formats,
    leaderboard,
    page,
    read_runs,
    record_intervals,
    terminal,
)
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


def seeds(path):
    """Forget 0.2, 0.3, 0.4: mean 0.3, deviation 0.1; Student's t at 0.975 with 2 degrees of freedom
    is 4.303, so the interval of the mean is 0.3 -+ 4.303 * 0.1 / sqrt(3) = 0.0516 to 0.5484."""
    runs = ({"method": "npo", "seed": n, "forget": 0.2 + 0.1 * n} for n in range(3))
    return made(path, *runs, {"method": "kl", "forget": 0.3})


def test_a_line_of_several_seeds_has_the_interval_of_their_mean(tmp_path):
    report = seeds(tmp_path)
    text = page.page(report)
    cells = re.findall(r'<tr class="\w+">(.*?)</tr>', text, re.S)
    # The first table of each name is that of the paper's definitions.
    of = {one.split(">")[1].split("<")[0]: one for one in reversed(cells) if "data-value" in one}
    assert "over the records" in of["base"] and "over the records" in of["kl"]
    assert "over the records" not in of["npo"]
    assert 'over the seeds: 0.05–0.55">0.30 ' in of["npo"]


def test_markdown_and_latex_have_a_table_of_intervals_after_each_table(tmp_path):
    report = seeds(tmp_path)
    found = leaderboard.with_intervals(leaderboard.tables(report, run_groups(report)))
    legend = leaderboard.legend(found, report)
    first = record_intervals.as_text(report.intervals["base"]["paper"]["forget"])
    for text, sign, dash in (
        (formats.as_markdown(found, report.sets, legend), "|", "–"),
        (formats.as_latex(found, report.sets, legend), "&", "--"),
    ):
        titles = [line for line in text.splitlines() if "Forgetting pictures" in line]
        assert [title.endswith(" intervals") for title in titles] == [False, True] * len(
            report.sets
        )
        rows = [[cell.strip(" \\") for cell in line.split(sign)] for line in text.splitlines()]
        forget = {name: [row for row in rows if name in row] for name in ("base", "npo")}
        place = forget["base"][0].index("base") + 1
        assert forget["base"][1][place] == first.replace("–", dash)
        assert forget["npo"][0][place].startswith("0.30")
        assert forget["npo"][1][place] == f"0.05{dash}0.55"
        assert "Student's t" in text and "percentile bootstrap, 1000 keyed draws" in text


def test_the_terminal_of_several_runs_shows_them_too(tmp_path):
    report = seeds(tmp_path)
    runs = [run for group in run_groups(report) for run in group.runs]
    first = {name: sets["paper"] for name, sets in report.metrics.items()}
    summary = {
        "seeds": [0, 1, 2],
        "semantics": "paper",
        "impl": "torch",
        "out": "runs",
        "models": first,
        "intervals": report.intervals,
        "runs": [
            {
                "method": run.name,
                "modality": "both",
                "seed": run.seed,
                "metrics": run.metrics["paper"],
                "intervals": run.intervals,
            }
            for run in runs
        ],
    }
    lines = terminal.all_methods(summary).splitlines()
    base = record_intervals.as_text(report.intervals["base"]["paper"]["forget"])
    assert [line.split()[1] for line in lines if line.startswith("base ")][-1] == base
    assert [line.split()[1] for line in lines if line.startswith("npo ")] == [
        "0.30±0.10",
        "0.05–0.55",
    ]
    kl = runs[0].intervals["paper"]["forget"]
    assert [line.split()[1] for line in lines if line.startswith("kl ")][-1] == (
        record_intervals.as_text(kl)
    )


def test_a_number_that_a_seed_lacks_has_no_interval():
    found = record_intervals.of_line(
        [{"forget": 0.5, "real": 0.1}, {"forget": 0.5, "real": None}], {}
    )
    assert found == {"forget": (0.5, 0.5)}
    over_records = {"forget": (0.1, 0.2)}
    assert record_intervals.of_line([{"forget": 0.15}], over_records) is over_records


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
    assert record_intervals.as_text((-0.001, -0.0)) == "0.00–0.00"
    assert columns.number(-0.0004) == "0.000" and columns.number(-0.0006) == "-0.001"
