"""Trainers: the fake model gives a case's logits, loss and gradients, and conform judges a trainer
in the shape of most repositories by an adapter of under ten lines.

Run: python -m pytest tests/oracle/test_trainers.py
"""

import copy
import inspect
import math
from pathlib import Path

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.oracle.trainers import Fakes
from clear_ref.oracle.trainers.fake_model import causal_lm_loss
from clear_ref.oracle.vectors import conform
from tests.implementations import trainers

GOLDEN = Path(__file__).parents[1] / "vectors" / "golden"


def batch_of(ids, labels, seed, key="logits", width=3):
    """A batch [B, T] with random student and teacher tensors of float64."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.tensor(ids)

    def draw():
        return torch.randn(*input_ids.shape, width, generator=generator, dtype=torch.float64)

    return {
        "input_ids": input_ids,
        "labels": torch.tensor(labels),
        "attention_mask": (input_ids > 0).long(),
        key: draw().requires_grad_(),
        f"teacher_{key}": draw(),
    }


@pytest.fixture
def batches():
    return {
        "forget": batch_of([[1, 2, 2], [2, 1, 0]], [[-100, 2, 2], [-100, 1, -100]], 0),
        "retain": batch_of([[1, 1, 2], [2, 2, 1]], [[-100, 1, 2], [-100, -100, 1]], 1),
    }


@pytest.fixture
def fakes(batches):
    return Fakes(batches)


def test_the_loss_is_the_mean_nll_of_the_next_token_worked_out_by_hand(batches, fakes):
    """The labels 2 and 2 of sequence 0 belong to positions 0 and 1, 1 of sequence 1 to 0."""
    total = 0.0
    for b, t, label in ((0, 0, 2), (0, 1, 2), (1, 0, 1)):
        row = batches["forget"]["logits"][b, t].tolist()
        total += math.log(sum(math.exp(z) for z in row)) - row[label]
    output = fakes.student(**fakes.inputs["forget"])
    assert output.loss.dtype == torch.float64
    assert output.loss.item() == pytest.approx(total / 3, rel=1e-14)
    assert output["loss"] is output.loss is output[0] and output[1] is output.logits
    assert torch.equal(output.logits, batches["forget"]["logits"])
    by_number = fakes.student(**fakes.inputs["forget"], num_items_in_batch=6)
    assert by_number.loss.item() == pytest.approx(total / 6, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_items", [None, 7])
def test_the_loss_is_that_of_transformers(batches, dtype, n_items):
    loss_utils = pytest.importorskip("transformers.loss.loss_utils")
    logits = batches["forget"]["logits"].detach().to(dtype)
    labels = batches["forget"]["labels"]
    expected = loss_utils.ForCausalLMLoss(logits, labels, 3, num_items_in_batch=n_items)
    assert torch.equal(causal_lm_loss(logits, labels, n_items), expected)


def test_gradients_land_in_the_batch_that_was_given(batches, fakes):
    weights = torch.arange(18.0, dtype=torch.float64).reshape(2, 3, 3)
    (fakes.student(batches["retain"]["input_ids"]).logits * weights).sum().backward()
    assert torch.equal(fakes.gradients()["retain"], weights)
    assert not fakes.gradients()["forget"].any()


def test_a_slice_and_batches_one_below_the_other_are_known(batches, fakes):
    forget, retain = (batches[name]["logits"] for name in ("forget", "retain"))
    ids = batches["forget"]["input_ids"]
    assert torch.equal(fakes.student(ids[1:2]).logits, forget[1:2])
    both = torch.cat([batches["retain"]["input_ids"], ids])
    logits = fakes.student(both).logits
    assert torch.equal(logits, torch.cat([retain, forget]))
    logits[3].sum().backward()
    expected = torch.zeros_like(forget)
    expected[1] = 1
    assert torch.equal(fakes.gradients()["forget"], expected)
    mixed = torch.stack([ids[1], batches["retain"]["input_ids"][0]])
    assert torch.equal(fakes.student(mixed).logits, torch.stack([forget[1], retain[0]]))


def test_the_teacher_is_the_reference_the_model_without_adapters_and_a_copy(batches, fakes):
    ids = batches["forget"]["input_ids"]
    teacher, student = (batches["forget"][name] for name in ("teacher_logits", "logits"))
    assert torch.equal(fakes.teacher(ids).logits, teacher)
    with fakes.student.disable_adapter():
        off = fakes.student(ids).logits
    assert torch.equal(off, teacher) and not off.requires_grad
    assert torch.equal(fakes.student(ids).logits, student)
    copied = copy.deepcopy(fakes.student)
    assert torch.equal(copied(ids).logits, teacher)
    assert torch.equal(copied.train()(ids).logits, student)
    assert torch.equal(copied.eval()(ids).logits, teacher)
    assert torch.equal(fakes.student.eval()(ids).logits, student)


def test_without_gradients_the_students_logits_have_no_path(batches, fakes):
    with torch.no_grad():
        assert not fakes.student(batches["forget"]["input_ids"]).logits.requires_grad


def test_logits_changed_in_place_leave_the_case_as_it_is(batches, fakes):
    before = batches["forget"]["logits"].detach().clone()
    fakes.student(batches["forget"]["input_ids"]).logits.mul_(2)
    assert torch.equal(batches["forget"]["logits"], before)


def test_what_the_fake_model_cannot_answer_is_refused_in_one_line(batches, fakes):
    ids, mask = (batches["forget"][name] for name in ("input_ids", "attention_mask"))
    for arguments, line in (
        (
            {"input_ids": ids + 1},
            r"are of no batch of the case from sequence 0 on; expected a batch",
        ),
        ({"input_ids": None}, "input_ids of type NoneType"),
        (
            {"input_ids": ids, "attention_mask": mask * 0 + 1},
            "another attention_mask than the batch",
        ),
        ({"input_ids": ids, "inputs_embeds": ids}, "was called with inputs_embeds; expected"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            fakes.student(**arguments)
        assert "\n" not in str(caught.value)
    fakes.student(ids, pixel_values=ids, use_cache=False, past_key_values=None)
    del batches["forget"]["teacher_logits"]
    with pytest.raises(UserError, match="has no teacher_logits: .* conform --all-batches"):
        Fakes(batches).teacher(ids)


def test_ids_that_two_batches_share_are_told_apart_by_their_tensor(batches):
    batches["retain"]["input_ids"] = batches["forget"]["input_ids"].clone()
    fakes = Fakes(batches)
    retain = batches["retain"]
    assert torch.equal(fakes.student(retain["input_ids"]).logits, retain["logits"])
    with pytest.raises(UserError, match="of 2 places: of forget and of retain"):
        fakes.student(retain["input_ids"].clone())


def test_hidden_states_come_from_hooks_and_by_name_and_there_are_no_logits_then():
    batches = {"forget": batch_of([[1, 2, 0]], [[-100, 2, -100]], 2, "hidden", 4)}
    fakes = Fakes(batches)
    output = fakes.student(**fakes.inputs["forget"], output_hidden_states=True)
    assert len(output.hidden_states) == fakes.student.config.num_hidden_layers + 1
    assert torch.equal(output.hidden_states[8], batches["forget"]["hidden"])
    for name in ("loss", "logits"):
        with pytest.raises(UserError, match="rmu have hidden states and no logits"):
            getattr(output, name)
    named = dict(fakes.student.named_modules())
    assert named["model.layers.7"] is fakes.student.language_model.model.layers[7]


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter, method, semantics, verdict, cause",
    [
        ("kl", "kl", "original", "pass", None),
        ("kl_swapped", "kl", "original", "fail", "kl_swapped"),
        ("npo", "npo", "paper", "pass", None),
        ("npo_peft", "npo", "paper", "pass", None),
        ("npo_batch_mean", "npo", "paper", "acceptable", "npo_batch_mean"),
        ("npo_self_reference", "npo", "paper", "fail", "reference_is_wrong_model"),
        ("ascent_shifted_twice", "grad_ascent", "paper", "fail", "shift_off_by_one"),
        ("rmu", "rmu", "original", "pass", None),
        ("script", "grad_diff", "released", "pass", None),
        ("own_backward", "grad_ascent", "paper", "pass", None),
    ],
)
def test_conform_judges_a_trainer_by_its_adapter(adapter, method, semantics, verdict, cause):
    """Every shape without options; a case in which the mistake changes no number passes."""
    result = conform.run(
        conform.ConformSettings(
            impl=f"tests.implementations.trainers:{adapter}",
            methods=method,
            semantics=semantics,
            vectors=str(GOLDEN),
            only=f"{method}/{semantics}/plain,{method}/{semantics}/[!p]*",
        ),
        all_batches=True,
    )
    cases = result["cases"]
    assert {case["verdict"] for case in cases} - {"pass"} == {verdict} - {"pass"}
    assert {case["cause"] for case in cases} - {None} == ({cause} if cause else set())
    assert all(case["reason"] is None for case in cases)


@pytest.mark.parametrize("adapter", trainers.ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_an_adapter_is_under_ten_lines(adapter):
    assert len(inspect.getsource(adapter).splitlines()) < 10


def test_every_adapter_is_judged_above():
    marks = test_conform_judges_a_trainer_by_its_adapter.pytestmark
    judged = {case[0] for mark in marks if mark.name == "parametrize" for case in mark.args[1]}
    assert judged == {adapter.__name__ for adapter in trainers.ADAPTERS}
