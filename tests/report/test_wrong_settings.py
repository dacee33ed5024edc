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


def changed(edit):
    """A change of a JSON file in place."""
    return lambda path: made_runs.change(path, edit)


def as_directory(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    (lambda path: path.unlink(), "no such file"),
    (as_directory, "is a directory; expected a file"),
    (lambda path: path.write_bytes(path.read_bytes()[:60]), r"not JSON \(.*\)"),
    (lambda path: path.write_text("[1]"), "holds list; expected a JSON object"),
]
OF_LOGS = [
    (changed(lambda log: log.pop("format")), "is not the log of eval_log that a run writes"),
    (changed(lambda log: log.pop("task")), "is not the log of eval_log that a run writes"),
    (changed(lambda log: log["avg_gt_loss"].pop("0")), "eval_log: record 0 is in only one of .*"),
    (
        changed(lambda log: log["avg_gt_loss"].update({"0": True})),
        "eval_log: avg_gt_loss of record 0 is True; .*",
    ),
    (
        changed(lambda log: log["average_perturb_loss"].update({"0": [float("nan")]})),
        "eval_log: average_perturb_loss of record 0 is nan; .*",
    ),
    (changed(lambda log: log["generated_text"].clear()), "eval_log: column generated_text is .*"),
]
OF_QUESTIONS = [
    (changed(lambda log: log.pop("config")), "is not a log of the records of base's"),
    (changed(lambda log: log.update(set="Real")), "is not a log of the records of base's"),
    (
        changed(lambda log: log["generated_text"]["0"].__setitem__(0, "Who?")),
        "is not a log of the records of base's",
    ),
]


@pytest.mark.parametrize(
    "name, damage, message",
    [
        *(("metrics.json", *each) for each in DAMAGES),
        *(("logs/eval_log.json", *each) for each in (*DAMAGES, *OF_LOGS, *OF_QUESTIONS)),
        *(
            (f"logs/{model}/eval_log.json", *each)
            for model in ("base", "gold")
            for each in (*DAMAGES, *OF_LOGS)
        ),
    ],
)
def test_a_damaged_file_of_a_finished_run_is_one_line_that_says_what_to_do(
    tmp_path, name, damage, message
):
    """The file, what was found, and what to remove; never to fetch a file that a run writes."""
    known = {
        "base": made_runs.logs(made_runs.BASE),
        "gold": made_runs.logs(made_runs.GOLD, "gold"),
    }
    _, summary = of_finished_run(tmp_path)
    assert finished.finished_run(tmp_path, known) == summary
    path = tmp_path / name
    damage(path)
    with pytest.raises(UserError, match=f"^{path}: {message}; {finished.AGAIN}$") as error:
        finished.finished_run(tmp_path, known)
    assert "fetch" not in str(error.value) and str(error.value).count(str(path)) == 1
    (tmp_path / "report.html").unlink()
    assert finished.finished_run(tmp_path, known) is None
