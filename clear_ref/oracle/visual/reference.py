"""The visual losses again, in numpy: no line is shared with clear_ref/visual.

Gradients are computed by reverse differentiation (tape.py), not from differences; losses and
gradients have the same bytes on every processor.

`Rules` are what an implementation can get wrong; those of a semantics are right (`rules_of`), and a
known mistake is one rule changed (mistakes.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .tape import Tracked, exp, gradients, joined, log, log1p, products, sqrt, where

Array = np.ndarray
Batches = Mapping[str, Mapping[str, Array]]  # {batch: {embeddings, labels, targets, ...}}
Terms = dict[str, Tracked]  # {name: a number}
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """The inputs of one case.

    batches      {name: {embeddings, targets [B, D], labels, random, forget [B]}}
    weight       [K, D]; base_weight [K, D]; without rows: not known
    parameters   arrays of any shape
    done         share of the epochs that are over; None: not known
    """

    batches: Batches
    weight: Array
    base_weight: Array
    parameters: tuple[Array, ...]
    done: float | None = 0.0


@dataclass(frozen=True)
class Rules:
    """How the terms are computed.

    normalise    class weights are divided by their lengths
    coordinates  scrub and llmu: KL over the coordinates of the embedding, not over people
    scale, margin  of AM-softmax
    summed       sums over pictures in place of means
    swapped      KL(student || base) in place of KL(base || student), and the other way round
    ascent       sign of the forget term: -1 turns it round
    clamp        scrubbio released: max(0, cos)
    squares      sums over coordinates in place of means
    two_means    a pool's sets have means of their own
    keeps        the retain term is there
    l1           sparsity: "sum", "mean" or "square" of the parameters
    divided      dpo released: divided by beta
    paired       dpo released: the sigmoid is taken for each pair, not of the mean
    """

    normalise: bool = True
    coordinates: bool = False
    scale: float = 30.0
    margin: float = 0.4
    summed: bool = False
    swapped: bool = False
    ascent: float = 1.0
    clamp: bool = True
    squares: bool = False
    two_means: bool = False
    keeps: bool = True
    l1: str = "sum"
    divided: bool = True
    paired: bool = True


def rules_of(semantics: str) -> Rules:
    """The right rules of a semantics."""
    released = semantics == "released"
    return Rules(normalise=not released, coordinates=released)


def log_sum_exp(z: Tracked) -> Tracked:
    """[B]: log sum exp over the last axis, the largest entry subtracted."""
    top = z.value.max(-1, keepdims=True)
    return log(exp(z - top).sum()) + top[:, 0]


def log_softmax(z: Tracked) -> Tracked:
    """[B, K]."""
    return z - log_sum_exp(z)[:, None]


def unit(x: Tracked) -> Tracked:
    """Rows divided by their lengths; a row of zeros stays."""
    squares = (x * x).sum()
    return x / sqrt(squares + (squares.value == 0))[:, None]


def soft_plus(x: Tracked) -> Tracked:
    """log(1 + exp(x)), without overflow."""
    positive = x.value > 0
    return where(positive, x) + log1p(exp(where(~positive, x) - where(positive, x)))


class Formulas:
    """The terms of one case under given rules."""

    def __init__(self, given: Given, options: Options, rules: Rules) -> None:
        self.given = given
        self.options = options
        self.rules = rules
        self.leaves = {name: Tracked(value) for name, value in leaves(given).items()}

    @property
    def weight(self) -> Tracked:
        """[K, D]; KeyError if it is not known."""
        return known(self.leaves["weight"], "weight")

    @property
    def base_weight(self) -> Tracked:
        """[K, D]; KeyError if it is not known."""
        return known(Tracked(self.given.base_weight), "base_weight")

    def labels(self, name: str, which: str = "labels") -> tuple[Array, Array]:
        """(pictures, their people), to index [B, K]."""
        people = self.array(name, which)
        return np.arange(len(people)), people

    def targets(self, name: str) -> Tracked:
        """[B, D]: the targets of a batch."""
        return Tracked(self.array(name, "targets"))

    def array(self, name: str, which: str) -> Array:
        """An array of a batch; KeyError with both names if it is not there."""
        if which not in self.given.batches[name]:
            raise KeyError(f"{name}/{which}")
        return self.given.batches[name][which]

    def mean(self, values: Tracked) -> Tracked:
        """Mean over pictures."""
        return values.sum() if self.rules.summed else values.sum() / len(values)

    def logits(self, embeddings: Tracked, weight: Tracked) -> Tracked:
        """scale times e_hat . W_k."""
        if self.rules.normalise:
            weight = unit(weight)
        return self.rules.scale * products(unit(embeddings), weight)

    def am(self, name: str, which: str = "labels") -> Tracked:
        """Mean AM-softmax of a batch."""
        z = self.logits(self.leaves[name], self.weight)
        rows, people = self.labels(name, which)
        margins = np.zeros(z.value.shape)
        margins[rows, people] = self.rules.scale * self.rules.margin
        z = z - margins
        return self.mean(log_sum_exp(z) - z[rows, people])

    def kl(
        self,
        name: str,
        of_student: bool = False,
        temperature: float = 1.0,
        under_base: bool = False,
    ) -> Tracked:
        """Mean KL of base and student; of_student: KL(student || base); under_base: both under the
        base's class weights.
        """
        student, base = self.leaves[name], self.targets(name)
        if not self.rules.coordinates:
            weight = self.base_weight if under_base else self.weight
            student = self.logits(student, weight)
            base = self.logits(base, self.base_weight)
        first, second = log_softmax(base / temperature), log_softmax(student / temperature)
        if of_student != self.rules.swapped:
            first, second = second, first
        return self.mean((exp(first) * (first - second)).sum())

    def squared(self, name: str) -> Tracked:
        """[B]: squared distances to the targets."""
        difference = self.leaves[name] - self.targets(name)
        total = (difference * difference).sum()
        return total if self.rules.squares else total / difference.value.shape[1]

    def cosines(self, name: str) -> Tracked:
        """[B]: cosines with the targets."""
        return (unit(self.leaves[name]) * unit(self.targets(name))).sum()

    def of_pool(self, forget: Tracked, retain: Tracked) -> tuple[Tracked, Tracked]:
        """The forget and the retain part of a pool's mean."""
        among = self.array("pool", "forget")
        parts = where(among, forget), where(~among, retain)
        if self.rules.two_means:
            n = among.sum(), (~among).sum()
            return parts[0].sum() / max(n[0], 1), parts[1].sum() / max(n[1], 1)
        return self.mean(parts[0]), self.mean(parts[1])

    def log_ratio(self, name: str) -> Tracked:
        """[B]: log p - log p_base of the true person, of softmax(e . W)."""
        own = log_softmax(products(self.leaves[name], self.weight))
        base = log_softmax(products(self.targets(name), self.base_weight))
        return own[self.labels(name)] - base[self.labels(name)]


def retain_ft(f: Formulas, semantics: str) -> Terms:
    """Retain FT."""
    return {"retain_am": f.am("retain")}


def scrub(f: Formulas, semantics: str) -> Terms:
    """SCRUB."""
    options = {"alpha": 1.0, "gamma": 1.0, "temperature": 1.0, **f.options}
    squared = options["temperature"] ** 2
    return {
        "retain_kl": options["alpha"] * squared * f.kl("retain", False, options["temperature"]),
        "forget_kl": -f.rules.ascent * squared * f.kl("forget", False, options["temperature"]),
        "retain_am": options["gamma"] * f.am("retain"),
    }


def llmu(f: Formulas, semantics: str) -> Terms:
    """LLMU."""
    of_student = f.options.get("kl") == "student_base"
    return {
        "forget_am": -f.rules.ascent * f.options["w_forget"] * f.am("forget"),
        "random_am": f.options["w_random"] * f.am("forget", "random"),
        "retain_kl": f.options.get("w_retain", 1.0) * f.kl("retain", of_student),
    }


def dpo(f: Formulas, semantics: str) -> Terms:
    """DPO."""
    beta = f.options["beta"]
    if semantics == "released":
        change = f.rules.ascent * (f.log_ratio("retain") - f.log_ratio("forget"))
        if not f.rules.paired:
            change = (change.sum() / len(change))[None]
        return {"dpo": f.mean(soft_plus(-beta * change)) / (beta if f.rules.divided else 1)}
    change = log_softmax(f.logits(f.leaves["forget"], f.weight))
    change = change - log_softmax(f.logits(f.targets("forget"), f.base_weight))
    preference = change[f.labels("forget", "random")] - change[f.labels("forget")]
    learnt = f.options["lambda_random"] * f.am("forget", "random")
    loss = f.mean(soft_plus(-beta * f.rules.ascent * preference))
    return {"random_am": learnt, "dpo": f.options["lambda_dpo"] * loss}


def rmu(f: Formulas, semantics: str) -> Terms:
    """RMU: to the targets."""
    if semantics == "released":
        forget, retain = f.of_pool(f.squared("pool"), f.squared("pool"))
    else:
        forget = f.mean(f.squared("forget"))
        retain = f.options["alpha"] * f.mean(f.squared("retain"))
    return kept(f, {"forget_distance": forget, "retain_distance": retain})


def scrubbio(f: Formulas, semantics: str) -> Terms:
    """SCRUBbio."""
    if semantics == "released":
        cosines = f.cosines("pool")
        above = where(cosines.value > 0, cosines) if f.rules.clamp else cosines
        forget, retain = f.of_pool(f.rules.ascent * above, 1 - cosines)
    else:
        forget = f.rules.ascent * f.mean(f.cosines("forget"))
        retain = f.mean(1 - f.cosines("retain"))
    return kept(f, {"forget_cosine": forget, "retain_cosine": retain})


def twins(f: Formulas, semantics: str) -> Terms:
    """Twins."""
    if semantics == "released":
        return {"forget_distance": f.mean(f.squared("forget"))}
    terms = {}
    for name in ("forget", "retain"):
        if f.options["distance"] == "l2":
            terms[f"{name}_distance"] = f.mean(f.squared(name))
        else:
            terms[f"{name}_distance"] = f.kl(name, under_base=True)
    return kept(f, terms)


def sparsity(f: Formulas, semantics: str) -> Terms:
    """Sparsity."""
    weight = f.options["alpha"] * (1 - done_of(f.given)) if semantics == "original" else None
    parameters = [f.leaves[name] for name in f.leaves if name.startswith("parameter")]
    values = joined([each.ravel() for each in parameters])
    absolute = (values * np.sign(values.value)).sum()
    total = {"sum": absolute, "mean": absolute / len(values), "square": (values * values).sum()}
    chosen = f.options["l1"] if weight is None else weight
    return {"retain_am": f.am("retain"), "l1": chosen * total[f.rules.l1]}


def known(weight: Tracked, name: str) -> Tracked:
    """The weight; KeyError if it has no rows."""
    if not len(weight):
        raise KeyError(name)
    return weight


def done_of(given: Given) -> float:
    """Share of the epochs that are over; KeyError if it is not known."""
    if given.done is None:
        raise KeyError("done")
    return given.done


def kept(f: Formulas, terms: Terms) -> Terms:
    """The terms, without the retain term if the rules lack it."""
    return {k: v for k, v in terms.items() if f.rules.keeps or not k.startswith("retain")}


METHODS: dict[str, Callable[[Formulas, str], Terms]] = {
    "retain_ft": retain_ft,
    "scrub": scrub,
    "llmu": llmu,
    "dpo": dpo,
    "rmu": rmu,
    "scrubbio": scrubbio,
    "twins": twins,
    "sparsity": sparsity,
}


def terms_of(
    method: str, semantics: str, given: Given, options: Options, rules: Rules | None = None
) -> dict[str, float]:
    """{term: value} of a case."""
    formulas = Formulas(given, options, rules or rules_of(semantics))
    return {name: float(each.value) for name, each in METHODS[method](formulas, semantics).items()}


def gradients_of(
    method: str, semantics: str, given: Given, options: Options, rules: Rules | None = None
) -> dict[str, Array]:
    """{batch, "weight" or "parameterN": the loss's gradient}."""
    formulas = Formulas(given, options, rules or rules_of(semantics))
    terms = METHODS[method](formulas, semantics).values()
    return gradients(sum(terms, Tracked(np.zeros(()))), formulas.leaves)


def leaves(given: Given) -> dict[str, Array]:
    """{name: array} of what can be trained: embeddings by batch, class weights, parameters."""
    found = {name: batch["embeddings"] for name, batch in given.batches.items()}
    found["weight"] = given.weight
    return {**found, **{f"parameter{k}": each for k, each in enumerate(given.parameters)}}
