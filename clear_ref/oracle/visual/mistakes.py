"""Known mistakes in visual losses: each is one rule of reference.py changed.

A mistake acts where it changes a number: on a case where the right and the wrong loss and gradient
are equal it is not seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .reference import Rules

Change = Callable[[Rules], Rules]
WITH_HEAD = ("retain_ft", "scrub", "llmu", "dpo", "sparsity")


@dataclass(frozen=True)
class Mistake:
    """A wrong rule.

    meaning    what is computed instead, in a line
    methods    methods in which it can be made
    semantics  under which; () : all
    change     the rules with the mistake
    """

    meaning: str
    methods: tuple[str, ...]
    semantics: tuple[str, ...]
    change: Change


PAPER = ("paper", "original")
RELEASED = ("released",)
MISTAKES: dict[str, Mistake] = {
    "weights_not_normalised": Mistake(
        "class weights keep their lengths, as in the released code",
        WITH_HEAD,
        PAPER,
        lambda rules: replace(rules, normalise=False),
    ),
    "weights_normalised": Mistake(
        "class weights are divided by their lengths; the released code means to and does not",
        ("retain_ft", "scrub", "llmu", "sparsity"),
        RELEASED,
        lambda rules: replace(rules, normalise=True),
    ),
    "no_margin": Mistake(
        "AM-softmax without its margin: cross-entropy of 30 cosines",
        WITH_HEAD,
        (),
        lambda rules: replace(rules, margin=0.0),
    ),
    "no_scale": Mistake(
        "cosines are not multiplied by 30",
        WITH_HEAD,
        (),
        lambda rules: replace(rules, scale=1.0),
    ),
    "sum_over_pictures": Mistake(
        "sums over the pictures of a batch in place of means",
        ("retain_ft", "scrub", "llmu", "dpo", "rmu", "scrubbio", "twins", "sparsity"),
        (),
        lambda rules: replace(rules, summed=True),
    ),
    "kl_swapped": Mistake(
        "both KL are taken in the other direction",
        ("scrub", "llmu", "twins"),
        (),
        lambda rules: replace(rules, swapped=True),
    ),
    "kl_over_coordinates": Mistake(
        "KL of the softmax of the embedding's coordinates, as in the released code",
        ("scrub", "llmu"),
        PAPER,
        lambda rules: replace(rules, coordinates=True),
    ),
    "kl_over_people": Mistake(
        "KL over people, where the released code takes the coordinates of the embedding",
        ("scrub", "llmu"),
        RELEASED,
        lambda rules: replace(rules, coordinates=False),
    ),
    "forget_sign": Mistake(
        "the forget term has the other sign: it learns what it should forget",
        ("scrub", "llmu", "dpo", "scrubbio"),
        (),
        lambda rules: replace(rules, ascent=-1.0),
    ),
    "cosine_below_zero": Mistake(
        "forget pictures are pushed below a cosine of 0, too",
        ("scrubbio",),
        RELEASED,
        lambda rules: replace(rules, clamp=False),
    ),
    "two_means": Mistake(
        "forget and retain have means of their own in place of one over the pool",
        ("rmu", "scrubbio"),
        RELEASED,
        lambda rules: replace(rules, two_means=True),
    ),
    "squares_summed": Mistake(
        "squares are summed over the coordinates: D times as much",
        ("rmu", "twins"),
        (),
        lambda rules: replace(rules, squares=True),
    ),
    "no_retain_term": Mistake(
        "there is no retain term, as in the released Twins",
        ("rmu", "scrubbio", "twins"),
        (),
        lambda rules: replace(rules, keeps=False),
    ),
    "l1_mean": Mistake(
        "the mean of the absolute values in place of their sum",
        ("sparsity",),
        (),
        lambda rules: replace(rules, l1="mean"),
    ),
    "l1_squared": Mistake(
        "the sum of squares in place of absolute values: weight decay",
        ("sparsity",),
        (),
        lambda rules: replace(rules, l1="square"),
    ),
    "beta_not_divided": Mistake(
        "the released DPO without the division by beta",
        ("dpo",),
        RELEASED,
        lambda rules: replace(rules, divided=False),
    ),
    "mean_before_sigmoid": Mistake(
        "the preferences are averaged before the sigmoid, not after it",
        ("dpo",),
        RELEASED,
        lambda rules: replace(rules, paired=False),
    ),
}
# Not a rule but an arithmetic: exp without the largest logit subtracted. In float32 it gives inf on
# the shape long_weights, and the right number elsewhere.
OVERFLOW = "no_maximum_subtracted"
OVERFLOW_MEANING = "exp of the logits without the largest one subtracted: inf in float32"


def mistakes_of(method: str, semantics: str) -> dict[str, Mistake]:
    """The mistakes that can be made in a method under a semantics."""
    return {
        name: each
        for name, each in MISTAKES.items()
        if method in each.methods and (not each.semantics or semantics in each.semantics)
    }
