"""`metrics-audit`: the whole command on two rows of each config; stopped at many points, it ends
with the same bytes; a diverged training loses nothing; wrong input is one line.
"""

import csv
import io
import json
import math
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clear_ref import run
from clear_ref.audit import models, results
from clear_ref.audit.members import Member
from clear_ref.audit.numbers import Number
from clear_ref.common.errors import UserError
from clear_ref.evaluation import evaluate, membership_scores
from clear_ref.evaluation.definitions import KNOWS, Definition
from clear_ref.evaluation.metrics import score
from clear_ref.loop import train
from tests.helpers.commands import call
from tests.helpers.small_audit import arguments, write_start, write_world

TASKS = "--tasks=eval_log_forget,eval_text_forget,eval_forget_choice"
# What does not depend on the seconds that were needed.
NOT_COMPARED = {"metrics.json", "trace.jsonl", "trace.csv", "settings.json"}
SCORES = "models/with-seed1/scores/trained.json"
LOG = "models/with-seed1/logs/trained/eval_log_forget.json"
A_LOSS = ("scores", "captions", "mia_loss", "forget", "0")


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


def put(value, *keys):
    """A function that puts a value into an object of a JSON file."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def remove(*keys):
    """A function that removes a key from an object of a JSON file."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


@contextmanager
def restored(path):
    """After the block the file is what it was before."""
    before = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(before)


def turned_round(content):
    """A JSON value with the keys of all objects in the opposite order."""
    if not isinstance(content, dict):
        return content
    return {key: turned_round(value) for key, value in reversed(content.items())}


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
        "file,change,said",
        [
            (SCORES, remove("scores", "captions", "mia_zlib"), "scores.captions has no mia_zlib"),
            (SCORES, put(1, "scores", "captions", "mia_new"), "scores.captions has mia_new"),
            (SCORES, put(None, *A_LOSS), "scores.captions.mia_loss.forget.0 is None; expected a"),
            (SCORES, put(math.nan, *A_LOSS), "mia_loss.forget.0 is nan; expected a finite number"),
            (SCORES, remove(*A_LOSS), "scores.captions.mia_loss.forget has no 0; expected 0, 1"),
            (SCORES, put({}, "scores", "captions"), "captions has no mia_loss; expected mia_loss"),
            (SCORES, put(5, "scores"), "scores is 5; expected an object with captions, questions"),
            (SCORES, put("a", "format"), "format is 'a'; expected 'clear_ref.audit_scores/1'"),
            (LOG, put(math.nan, "avg_gt_loss", "0"), "eval_log_forget: avg_gt_loss of record 0 is"),
            (LOG, put(9.0, "avg_gt_loss", "0"), "avg_gt_loss of record 0 is 9.0, but gt_loss"),
            (LOG, remove("avg_gt_loss", "1"), "record 1 is in only one of the data (2 records)"),
            (LOG, remove("truth_ratio"), "no column truth_ratio"),
            (LOG, put("eval_log", "task"), "task is 'eval_log'; expected 'eval_log_forget'"),
        ],
    )
    def test_a_damaged_measurement_is_named_before_anything_is_computed(
        self, capsys, inputs, finished, file, change, said
    ):
        """In a log or in the scores: the line names file, key and model, and nothing is written."""
        path, scores = finished / file, finished / SCORES
        content = json.loads(path.read_bytes())
        change(content)
        command = arguments(*inputs, finished, TASKS, "--resume", models=4)
        with restored(path):
            path.write_text(json.dumps(content))
            before = files_of(finished)
            status, shown, error = call(capsys, *command)
            assert files_of(finished) == before
        assert status == 2 and shown == "" and len(error.splitlines()) == 1
        assert error.startswith(f"clear_ref: {path}: ") and said in error
        assert f"; remove {scores}, and --resume --out DIR measures with-seed1 again" in error

    def test_the_order_in_a_file_changes_nothing(self, capsys, inputs, finished):
        path, table = finished / SCORES, finished / "audit.csv"
        command = arguments(*inputs, finished, TASKS, "--resume")
        assert call(capsys, *command)[0] == 0
        before = table.read_bytes()
        with restored(path):
            path.write_text(json.dumps(turned_round(json.loads(path.read_bytes()))))
            assert call(capsys, *command)[0] == 0
        assert table.read_bytes() == before

    def test_a_damaged_training_is_named(self, capsys, monkeypatch, tmp_path, inputs):
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        command = arguments(*inputs, tmp_path / "out", TASKS)
        with monkeypatch.context() as patch:
            stopping_at(patch, train, "step_loss", 1)
            assert call(capsys, *command)[0] == 130
        folder = tmp_path / "out/models/gold-seed0"
        index = folder / "checkpoint/state-gold-seed0-000001.json"
        index.parent.mkdir(parents=True)
        index.write_text("{}")
        status, _, error = call(capsys, *command, "--resume")
        assert status == 2 and len(error.splitlines()) == 1 and str(index) in error
        assert error.endswith(
            f": remove the directory {folder}, and --resume --out DIR trains it again\n"
        )

    def test_a_trained_model_that_is_damaged_is_named(self, capsys, inputs, finished):
        folder = finished / "models/with-seed1"
        weights, scores = folder / "model/model.safetensors", folder / "scores/4bits.json"
        with restored(weights), restored(scores):
            weights.write_bytes(weights.read_bytes()[:50])
            scores.unlink()
            status, _, error = call(capsys, *arguments(*inputs, finished, TASKS, "--resume"))
        assert status == 2 and len(error.splitlines()) == 1 and str(weights) in error
        assert f"; remove the directory {folder}, and --resume --out DIR trains it again" in error


def test_numbers_are_matched_by_name():
    """Two models that give their numbers in another order, and one that has not all."""
    definition = Definition("a_name", "", "", "", KNOWS)
    numbers = [Number(metric, definition, (), True, None) for metric in ("forget", "retain")]
    first = {"forget (a_name v1)": 1.0, "retain (a_name v1)": 0.0}
    other = dict(reversed(first.items()))
    table = results.table(numbers, {"trained": {"with": [first, other], "without": [other, first]}})
    values = {row["metric"]: row["conditions"]["trained"]["values"] for row in table}
    assert values == {
        "forget": {"with": [1.0, 1.0], "without": [1.0, 1.0]},
        "retain": {"with": [0.0, 0.0], "without": [0.0, 0.0]},
    }
    of_models = {(Member("with", 1), "trained"): first, (Member("with", 2), "4 bits"): other}
    experiment = SimpleNamespace(directory=lambda member: Path("out") / member.name)
    results.check_same_numbers(experiment, of_models)
    del other["forget (a_name v1)"]
    said = "with-seed2, 4 bits: has no forget (a_name v1), which other models have; expected the "
    said += "same numbers of all: remove out/with-seed2/scores/4bits.json, and --resume"
    with pytest.raises(UserError, match=re.escape(said)):
        results.check_same_numbers(experiment, of_models)


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
