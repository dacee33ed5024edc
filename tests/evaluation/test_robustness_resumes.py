"""A killed evaluation with --robustness goes on after its last finished part, with the same bytes.

It is killed before one of the 55 changes of a file name in its directory. Here: in the membership
scores, of which groups of eight records are kept; in the first evaluation of relearning, whose step
is saved and whose line is not; and after the last one. By hand (soak.py) at others too: groups of
records, rounded weights, checkpoints.
"""

import json
import os
import re
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from clear_ref import run
from clear_ref.common.errors import UserError
from clear_ref.evaluation import evaluate, kept_files, membership_scores
from clear_ref.loop import train as training
from tests.helpers.commands import call, small_copy

SMALL = ("--tasks", "eval_log_forget,eval_log", "--max-new-tokens", "4", "--limit", "3")
SMALL += ("--relearn-records", "2", "--relearn-at", "1,3", "--round-bits", "8,4", "--quiet")
SMALL += ("--recipe", "mini", "--eval-batch", "2", "--fresh")
IN_GROUPS = ("model/eval_log-0.json", "model in 4 bits/eval_log_forget-0.json")


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
    """Count what is computed: groups of records, likelihoods of single ones, training steps."""
    for module, name in (
        (evaluate, "group_logs"),
        (membership_scores, "record_scores"),
        (training, "step_loss"),
    ):
        original = getattr(module, name)

        def counted(*arguments, name=name, original=original, **named):
            counts[name] = counts.get(name, 0) + 1
            return original(*arguments, **named)

        patch.setattr(module, name, counted)


def killed_before(patch, number):
    """Raise Killed before the number-th change of a file name, and at any later one."""
    calls, original = [], os.replace

    def replace(*paths):
        calls.append(os.path.basename(paths[1]))
        if len(calls) >= number:
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
    expected = files(straight)
    assert counts == {"group_logs": 16, "record_scores": 120, "step_loss": 3}
    assert len(calls) == 55
    in_membership = calls.index("membership-40.json") + 1
    for number in (in_membership, 36, 49):
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
        of_a_group = 8 if number == in_membership else 0  # the one that was not written
        assert done_twice.pop("record_scores") == of_a_group
        assert sum(done_twice.values()) <= 1, (number, done_twice)


@pytest.fixture(scope="module")
def stopped(command, tmp_path_factory):
    """The directory of a run that was killed when all was measured and before it was written."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    original = os.replace
    torch.set_num_threads(1)

    def replace(*paths):
        if os.path.basename(paths[1]) == "relearning.jsonl":
            raise Killed
        return original(*paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            run.main([*map(str, command), "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def resumed(command, stopped, tmp_path_factory):
    """The files of the same run, resumed."""
    out = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(stopped, out)
    assert run.main([*map(str, command), "--out", str(out), "--resume"]) == 0
    return files(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "of_kept", ["is not the file that was written there", "has not the values"]
)
@pytest.mark.parametrize(
    "name", [*IN_GROUPS, "robustness-*/model/membership.json", "robustness-*/model/lines.json"]
)
def test_a_damaged_file_is_named_nothing_is_written_and_it_is_computed_again(
    command, stopped, resumed, tmp_path, capsys, name, of_kept
):
    """A number is changed; or the file is one of a version with another score or column."""
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    [path] = (out / "checkpoint/evaluation").glob(name)
    if of_kept.startswith("has not"):
        kept_files.write_kept(path, renamed(kept_files.read_kept(path, lambda content: True)))
    else:
        text = path.read_text()
        path.write_text(re.sub(r"\d\.\d{6,}", "99.5", text, count=1))
        assert path.read_text() != text
    before = files(out)
    status, shown, error = call(capsys, *command, "--out", out, "--resume")
    lines = [line for line in error.splitlines() if ": warning " not in line]
    assert status == 2 and shown == "" and lines[-1].startswith(f"clear_ref: {path}: {of_kept}")
    assert files(out) == before
    if "lines" in name:
        again = f"remove the directory {path.parent}, and --resume measures the model again"
        shutil.rmtree(path.parent)
    else:
        again = "remove it, and --resume computes it again"
        path.unlink()
    assert lines[-1].endswith(f"; {again}")
    assert call(capsys, *command, "--out", out, "--resume")[0] == 0
    assert files(out) == resumed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint/state-relearn-000003.json", "trace.jsonl"])
def test_a_damaged_training_of_relearning_is_named(command, stopped, tmp_path, capsys, name):
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    [path] = (out / "checkpoint/evaluation").glob(f"robustness-*/model/{name}")
    path.write_text(path.read_text()[:50])
    status, _, error = call(capsys, *command, "--out", out, "--resume")
    [folder] = (out / "checkpoint/evaluation").glob("robustness-*/model")
    assert status == 2 and str(path) in error.splitlines()[-1]
    again = f": remove the directory {folder}, and --resume measures the model again"
    assert error.splitlines()[-1].endswith(again)


def renamed(content):
    """Kept content with another name in place of one that this version writes."""
    text = json.dumps(content)
    return json.loads(re.sub("mia_zlib|rouge1_recall|forget_not_relearned", "another", text))


def test_a_kept_group_of_membership_is_read_back_or_refused(tmp_path):
    compared = {"questions": {"forget": [None] * 8, "holdout": []}}
    names = membership_scores.score_names(True)
    scores = [dict.fromkeys(names, 1.0 / 3.0) | {"mia_min_k": 0.5}] * 8
    path = tmp_path / "membership-0.json"
    vlm = SimpleNamespace(device=torch.device("cpu"), is_shared_out=False)
    measure = partial(membership_scores.membership_scores, vlm, compared, 0.5, True, tmp_path)
    kept_files.write_kept(path, scores)
    found = measure()
    assert found["questions"]["mia_min_k"]["forget"] == {str(n): 0.5 for n in range(8)}
    for other in (scores[:7], [*scores[:7], {"mia_loss": 1.0}], scores[0], 5):
        kept_files.write_kept(path, other)
        with pytest.raises(UserError, match="membership-0.json: has not the values that this"):
            measure()


@pytest.mark.parametrize(
    "old,new",
    [
        ("0.5", "0.6"),
        ("0.5", "NaN"),
        ("0.5", "null"),
        ('"mia_loss"', '"mia_lost"'),
        ("}", ""),
        ("{", "[{"),
    ],
)
def test_a_kept_file_that_was_changed_is_refused(tmp_path, old, new):
    path = tmp_path / "kept.json"
    content = [{"mia_min_k": 0.5, "mia_loss": 1.0 / 3.0}]
    assert kept_files.read_kept(path, lambda found: True) is None
    kept_files.write_kept(path, content)
    assert kept_files.read_kept(path, lambda found: True) == content
    path.write_text(path.read_text().replace(old, new), encoding="utf-8")
    said = re.escape(
        f"{path}: is not the file that was written there (its SHA-256 differs); remove it, and "
        "--resume computes it again"
    )
    with pytest.raises(UserError, match=said):
        kept_files.read_kept(path, lambda found: True)


@pytest.mark.parametrize("kept", [{"scores": [], "sha256": "ab"}, [], {"avg_gt_loss": {}}])
def test_what_another_version_kept_is_removed_at_once(tmp_path, kept):
    """The line names the directory of all kept files, not one file after another."""
    path = tmp_path / "checkpoint/evaluation/robustness-1/membership-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"mia_loss": kept} if isinstance(kept, list) else kept))
    said = f"{path}: is not in the form in which this version keeps it; if another version began "
    said += f"this evaluation, remove {tmp_path / 'checkpoint/evaluation'}, and --resume computes"
    with pytest.raises(UserError, match=re.escape(said)):
        kept_files.read_kept(path, lambda found: True)


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
