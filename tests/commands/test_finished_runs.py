"""`all` and `sweep` with a damaged file of a finished run: the line names the file and what to
remove, and that is true: then the same command goes on.
"""

import json
import shutil

import pytest

from clear_ref.commands.finished import AGAIN, WHOLE_RUN
from tests.helpers.commands import call, small_copy

pytestmark = pytest.mark.slow
FAST = ("--limit", "2", "--max-new-tokens", "4", "--epochs", "1", "--quiet")


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def remove(path):
    path.unlink()


def not_a_number(path):
    log = json.loads(path.read_text())
    log["average_perturb_loss"]["0"][0] = float("nan")
    path.write_text(json.dumps(log))


def another_value(path):
    log = json.loads(path.read_text())
    log["avg_gt_loss"]["0"] += 0.5
    path.write_text(json.dumps(log))


def check_each_damage(capsys, command, out, run, result, damages):
    """The line about each damage, and that what it says is enough to finish with the same result.

    run      the directory of one of the runs
    result   the file whose numbers are compared
    damages  [(file of the run, damage, part of the line, its end)]
    """
    before = json.loads((out / result).read_text())
    for name, damage, says, advice in damages:
        damage(out / run / name)
        status, _, stderr = call(capsys, *command)
        line = stderr.splitlines()[-1]
        assert status == 2 and f"{out / run}" in line and says in line, line
        assert line.endswith(f"; {advice}"), line
        if advice == WHOLE_RUN:
            shutil.rmtree(out / run)
        else:
            (out / run / "report.html").unlink()
        status, _, stderr = call(capsys, *command)
        assert status == 0, stderr
        after = json.loads((out / result).read_text())
        for part in ("runs", "points"):
            for one, other in zip(before.get(part, ()), after.get(part, ()), strict=True):
                assert one | {"seconds": 0} == other | {"seconds": 0}, name


def test_a_damaged_run_of_all_is_finished_again(capsys, tmp_path):
    out, data = tmp_path / "all", small_copy(tmp_path / "data")
    given = ("all", "--methods", "retain_ft,npo", "--data", data, "--out", out, *FAST)
    assert call(capsys, *given)[0] == 0
    check_each_damage(
        capsys,
        ("all", "--resume", "--out", out, "--quiet"),
        out,
        "retain_ft-paper-both-seed0",
        "leaderboard.json",
        [
            ("metrics.json", remove, "metrics.json: no such file", AGAIN),
            ("logs/eval_log.json", remove, "eval_log.json: no such file", AGAIN),
            ("logs/gold/eval_log.json", cut, "eval_log.json: not JSON (", AGAIN),
            ("logs/base/eval_log.json", another_value, "its base is not that of ", WHOLE_RUN),
            ("trace.jsonl", cut, "trace.jsonl:1: not JSON (", WHOLE_RUN),
            ("settings.json", remove, "settings.json: no such file, and ", WHOLE_RUN),
        ],
    )


def test_a_damaged_run_of_a_sweep_is_finished_again(capsys, tmp_path):
    out, data = tmp_path / "sweep", small_copy(tmp_path / "data")
    given = ("sweep", "npo", "--grid", "lr=1e-3,1e-2", "--data", data, "--out", out, *FAST)
    assert call(capsys, *given)[0] == 0
    check_each_damage(
        capsys,
        ("sweep", "npo", "--resume", "--out", out, "--quiet"),
        out,
        "npo-001-seed0",
        "sweep.json",
        [
            ("settings.json", cut, "settings.json: not JSON (", WHOLE_RUN),
            ("logs/eval_log.json", remove, "eval_log.json: no such file", AGAIN),
            ("logs/eval_log.json", not_a_number, "eval_log.json: eval_log: average_per", AGAIN),
        ],
    )
