"""Values of every method under `paper`, worked out by hand.

The numbers come from the derivations in tests/helpers/batches_by_hand.py.
"""

from math import log

import torch

from clear_ref.losses import IGNORE, Outputs
from clear_ref.methods import make_options, method_loss, needs
from tests.helpers.batches_by_hand import (
    FORGET_KL,
    K_STUDENT_TEACHER,
    K_TEACHER_STUDENT,
    L2,
    RETAIN_NLL,
    batches,
)

# method, options, expected terms; never from the code under test.
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
    """The Loss of a case."""
    return method_loss(
        method, batches(needs(method, "paper", make_options(method, options)), left), **options
    )


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
