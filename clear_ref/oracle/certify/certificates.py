"""The command `certify`: every claim about every method in every meaning, measured, with its bound and why.

Three kinds. Closed forms and laws (claims.py, laws.py): what the formulas imply, worked out on paper. Other routes, here: the
same number from the oracle's numpy reference, and the gradient from finite differences of the loss, through raw logits or hidden
states and through a whole VLM with adapters. Everything in float64; inputs are those of cases.py, random but fixed.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from clear_ref import methods
from clear_ref.common.errors import RunFailed
from clear_ref.common.progress import Progress
from clear_ref.data.prompts import read_phrases
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.loop.rows import split_rows
from clear_ref.mini.directories import WORLD
from clear_ref.oracle import encoded_batches
from clear_ref.oracle.reference import cases, formulas

from . import claims, laws, random_trials

UNIT = 2.0**-53
STEP = 1e-3
INDICES = (0, 45)  # a picture and a text of the embedded world
REFERENCE = "value and gradient are those of the numpy reference"
LOGITS = "the gradient in logits or hidden states is the slope of the loss"
MODEL = "the gradient in a VLM's adapters is the slope of the loss"


@dataclass(frozen=True)
class Row:
    """One line of the table. error: measured, the largest of `n` measurements; ok: error <= bound."""

    claim: str
    method: str
    semantics: str
    n: int
    error: float
    bound: float
    reason: str

    @property
    def ok(self) -> bool:
        """Whether the claim holds; an error that is no number does not."""
        return self.error <= self.bound


def certify() -> dict:
    """Every row: {"rows": [...], "claims", "failed", "seconds"}."""
    started, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)
    bar = Progress("certify", len(PARTS), "part")
    try:
        rows = []
        for part in PARTS:
            rows += [Row(*row) for row in part()]
            bar.step(note=part.__name__)
    finally:
        torch.set_num_threads(threads)
        bar.close()
    failed = sum(not row.ok for row in rows)
    return {
        "rows": [asdict(row) | {"ok": row.ok} for row in rows],
        "claims": len(rows),
        "failed": failed,
        "seconds": round(time.monotonic() - started, 1),
    }


def against_reference() -> list[tuple]:
    """The package against oracle/reference.py: each meaning with each of its options, on several shapes."""
    rows = []
    for method, semantics in laws.meanings():
        worst, n, shapes = (
            0.0,
            0,
            ["near", "equal"]
            if (method, semantics) == random_trials.NEAR
            else ["plain", "left", "near", "equal"],
        )
        for given in random_trials.option_sets(method, semantics):
            for shape in shapes:
                case = cases.Case(method, semantics, tuple(given.items()), shape)
                wanted = formulas.reference_loss(method, semantics, case.options, case.batches)
                found = random_trials.loss(
                    method, semantics, given, random_trials.batches(method, semantics, given, shape)
                )
                errors = [
                    abs(found.loss - wanted.loss) / max(1.0, wanted.scale),
                    *(
                        float((found.gradients[name] - torch.from_numpy(gradient)).abs().max())
                        / max(1.0, wanted.weight)
                        for name, gradient in wanted.gradients.items()
                    ),
                ]
                worst, n = laws.larger(worst, *errors), n + 1
        rows.append(
            (
                REFERENCE,
                method,
                semantics,
                n,
                worst,
                1000 * UNIT,
                "1000 roundings of the terms' size (gradient: of the sum of the row weights)",
            )
        )
    return rows


def through_logits() -> list[tuple]:
    """The gradient in each batch's logits or hidden states along random directions."""
    rows = []
    for method, semantics in laws.meanings():
        worst, n = 0.0, 0
        for given in random_trials.option_sets(method, semantics):
            outputs = random_trials.batches(
                method, semantics, given, random_trials.shape_for(method, semantics, "left")
            )
            found = random_trials.loss(method, semantics, given, outputs)
            for name, one in outputs.items():
                key = random_trials.field(one)
                along = random_trials.direction(f"{method}/{name}", getattr(one, key).shape)
                moved = lambda step: random_trials.value(
                    method,
                    semantics,
                    given,
                    {  # noqa: E731
                        **outputs,
                        name: laws.with_tensor(one, getattr(one, key) + step * along),
                    },
                )
                error = (
                    abs(slope(moved) - float((found.gradients[name] * along).sum())) / found.scale
                )
                worst, n = laws.larger(worst, error), n + 1
        rows.append(
            (
                LOGITS,
                method,
                semantics,
                n,
                worst,
                1e-10,
                "h = 0.001: truncation h^4 / 30 * fifth derivative (below 1000) < 4e-11, rounding 2 roundings / h < 1e-12",
            )
        )
    return rows


def through_model() -> list[tuple]:
    """The gradient in all adapters of a small LLaVA, along a random direction, on records of the embedded world."""
    rows_of, own, rows = split_rows(WORLD, "both", 10), read_phrases(WORLD), []
    with tempfile.TemporaryDirectory() as directory:
        random_trials.write_tiny(Path(directory) / "tiny")
        vlm = random_trials.tiny_vlm(Path(directory) / "tiny")
    known = {}
    for method, semantics in laws.meanings():
        worst, n = 0.0, 0
        for given in random_trials.option_sets(method, semantics):
            worst, n = (
                laws.larger(worst, model_error(vlm, method, semantics, given, rows_of, own, known)),
                n + 1,
            )
        rows.append(
            (
                MODEL,
                method,
                semantics,
                n,
                worst,
                1e-8,
                "h = 0.001: truncation h^4 / 30 * fifth derivative (of a network: below 1e5 at these weights) < 4e-9",
            )
        )
    return rows


def model_error(vlm, method: str, semantics: str, given: dict, rows_of, own, known: dict) -> float:
    """|slope along a direction - gradient . direction| of one loss; known keeps the views and the teacher's outputs."""
    if method == "rmu":
        given = given | {"layer": 1}
    chosen = methods.variant(method, semantics)
    needs = chosen.needs_of(methods.make_options(method, given, semantics))
    plan = UnlearnPlan(*rows_of, tuple(needs), own, 0, chosen.contents)
    seen = {}
    for name, need in needs.items():
        key = (name, plan.contents, chosen.mask, need.hidden)
        if key not in known:
            one = encoded_batches.encode_plan(vlm, plan, {name: need}, chosen.mask, INDICES)[name].batch
            with torch.no_grad(), vlm.adapters_off():
                known[key] = (one, encoded_batches.model_output(vlm, one, 1, need.hidden))
        seen[name] = known[key]
    parameters = {
        name: tensor for name, tensor in vlm.model.named_parameters() if tensor.requires_grad
    }
    begin = {name: tensor.detach().clone() for name, tensor in parameters.items()}

    def loss():
        outputs = {
            name: encoded_batches.as_outputs(
                batch,
                encoded_batches.model_output(vlm, batch, 1, needs[name].hidden),
                teacher,
                needs[name].hidden,
            )
            for name, (batch, teacher) in seen.items()
        }
        return methods.method_loss(method, outputs, semantics, **given)

    along = {
        name: random_trials.direction(name, tensor.shape) / len(parameters) ** 0.5
        for name, tensor in parameters.items()
    }

    def moved(step):
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(begin[name] + step * along[name])
            return float(loss().value)

    if (method, semantics) == random_trials.NEAR:
        moved(0.05)
        with torch.no_grad():
            seen = {
                name: (batch, encoded_batches.model_output(vlm, batch, 1, needs[name].hidden))
                for name, (batch, _) in seen.items()
            }
    measured = slope(moved)
    moved(0.0)
    found = loss()
    slopes = torch.autograd.grad(found.value, list(parameters.values()), allow_unused=True)
    wanted = sum(
        float((g * along[name]).sum())
        for name, g in zip(parameters, slopes, strict=True)
        if g is not None
    )
    return abs(measured - wanted) / max(
        1.0, sum(abs(float(term.detach())) for term in found.terms.values())
    )


def slope(moved) -> float:
    """d moved(x) / dx at 0 from four values: the difference quotient of fourth order."""
    return (8 * (moved(STEP) - moved(-STEP)) - (moved(2 * STEP) - moved(-2 * STEP))) / (12 * STEP)


PARTS = (claims.measure, laws.measure, against_reference, through_logits, through_model)


def text(found: dict) -> str:
    """The table: claims in order, one line each method and meaning."""
    lines, claim = [], None
    for row in found["rows"]:
        if row["claim"] != claim:
            claim = row["claim"]
            lines += ["", claim, f"    bound: {row['reason']}"]
        state = "pass" if row["ok"] else "FAIL"
        lines.append(
            f"    {state}  {row['method']:12} {row['semantics']:20} error {row['error']:<8.2g} "
            f"bound {row['bound']:<8.2g} ({row['n']} measured)"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"{found['claims'] - found['failed']} of {found['claims']} claims hold; {found['seconds']} s",
        ]
    )


def check(found: dict) -> None:
    """RunFailed naming the first claim that does not hold."""
    for row in found["rows"]:
        if not row["ok"]:
            raise RunFailed(
                f"{found['failed']} of {found['claims']} claims fail; first {row['method']} ({row['semantics']}): "
                f"{row['claim']}: error {row['error']:.3g}, bound {row['bound']:.3g}"
            )
