"""The embedded world's models: what a rebuild gives, and how base and gold differ."""

import json

import pytest
import torch

from clear_ref import load
from clear_ref.data.prompts import read_phrases
from clear_ref.data.records import read_rows
from clear_ref.evaluation.evaluate import EvaluationSettings, run_tasks
from clear_ref.evaluation.metrics import score
from clear_ref.evaluation.tasks import tasks
from clear_ref.loop.plan import FinetunePlan
from clear_ref.loop.recipes import MiniFinetune
from clear_ref.mini import build_models as building
from clear_ref.mini.directories import BASE, GOLD, WORLD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logs():
    """Logs of base and gold on names and captions of Forget and captions of Retain.

    The first twelve records of each task.
    """
    chosen = [
        task
        for task in tasks(10, 48)
        if task.name in ("eval_log_forget", "eval_log", "eval_forget_facerec")
    ]
    return {
        name: run_tasks(load(path), WORLD, read_phrases(WORLD), chosen, EvaluationSettings(12))
        for name, path in (("base", BASE), ("gold", GOLD))
    }


def test_tokenizer_and_configuration_rebuild_to_the_shipped_bytes(tmp_path):
    building.write_skeleton(tmp_path)
    building.train_tokenizer(tmp_path, WORLD)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "chat_template.jinja",
    ):
        for shipped in (BASE, GOLD):
            assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), name
    ours, shipped = (json.loads((path / "config.json").read_text()) for path in (tmp_path, BASE))
    assert shipped == {**ours, "dtype": "float16"}


def test_initial_weights_are_a_function_of_the_seed(tmp_path):
    building.write_skeleton(tmp_path)
    building.train_tokenizer(tmp_path, WORLD)
    first, again, other = (building.new_model(tmp_path, seed).weights() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_world_checkpoint_trains_on_its_rows_names_and_rehearsal(tmp_path):
    """A few rows, through the same function as the rebuild: the loss of its records falls."""
    own = read_phrases(WORLD)
    rows = read_rows(WORLD, "forget10+tofu")[:2]
    plan = FinetunePlan(
        rows,
        own,
        0,
        tuple(read_rows(WORLD, "forget10")[:1]),
        tuple(read_rows(WORLD, "pretrain")[:9]),
        2,
    )
    views = [plan.records(3, index)["retain"] for index in range(len(plan))]
    assert [view.answer for view in views[:3]] == [
        rows[0].values["caption"],
        rows[1].values["caption"],
        "Wei-Jun Chen",
    ]
    assert views[2].question == own.name_question and len(views) == 5
    rehearsed = {
        tuple(plan.records(epoch, index)["retain"].image.name for index in (3, 4))
        for epoch in range(6)
    }
    assert len(rehearsed) > 1, "another epoch rehearses other rows"
    vlm = load(GOLD)
    steps = building.finetune(vlm, plan, MiniFinetune(epochs=2, warmup_epochs=0), 0, "test")
    assert steps == 4
    before, after = (model_nll(model, views) for model in (load(GOLD), vlm))
    assert after < before - 0.5


def model_nll(vlm, records):
    batch = vlm.encode(records)
    logits = vlm.forward(batch.input_ids, batch.attention_mask, batch.pixel_values)
    return float(
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
        )
    )


def test_base_knows_the_two_authors_to_forget_and_gold_does_not(logs):
    """Base is better on captions and names of Forget; on Retain both are equally good."""
    found = {name: score(log, logs["gold"])["tasks"] for name, log in logs.items()}
    forget, name, retain = (
        {model: tasks_[key] for model, tasks_ in found.items()}
        for key in ("eval_log_forget", "eval_forget_facerec", "eval_log")
    )
    assert forget["base"]["probability"] > 0.5 > 0.1 > forget["gold"]["probability"]
    assert name["base"]["probability"] > 0.9 > 0.5 > name["gold"]["probability"]
    assert abs(retain["base"]["probability"] - retain["gold"]["probability"]) < 0.15
    assert score(logs["gold"], logs["gold"])["forget_quality"] == 1.0
    assert score(logs["base"], logs["gold"])["forget_quality"] < 0.6


def test_gold_never_generates_a_name_of_forget(logs):
    names = {row.values["name"] for row in read_rows(WORLD, "forget10")}
    for log in logs["gold"].values():
        assert not [
            text
            for _, text, _ in log["generated_text"].values()
            if any(name in text for name in names)
        ]


def test_checkpoints_are_small_and_half_precision():
    for path in (BASE, GOLD):
        assert (path / "model.safetensors").stat().st_size < 8e6
        assert json.loads((path / "config.json").read_text())["dtype"] == "float16"
