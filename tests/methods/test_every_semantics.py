"""`released` and `original`: values by hand, start of training, dated names, the README's table.

The batches are those of tests/helpers/batches_by_hand.py. Their rows that are no answer hold the
logits (3, -4) of the student and (5, -2) of the teacher: both differ by 7, so the distributions are
equal, every KL is 0 there, and the entropy is H7. Of a batch's 12 rows 3 are answer rows. The
derivations use the notation of that file: nll in units of L2, distributions (p, 1 - p).
Run: python -m pytest tests/methods/test_every_semantics.py
"""

from dataclasses import replace
from functools import partial
from math import exp, log, sqrt
from pathlib import Path

import pytest
import torch

from clear_ref import losses
from clear_ref.common.errors import UserError
from clear_ref.losses import IGNORE, Outputs
from clear_ref.losses.outputs import logits_of_rows
from clear_ref.losses.planning import plan
from clear_ref.losses.rows import FrozenHead
from clear_ref.methods import METHODS, SEMANTICS, make_options, method_loss, needs, variant
from clear_ref.methods.semantics import DATED
from clear_ref.methods.table import later, markdown, methods_under, option_help
from tests.helpers.at_the_teacher import SEQUENCE, SUM, TOKEN, B, T, V, close, nll_gradient
from tests.helpers.at_the_teacher import batches as at_the_teacher
from tests.helpers.batches_by_hand import (
    K_STUDENT_TEACHER,
    K_TEACHER_STUDENT,
    L2,
    L3,
    RETAIN_NLL,
    batch,
    batches,
)

ROWS = 12
H7 = log(1 + exp(-7)) + 7 / (
    1 + exp(7)
)  # entropy of (p, 1 - p) with log-odds 7: -log p + (1 - p) 7


def kl(q, p):
    """KL((q, 1 - q) || (p, 1 - p))."""
    return q * log(q / p) + (1 - q) * log((1 - q) / (1 - p))


def warm(p, temperature):
    """(p, 1 - p) at a temperature: both to the power of 1 / temperature, normalised."""
    a, b = p ** (1 / temperature), (1 - p) ** (1 / temperature)
    return a / (a + b)


# answer rows (student, teacher)
FORGET, RETAIN = (
    ((1 / 2, 1 / 4), (1 / 4, 1 / 4), (1 / 16, 1 / 8)),
    ((1 / 2, 1 / 2), (3 / 4, 1 / 2), (1 / 4, 1 / 2)),
)
FORGET_ST, FORGET_TS = (
    sum(kl(*pair) for pair in pairs) for pairs in (FORGET, [(t, s) for s, t in FORGET])
)
WARM = {
    T_: [sum(kl(warm(t, T_), warm(s, T_)) for s, t in rows) for rows in (FORGET, RETAIN)]
    for T_ in (1, 2)
}
FORGET_ENTROPY = [L2, 2 * L2 - 3 / 4 * L3, L2 / 4 + 15 / 16 * log(16 / 15)]
# H(teacher, student) of the retain answers. 1/2, 1/2: L2
# 1/2 against 3/4 or 1/4: 1/2 log(4/3) + 1/2 log 4
CROSS = L2 + log(4 / 3) + log(4)


def npo(form):
    """(2/1) mean over the 24 entries of log(1 + form(p, q)) by plain arithmetic, beta = 1."""
    seven = 1 / (1 + exp(-7))
    pairs = [
        *FORGET,
        *((1 - s, 1 - t) for s, t in FORGET),
        *[(seven, seven), (1 - seven, 1 - seven)] * 9,
    ]
    return 2 * sum(log(1 + form(p, q)) for p, q in pairs) / 24


CASES = [
    ("retain_ft", "released", {}, {"retain_nll": RETAIN_NLL}),
    ("retain_ft", "original", {}, {"retain_nll": RETAIN_NLL}),
    ("grad_ascent", "released", {}, {"forget_nll": -7 / 3 * L2}),
    ("grad_ascent", "original", {}, {"forget_nll": -7 / 3 * L2}),
    (
        "grad_diff",
        "paper",
        {"forget": "entropy"},
        {"forget_entropy": -sum(FORGET_ENTROPY) / 3, "retain_nll": RETAIN_NLL},
    ),
    ("grad_diff", "released", {"beta": 2}, {"forget_nll": -14 / 3 * L2, "retain_nll": RETAIN_NLL}),
    (
        "grad_diff",
        "released",
        {"forget": "entropy", "beta": 2},
        {"forget_entropy": 2 * (sum(FORGET_ENTROPY) + 9 * H7), "retain_nll": RETAIN_NLL},
    ),
    (
        "grad_diff",
        "released",
        {"forget": "kl", "retain": "kl", "beta": 3},
        {"forget_kl": -3 * FORGET_TS / ROWS, "retain_kl": 2 * K_TEACHER_STUDENT / ROWS},
    ),
    ("grad_diff", "original", {}, {"forget_nll": -7 / 3 * L2, "retain_nll": RETAIN_NLL}),
    (
        "grad_diff",
        "original",
        {"retain": "kl"},
        {"forget_nll": -7 / 3 * L2, "retain_kl": 2 * K_TEACHER_STUDENT / ROWS},
    ),
    *(
        ("kl", name, {}, {"forget_nll": -7 / 3 * L2, "retain_kl": 2 * K_TEACHER_STUDENT / ROWS})
        for name in ("released", "original")
    ),
    *(("idk", name, {}, {"retain_nll": RETAIN_NLL, "idk_nll": 5 / 3 * L2}) for name in DATED),
    # 6 answer tokens in both together
    *(
        ("idk", name, {}, {"retain_nll": log(32 / 3) / 6, "idk_nll": 5 / 6 * L2})
        for name in ("original", "released@nlp")
    ),
    *(("dpo", name, {}, {"idk_nll": (3 + 2) / 2 * L2}) for name in DATED),
    # retain sums: L2 + log 4/3 | log 4
    ("dpo", "released@nlp", {}, {"retain_nll": log(32 / 3) / 2}),
    ("dpo", "original", {"beta": 1}, {"dpo": (log(9) + log(5 / 4)) / 2}),
    ("npo", "released", {}, {"forget_npo": npo(lambda p, q: p / (q + 1e-8))}),
    ("npo", "original", {}, {"forget_npo": 10 * (log(1 + 2**0.1) + log(1 + 2**-0.1))}),
    (
        "npo",
        "original",
        {"beta": 2, "retain": "ce"},
        {"forget_npo": log(5 / 2), "retain_nll": RETAIN_NLL},
    ),
    (
        "npo",
        "original",
        {"beta": 2, "retain": "kl"},
        {"forget_npo": log(5 / 2), "retain_kl": 2 * K_TEACHER_STUDENT / ROWS},
    ),
    (
        "scrub",
        "released",
        {"beta": 2},
        {
            "retain_kl": 2 * K_STUDENT_TEACHER / ROWS,
            "forget_kl": -2 * FORGET_ST / ROWS,
            "retain_nll": RETAIN_NLL,
        },
    ),
    (
        "scrub",
        "original",
        {},
        {
            "forget_kl": -4 * WARM[2][0] / 3,
            "retain_kl": 0.5 * 4 * WARM[2][1] / 3,
            "retain_nll": RETAIN_NLL,
        },
    ),
    (
        "scrub",
        "original",
        {"temperature": 1, "alpha": 3, "gamma": 2},
        {
            "forget_kl": -FORGET_TS / 3,
            "retain_kl": 3 * 2 * K_TEACHER_STUDENT / 3,
            "retain_nll": 2 * RETAIN_NLL,
        },
    ),
    *(
        (
            "llmu",
            name,
            {},
            {
                "forget_nll": -7 / 3 * L2,
                "idk_nll": 5 / 3 * L2,
                "retain_kl": 2 * K_STUDENT_TEACHER / ROWS,
            },
        )
        for name in DATED
    ),
    (
        "llmu",
        "released@nlp",
        {},
        {"idk_nll": -5 / 3 * L2, "retain_nll": RETAIN_NLL, "forget_kl": FORGET_ST / ROWS},
    ),
    # sequence means: forget (3/2 + 4)/2 L2 = 11/4 L2
    # random: 1, 2 and (3/2 + 1)/2 = 5/4 L2, their mean 17/12 L2
    (
        "llmu",
        "original",
        {"n_random": 3},
        {
            "forget_nll": -11 / 8 * L2,
            "random_nll": 17 / 12 * L2,
            "retain_cross_entropy": (CROSS + 9 * H7) / ROWS,
        },
    ),
    (
        "sku",
        "released",
        {},
        {
            "forget_nll": 2.5 * 7 / 3 * L2,
            "random_nll": 13 / 3 * L2,
            "retain_kl": -0.5 * 2 * K_TEACHER_STUDENT / ROWS,
        },
    ),
    (
        "sku",
        "original",
        {"n_random": 3},
        {
            "forget_nll": 11 / 8 * L2,
            "random_nll": 17 / 12 * L2,
            "retain_kl": -2 * K_TEACHER_STUDENT / ROWS,
        },
    ),
]


@pytest.mark.parametrize("left", [False, True], ids=["right_padding", "left_padding"])
@pytest.mark.parametrize("method, semantics, options, expected", CASES)
def test_a_variant_has_the_value_worked_out_by_hand(method, semantics, options, expected, left):
    """Tolerance: float64 rounding of sums of some dozen numbers below 10."""
    given = batches(needs(method, semantics, make_options(method, options, semantics)), left)
    loss = method_loss(method, given, semantics, **options)
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(
        expected, abs=1e-13
    )
    assert loss.value.item() == pytest.approx(sum(expected.values()), abs=1e-13)


def test_the_temperature_check_by_hand_can_fail():
    """sqrt odds: 3/4 at temperature 2 is sqrt 3 / (1 + sqrt 3)."""
    assert warm(3 / 4, 2) == pytest.approx(sqrt(3) / (1 + sqrt(3)), abs=1e-15) and WARM[1][
        0
    ] == pytest.approx(FORGET_TS, abs=1e-15)


def test_npo_before_2025_03_30_is_log_one_plus_log_ratio_and_nan_beyond_its_edge():
    """The log-ratio of 1/16 to 1/8 is -0.69; of 1/16 to 1/4 it is -1.39.

    The second gives the log of a negative number.
    """
    given = batches(["forget"])
    expected = npo(lambda p, q: log(p / q))
    assert method_loss("npo", given, "released@2024-12-10").value.item() == pytest.approx(
        expected, abs=1e-13
    )
    assert method_loss("npo", given, "released@2024-10-23").value.item() == pytest.approx(
        expected, abs=1e-13
    )
    assert method_loss("npo", given, "released@nlp").value.item() == pytest.approx(
        expected, abs=1e-13
    )
    for name in ("released@2024-12-10", "released@nlp"):
        assert method_loss("npo", {"forget": batch([[1 / 16]], [[1 / 4]])}, name).value.isnan()


def test_rmu_under_other_semantics_has_the_values_worked_out_by_hand(monkeypatch):
    """u = (3/5, 4/5), c = 5: the target is (3, 4).

    Squared distances of the forget tokens: 13, 9 | 25, 2; over 4 tokens x 2: 49/8.

    retain: squares of the differences 1, 0, 2, 1 | 0, 0, 0, 2: (1 + 4 + 1 + 4) / 8 = 5/4.

    released: means over T (2, 1) and (1, 5/2); vectors (3, 4) and (5, 0): 10, 10 | 4 + 9/4, 16 +
    25/4; over 4 pairs x 2: 97/16.
    """
    forget = torch.tensor([[[1.0, 1], [3, 1]], [[0, 0], [2, 5]]], dtype=torch.float64)
    retain = torch.tensor([[[1.0, 1], [2, 2]], [[5, 5], [3, 3]]], dtype=torch.float64)
    moved = torch.tensor([[[2.0, 1], [4, 1]], [[5, 5], [3, 5]]], dtype=torch.float64)
    labels = torch.full((2, 2), IGNORE)
    given = {
        "forget": Outputs(
            None, labels, attention_mask=torch.tensor([[1, 1], [0, 1]]), hidden=forget
        ),
        "retain": Outputs(
            None,
            labels,
            attention_mask=torch.tensor([[1, 1], [1, 1]]),
            hidden=retain,
            teacher_hidden=moved,
        ),
    }
    both = torch.tensor([[0.6, 0.8], [1, 0]], dtype=torch.float64)
    monkeypatch.setattr(losses, "control_vector", lambda seed, width: both[0])
    monkeypatch.setattr(losses, "control_vectors", lambda seed, n, width, purpose="": both[:n])
    loss = method_loss("rmu", given, "original", c=5)
    assert (
        loss.terms["forget_distance"].item(),
        loss.terms["retain_distance"].item(),
    ) == pytest.approx((49 / 8, 125), abs=1e-13)
    for name in ("released@2024-12-10", "released@nlp"):
        loss = method_loss("rmu", given, name, c=5, beta=2)
        assert (
            loss.terms["forget_distance"].item(),
            loss.terms["retain_distance"].item(),
        ) == pytest.approx((49 / 4, 5 / 4), abs=1e-13)
    loss = method_loss("rmu", given, "released", c=5)
    assert (
        loss.terms["forget_distance"].item(),
        loss.terms["retain_distance"].item(),
    ) == pytest.approx((97 / 16, 5 / 4), abs=1e-13)
    one = method_loss("rmu", given, "released", c=5, n_vectors=1)  # (10 + 25/4) / (2 x 2)
    assert one.terms["forget_distance"].item() == pytest.approx(65 / 16, abs=1e-13)


def gradients(method, given, semantics, **options):
    leaves = {name: outputs.logits.clone().requires_grad_() for name, outputs in given.items()}
    loss = method_loss(
        method,
        {name: replace(given[name], logits=leaf) for name, leaf in leaves.items()},
        semantics,
        **options,
    )
    loss.value.backward()
    return loss, {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_released_npo_starts_away_from_uniform_whatever_beta_is(beta):
    """d/dz = (1/V - p) / rows at every row.

    The 1e-8 changes it by at most 1e-8 / min q; q is above 1e-5 here.
    """
    given = at_the_teacher("npo")
    _, found = gradients("npo", given, "released", beta=beta)
    p = given["forget"].logits.softmax(-1)
    assert p.min() > 1e-5 and (found["forget"] - (1 / V - p) / (B * T)).abs().max() < 1e-3 / (B * T)
    assert (found["forget"] - (1 / V - p) / (B * T)).abs().max() < 2e-8 / p.min() / (B * T)


def test_npo_before_2025_03_30_starts_at_zero_with_twice_that_gradient():
    given = at_the_teacher("npo")
    loss, found = gradients("npo", given, "released@2024-12-10")
    assert loss.value == 0 and close(
        found["forget"], 2 * (1 / V - given["forget"].logits.softmax(-1)) / (B * T)
    )


@pytest.mark.parametrize("semantics", ["released", "original"])
def test_kl_starts_as_gradient_ascent_under_every_semantics(semantics):
    given = at_the_teacher("kl")
    loss, found = gradients("kl", given, semantics)
    assert (
        loss.terms["retain_kl"] == 0
        and close(found["retain"], 0)
        and close(found["forget"], nll_gradient(given["forget"], -TOKEN))
    )


@pytest.mark.parametrize("semantics, options", [("released", {}), ("original", {"gamma": 1})])
def test_scrub_starts_as_retain_fine_tuning_under_every_semantics(semantics, options):
    given = at_the_teacher("scrub")
    loss, found = gradients("scrub", given, semantics, **options)
    assert (
        loss.terms["forget_kl"] == 0
        and close(found["forget"], 0)
        and close(found["retain"], nll_gradient(given["retain"], TOKEN))
    )


def test_a_phase_of_scrub_is_its_own_terms_alone():
    given = at_the_teacher("scrub", same=False)
    whole = method_loss("scrub", given, "original")
    most = method_loss("scrub", {"forget": given["forget"]}, "original", phase="max")
    least = method_loss("scrub", {"retain": given["retain"]}, "original", phase="min")
    assert list(most.terms) == ["forget_kl"] and list(least.terms) == ["retain_kl", "retain_nll"]
    assert close(most.value + least.value, whole.value)
    with pytest.raises(UserError, match=r"phase is 'first'; scrub \(original\) has max, min"):
        method_loss("scrub", given, "original", phase="first")
    with pytest.raises(UserError, match=r"phase is 'max'; scrub \(paper\) has none: leave it out"):
        method_loss("scrub", given, phase="max")
    with pytest.raises(UserError, match="batch 'retain' is not used"):
        method_loss("scrub", given, "original", phase="max")


def test_released_llmu_on_text_cancels_and_starts_with_a_zero_gradient():
    """The idk batch is the forget batch: the two nll terms cancel exactly.

    The gradient of the KL is 0 at the teacher.
    """
    given = at_the_teacher("llmu")
    given["idk"] = given["forget"]
    loss, found = gradients("llmu", given, "released")
    assert (
        loss.value == 0 and close(found["forget"] + found["idk"], 0) and close(found["retain"], 0)
    )


def test_original_llmu_starts_with_its_nll_terms_alone():
    """The gradient of H(teacher, student) is p - q: 0 at the teacher.

    Its value there is the entropy of the teacher.
    """
    given = {
        name: at_the_teacher("llmu")["forget"]
        for name in ("forget", "random1", "random2", "retain")
    }
    loss, found = gradients("llmu", given, "original", n_random=2)
    logp = given["retain"].logits.log_softmax(-1)
    assert close(found["retain"], 0) and close(
        loss.terms["retain_cross_entropy"], -(logp.exp() * logp).sum(-1).mean()
    )
    assert close(found["forget"], nll_gradient(given["forget"], -0.5 * SEQUENCE))
    assert close(found["random2"], nll_gradient(given["random2"], 0.5 * SEQUENCE))


def test_original_npo_and_dpo_start_at_log_two():
    given = at_the_teacher("dpo")
    loss, found = gradients("npo", {"forget": given["forget"]}, "original")
    assert loss.value.item() == pytest.approx(20 * log(2), abs=1e-13) and close(
        found["forget"], nll_gradient(given["forget"], -SUM)
    )
    loss, found = gradients("dpo", given, "original")
    assert loss.value.item() == pytest.approx(log(2), abs=1e-14) and close(
        found["idk"], nll_gradient(given["idk"], 0.05 * SUM)
    )


def test_released_dpo_is_the_likelihood_of_whole_idk_answers():
    given = {"idk": at_the_teacher("dpo", same=False)["idk"]}
    assert close(gradients("dpo", given, "released")[1]["idk"], nll_gradient(given["idk"], SUM))


def test_released_entropy_is_minimised_by_descent():
    """A step against the gradient lowers the entropy of the forget batch, because of the sign.

    The form of the paper raises it.
    """
    for semantics, sign in (("released", -1), ("paper", 1)):
        given = at_the_teacher("grad_diff")
        _, found = gradients("grad_diff", given, semantics, forget="entropy")
        stepped = given["forget"].logits - 0.01 * found["forget"]
        entropy = [
            -(z.softmax(-1) * z.log_softmax(-1))
            .sum(-1)[given["forget"].labels.roll(-1, 1) != IGNORE]
            .sum()
            for z in (given["forget"].logits, stepped)
        ]
        assert sign * (entropy[1] - entropy[0]) > 0


def test_released_rmu_draws_each_mean_to_the_mean_of_the_vectors():
    """d/d mean_T h_b = 2 / (B D) (mean_T h_b - mean_j v_j), spread over T."""
    given = at_the_teacher("rmu")
    h = given["forget"].hidden.clone().requires_grad_()
    loss = method_loss(
        "rmu", {**given, "forget": replace(given["forget"], hidden=h)}, "released", c=2
    )
    loss.value.backward()
    centre = (2 * losses.control_vectors(0, B, h.shape[2])).mean(0)
    assert loss.terms["retain_distance"] == 0
    assert close(
        h.grad, (2 / (B * h.shape[2] * T) * (h.detach().mean(1) - centre))[:, None].expand_as(h)
    )


VARIANTS = [(method, name) for method, module in METHODS.items() for name in module.VARIANTS]


def batch_rows_of(method, semantics, cut=None, **arguments):
    """(options, batches, leaves) of the batches by hand, or of their sequence `cut` alone.

    Hidden states are the logits themselves.
    """
    options = make_options(method, {"rmu": {"c": 3}}.get(method, {}), semantics)
    if method == "rmu" and semantics == "released":
        options = replace(options, n_vectors=2)
    names = needs(method, semantics, options)
    stand_in = {f"random{k}": f"random{(k - 1) % 3 + 1}" for k in range(1, 6)}
    rows_of_batch, leaves = {}, {}
    for name in names:
        whole = batches([stand_in.get(name, name)], left=True)[stand_in.get(name, name)]
        whole = replace(whole, logits=whole.logits.clone().requires_grad_())
        teacher = whole.logits.detach() + 0.1 * torch.tensor([1.0, -1], dtype=torch.float64)
        whole = replace(whole, teacher_logits=teacher, hidden=whole.logits, teacher_hidden=teacher)
        leaves[name], totals = whole.logits, {}
        if cut is not None:
            totals = {"n_sequences": len(whole.labels), "n_rows": whole.batch_rows().n_rows}
            one = slice(cut, cut + 1)
            whole = Outputs(
                whole.logits[one],
                whole.labels[one],
                teacher[one],
                whole.attention_mask[one],
                whole.hidden[one],
                teacher[one],
            )
        rows_of_batch[name] = whole.batch_rows(**totals, **arguments)
    return options, rows_of_batch, leaves


def loss_value(loss, options, rows_of_batch):
    return loss(rows_of_batch, options).value


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", VARIANTS)
def test_chunks_of_rows_never_change_a_loss(method, semantics):
    """2 rows at a time, computed again in backward, equal all rows at once.

    So do 2 rows at a time whose gradient is computed with them, for a head that gets no gradient
    (here the unit matrix). This holds for all rows, the whole vocabulary and other temperatures
    too.
    """
    found = []
    for chunk_rows, frozen in ((2, False), (2, True), (1000, False)):
        options, rows_of_batch, leaves = batch_rows_of(method, semantics, chunk_rows=chunk_rows)
        value_of = partial(loss_value, variant(method, semantics).loss, options)
        if frozen:
            for name, leaf in leaves.items():
                unit = torch.eye(leaf.shape[-1], dtype=leaf.dtype)
                rows_of_batch[name]._frozen_head = FrozenHead(logits_of_rows(leaf), unit)
            plan(value_of, rows_of_batch)
        value = value_of(rows_of_batch)
        value.backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves.values())])
    for chunked in found[:2]:
        assert all(close(a, b) for a, b in zip(chunked, found[2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method, semantics", VARIANTS)
def test_parts_add_up_if_a_loss_is_given_the_totals_of_a_step(method, semantics):
    """Every variant divides by the totals given to it: two parts of a batch add up to it."""
    options, rows_of_batch, leaves = batch_rows_of(method, semantics)
    whole = variant(method, semantics).loss(rows_of_batch, options).value
    parts = 0
    for cut in (0, 1):
        options, rows_of_batch, _ = batch_rows_of(method, semantics, cut)
        parts = parts + variant(method, semantics).loss(rows_of_batch, options).value
    assert parts.item() == pytest.approx(whole.item(), rel=1e-13, abs=1e-13)


def test_a_dated_name_is_the_released_code_of_its_day_in_every_method():
    own = {
        (method, name)
        for method, module in METHODS.items()
        for name in module.VARIANTS
        if "@" in name and name != "released@nlp"
    }
    assert own == {
        (method, f"released@{date}")
        for method in ("idk", "dpo", "llmu")
        for date in ("2024-12-10", "2024-10-23")
    } | {("npo", "released@2024-12-10"), ("rmu", "released@2024-12-10")}
    assert later("released@2024-10-23") == [
        "released@2024-10-23",
        "released@2024-12-10",
        "released",
    ]
    assert variant("npo", "released@2024-10-23") is METHODS["npo"].VARIANTS["released@2024-12-10"]
    assert variant("kl", "released@2024-10-23") is METHODS["kl"].VARIANTS["released"]
    for method, module in METHODS.items():
        assert {"paper", "original", "released"} <= set(module.VARIANTS)
        for name in SEMANTICS:
            assert method not in methods_under(name) or variant(method, name).options() is not None
    with pytest.raises(
        UserError,
        match="semantics is 'released@2025'; expected one of paper, original, released, "
        "released@2024-12-10, released@2024-10-23",
    ):
        variant("kl", "released@2025")


@pytest.mark.parametrize(
    "method, semantics, given, message",
    [
        (
            "npo",
            "released",
            {"retain": "ce"},
            r"npo \(released\) has no option 'retain'; its options: beta",
        ),
        (
            "dpo",
            "released",
            {"beta": 1},
            r"dpo \(released\) has no option 'beta'; its options: none",
        ),
        (
            "grad_diff",
            "original",
            {"forget": "kl"},
            r"grad_diff \(original\) has no option 'forget'",
        ),
        (
            "grad_diff",
            "paper",
            {"forget": "kl"},
            "option forget is 'kl'; expected one of ce, entropy",
        ),
        (
            "scrub",
            "original",
            {"temperature": 0},
            "option temperature is 0.0; expected a number above 0",
        ),
        ("scrub", "original", {"msteps": -1}, "option msteps is -1; expected at least 0"),
        ("rmu", "released@2024-12-10", {"n_vectors": 2}, "has no option 'n_vectors'"),
        ("llmu", "original", {"n_random": 0}, "option n_random is 0; expected at least 1"),
    ],
)
def test_an_option_of_other_semantics_is_refused(method, semantics, given, message):
    with pytest.raises(UserError, match=message):
        make_options(method, given, semantics)


def test_help_names_the_semantics_that_alone_have_an_option():
    lines = option_help("scrub")
    assert any(line.startswith("original: msteps=3") for line in lines) and any(
        line.startswith("alpha=1.0") for line in lines
    )


def test_the_table_of_methods_in_readme_is_the_one_made_from_the_files():
    """In methods/README.md, between the markers methods and /methods: methods.table.markdown()."""
    readme = Path(__file__).parents[2] / "clear_ref" / "methods" / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert text.split("<!-- methods -->\n")[1].split("<!-- /methods -->")[0] == markdown()
    for method, module in METHODS.items():
        for name in module.VARIANTS:
            assert f"| [`{method}`]({method}.py) | `{name}` | `" in text
