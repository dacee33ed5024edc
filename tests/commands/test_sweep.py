"""`sweep` runs what METHOD would run, chooses by the rule on one half of the records, and what is
in the other half cannot change the choice.
"""

import csv
import json
import math
import shutil

import pytest

from clear_ref import run
from clear_ref.commands import many_runs
from clear_ref.commands.sweep import PARTS
from clear_ref.evaluation.selection import halves
from tests.helpers.commands import call, small_copy

pytestmark = pytest.mark.slow
FAST = ("--limit", "4", "--max-new-tokens", "4", "--epochs", "1", "--quiet")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(directory, data directory) of a finished sweep of three settings."""
    home = tmp_path_factory.mktemp("sweep")
    data = small_copy(home / "data")
    arguments = ["sweep", "scrub,npo", "--grid", "lr=1e-3", "--set-grid", "beta=0.5,1"]
    arguments += ["--data", str(data), "--out", str(home / "out"), *FAST, "--json"]
    assert run.main(arguments) == 0
    return home / "out", data


def result(out):
    return json.loads((out / "sweep.json").read_text())


def arguments_of(out, data, *more):
    grid = ("--grid", "lr=1e-3", "--set-grid", "beta=0.5,1")
    return ("sweep", "scrub,npo", *grid, "--data", data, "--out", out, *FAST, *more)


def test_a_point_is_the_run_of_its_command(swept, tmp_path, capsys):
    out, data = swept
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [(row["method"], row["lr"], row["beta"]) for row in rows] == [
        ("npo", "1e-3", "0.5"),
        ("npo", "1e-3", "1"),
        ("scrub", "1e-3", ""),
    ]
    command = rows[0]["command"].split()[3:]
    given = ["--data", str(data), "--limit", "4", "--max-new-tokens", "4", "--seed", "0"]
    given += ["--set", "beta=0.5"]
    assert command[0] == "npo"
    for option, value in zip(given[::2], given[1::2], strict=True):
        assert command[command.index(option) + 1] == value
    status, _, err = call(capsys, *command, "--out", tmp_path / "one", "--quiet")
    assert status == 0, err
    name = "adapter/adapter_model.safetensors"
    same = (out / "npo-001-seed0" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert same


def test_the_rule_chooses_on_the_choosing_half(swept):
    found = result(swept[0])
    base = found["models"]["base"]
    for method in ("scrub", "npo"):
        own = [point for point in found["points"] if point["method"] == method]
        kept = [p for p in own if p["choosing"]["retain"] >= 0.9 * base["choosing"]["retain"]]
        lowest = min(p["choosing"]["forget"] for p in kept)
        assert [p["choosing"]["forget"] for p in own if p["chosen"]] == [lowest]
    assert all(set(PARTS) <= set(point) for point in found["points"])


def test_the_reporting_half_cannot_change_the_choice(swept, capsys, tmp_path):
    """Every value of the reporting half of every point's forget logs is replaced; the chosen points
    and the choosing half's numbers stay, the reporting half's numbers change.
    """
    out, data = swept
    before = result(out)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for point in copy.glob("*-seed0"):
        path = point / "logs" / "eval_log_forget.json"
        log = json.loads(path.read_text())
        _, reporting = halves({"eval_log_forget": log}, 0)
        for index in reporting["eval_log_forget"]["avg_gt_loss"]:
            log["rougeL_recall"][index] = 0.123
        path.write_text(json.dumps(log))
    status, _, err = call(capsys, "sweep", "scrub,npo", "--resume", "--out", copy, "--json")
    assert status == 0, err
    after = result(copy)
    for old, new in zip(before["points"], after["points"], strict=True):
        assert old["chosen"] == new["chosen"] and old["choosing"] == new["choosing"]
        assert not math.isclose(old["reporting"]["forget"], new["reporting"]["forget"])


def test_a_finished_sweep_is_not_run_again_and_another_rule_needs_no_run(
    swept, capsys, monkeypatch
):
    out, data = swept

    def trained(*_):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(many_runs, "unlearn", trained)
    more = ("--resume", "--choose", "nearest-gold", "--json")
    status, printed, err = call(capsys, *arguments_of(out, data, *more))
    assert status == 0, err
    found = json.loads(printed)
    assert found["rule"] == "nearest-gold"
    gold = found["models"]["gold"]["choosing"]
    for method in ("scrub", "npo"):
        own = [point for point in found["points"] if point["method"] == method]
        far = [
            math.hypot(
                p["choosing"]["forget"] - gold["forget"], p["choosing"]["retain"] - gold["retain"]
            )
            for p in own
        ]
        assert own[far.index(min(far))]["chosen"]
    status, _, err = call(capsys, *arguments_of(out, data, "--resume", "--lr", "1e-3"))
    assert status == 2 and "given for all runs and in the grid" in err
