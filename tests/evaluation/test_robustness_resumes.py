"""A killed evaluation with --robustness goes on after its last finished part, with the same bytes.

It is killed before one of the forty changes of a file name in its directory. Here: in the first
evaluation of relearning, whose step is saved and whose line is not, and after the last one. By hand
also before the 3rd, 13th, 16th, 20th, 24th, 25th, 28th and 31st: groups of records, membership
scores, rounded weights, checkpoints.
"""

import json
import os

import pytest
import torch

from clear_ref.evaluation import evaluate, robustness
from clear_ref.loop import train as training
from tests.helpers.commands import call, small_copy

SMALL = ("--tasks", "eval_log_forget,eval_log", "--max-new-tokens", "4", "--limit", "3")
SMALL += ("--relearn-records", "2", "--relearn-at", "1,3", "--round-bits", "8,4", "--quiet")
SMALL += ("--recipe", "mini", "--eval-batch", "2", "--fresh")


class Killed(BaseException):
    """What ends the command, as a kill does."""


@pytest.fixture(scope="module")
def command(tiny_directory, tmp_path_factory):
    """The command without its directory: a tiny model."""
    data = small_copy(tmp_path_factory.mktemp("world") / "data")
    models = ("evaluate", tiny_directory, "--data", data)
    return (*models, "--robustness", *SMALL)


@pytest.fixture(autouse=True)
def one_process():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counting(patch, counts):
    """Count what is computed: groups of records, membership scores, training steps."""
    for module, name in (
        (evaluate, "group_logs"),
        (robustness, "membership_scores"),
        (training, "step_loss"),
    ):
        original = getattr(module, name)

        def counted(*arguments, name=name, original=original, **named):
            counts[name] = counts.get(name, 0) + 1
            return original(*arguments, **named)

        patch.setattr(module, name, counted)


def killed_before(patch, number):
    """Raise Killed before the number-th change of a file name, and at any later one."""
    calls, original = [0], os.replace

    def replace(*paths):
        calls[0] += 1
        if calls[0] >= number:
            raise Killed
        return original(*paths)

    patch.setattr(os, "replace", replace)
    return calls


def files(out):
    """The bytes of everything in a run directory; of JSON values without seconds and paths."""
    found = {}
    for path in sorted(each for each in out.rglob("*") if each.is_file()):
        name = str(path.relative_to(out))
        found[name] = path.read_bytes()
        if name in ("metrics.json", "settings.json"):
            values = json.loads(found[name])
            values.get("settings", {}).pop("out", None)
            found[name] = {key: values[key] for key in values if key not in ("seconds", "out")}
    return found


@pytest.mark.slow
def test_a_kill_at_any_write_is_resumed_with_the_same_bytes_and_nothing_is_computed_twice(
    command, tmp_path, capsys
):
    straight, counts = tmp_path / "straight", {}
    with pytest.MonkeyPatch.context() as patch:
        counting(patch, counts)
        calls = killed_before(patch, 10**9)
        done = call(capsys, *command, "--out", straight)
        assert done[0] == 0, done
    n_writes, expected = calls[0], files(straight)
    assert counts == {"group_logs": 16, "membership_scores": 1, "step_loss": 3}
    assert n_writes == 40
    for number in (21, 34):
        out, again = tmp_path / f"killed{number}", {}
        with pytest.MonkeyPatch.context() as patch:
            counting(patch, again)
            killed_before(patch, number)
            with pytest.raises(Killed):
                call(capsys, *command, "--out", out)
        assert not (out / "metrics.json").exists()
        with pytest.MonkeyPatch.context() as patch:
            counting(patch, again)
            done = call(capsys, *command, "--out", out, "--resume")
            assert done[0] == 0, done
        assert files(out) == expected
        done_twice = {name: again[name] - counts[name] for name in counts}
        assert sum(done_twice.values()) <= 1, (number, done_twice)


@pytest.mark.slow
def test_a_warning_of_relearning_is_in_the_results_and_an_error_with_strict(
    command, tmp_path, capsys
):
    """A rate of 1e-46 is 0 in float32: relearning changes no weight."""
    rate = ("--relearn-lr", "1e-46", "--strict", "--json")
    status, stdout, stderr = call(capsys, *command, *rate, "--out", tmp_path / "run")
    guards = json.loads(stdout)["guards"]
    assert ("unchanged", "relearn, end") in [(each["guard"], each["at"]) for each in guards]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["guards"] == guards
    assert status == 1 and "--strict, and there are warnings (" in stderr.splitlines()[-1]
