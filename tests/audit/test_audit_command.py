"""`metrics-audit`: the whole command on two rows of each config; stopped at many points, it ends
with the same bytes; a diverged training loses nothing; wrong input is one line.
"""

import csv
import io
import json
import math

import pytest
import torch

from clear_ref import run
from clear_ref.audit import models
from clear_ref.evaluation import evaluate, membership_scores
from clear_ref.evaluation.metrics import score
from clear_ref.loop import train
from tests.helpers.commands import call
from tests.helpers.small_audit import arguments, write_start, write_world

TASKS = "--tasks=eval_log_forget,eval_text_forget,eval_forget_choice"
# What does not depend on the seconds that were needed.
NOT_COMPARED = {"metrics.json", "trace.jsonl", "trace.csv", "settings.json"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """(data directory, start directory)."""
    root = tmp_path_factory.mktemp("audit")
    return write_world(root / "data"), write_start(root / "start")


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """The directory of a finished audit of two models with and two without, in two processes."""
    out = tmp_path_factory.mktemp("audit") / "out"
    assert run.main(arguments(*inputs, out, TASKS, "--json")) == 0
    return out


def files_of(directory):
    """{path below: bytes} of what must be equal."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


def stopping_at(monkeypatch, module, name, call_number):
    """Make the call_number-th call of a function stop the command, as Ctrl-C does."""
    original, calls = getattr(module, name), [0]

    def counted(*given, **named):
        calls[0] += 1
        if calls[0] == call_number:
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(module, name, counted)


@pytest.mark.slow
class TestAudit:
    def test_what_stands_in_the_directory(self, finished):
        found = json.loads((finished / "metrics.json").read_text())
        assert found["members"][0] == "gold-seed0" and len(found["members"]) == 5
        assert found["conditions"] == ["trained", "relearned", "4 bits"]
        assert not list(finished.rglob("checkpoint")) and not list(finished.rglob("*.unfinished"))
        learned = {
            name: len(
                json.loads((finished / f"models/{name}/model/training_history.json").read_text())[
                    "stages"
                ][-1]["rows"]
            )
            for name in found["members"]
        }
        assert learned == {name: 4 if name.startswith("with-") else 2 for name in found["members"]}
        lines = list(csv.DictReader(io.StringIO((finished / "audit.csv").read_text())))
        assert len(lines) == len(found["rows"]) > 80
        aucs = [float(line["trained.auc"]) for line in lines if line["trained.auc"]]
        assert aucs == sorted(aucs, reverse=True) and set(aucs) <= {k / 8 for k in range(9)}
        sets = {row["metric"]: row["sets"] for row in found["rows"]}
        assert sets["forget_choice"] == ["mmunlearner", "open_mmunlearning"]
        assert "eval_forget_choice multiple_choice" not in sets  # the same number
        markdown = (finished / "audit.md").read_text()
        assert markdown.count("\n| `") == len(lines)

    def test_the_numbers_are_those_of_score(self, finished):
        """Of one model in each condition, and the AUC of one number from its values."""
        rows = json.loads((finished / "metrics.json").read_text())["rows"]
        [row] = [
            row
            for row in rows
            if row["metric"] == "eval_log_forget probability" and "paper" in row["sets"]
        ]
        for condition, told in row["conditions"].items():
            folder = finished / "models/without-seed2/logs" / condition.replace(" ", "")
            logs = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
            own = score(logs)["tasks"]["eval_log_forget"]["probability"]
            assert told["values"]["without"][1] == own
            pairs = [
                (a > b) + (a == b) / 2
                for a in told["values"]["with"]
                for b in told["values"]["without"]
            ]
            assert told["auc"] == sum(pairs) / 4
        values = [told["values"] for told in row["conditions"].values()]
        assert values[0] != values[1] and values[0] != values[2]

    def test_stopped_and_diverged_it_ends_with_the_same_bytes(
        self, capsys, monkeypatch, tmp_path, inputs, finished
    ):
        """One process; stopped in training, evaluation, membership and relearning, then the last
        model but one diverges: exit status 1, and all others are done.
        """
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        out = tmp_path / "out"
        command = arguments(*inputs, out, TASKS)
        for module, name, number in (
            (train, "step_loss", 2),
            (evaluate, "group_logs", 3),
            (membership_scores, "record_scores", 20),
            (models, "relearn", 1),
            (models, "rounded_layers", 2),
        ):
            with monkeypatch.context() as patch:
                stopping_at(patch, module, name, number)
                assert call(capsys, *command)[0] == 130
            command = [*arguments(*inputs, out, TASKS), "--resume"]
        original = models.finetune

        def diverging(vlm, plan, recipe, seed, name, *rest, **named):
            loss = train.step_loss
            if name == "with-seed2":
                train.step_loss = lambda *given: (math.nan, *loss(*given)[1:])
            try:
                return original(vlm, plan, recipe, seed, name, *rest, **named)
            finally:
                train.step_loss = loss

        with monkeypatch.context() as patch:
            patch.setattr(models, "finetune", diverging)
            status, _, error = call(capsys, *command)
        assert status == 1 and len(error.splitlines()) == 1
        assert "1 of 5 models, first with-seed2: with-seed2, step 1: loss is nan" in error
        done = {path.parent.name for path in out.glob("models/*/scores")}
        assert done == {"gold-seed0", "with-seed1", "without-seed1", "without-seed2"}
        assert call(capsys, *command)[0] == 0
        assert files_of(out) == files_of(finished)

    def test_a_resumed_audit_takes_more_models(self, capsys, inputs, finished):
        before = files_of(finished)
        command = arguments(*inputs, finished, TASKS, "--json", "--resume", models=3)
        status, shown, _ = call(capsys, *command)
        assert status == 0 and json.loads(shown)["members"][5:] == ["with-seed3", "without-seed3"]
        after = files_of(finished)
        tables = {"audit.csv", "audit.md"}
        assert {k: v for k, v in before.items() if k not in tables} == {
            k: v for k, v in after.items() if k in before and k not in tables
        }

    def test_a_file_that_is_gone_is_named(self, capsys, inputs, finished):
        """A log, then the scores too: the model is measured again, with the same bytes."""
        folder = finished / "models/with-seed1"
        log, scores = folder / "logs/4bits/eval_log_forget.json", folder / "scores/4bits.json"
        before = log.read_bytes()
        log.unlink()
        command = arguments(*inputs, finished, TASKS, "--resume")
        status, _, error = call(capsys, *command)
        assert status == 2 and f"{log}: no such file; remove {scores}" in error
        assert len(error.splitlines()) == 1
        scores.unlink()
        assert call(capsys, *command)[0] == 0 and log.read_bytes() == before


@pytest.mark.parametrize(
    "more,said",
    [
        (["--models=1"], "--models is 1; expected 2 to 100"),
        (["--relearn-steps=0"], "--relearn-steps is 0; expected 1 or more"),
        (["--round-bits=1"], "--round-bits is '1'; expected whole numbers from 2 to 16"),
        (["--epochs=0"], "epochs is 0; expected 1 or more"),
        (["--leakage"], "unrecognized arguments: --leakage"),
        (["--gold=mini"], "unrecognized arguments: --gold=mini"),
        (["--model=mini-base"], "rows of the forget set"),
    ],
)
def test_wrong_input_is_one_line(capsys, tmp_path, inputs, more, said):
    command = arguments(*inputs, tmp_path / "out")
    kept = [word for word in command if word.split("=")[0] != more[0].split("=")[0]]
    status, shown, error = call(capsys, *kept, *more)
    assert status == 2 and shown == "" and said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
