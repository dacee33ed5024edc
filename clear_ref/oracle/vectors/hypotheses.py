"""Hypotheses of what a function computes instead of the semantics asked for.

A hypothesis gives a loss and gradients for every case, or None where it does not exist. causes.py
names one only if it gives what the function returned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.methods import LOSSES, make_options
from clear_ref.methods.semantics import TEXT_ONLY
from clear_ref.oracle.mistakes.computations import times
from clear_ref.oracle.mistakes.known import MISTAKES, Mistake
from clear_ref.oracle.mistakes.peers import PEERS, Peer
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.formulas import Options

from .case_inputs import Asked

WITHOUT_RETAIN = " without a retain term"
IGNORING_OPTIONS = ", the options ignored"
Predict = Callable[[Asked], LossResult | None]


@dataclass(frozen=True)
class Hypothesis:
    """What a function may compute.

    kind    semantics, peer (a meaning of another project), mistake, factor or pair
    coarse  its gradients are compared as bfloat16 numbers: its mistake rounds to them
    fitted  it has a number that is taken from an answer
    """

    name: str
    kind: str
    predict: Predict
    coarse: bool = False
    fitted: bool = False


def other_semantics(asked: Asked) -> list[Hypothesis]:
    """Options ignored, and other semantics: with all options that they know, or those changed."""
    method, own = asked.entry["method"], asked.entry["semantics"]
    variants = LOSSES[method].VARIANTS
    names = sorted(variants, key=lambda name: (name == TEXT_ONLY, not name.startswith("released")))
    found = [Hypothesis(f"{own} semantics{IGNORING_OPTIONS}", "mistake", _ignoring(own))]
    for name in names:
        if name != own:
            found.append(Hypothesis(f"{name} semantics", "semantics", _carrying(name, True)))
            found.append(Hypothesis(f"{name} semantics", "semantics", _carrying(name, False)))
    for option in asked.entry["options"]:
        found.append(Hypothesis(f"the option {option} ignored", "mistake", _without(option)))
    for name in names:
        if name != own:
            label = f"{name} semantics{IGNORING_OPTIONS}"
            found.append(Hypothesis(label, "mistake", _ignoring(name)))
    return found


def _carrying(semantics: str, every: bool) -> Predict:
    def predict(asked: Asked) -> LossResult | None:
        entry = asked.entry
        known = default_options(entry["method"], semantics)
        own = default_options(entry["method"], entry["semantics"])
        given = {name: value for name, value in entry["options"].items() if name in known}
        if not every:
            given = {name: value for name, value in given.items() if value != own[name]}
        return _with_options(asked, semantics, given)

    return predict


def _without(option: str) -> Predict:
    def predict(asked: Asked) -> LossResult | None:
        entry = asked.entry
        given = {name: value for name, value in entry["options"].items() if name != option}
        if option == "n_random":
            return None  # another number of batches than the case has
        return _with_options(asked, entry["semantics"], given)

    return predict


def _ignoring(semantics: str) -> Predict:
    def predict(asked: Asked) -> LossResult | None:
        options = asked.entry["options"]
        given = {"n_random": options["n_random"]} if "n_random" in options else {}
        return _with_options(asked, semantics, given)

    return predict


def _with_options(asked: Asked, semantics: str, given: Options) -> LossResult | None:
    method = asked.entry["method"]
    try:
        options = asdict(make_options(method, given, semantics))
        with np.errstate(all="ignore"):
            return formulas.reference_loss(method, semantics, options, asked.every)
    except (UserError, KeyError):
        return None  # an option or a value that these semantics lack, or a batch that is missing


def default_options(method: str, semantics: str) -> Options:
    """Every option of the semantics, with its default value."""
    return asdict(make_options(method, {}, semantics))


def peers(asked: Asked) -> list[Hypothesis]:
    """The meanings and mistakes of other projects that exist in the case's method."""
    found = []
    for peer in PEERS:
        if asked.entry["method"] in peer.methods and peer.of_number is None:
            kind = "peer" if peer.is_meaning else "mistake"
            found.append(Hypothesis(peer.name, kind, _computed(peer)))
            if asked.entry["method"] == "npo" and peer.is_meaning:
                name = f"{peer.name}{WITHOUT_RETAIN}"
                found.append(Hypothesis(name, kind, _computed(peer, {"retain": "none"})))
    return found


def peers_with_number(asked: Asked, loss: float) -> list[Hypothesis]:
    """The meanings of other projects that have a number, at the number that gives this loss.

    The loss must grow with the number; it is sought between -100 and 100, to 6 digits if these do.
    """
    found = []
    for peer in PEERS:
        if asked.entry["method"] not in peer.methods or peer.of_number is None:
            continue
        low, high = -100.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            result = _computed(replace(peer, compute=peer.of_number(middle)))(asked)
            if result is None:
                break
            low, high = (low, middle) if result.loss > loss else (middle, high)
        rounded = float(f"{low:.6g}")
        number = rounded if abs(rounded - low) < 1e-6 * max(abs(low), 1) else low
        compute = peer.of_number(number)
        name = f"{peer.name}, m = {number:.6g}"
        predict = _computed(replace(peer, compute=compute))
        found.append(Hypothesis(name, "peer", predict, fitted=True))
    return found


def mistakes(asked: Asked) -> list[Hypothesis]:
    """The known mistakes of the case's method and semantics."""
    return [
        Hypothesis(mistake.name, "mistake", _computed(mistake), mistake.name == "bf16_logp")
        for mistake in _mistakes_of(asked.entry["method"], asked.entry["semantics"])
    ]


def pairs(asked: Asked) -> Iterator[Hypothesis]:
    """Two known mistakes at once, in both orders."""
    entry = asked.entry
    known: list[Mistake | Peer] = [*_mistakes_of(entry["method"], entry["semantics"])]
    known += [p for p in PEERS if entry["method"] in p.methods and not p.is_meaning]
    for first, second in permutations(known, 2):
        both = first.compute.and_(second.compute)
        if both is not None:
            name = " and ".join(sorted((first.name, second.name)))
            coarse = "bf16_logp" in (first.name, second.name)
            yield Hypothesis(name, "pair", _computed(replace(first, compute=both)), coarse)


def mistakes_in_other_semantics(asked: Asked) -> Iterator[Hypothesis]:
    """The known mistakes in the method's other semantics, with those options that these know."""
    entry = asked.entry
    for semantics in LOSSES[entry["method"]].VARIANTS:
        if semantics != entry["semantics"]:
            for mistake in _mistakes_of(entry["method"], semantics):
                name = f"{mistake.name} in {semantics} semantics"
                predict = _computed_in(mistake, semantics)
                yield Hypothesis(name, "mistake", predict, mistake.name == "bf16_logp")


def _computed_in(mistake: Mistake, semantics: str) -> Predict:
    def predict(asked: Asked) -> LossResult | None:
        entry = asked.entry
        known = default_options(entry["method"], semantics)
        given = {name: value for name, value in entry["options"].items() if name in known}
        with np.errstate(all="ignore"):
            try:
                options = asdict(make_options(entry["method"], given, semantics))
                return mistake.compute(entry["method"], semantics, options, asked.every)
            except (UserError, KeyError, TypeError):
                return None  # a value or a batch that the semantics lack; no such combination

    return predict


def _mistakes_of(method: str, semantics: str) -> list[Mistake]:
    return [
        mistake
        for mistake in MISTAKES
        if method in mistake.methods and semantics in mistake.semantics
    ]


def _computed(mistake: Mistake | Peer, changed: Options | None = None) -> Predict:
    """changed: options with other values than those asked for."""

    def predict(asked: Asked) -> LossResult | None:
        entry = asked.entry
        with np.errstate(all="ignore"):
            try:
                options = {**entry["options"], **(changed or {})}
                return mistake.compute(entry["method"], entry["semantics"], options, asked.every)
            except (KeyError, TypeError):
                return None  # an option or a batch that the semantics lack; no such combination

    return predict


def factors(asked: Asked, factor: float) -> list[Hypothesis]:
    """The right loss times a number: a known one first, then `factor` itself, if it is not 1.

    Then the same for the loss with one option ignored, such as a retain term that is left out.
    """
    known: list[tuple[str, Callable[[Asked], float | None]]] = [
        ("-1", lambda one: -1.0),
        ("2/beta", lambda one: 2 / _option(one, "beta")),
        ("beta/2", lambda one: _option(one, "beta") / 2),
        ("beta", lambda one: _option(one, "beta")),
        ("1/beta", lambda one: 1 / _option(one, "beta")),
        ("T^2, T the temperature", lambda one: _option(one, "temperature") ** 2),
        ("1/T^2, T the temperature", lambda one: _option(one, "temperature") ** -2),
        ("V, the vocabulary's size", lambda one: _sizes(one)[2]),
        ("1/V, V the vocabulary's size", lambda one: 1 / _sizes(one)[2]),
        ("B, the number of sequences", lambda one: _sizes(one)[0]),
        ("1/B, B the number of sequences", lambda one: 1 / _sizes(one)[0]),
        ("m, the number of answer tokens", lambda one: _answers(one)),
        ("1/m, m the number of answer tokens", lambda one: 1 / _answers(one)),
        ("m/(m+1), m answer tokens", lambda one: _answers(one) / (_answers(one) + 1)),
    ]

    def constant(one: Asked) -> float:
        return factor

    steps = round(1 / factor) if factor else 0
    is_share = 2 <= steps <= 64 and abs(factor * steps - 1) < 1e-4
    if abs(factor - 1) > 1e-9:
        known.append((f"1/k, k = {steps}" if is_share else f"{factor:.6g}", constant))
    found = []
    for n, value in known:
        fitted = value is constant
        found.append(Hypothesis(f"the loss times {n}", "factor", _scaled(value), fitted=fitted))
    for option in asked.entry["options"]:
        for n, value in known:
            name = f"the loss times {n}, the option {option} ignored"
            predict = _scaled(value, _without(option))
            found.append(Hypothesis(name, "factor", predict, fitted=value is constant))
    return found


def _option(asked: Asked, name: str) -> float:
    """An option's value; NaN if there is none or it is 0."""
    return float(asked.entry["options"].get(name) or np.nan)


def _sizes(asked: Asked) -> Sequence[int]:
    """B, T and V of the first batch (rmu: D for V)."""
    batch = next(iter(asked.own.values()))
    return batch["logits" if "logits" in batch else "hidden"].shape


def _answers(asked: Asked) -> float:
    batch = next(iter(asked.own.values()))
    return float((batch["labels"][:, 1:] >= 0).sum()) or np.nan


def _scaled(factor: Callable[[Asked], float | None], base: Predict | None = None) -> Predict:
    """base: whose result is multiplied; without it the right one."""

    def predict(asked: Asked) -> LossResult | None:
        value = factor(asked)
        if value is None or not np.isfinite(value):
            return None
        result = base(asked) if base else asked.result
        return None if result is None else times(value, result)

    return predict
