"""Every method's value on a batch small enough for paper and pencil, and what method_loss refuses.

Vocabulary {0, 1}. A batch is written as the probability that the student gives to each answer token, one list per
sequence. Lengths differ within a batch, so a token mean, a sequence mean and a sequence sum are three numbers. Every
row that is no answer row (prompt, padding) holds logits that would change the value if they were read.

Notation: L2 = log 2, L3 = log 3; nll of probability 1/2^k is k L2. Two-valued distributions (p, 1-p):
KL(1/2 || 3/4) = 1/2 log(2/3) + 1/2 log 2 = L2 - L3/2 and KL(3/4 || 1/2) = 3/4 log(3/2) + 1/4 log(1/2) = 3/4 L3 - L2.

    FORGET   student 1/2 1/4 | 1/16   nll 1 2 | 4 (L2)     token mean 7/3 L2       sums 3 L2 | 4 L2
             teacher 1/4 1/4 | 1/8    nll 2 2 | 3 (L2)                             sums 4 L2 | 3 L2
             log-ratio student/teacher of the answers: +L2 | -L2
             KL(teacher || student) rows: KL(1/4 || 1/2) = KL(3/4 || 1/2) = 3/4 L3 - L2;  0;
                KL(1/8 || 1/16) = 1/8 L2 + 7/8 log((7/8) / (15/16)) = 1/8 L2 + 7/8 log(14/15)
    IDK      student 1/8 | 1/2 1/2    nll 3 | 1 1 (L2)     token mean 5/3 L2       sequence mean (3 + 1)/2 L2 = 2 L2
             teacher 1/2 | 1/4 1/2    nll 1 | 2 1 (L2)     log-ratio: -2 L2 | +L2
    RETAIN   student 1/2 3/4 | 1/4    nll L2, log 4/3 | log 4     token mean (L2 + log 4/3 + log 4)/3 = 1/3 log(32/3)
             teacher 1/2 1/2 | 1/2    KL rows: 0, K | K
                                      K = 3/4 L3 - L2 (student || teacher) or L2 - L3/2 (teacher || student)
                                      sequence mean ((0 + K)/2 + K)/2 = 3/4 K   (a token mean would be 2/3 K)
    RANDOM   1/2 1/2 | 1/2 -> L2;  1/4 1/4 | 1/4 -> 2 L2;  1/2 1/4 | 1/2 -> 4/3 L2

Run: python -m pytest tests/test_closed_form.py
"""

from math import log

import pytest
import torch

from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.losses import IGNORE, Outputs
from clear_ref.methods import (
    METHODS,
    make_options,
    method_loss,
    needs,
    reference_model,
    rmu,
    sku,
    variant,
)
from clear_ref.methods.table import second_stage

L2, L3 = log(2), log(3)
K_STUDENT_TEACHER, K_TEACHER_STUDENT = 3 / 4 * L3 - L2, L2 - L3 / 2
FORGET_KL = ((3 / 4 * L3 - L2) / 2 + L2 / 8 + 7 / 8 * log(14 / 15)) / 2
RETAIN_NLL = log(32 / 3) / 3


def batch(student, teacher=None, left=False):
    """Outputs of answers given by their tokens' probabilities: two prompt tokens, the answer, padding to length 6."""
    b, t = len(student), 6
    labels, mask = torch.full((b, t), IGNORE), torch.zeros(b, t, dtype=torch.int64)
    student_logits, teacher_logits = (
        torch.tensor(pair, dtype=torch.float64).repeat(b, t, 1) for pair in ([3, -4], [5, -2])
    )
    for s, answer in enumerate(student):
        start = t - 2 - len(answer) if left else 0
        mask[s, start : start + 2 + len(answer)] = 1
        for i in range(len(answer)):
            token, row = (s + i) % 2, start + 1 + i
            labels[s, row + 1] = token
            for logits, table in ((student_logits, student), (teacher_logits, teacher)):
                if table is not None:
                    logits[s, row, token], logits[s, row, 1 - token] = (
                        log(table[s][i]),
                        log(1 - table[s][i]),
                    )
    return Outputs(student_logits, labels, None if teacher is None else teacher_logits, mask)


def batches(names, left=False):
    tables = {
        "forget": ([[1 / 2, 1 / 4], [1 / 16]], [[1 / 4, 1 / 4], [1 / 8]]),
        "idk": ([[1 / 8], [1 / 2, 1 / 2]], [[1 / 2], [1 / 4, 1 / 2]]),
        "retain": ([[1 / 2, 3 / 4], [1 / 4]], [[1 / 2, 1 / 2], [1 / 2]]),
        "random1": ([[1 / 2, 1 / 2], [1 / 2]],),
        "random2": ([[1 / 4, 1 / 4], [1 / 4]],),
        "random3": ([[1 / 2, 1 / 4], [1 / 2]],),
    }
    return {name: batch(*tables[name], left=left) for name in names}


# method, options, expected terms. Numbers from the docstring above, never from the code under test.
CASES = [
    ("retain_ft", {}, {"retain_nll": RETAIN_NLL}),
    ("grad_ascent", {}, {"forget_nll": -7 / 3 * L2}),
    ("grad_diff", {}, {"forget_nll": -7 / 3 * L2, "retain_nll": RETAIN_NLL}),
    ("grad_diff", {"lambda_retain": 3}, {"forget_nll": -7 / 3 * L2, "retain_nll": 3 * RETAIN_NLL}),
    ("kl", {}, {"forget_nll": -7 / 3 * L2, "retain_kl": 3 / 4 * K_STUDENT_TEACHER}),
    ("idk", {}, {"retain_nll": RETAIN_NLL, "idk_nll": 5 / 3 * L2}),
    # h = idk log-ratio - forget log-ratio = (-2 - 1, 1 + 1) L2
    # softplus(-beta h) = log(1 + 2^(3 beta)), log(1 + 2^(-2 beta))
    ("dpo", {"beta": 1}, {"idk_nll": 5 / 3 * L2, "dpo": (log(9) + log(5 / 4)) / 2}),
    ("dpo", {}, {"idk_nll": 5 / 3 * L2, "dpo": (log(1 + 2**0.3) + log(1 + 2**-0.2)) / 2}),
    (
        "dpo",
        {"beta": 1, "lambda_idk": 2, "lambda_dpo": 3, "retain_weight": 4},
        {
            "idk_nll": 10 / 3 * L2,
            "dpo": 3 / 2 * (log(9) + log(5 / 4)),
            "retain_nll": 4 * RETAIN_NLL,
        },
    ),
    # (2/beta) mean(log(1 + 2^beta), log(1 + 2^-beta))
    # beta 1: 2 (log 3 + log 3/2)/2 = log 9/2;  beta 2: (log 5 + log 5/4)/2 = log 5/2
    ("npo", {}, {"forget_npo": log(9 / 2)}),
    ("npo", {"beta": 2}, {"forget_npo": log(5 / 2)}),
    (
        "scrub",
        {},
        {"retain_kl": 3 / 4 * K_TEACHER_STUDENT, "forget_kl": -FORGET_KL, "retain_nll": RETAIN_NLL},
    ),
    (
        "scrub",
        {"alpha": 2, "gamma": 5},
        {
            "retain_kl": 3 / 2 * K_TEACHER_STUDENT,
            "forget_kl": -FORGET_KL,
            "retain_nll": 5 * RETAIN_NLL,
        },
    ),
    (
        "llmu",
        {},
        {"forget_nll": -7 / 3 * L2, "idk_nll": 2 * L2, "retain_kl": 3 / 4 * K_STUDENT_TEACHER},
    ),
    (
        "llmu",
        {"kl": "teacher_student"},
        {"forget_nll": -7 / 3 * L2, "idk_nll": 2 * L2, "retain_kl": 3 / 4 * K_TEACHER_STUDENT},
    ),
    # random: (1 + 2 + 4/3)/3 L2 = 13/9 L2
    (
        "sku",
        {},
        {
            "forget_nll": 2.5 * 7 / 3 * L2,
            "random_nll": 13 / 9 * L2,
            "retain_kl": -0.5 * 3 / 4 * K_TEACHER_STUDENT,
        },
    ),
    (
        "sku",
        {"n_random": 2, "w_forget": 1, "w_random": 4, "w_retain": 2},
        {
            "forget_nll": 7 / 3 * L2,
            "random_nll": 4 * 3 / 2 * L2,
            "retain_kl": -2 * 3 / 4 * K_TEACHER_STUDENT,
        },
    ),
]


def case_loss(method, options, left=False):
    return method_loss(
        method, batches(needs(method, "paper", make_options(method, options)), left), **options
    )


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, options, expected", CASES)
def test_a_method_has_the_value_worked_out_by_hand(method, options, expected, left):
    """Tolerance: float64 rounding of logs below 10, a dozen of them."""
    loss = case_loss(method, options, left)
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(
        expected, abs=1e-14
    )
    assert loss.value.item() == pytest.approx(sum(expected.values()), abs=1e-14)


def rmu_batches():
    """Hidden states of width 2. u = (3/5, 4/5), c = 5: the target is (3, 4).

    forget: squared distances 0, 1, 4 | 25 (the origin), mean over sequences (5/3 + 25)/2 = 40/3.
    retain: distances to the teacher's 1, 1 | 2^2 + 1^2 = 5, mean over sequences (1 + 5)/2 = 3.
    Padding holds 1000s.
    """
    far = [1000.0, 1000.0]
    forget = torch.tensor([[[3.0, 4], [4, 4], [3, 2]], [[0, 0], far, far]], dtype=torch.float64)
    retain = torch.tensor([[[1.0, 1], [2, 2], far], [[5, 5], far, far]], dtype=torch.float64)
    teacher = torch.tensor(
        [[[1.0, 0], [3, 2], [0, 0]], [[3, 4], [0, 0], [0, 0]]], dtype=torch.float64
    )
    labels = torch.full((2, 3), IGNORE)
    return {
        "forget": Outputs(
            None, labels, attention_mask=torch.tensor([[1, 1, 1], [1, 0, 0]]), hidden=forget
        ),
        "retain": Outputs(
            None,
            labels,
            attention_mask=torch.tensor([[1, 1, 0], [1, 0, 0]]),
            hidden=retain,
            teacher_hidden=teacher,
        ),
    }


@pytest.mark.parametrize("alpha, retain", [(1, 3), (2, 6)])
def test_rmu_has_the_value_worked_out_by_hand(monkeypatch, alpha, retain):
    monkeypatch.setattr(
        rmu, "control_vector", lambda seed, width: torch.tensor([0.6, 0.8], dtype=torch.float64)
    )
    loss = method_loss("rmu", rmu_batches(), c=5, alpha=alpha)
    assert loss.terms["forget_distance"].item() == pytest.approx(40 / 3, abs=1e-13)
    assert loss.terms["retain_distance"].item() == pytest.approx(retain, abs=1e-13)
    assert loss.value.item() == pytest.approx(40 / 3 + retain, abs=1e-13)


def test_the_control_vector_is_a_unit_vector_fixed_by_its_seed():
    u = rmu.control_vector(0, 64)
    assert u.shape == (64,) and abs(u.norm().item() - 1) < 1e-15 and (u >= 0).all() and u.std() > 0
    assert torch.equal(u, rmu.control_vector(0, 64)) and not torch.equal(
        u, rmu.control_vector(1, 64)
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
            r"npo \(paper\) has no option 'gamma'; its options: beta \(how fast the push fades",
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
        match="semantics is 'printed'; expected one of paper, original, released, released@2024-12-10, ",
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
