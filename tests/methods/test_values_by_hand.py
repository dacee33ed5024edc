"""Every method's value on batches small enough for values by hand, and what method_loss refuses.

The batches, the notation and the derivations: tests/helpers/batches_by_hand.py.
Run: python -m pytest tests/methods/test_values_by_hand.py
"""

import pytest
import torch

from clear_ref import losses
from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.losses import IGNORE, Outputs
from clear_ref.methods import (
    METHODS,
    make_options,
    method_loss,
    reference_model,
    sku,
    variant,
)
from clear_ref.methods.table import second_stage
from tests.helpers.batches_by_hand import batch, batches
from tests.helpers.values_by_hand import CASES, case_loss, rmu_batches


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, options, expected", CASES)
def test_a_method_has_the_value_worked_out_by_hand(method, options, expected, left):
    """Tolerance: float64 rounding of logs below 10, a dozen of them."""
    loss = case_loss(method, options, left)
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(
        expected, abs=1e-14
    )
    assert loss.value.item() == pytest.approx(sum(expected.values()), abs=1e-14)


@pytest.mark.parametrize("alpha, retain", [(1, 3), (2, 6)])
def test_rmu_has_the_value_worked_out_by_hand(monkeypatch, alpha, retain):
    monkeypatch.setattr(
        losses, "control_vector", lambda seed, width: torch.tensor([0.6, 0.8], dtype=torch.float64)
    )
    loss = method_loss("rmu", rmu_batches(), c=5, alpha=alpha)
    assert loss.terms["forget_distance"].item() == pytest.approx(40 / 3, abs=1e-13)
    assert loss.terms["retain_distance"].item() == pytest.approx(retain, abs=1e-13)
    assert loss.value.item() == pytest.approx(40 / 3 + retain, abs=1e-13)


def test_the_control_vector_is_a_unit_vector_fixed_by_its_seed():
    u = losses.control_vector(0, 64)
    assert u.shape == (64,) and abs(u.norm().item() - 1) < 1e-15 and (u >= 0).all() and u.std() > 0
    assert torch.equal(u, losses.control_vector(0, 64)) and not torch.equal(
        u, losses.control_vector(1, 64)
    )


def test_sku_steps_from_the_original_weights_in_the_opposite_direction():
    before = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0], dtype=torch.bfloat16)}
    after = {"w": torch.tensor([1.5, 0.0]), "b": torch.tensor([1.0], dtype=torch.bfloat16)}
    found = sku.negate_delta(before, after)
    assert (
        found["w"].tolist() == [0.5, 4.0]
        and found["b"].tolist() == [7.0]
        and found["b"].dtype == torch.bfloat16
    )
    assert before["w"].tolist() == [1.0, 2.0] and second_stage("sku") == "negate_delta"
    with pytest.raises(ShapeError, match="weight b is in only one"):
        sku.negate_delta(before, {"w": after["w"]})
    with pytest.raises(ShapeError, match=r"weight w has shape \[1, 2\]"):
        sku.negate_delta(before, {**after, "w": after["w"][None]})


def test_every_method_is_covered_and_only_sku_and_dpo_are_special():
    assert set(METHODS) == {case[0] for case in CASES} | {"rmu"}
    assert [method for method in METHODS if second_stage(method)] == ["sku"]
    assert [
        method for method in METHODS if reference_model(method, make_options(method, {})) != "base"
    ] == ["dpo"]
    assert reference_model("dpo", make_options("dpo", {"reference": "base"})) == "base"


@pytest.mark.parametrize(
    "method, given, message",
    [
        ("grad_descent", {}, "method is 'grad_descent'; expected one of retain_ft, grad_ascent"),
        (
            "npo",
            {"gamma": 1},
            r"npo \(paper\) has no option 'gamma'; its options: beta \(how fast the gradient ",
        ),
        ("kl", {"beta": 1}, r"kl \(paper\) has no option 'beta'; its options: none"),
        ("npo", {"beta": "much"}, "option beta is 'much'; expected a float"),
        ("npo", {"beta": True}, "option beta is True; expected a float"),
        ("npo", {"beta": 0}, "option beta is 0.0; expected a number above 0"),
        ("npo", {"beta": "inf"}, "option beta is inf; expected a finite number"),
        ("sku", {"n_random": 2.5}, "option n_random is 2.5; expected an int"),
        ("sku", {"n_random": "0"}, "option n_random is 0; expected at least 1"),
        ("rmu", {"layer": -1}, "option layer is -1"),
        ("rmu", {"layer": "7.0"}, "option layer is '7.0'; expected an int"),
        (
            "llmu",
            {"kl": "forward"},
            "option kl is 'forward'; expected one of student_teacher, teacher_student",
        ),
        ("dpo", {"reference": 1}, "option reference is 1; expected a str"),
    ],
)
def test_a_wrong_option_is_named(method, given, message):
    with pytest.raises(UserError, match=message):
        make_options(method, given)


def test_options_may_come_as_text():
    assert make_options("sku", {"n_random": "5", "w_forget": "1e-1"}) == sku.Options(
        n_random=5, w_forget=0.1
    )


def test_unknown_semantics_and_wrong_batches_are_named():
    with pytest.raises(
        UserError,
        match="semantics is 'printed'; expected one of paper, original, released, released@",
    ):
        variant("kl", "printed")
    with pytest.raises(
        UserError, match=r"batch 'retain' is missing; kl \(paper\) expects exactly forget, retain"
    ):
        method_loss("kl", batches(["forget"]))
    with pytest.raises(UserError, match="batch 'idk' is not used"):
        method_loss("grad_ascent", batches(["forget", "idk"]))
    with pytest.raises(UserError, match="batch 'retain' has no teacher_logits"):
        method_loss(
            "kl", {"forget": batches(["forget"])["forget"], "retain": batch([[1 / 2], [1 / 2]])}
        )
    with pytest.raises(UserError, match="batch 'forget' has no hidden"):
        method_loss("rmu", batches(["forget", "retain"]))
    with pytest.raises(UserError, match="batch 'forget' has no logits"):
        method_loss("grad_ascent", {"forget": rmu_batches()["forget"]})


def test_a_label_outside_the_vocabulary_is_named_by_sequence_and_position():
    with pytest.raises(LabelError, match=r"labels\[0, 2\] is 7; expected an id in \[0, 5\)"):
        Outputs(torch.zeros(1, 3, 5), torch.tensor([[IGNORE, 1, 7]]))
