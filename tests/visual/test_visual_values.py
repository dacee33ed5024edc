"""The visual losses: values worked out by hand for every method and semantics.

Two people, class weights (1, 0) and (0, 1). `towards(o)` is the unit vector whose logits differ by
o: 30 cos - 30 sin = o, so softmax is sigmoid(o). AM-softmax of class 0 is log(1 + exp(12 - o)), of
class 1 log(1 + exp(12 + o)): the margin is 30 * 0.4 = 12.
"""

import math

import pytest
import torch

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.visual.methods import table
from clear_ref.visual.methods.inputs import Batch, Inputs

EYE = torch.eye(2, dtype=torch.float64)


def towards(odds):
    """The unit vector (cos, sin) with 30 cos - 30 sin = odds."""
    difference = odds / 30
    cos = (difference + math.sqrt(2 - difference**2)) / 2
    return [cos, cos - difference]


def batch(embeddings, labels, targets=None, forget=None, random=None):
    """A Batch from lists."""
    return Batch(
        torch.tensor(embeddings, dtype=torch.float64),
        torch.tensor(labels),
        None if targets is None else torch.tensor(targets, dtype=torch.float64),
        torch.tensor(forget if forget is not None else [False] * len(labels)),
        None if random is None else torch.tensor(random),
    )


def inputs(weight=EYE, base_weight=EYE, parameters=(), done=0.0, **batches):
    """Inputs of two people."""
    return Inputs(batches, weight, base_weight, parameters, done)


def terms(method, given, semantics="paper", **options):
    """{name: value} of a loss's terms; their sum is the loss."""
    loss = table.visual_loss(method, given, semantics, **options)
    found = {name: float(value) for name, value in loss.terms.items()}
    assert float(loss.value) == pytest.approx(sum(found.values()), abs=1e-12)
    return found


def softplus(x):
    """log(1 + exp(x))."""
    return math.log1p(math.exp(x))


def kl(q, p):
    """KL of two distributions over two people, given by the probability of the first."""
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


RETAIN = batch([towards(2), towards(-1)], [0, 1], [towards(0), towards(0)])
OF_2, OF_MINUS_1 = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
AM = (softplus(12 - 2) + softplus(12 - 1)) / 2  # of RETAIN


def close(found, expected):
    """The terms are these numbers, within float64's rounding of numbers around 10."""
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_retain_ft():
    close(terms("retain_ft", inputs(retain=RETAIN)), {"retain_am": AM})
    long = inputs(retain=RETAIN, weight=2 * EYE)
    close(terms("retain_ft", long), {"retain_am": AM})
    # Released: W of length 2 doubles the cosines, the margin stays.
    expected = (softplus(12 - 4) + softplus(12 - 2)) / 2
    close(terms("retain_ft", long, "released"), {"retain_am": expected})


def test_scrub_paper():
    forget = batch([towards(3)], [0], [towards(1)])
    given = inputs(retain=RETAIN, forget=forget)
    base = 0.5
    retain = (kl(base, OF_2) + kl(base, OF_MINUS_1)) / 2
    of_forget = kl(1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3)))
    expected = {"retain_kl": retain, "forget_kl": -of_forget, "retain_am": AM}
    close(terms("scrub", given), expected)
    weighted = {"retain_kl": 0.5 * retain, "forget_kl": -of_forget, "retain_am": 3 * AM}
    close(terms("scrub", given, alpha=0.5, gamma=3.0), weighted)


def test_scrub_released_reads_the_coordinates():
    """softmax of (0, ln 3) is (1/4, 3/4), of (0, 0) (1/2, 1/2): KL(base || student) = ln(4/3) / 2.
    The other way round it is (ln 27 - ln 16) / 4.
    """
    ln3 = math.log(3)
    retain = batch([[0.0, ln3], towards(0)], [1, 0], [[0.0, 0.0], towards(0)])
    forget = batch([[0.0, 0.0]], [0], [[0.0, ln3]])
    found = terms("scrub", inputs(retain=retain, forget=forget), "released")
    # (0, ln 3) points to class 1: odds -30, softplus(12 - 30); (1, 1) has odds 0.
    am = (softplus(-18) + softplus(12)) / 2
    expected = {
        "retain_kl": math.log(4 / 3) / 4,
        "forget_kl": -(math.log(27) - math.log(16)) / 4,
        "retain_am": am,
    }
    close(found, expected)


def test_scrub_original_divides_the_logits_by_the_temperature():
    forget = batch([towards(3)], [0], [towards(1)])
    found = terms("scrub", inputs(retain=RETAIN, forget=forget), "original")

    def of(odds):
        return 1 / (1 + math.exp(-odds / 2))

    retain = (kl(0.5, of(2)) + kl(0.5, of(-1))) / 2
    expected = {
        "forget_kl": -4 * kl(of(1), of(3)),
        "retain_kl": 0.5 * 4 * retain,
        "retain_am": AM,
    }
    close(found, expected)


def test_llmu_paper():
    forget = batch([towards(3)], [0], [towards(3)], random=[1])
    given = inputs(retain=RETAIN, forget=forget)
    retain = (kl(OF_2, 0.5) + kl(OF_MINUS_1, 0.5)) / 2
    expected = {"forget_am": -softplus(9), "random_am": softplus(15), "retain_kl": retain}
    close(terms("llmu", given), expected)
    other = (kl(0.5, OF_2) + kl(0.5, OF_MINUS_1)) / 2
    found = terms("llmu", given, kl="base_student", w_forget=2.0, w_random=0.5, w_retain=3.0)
    expected = {
        "forget_am": -2 * softplus(9),
        "random_am": softplus(15) / 2,
        "retain_kl": 3 * other,
    }
    close(found, expected)


def test_llmu_released():
    ln3 = math.log(3)
    retain = batch([[0.0, ln3]], [0], [[0.0, 0.0]])
    forget = batch([towards(3)], [0], random=[1])
    found = terms("llmu", inputs(2 * EYE, retain=retain, forget=forget), "released")
    expected = {
        "forget_am": -0.02 * softplus(12 - 6),
        "random_am": 0.01 * softplus(12 + 6),
        "retain_kl": math.log(4 / 3) / 2,
    }
    close(found, expected)


def test_dpo_paper():
    """h = change of the random person's log probability less that of the true one: -3 + 1 = -2."""
    forget = batch([towards(3)], [0], [towards(1)], random=[1])
    expected = {"random_am": softplus(15), "dpo": softplus(0.1 * 2)}
    close(terms("dpo", inputs(forget=forget)), expected)
    weighted = terms("dpo", inputs(forget=forget), beta=1.0, lambda_random=0.0, lambda_dpo=2.0)
    close(weighted, {"random_am": 0.0, "dpo": 2 * softplus(2)})


def test_dpo_released_pairs_pictures_by_their_place_and_uses_raw_products():
    """p of class 0 is sigmoid(a - b) of an embedding (a, b)."""
    retain = batch([[3.0, 1.0], [0.0, 0.0]], [0, 1], [[1.0, 1.0], [0.0, 0.0]])
    forget = batch([[1.0, 0.0], [2.0, 2.0]], [1, 0], [[1.0, 0.0], [4.0, 2.0]])
    g_retain = [-softplus(-2) + softplus(0), 0.0]
    g_forget = [0.0, -softplus(0) + softplus(-2)]
    expected = (
        sum(softplus(-0.5 * (r - f)) / 0.5 for r, f in zip(g_retain, g_forget, strict=True)) / 2
    )
    given = inputs(retain=retain, forget=forget)
    close(terms("dpo", given, "released", beta=0.5), {"dpo": expected})
    shorter = inputs(retain=retain, forget=batch([[1.0, 0.0]], [1], [[1.0, 0.0]]))
    with pytest.raises(ShapeError, match="forget batch has 1 pictures, the retain batch 2"):
        terms("dpo", shorter, "released")


FAR = batch([[1.0, 2.0], [0.0, 0.0]], [0, 1], [[0.0, 0.0], [0.0, 4.0]])  # squares 5/2 and 16/2
NEAR = batch([[1.0, 0.0]], [0], [[0.0, 0.0]])  # 1/2
POOL = batch(
    [[1.0, 2.0], [0.0, 0.0], [1.0, 0.0]],
    [0, 1, 0],
    [[0.0, 0.0], [0.0, 4.0], [0.0, 0.0]],
    [True, True, False],
)


def test_rmu():
    found = terms("rmu", inputs(forget=FAR, retain=NEAR), alpha=3.0)
    close(found, {"forget_distance": (2.5 + 8) / 2, "retain_distance": 1.5})
    found = terms("rmu", inputs(pool=POOL), "released")
    close(found, {"forget_distance": (2.5 + 8) / 3, "retain_distance": 0.5 / 3})


def test_twins():
    found = terms("twins", inputs(forget=FAR, retain=NEAR))
    close(found, {"forget_distance": (2.5 + 8) / 2, "retain_distance": 0.5})
    close(terms("twins", inputs(forget=FAR), "released"), {"forget_distance": (2.5 + 8) / 2})
    forget = batch([towards(3)], [0], [towards(1)])
    found = terms("twins", inputs(forget=forget, retain=RETAIN), distance="kl")
    expected = {
        "forget_distance": kl(1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3))),
        "retain_distance": (kl(0.5, OF_2) + kl(0.5, OF_MINUS_1)) / 2,
    }
    close(found, expected)


def test_scrubbio():
    """Cosines 0.8, -1 and 0.6. Released: a forget picture below 0 counts as 0, one mean."""
    forget = batch([[3.0, 4.0], [1.0, 0.0]], [0, 0], [[0.0, 1.0], [-2.0, 0.0]])
    retain = batch([[3.0, 4.0]], [1], [[7.0, 0.0]])
    found = terms("scrubbio", inputs(forget=forget, retain=retain))
    close(found, {"forget_cosine": (0.8 - 1) / 2, "retain_cosine": 0.4})
    pool = batch(
        [[3.0, 4.0], [1.0, 0.0], [3.0, 4.0]],
        [0, 0, 1],
        [[0.0, 1.0], [-2.0, 0.0], [7.0, 0.0]],
        [True, True, False],
    )
    found = terms("scrubbio", inputs(pool=pool), "released")
    close(found, {"forget_cosine": 0.8 / 3, "retain_cosine": 0.4 / 3})


def test_sparsity():
    parameters = (torch.tensor([[1.0, -2.0]]).double(), torch.tensor([0.0, -4.0]).double())
    given = inputs(retain=RETAIN, parameters=parameters, done=0.75)
    close(terms("sparsity", given), {"retain_am": AM, "l1": 7e-4})
    close(terms("sparsity", given, "released", l1=2.0), {"retain_am": AM, "l1": 14.0})
    close(terms("sparsity", given, "original"), {"retain_am": AM, "l1": 0.2 * 0.25 * 7})


@pytest.mark.parametrize("method", [name for name in table.METHODS])
def test_a_semantics_that_a_method_does_not_have_is_refused(method):
    has = "original" in table.METHODS[method].VARIANTS
    assert has is (method in ("scrub", "sparsity"))
    if not has:
        with pytest.raises(UserError, match="expected one of paper, released$"):
            table.variant(method, "original")
    with pytest.raises(UserError, match="expected one of paper, released, original"):
        table.variant(method, "released@nlp")


def test_an_unknown_method_or_option_is_refused():
    with pytest.raises(UserError, match="visual method is 'kl'; expected one of retain_ft, scrub"):
        table.variant("kl")
    with pytest.raises(UserError, match="rmu .released. has no option 'alpha'; its options: c"):
        table.make_options("rmu", {"alpha": 1}, "released")
    with pytest.raises(UserError, match="option c is 'x'; expected a float"):
        table.make_options("rmu", {"c": "x"})
    with pytest.raises(UserError, match="option beta is 0.0; expected a number above 0"):
        table.make_options("dpo", {"beta": 0})
    assert table.make_options("rmu", {"c": "3"}).c == 3.0


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(labels=[0]), r"labels is \[1\]; expected 1 axes"),
        (dict(targets=[[0.0], [1.0]]), r"targets are \[2, 1\]; expected \[2, 2\]"),
        (dict(forget=[True]), r"forget is \[1\]"),
        (dict(random=[0]), r"random is \[1\]"),
    ],
)
def test_a_batch_whose_parts_disagree_is_refused(change, message):
    parts = dict(embeddings=[[0.0, 1.0], [1.0, 0.0]], labels=[0, 1], forget=[True, False])
    with pytest.raises(ShapeError, match=message):
        batch(**(parts | change))


def test_a_loss_that_misses_its_targets_or_random_people_says_so():
    bare = batch([[0.0, 1.0]], [0])
    with pytest.raises(ShapeError, match="no targets"):
        terms("rmu", inputs(forget=bare, retain=bare))
    with pytest.raises(ShapeError, match="no random classes"):
        terms("llmu", inputs(forget=bare, retain=RETAIN))
