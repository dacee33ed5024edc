"""Settings that were given are in the labels or said once; every setting is a column of the CSV;
the command that repeats a run; zeros of harmonic means are marked and their part named."""

import csv
import io
import json
import math
import shlex

import pytest

from clear_ref import run
from clear_ref.commands import given, settings
from clear_ref.commands.parser import parser
from clear_ref.report import (
    command_line,
    formats,
    headline,
    leaderboard,
    page,
    read_runs,
    run_groups,
    terminal_tables,
    zero_means,
)
from tests.helpers import made_runs
from tests.helpers.html_reader import Reader


def made(tmp_path, *runs):
    """(report, groups) of runs given as made_runs.write takes them, with `given` names."""
    paths = []
    for i, one in enumerate(runs):
        named = one.pop("given", ())
        paths.append(made_runs.write(tmp_path / f"run{i}", **one))
        made_runs.change(
            paths[-1] / "settings.json", lambda record, named=named: mark(record, named)
        )
    report = read_runs.read(paths)
    return report, run_groups.run_groups(report)


def mark(record, named):
    for name in named:
        part = "options" if name in record["options"] else "settings"
        record[part][name]["source"] = "command line"


def labels(tmp_path, *runs):
    return [group.label for group in made(tmp_path, *runs)[1]]


# ---- labels


def test_a_label_names_every_setting_recipe_value_and_option_that_was_given(tmp_path):
    run = {
        "settings": {"epochs": 15, "lr": 0.01, "mask": "released", "recipe": "mini", "limit": 4},
        "options": {"alpha": 2.0, "gamma": 1.0},
        "given": ["epochs", "mask", "recipe", "limit", "alpha", "seed", "modality"],
    }
    assert labels(tmp_path, run) == ["scrub (epochs 15, recipe mini, alpha 2.0, label mask answer)"]


def test_what_was_given_to_all_lines_is_said_once_and_not_in_the_labels(tmp_path):
    common = {"settings": {"epochs": 15, "lr": 0.01}, "given": ["epochs", "lr", "limit"]}
    report, groups = made(
        tmp_path,
        {"method": "npo", **common},
        {"method": "kl", "options": {"beta": 1}, **common, "given": [*common["given"], "beta"]},
    )
    assert [group.label for group in groups] == ["kl (beta 1)", "npo"]
    assert "epochs 15 · " in headline.facts(groups) + " · "
    assert headline.facts(groups).count("lr 0.01") == 1
    sentences = leaderboard.legend(leaderboard.tables(report, groups), report)
    assert [one for one in sentences if "epochs 15" in one and "limit 4" in one]


def test_an_option_that_only_one_run_has_makes_another_line(tmp_path):
    assert labels(tmp_path, {}, {"options": {"beta": 0.1}}) == ["scrub", "scrub (beta 0.1)"]


# ---- CSV


def test_every_setting_recipe_value_and_option_is_a_column_of_the_csv(tmp_path):
    report, groups = made(
        tmp_path,
        {"method": "npo", "settings": {"epochs": 15}, "options": {"beta": 0.1, "seed": 7}},
        {"method": "kl", "settings": {"epochs": 3}, "options": {"alpha": 2.0}},
    )
    base, gold, kl, npo = csv.DictReader(io.StringIO(formats.as_csv(report, groups)))
    for found, row in ((groups[0].runs[0], kl), (groups[1].runs[0], npo)):
        for name, entry in found.record["settings"].items():
            column = "setting.model" if name == "model" else name
            assert row[column] == str(entry["value"]), name
        assert (row["recipe"], row["label_mask"], row["impl"]) == ("mini", "answer", "torch")
    assert (npo["epochs"], npo["beta"], npo["option.seed"], npo["seed"]) == ("15", "0.1", "7", "0")
    assert (kl["epochs"], kl["alpha"], kl["beta"], kl["option.seed"]) == ("3", "2.0", "", "")
    assert base["epochs"] == gold["lr"] == ""


# ---- the command that repeats a run


def record_of(command, values, options, named, **more):
    def entries(found):
        return {
            name: {"value": value, "source": "command line" if name in named else "paper"}
            for name, value in found.items()
        }

    return {
        "command": command,
        "impl": "native",
        "settings": entries(values),
        "options": entries(options),
        **more,
    }


def test_the_command_has_what_was_given_and_the_parser_reads_it_back():
    values = {
        "method": "scrub",
        "seed": 3,
        "model": "my models/a",
        "plain": True,
        "lr": 0.003,
        "epochs": 5,
        "gold": "",  # none, as a request of a sequence without gold has it
        "out": "runs/x",
    }
    named = {"method", "seed", "model", "plain", "lr", "gold", "out", "alpha"}
    record = record_of("unlearn", values, {"alpha": 2.0, "gamma": 1.0}, named)
    line = command_line.command_line(record)
    assert line == (
        "python -m clear_ref.run scrub --seed 3 --model 'my models/a' --plain --lr 0.003 "
        "--set alpha=2.0"
    )
    arguments = parser().parse_args(shlex.split(line)[3:])
    read = given.given_from(arguments, settings.Unlearn)
    assert read.recipe == {"lr": "0.003"} and read.options == {"alpha": "2.0"}
    assert (arguments.seed, arguments.model, arguments.plain) == (3, "my models/a", True)


def test_the_command_of_an_evaluation_names_its_model_first_and_a_forced_impl():
    values = {"model": "mini", "adapter": "-a", "limit": 4}
    record = record_of("evaluate", values, {}, {"model", "adapter"}, kernel={"built": True})
    record["impl"] = "torch"
    assert command_line.command_line(record) == (
        "python -m clear_ref.run evaluate mini --adapter=-a --impl torch"
    )


def test_the_page_prints_the_command_and_the_one_with_the_settings_file(tmp_path):
    report, _ = made(tmp_path, {"settings": {"epochs": 2}, "given": ["epochs", "method"]})
    words = " ".join(Reader(page.page(report)).text)
    assert "python -m clear_ref.run scrub --epochs 2" in words
    file = tmp_path / "run0/settings.json"
    assert f"python -m clear_ref.run scrub --settings {file}" in words


# ---- zeros of harmonic means


def zero_truth_ratio(path):
    """Make every wrong answer of eval_log_forget likelier than the right one: truth ratio 0."""
    for file in path.glob("logs/**/eval_log_forget.json"):
        log = json.loads(file.read_text())
        log["avg_paraphrased_loss"] = {index: 50.0 for index in log["avg_paraphrased_loss"]}
        file.write_text(json.dumps(log))


@pytest.fixture
def zeroed(tmp_path):
    paths = [made_runs.write(tmp_path / "a"), made_runs.write(tmp_path / "b", "npo")]
    for path in paths:
        zero_truth_ratio(path)
    report = read_runs.read(paths)
    return report, run_groups.run_groups(report)


PART = "truth_ratio of eval_log_forget"


def test_a_zero_of_one_part_is_marked_in_every_table_and_its_part_named(zeroed):
    report, groups = zeroed
    [table] = leaderboard.tables(report, groups)
    at = [name for name, _, _ in table.columns].index("forget")
    assert {line.cells[at].marked for line in table.lines} == {"0.000‡"}
    assert not any(line.cells[at].best for line in table.lines)
    [sentence] = [one for one in leaderboard.legend([table], report) if one.startswith("‡")]
    assert f"Forget of base, Forget of gold, Forget of npo, Forget of scrub ({PART})" in sentence
    rows = [(name, sets["paper"]) for name, sets in report.metrics.items()]
    text = terminal_tables.leaderboard(rows)
    assert text.count("0.000‡") == 2 and PART in " ".join(text.split())
    words = " ".join(Reader(page.page(report)).text)
    assert words.count("0.000 ‡") == 4 and sentence in words
    assert f"Forget is 0 because of {PART} alone" in words
    legend = leaderboard.legend([table], report)
    assert "0.000‡" in formats.as_markdown([table], report.sets, legend)
    assert r"0.000$\ddagger$" in formats.as_latex([table], report.sets, legend)
    for row in csv.DictReader(io.StringIO(formats.as_csv(report, groups))):
        assert row["zero_parts"] == f"forget: {PART}"


def test_score_marks_a_zero_and_names_its_part(tmp_path, capsys):
    """The log has neither ROUGE nor sums of losses, so nothing in it contradicts the zero."""
    path = made_runs.write(tmp_path / "a")
    zero_truth_ratio(path)
    for file in (path / "logs").glob("*.json"):
        made_runs.change(file, lambda log: log.pop("rougeL_recall"))
        made_runs.change(file, answers_are_right)
    (path / "metrics.json").unlink()
    assert run.main(["score", str(path), "--quiet"]) == 0
    text = capsys.readouterr().out
    forget = next(line for line in text.splitlines() if line.startswith("forget "))
    assert forget.split()[1] == "0‡" and f"({PART})" in " ".join(text.split())


def answers_are_right(log):
    for texts in log["generated_text"].values():
        texts[1] = texts[2]


def test_a_zero_of_all_parts_and_a_number_above_zero_are_not_marked():
    parts = {"rouge": 0.0, "probability": 0.0, "truth_ratio": 0.0}
    tasks = {task: dict(parts) for task in ("eval_log_forget", "eval_forget_facerec")}
    assert zero_means.zero_parts({"forget": 0.0, "tasks": tasks}, "forget") == []
    tasks["eval_log_forget"]["rouge"] = 0.5
    assert len(zero_means.zero_parts({"forget": 0.0, "tasks": tasks}, "forget")) == 2
    assert zero_means.zero_parts({"forget": 0.1, "tasks": tasks}, "forget") == []
    assert zero_means.zero_parts({"forget": math.nan, "tasks": tasks}, "forget") == []
