"""The visual losses again, in numpy: no line is shared with clear_ref/visual.

Every formula is written so that it takes complex numbers, and gradients are made of one imaginary
step: Im f(x + i h) / h with h = 1e-30 has no rounding of a difference.

`Rules` are what an implementation can get wrong; those of a semantics are right (`rules_of`), and a
known mistake is one rule changed (mistakes.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = 1e-30
Array = np.ndarray
Batches = Mapping[str, Mapping[str, Array]]  # {batch: {embeddings, labels, targets, ...}}
Terms = dict[str, Any]  # {name: a real or complex number}
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """The inputs of one case.

    batches      {name: {embeddings, targets [B, D], labels, random, forget [B]}}
    weight       [K, D]; base_weight [K, D]
    parameters   arrays of any shape
    done         share of the epochs that are over
    """

    batches: Batches
    weight: Array
    base_weight: Array
    parameters: tuple[Array, ...]
    done: float = 0.0


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


def log_sum_exp(z: Array) -> Array:
    """[B]: log sum exp over the last axis, the largest real part subtracted."""
    top = z.real.max(-1, keepdims=True)
    return np.log(np.exp(z - top).sum(-1)) + top[..., 0]


def log_softmax(z: Array) -> Array:
    """[B, K]."""
    return z - log_sum_exp(z)[:, None]


def unit(x: Array) -> Array:
    """Rows divided by their lengths."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def soft_plus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    positive = x.real > 0
    return np.where(positive, x, 0) + np.log1p(np.exp(np.where(positive, -x, x)))


class Formulas:
    """The terms of one case under given rules."""

    def __init__(self, given: Given, options: Options, rules: Rules) -> None:
        self.given = given
        self.options = options
        self.rules = rules

    def mean(self, values: Array) -> Any:
        """Mean over pictures."""
        return values.sum() if self.rules.summed else values.sum() / len(values)

    def logits(self, embeddings: Array, weight: Array) -> Array:
        """scale times e_hat . W_k."""
        if self.rules.normalise:
            weight = unit(weight)
        return self.rules.scale * (unit(embeddings) @ weight.T)

    def am(self, name: str, labels: str = "labels") -> Any:
        """Mean AM-softmax of a batch."""
        batch = self.given.batches[name]
        z = self.logits(batch["embeddings"], self.given.weight)
        rows = np.arange(len(z))
        z = z.copy()
        z[rows, batch[labels]] -= self.rules.scale * self.rules.margin
        return self.mean(log_sum_exp(z) - z[rows, batch[labels]])

    def kl(self, name: str, of_student: bool = False, temperature: float = 1.0) -> Any:
        """Mean KL of base and student; of_student: KL(student || base)."""
        batch = self.given.batches[name]
        student, base = batch["embeddings"], batch["targets"]
        if not self.rules.coordinates:
            student = self.logits(student, self.given.weight)
            base = self.logits(base, self.given.base_weight)
        first, second = log_softmax(base / temperature), log_softmax(student / temperature)
        if of_student != self.rules.swapped:
            first, second = second, first
        return self.mean((np.exp(first) * (first - second)).sum(1))

    def squared(self, name: str) -> Array:
        """[B]: squared distances to the targets."""
        batch = self.given.batches[name]
        squares = (batch["embeddings"] - batch["targets"]) ** 2
        return squares.sum(1) if self.rules.squares else squares.mean(1)

    def cosines(self, name: str) -> Array:
        """[B]: cosines with the targets."""
        batch = self.given.batches[name]
        return (unit(batch["embeddings"]) * unit(batch["targets"])).sum(1)

    def of_pool(self, forget: Array, retain: Array) -> tuple[Any, Any]:
        """The forget and the retain part of a pool's mean."""
        among = self.given.batches["pool"]["forget"]
        parts = np.where(among, forget, 0), np.where(among, 0, retain)
        if self.rules.two_means:
            n = among.sum(), (~among).sum()
            return parts[0].sum() / max(n[0], 1), parts[1].sum() / max(n[1], 1)
        return self.mean(parts[0]), self.mean(parts[1])

    def log_ratio(self, name: str) -> Array:
        """[B]: log p - log p_base of the true person, of softmax(e . W)."""
        batch = self.given.batches[name]
        rows = np.arange(len(batch["labels"])), batch["labels"]
        own = log_softmax(batch["embeddings"] @ self.given.weight.T)[rows]
        return own - log_softmax(batch["targets"] @ self.given.base_weight.T)[rows]


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
            change = change.mean(keepdims=True)
        return {"dpo": f.mean(soft_plus(-beta * change)) / (beta if f.rules.divided else 1)}
    batch = f.given.batches["forget"]
    rows = np.arange(len(batch["labels"]))
    change = log_softmax(f.logits(batch["embeddings"], f.given.weight))
    change = change - log_softmax(f.logits(batch["targets"], f.given.base_weight))
    preference = change[rows, batch["random"]] - change[rows, batch["labels"]]
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
        above = np.where(cosines.real > 0, cosines, 0) if f.rules.clamp else cosines
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
            terms[f"{name}_distance"] = of_base_head(f, name)
    return kept(f, terms)


def of_base_head(f: Formulas, name: str) -> Any:
    """Mean KL(base || student), both under the base's head."""
    alone = Given(f.given.batches, f.given.base_weight, f.given.base_weight, ())
    return Formulas(alone, f.options, f.rules).kl(name)


def sparsity(f: Formulas, semantics: str) -> Terms:
    """Sparsity."""
    weight = f.options["alpha"] * (1 - f.given.done) if semantics == "original" else None
    values = np.concatenate([each.ravel() for each in f.given.parameters])
    absolute = values * np.sign(values.real)
    total = {"sum": absolute.sum(), "mean": absolute.mean(), "square": (values**2).sum()}
    chosen = f.options["l1"] if weight is None else weight
    return {"retain_am": f.am("retain"), "l1": chosen * total[f.rules.l1]}


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
    return {name: float(np.real(v)) for name, v in METHODS[method](formulas, semantics).items()}


def gradients_of(
    method: str, semantics: str, given: Given, options: Options, rules: Rules | None = None
) -> dict[str, Array]:
    """{batch, "weight" or "parameterN": the loss's gradient}, by one imaginary step each."""
    chosen = rules or rules_of(semantics)

    def loss(moved: Given) -> complex:
        return complex(sum(METHODS[method](Formulas(moved, options, chosen), semantics).values()))

    found = {}
    for name, value in leaves(given).items():
        gradient = np.zeros(value.size)
        for place in range(value.size):
            step = np.zeros(value.size, complex)
            step[place] = 1j * STEP
            moved = with_leaf(given, name, value + step.reshape(value.shape))
            gradient[place] = loss(moved).imag / STEP
        found[name] = gradient.reshape(value.shape)
    return found


def leaves(given: Given) -> dict[str, Array]:
    """{name: array} of what can be trained: embeddings by batch, class weights, parameters."""
    found = {name: batch["embeddings"] for name, batch in given.batches.items()}
    found["weight"] = given.weight
    return {**found, **{f"parameter{k}": each for k, each in enumerate(given.parameters)}}


def with_leaf(given: Given, name: str, value: Array) -> Given:
    """The same inputs with one leaf replaced."""
    batches = {
        key: {**batch, "embeddings": value} if key == name else batch
        for key, batch in given.batches.items()
    }
    parameters = tuple(
        value if name == f"parameter{k}" else each for k, each in enumerate(given.parameters)
    )
    weight = value if name == "weight" else given.weight
    return Given(batches, weight, given.base_weight, parameters, given.done)
