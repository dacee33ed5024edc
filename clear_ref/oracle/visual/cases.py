"""The cases of the visual golden vectors: which inputs, methods, semantics and options.

Inputs come from NumPy's legacy generator, whose stream is frozen, and are rounded to float32, so
that float32 and float64 code starts from the same numbers.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clear_ref.visual.methods import table
from clear_ref.visual.methods.variant import SAMPLING

from .reference import Array, Given

D, K = 4, 5  # coordinates, people
FORGET_PEOPLE = 2  # the first people are those to be forgotten


@dataclass(frozen=True)
class Shape:
    """One kind of inputs.

    n       pictures of a batch
    gap     standard deviation of the student from the base
    length  factor of the class weights; with 8 a product exceeds what exp holds in float32
    done    share of the epochs that are over
    """

    n: int = 6
    gap: float = 0.4
    length: float = 1.0
    done: float = 0.0
    seed: int = 0


SHAPES = {
    "plain": Shape(),
    "one_picture": Shape(n=1, seed=1),
    "at_base": Shape(gap=0.0, seed=2),
    "far": Shape(gap=3.0, seed=3),
    "long_weights": Shape(length=8.0, seed=4),
    "later_epoch": Shape(n=4, done=0.5, seed=5),
}
# Options beside the defaults, under which a method has cases of its own.
OPTIONS: dict[tuple[str, str], tuple[dict[str, Any], ...]] = {
    ("scrub", "paper"): ({"alpha": 0.5, "gamma": 2.0},),
    ("llmu", "paper"): ({"kl": "base_student", "w_forget": 0.5},),
    ("dpo", "paper"): ({"beta": 1.0, "lambda_random": 0.5},),
    ("dpo", "released"): ({"beta": 0.5},),
    ("rmu", "paper"): ({"alpha": 3.0},),
    ("twins", "paper"): ({"distance": "kl"},),
    ("sparsity", "paper"): ({"l1": 0.05},),
    ("sparsity", "released"): ({"l1": 0.05},),
}


@dataclass(frozen=True)
class Case:
    """One case; options: all of the variant's."""

    method: str
    semantics: str
    shape: str
    options: dict[str, Any]
    id: str


def all_cases() -> list[Case]:
    """Every method, semantics and shape; other options on the plain shape."""
    cases = []
    for method, module in table.METHODS.items():
        for semantics in module.VARIANTS:
            for shape in SHAPES:
                cases.append(case_of(method, semantics, shape, {}))
            for options in OPTIONS.get((method, semantics), ()):
                cases.append(case_of(method, semantics, "plain", options))
    return cases


def case_of(method: str, semantics: str, shape: str, given: dict[str, Any]) -> Case:
    """A case with some options beside the defaults."""
    options = asdict(table.make_options(method, given, semantics))
    parts = [method, semantics, shape, *(f"{name}={value}" for name, value in given.items())]
    return Case(method, semantics, shape, options, "/".join(parts))


def inputs_of(case: Case) -> Given:
    """The inputs of a case: those of its shape and of the batches that its variant has."""
    sampling = table.variant(case.method, case.semantics).sampling
    return inputs(sampling, SHAPES[case.shape])


def inputs(sampling: str, shape: Shape) -> Given:
    """Inputs of one step; every array is drawn, whatever a method reads of it."""
    rng = np.random.RandomState(shape.seed)

    def normal(*size: int, scale: float = 1.0) -> Array:
        return (scale * rng.standard_normal(size)).astype(np.float32).astype(np.float64)

    # The order of these draws fixes the numbers.
    base_weight = normal(K, D, scale=0.5 * shape.length)
    weight = base_weight + normal(K, D, scale=shape.gap / 2)
    parameters = normal(3, 2), normal(4)
    batches = {}
    for name in SAMPLING[sampling]:
        targets = normal(shape.n, D)
        forget = np.zeros(shape.n, bool)
        forget[:: 1 if name == "forget" else 2] = name != "retain"
        labels = rng.randint(FORGET_PEOPLE, K, shape.n)
        labels[forget] = rng.randint(0, FORGET_PEOPLE, int(forget.sum()))
        embeddings = targets + normal(shape.n, D, scale=shape.gap)
        batches[name] = {
            "embeddings": embeddings.astype(np.float32).astype(np.float64),
            "targets": targets,
            "labels": labels,
            "forget": forget,
            "random": rng.randint(FORGET_PEOPLE, K, shape.n),
        }
    weight = weight.astype(np.float32).astype(np.float64)
    return Given(batches, weight, base_weight, parameters, shape.done)
