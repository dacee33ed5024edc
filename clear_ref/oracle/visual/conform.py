"""conform for the visual methods: does another implementation give the right loss and gradient?"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.files import one_line
from clear_ref.common.settings import parse_names
from clear_ref.oracle.vectors.judged_function import load
from clear_ref.visual.method_names import SEMANTICS
from clear_ref.visual.methods import table

from .cases import Case, all_cases, inputs_of
from .mistakes import OVERFLOW, OVERFLOW_MEANING, mistakes_of
from .reference import Given, Rules, gradients_of, leaves, rules_of, terms_of

# Roundings of the size of the terms that another order of operations may cost, in unit roundoffs.
ROUNDINGS = 5000
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24}

Gradients = dict[str, np.ndarray]


@dataclass(frozen=True)
class Answer:
    """What a function returned for a case; problem: why it cannot be judged."""

    loss: float = math.nan
    gradients: Gradients | None = None
    problem: str = ""


class Expected:
    """What a case must give, or what it gives under other rules; computed when it is asked for.

    loss, gradients  the right numbers, or those of the rules
    size             the unit of differences: the sum of the terms' sizes, 1 at least
    """

    def __init__(self, case: Case, given: Given, rules: Rules | None = None) -> None:
        self.of = case.method, case.semantics, given, case.options, rules
        terms = terms_of(*self.of)
        self.loss = sum(terms.values())
        self.size = max(1.0, sum(map(abs, terms.values())))

    @cached_property
    def gradients(self) -> Gradients:
        """The gradients by leaf."""
        return gradients_of(*self.of)


def agrees(answer: Answer, expected: Expected, tolerance: float) -> bool:
    """Whether loss and gradients, if there are any, are these within the tolerance."""
    if answer.problem or not abs(answer.loss - expected.loss) <= tolerance * expected.size:
        return False
    if answer.gradients is None:
        return True
    size = max(expected.size, *(float(np.abs(each).max()) for each in expected.gradients.values()))
    return all(
        float(np.abs(answer.gradients.get(name, 0) - each).max()) <= tolerance * size
        for name, each in expected.gradients.items()
    )


def run(function: str, methods: str, semantics: str, dtype: str, framework: str) -> dict[str, Any]:
    """The verdicts on every case of the methods and semantics asked for.

    raises  UserError for a function, method, semantics or dtype that does not exist
    """
    if dtype not in UNIT:
        raise UserError(f"--dtype is {dtype!r}; expected one of {', '.join(UNIT)}")
    judged = load(function, framework, dtype, option="--loss")
    names = parse_names(methods, table.METHODS, "--methods") if methods else list(table.METHODS)
    kinds = parse_names(semantics, SEMANTICS, "--semantics")
    cases = [each for each in all_cases() if each.method in names and each.semantics in kinds]
    check_asked(cases, names if methods else [], kinds)
    tolerance = ROUNDINGS * UNIT[dtype]
    rows = []
    for case in cases:
        given = inputs_of(case)
        answer = answer_of(judged.function, judged.framework, dtype, case, given)
        passed = agrees(answer, Expected(case, given), tolerance)
        verdict = "fail"
        if passed:
            verdict = "pass" if answer.gradients is not None else "loss_only"
        rows.append((case, given, answer, verdict))
    causes = causes_of(rows, tolerance)
    found = [
        {
            "id": case.id,
            "method": case.method,
            "semantics": case.semantics,
            "verdict": verdict,
            "loss": answer.loss,
            "expected": Expected(case, given).loss,
            "reason": answer.problem,
            "cause": causes.get((case.method, case.semantics), "") if verdict == "fail" else "",
        }
        for case, given, answer, verdict in rows
    ]
    counts = Counter(row["verdict"] for row in found)
    return {
        "function": function,
        "dtype": dtype,
        "cases": found,
        "counts": {name: counts[name] for name in ("pass", "loss_only", "fail")},
        "passed": counts["fail"] == 0,
    }


def check_asked(cases: list[Case], names: list[str], kinds: list[str]) -> None:
    """UserError for a method without a case under the semantics, or a semantics without one of the
    methods; names: those that were asked for.
    """
    for what, asked, found, others in (
        ("--methods", names, {each.method for each in cases}, kinds),
        ("--semantics", kinds, {each.semantics for each in cases}, names),
    ):
        missing = [name for name in asked if name not in found]
        if missing:
            raise UserError(
                f"{what} has {', '.join(missing)}, which has no case with {', '.join(others)}; "
                "leave it out"
            )


def answer_of(
    function: Callable[..., Any], framework: str, dtype: str, case: Case, given: Given
) -> Answer:
    """What the function returns for a case."""
    arguments = arguments_of(given, framework, dtype)
    try:
        returned = function(case.method, arguments, {**case.options, "semantics": case.semantics})
        pair = isinstance(returned, tuple) and len(returned) == 2
        loss, gradients = returned if pair else (returned, None)
        if gradients is None and isinstance(loss, torch.Tensor) and loss.grad_fn is not None:
            gradients = by_autograd(loss, arguments)
        number = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        if not math.isfinite(number):
            return Answer(number, problem=f"returned {number}; expected a finite loss")
        checked = None if gradients is None else checked_gradients(gradients, given)
    except (Exception, SystemExit) as error:
        return Answer(problem=f"raised {type(error).__name__}: {one_line(error, 160)}")
    return Answer(number, checked)


def arguments_of(given: Given, framework: str, dtype: str) -> dict[str, Any]:
    """The inputs of a case as the function gets them, new ones; see CONTRACT."""
    trained = set(leaves(given))

    def converted(array: np.ndarray, leaf: bool) -> Any:
        if framework == "numpy":
            return array.astype(dtype) if array.dtype == np.float64 else array.copy()
        tensor = torch.from_numpy(array.copy())
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(getattr(torch, dtype)).requires_grad_(leaf)

    return {
        "batches": {
            name: {key: converted(each, key == "embeddings") for key, each in batch.items()}
            for name, batch in given.batches.items()
        },
        "weight": converted(given.weight, "weight" in trained),
        "base_weight": converted(given.base_weight, False),
        "parameters": [converted(each, True) for each in given.parameters],
        "done": given.done,
    }


def by_autograd(loss: torch.Tensor, arguments: Mapping[str, Any]) -> Gradients:
    """The gradients of a loss in the arguments."""
    named = {name: batch["embeddings"] for name, batch in arguments["batches"].items()}
    named["weight"] = arguments["weight"]
    named |= {f"parameter{k}": each for k, each in enumerate(arguments["parameters"])}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: np.zeros(leaf.shape) if each is None else each.double().numpy()
        for (name, leaf), each in zip(named.items(), found, strict=True)
    }


def checked_gradients(gradients: Any, given: Given) -> Gradients:
    """Gradients by leaf in float64; ValueError for a wrong name, shape or number."""
    known = leaves(given)
    found = {}
    for name, each in dict(gradients).items():
        if name not in known:
            raise ValueError(f"gradient of {name}; expected some of {', '.join(known)}")
        value = each.detach() if isinstance(each, torch.Tensor) else each
        array = np.asarray(value, np.float64)
        if array.shape != known[name].shape or not np.isfinite(array).all():
            raise ValueError(
                f"gradient of {name} is of shape {list(array.shape)} or not finite; expected "
                f"finite numbers {list(known[name].shape)}"
            )
        found[name] = array
    return found


def causes_of(rows: list[Any], tolerance: float) -> dict[tuple[str, str], str]:
    """{(method, semantics): what gives the numbers of all its cases, failed and passed}."""
    causes = {}
    for key in dict.fromkeys((case.method, case.semantics) for case, *_ in rows):
        own = [row for row in rows if (row[0].method, row[0].semantics) == key]
        if all(verdict != "fail" for *_, verdict in own):
            continue
        causes[key] = cause_of(*key, own, tolerance)
    return causes


def cause_of(method: str, semantics: str, rows: list[Any], tolerance: float) -> str:
    """A known mistake or a factor that explains every case; else that there is none."""
    overflown = [case.shape for case, _, answer, verdict in rows if verdict == "fail"]
    infinite = all(answer.problem.startswith("returned") for *_, answer, v in rows if v == "fail")
    if infinite and set(overflown) == {"long_weights"}:
        return f"{OVERFLOW}: {OVERFLOW_MEANING}"
    if any(answer.problem for _, _, answer, _ in rows):
        return "no known mistake: not every case returned a loss"
    for name, mistake in mistakes_of(method, semantics).items():
        rules = mistake.change(rules_of(semantics))
        if all(agrees(a, Expected(case, given, rules), tolerance) for case, given, a, _ in rows):
            return f"{name}: {mistake.meaning}"
    expected = [(answer.loss, Expected(case, given)) for case, given, answer, _ in rows]
    ratios = [loss / right.loss for loss, right in expected if right.loss]
    factor = ratios[0]
    if all(
        abs(loss - factor * e.loss) <= tolerance * max(1, factor) * e.size for loss, e in expected
    ):
        return f"the loss times {factor:.6g}"
    return "no known mistake"


def text(found: Mapping[str, Any]) -> str:
    """The verdicts as a table, and the first failed case of each method."""
    counts = found["counts"]
    lines = [
        f"{found['function']} ({found['dtype']}): {counts['pass']} pass, {counts['loss_only']} "
        f"loss right, gradient not judged, {counts['fail']} fail",
        "",
        "method      semantics   pass loss only  fail  explained by",
    ]
    for key in dict.fromkeys((row["method"], row["semantics"]) for row in found["cases"]):
        own = [row for row in found["cases"] if (row["method"], row["semantics"]) == key]
        n = Counter(row["verdict"] for row in own)
        cause = next((row["cause"] for row in own if row["cause"]), "")
        line = f"{key[0]:11} {key[1]:10} {n['pass']:5} {n['loss_only']:9} {n['fail']:5}  {cause}"
        lines.append(line.rstrip())
    for row in found["cases"]:
        if row["verdict"] == "fail":
            why = row["reason"] or f"loss {row['loss']:.6g}, expected {row['expected']:.6g}"
            lines += ["", f"first of those that fail: {row['id']}: {why}"]
            break
    return "\n".join(lines)


def check(found: Mapping[str, Any]) -> None:
    """RunFailed if a case fails."""
    if not found["passed"]:
        raise RunFailed(f"{found['counts']['fail']} of {len(found['cases'])} cases fail")
