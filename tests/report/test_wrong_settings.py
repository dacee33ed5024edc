"""A changed settings.json or summary of a finished run is one short line, for report and all."""

import json

import pytest

from clear_ref.commands import finished
from clear_ref.common.errors import UserError
from clear_ref.evaluation.metrics import SETS, score
from clear_ref.report import comparable
from clear_ref.report.read_runs import read
from tests.helpers import made_runs


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda record: record.pop("impl"), "settings.json: impl is None; expected what"),
        (lambda record: record["settings"].pop("method"), "settings.json: method is None; expect"),
    ],
)
def test_what_a_page_needs_of_the_settings_is_named(tmp_path, change, message):
    path = made_runs.write(tmp_path / "run")
    made_runs.change(path / "settings.json", change)
    with pytest.raises(UserError, match=message):
        read([path], "paper")


def test_long_values_are_not_quoted_whole(tmp_path):
    paths = [made_runs.write(tmp_path / name) for name in ("a", "b")]
    long = {"value": "x" * 5000, "source": "command line"}
    made_runs.change(
        paths[1] / "settings.json",
        lambda record: record["settings"].update(max_new_tokens=long),
    )
    with pytest.raises(UserError, match="max_new_tokens is 'xxx") as error:
        read(paths, "paper")
    assert len(str(error.value)) < 600 and comparable.ADVICE in str(error.value)


def of_finished_run(path, metrics="all"):
    """The path of metrics.json and its content, of a finished run."""
    made_runs.write(path)
    (path / "report.html").touch()
    scores = score(made_runs.logs(made_runs.BASE), None, metrics)
    summary = {
        "models": {"unlearned": scores},
        "seconds": {"train": 1, "evaluate": 2.5},
        "steps": 3,
    }
    (path / "metrics.json").write_text(json.dumps(summary))
    return path / "metrics.json", summary


@pytest.mark.parametrize("metrics", [*SETS, "all"])
def test_a_finished_run_is_read_back(tmp_path, metrics):
    assert finished.finished_summary(tmp_path) is None
    _, summary = of_finished_run(tmp_path, metrics)
    assert finished.finished_summary(tmp_path) == summary


@pytest.mark.parametrize(
    "change",
    [
        lambda summary: summary.pop("models"),
        lambda summary: summary["models"].pop("unlearned"),
        lambda summary: summary["models"]["unlearned"].pop("forget"),
        lambda summary: summary["models"]["unlearned"].update(forget="0.5"),
        lambda summary: summary["models"]["unlearned"]["tasks"]["eval_log"].pop("n"),
        lambda summary: summary["models"]["unlearned"]["definitions"].update(forget={}),
        lambda summary: summary["models"]["unlearned"]["also"].update(released=3),
        lambda summary: summary["seconds"].pop("evaluate"),
        lambda summary: summary.update(steps=True),
    ],
)
def test_a_changed_summary_of_a_finished_run_is_one_line(tmp_path, change):
    path, summary = of_finished_run(tmp_path)
    change(summary)
    path.write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"metrics\.json: is not the summary.*remove report\.html"):
        finished.finished_summary(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda log: log.pop("config"), "is not a log of the records of base's"),
        (lambda log: log["avg_gt_loss"].pop("0"), "is not a log of the records of base's"),
        (lambda log: log["avg_gt_loss"].update({"0": True}), "avg_gt_loss of record 0 is True"),
    ],
)
def test_a_changed_log_of_a_finished_run_is_one_line(tmp_path, change, message):
    like = {"base": made_runs.logs(made_runs.GOLD)}
    made_runs.write(tmp_path)
    assert finished.logs_in(tmp_path, like).keys() == like["base"].keys()
    path = tmp_path / "logs" / "eval_log.json"
    log = json.loads(path.read_text())
    change(log)
    path.write_text(json.dumps(log))
    with pytest.raises(UserError, match=message):
        finished.logs_in(tmp_path, like)
