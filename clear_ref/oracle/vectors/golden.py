"""Builds the golden vectors: inputs, right results, and the wrong results of known mistakes."""

from decimal import ROUND_CEILING, Context

import numpy as np

from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet
from clear_ref.oracle.reference.cases import Case, cases
from clear_ref.oracle.reference.inputs import inputs
from clear_ref.oracle.reference.rows import Batch, Batches
from clear_ref.oracle.reference.shapes import COMPACT, FULL

from .vector_set import Entry, StoredRoundings, Vectors, digest

TERM_COLUMNS = (
    "nll",
    "entropy",
    "teacher_nll",
    "teacher_entropy",
    "kl_teacher_student",
    "kl_student_teacher",
)
# A wrong number is stored only if it differs from the right one by more than this, times the scale.
SMALLEST_ERROR = 1e-4
THREE_DIGITS = Context(prec=3, rounding=ROUND_CEILING)
SHAPES_WITH_MISTAKES = ("plain", "near")


def build(full: bool = False, mistakes: bool = True) -> Vectors:
    """All vectors.

    full      of the shapes in FULL instead of those in COMPACT
    mistakes  with the wrong results; without them it takes a fifth of the time
    """
    vectors = Vectors(set="full" if full else "compact")
    for shape in FULL if full else COMPACT:
        for name, batch in inputs(shape).items():
            for key, array in _stored_arrays(name, batch).items():
                vectors.arrays["inputs"][f"{shape}/{name}/{key}"] = array
    for case in cases(full):
        result = formulas.reference_loss(case.method, case.semantics, case.options, case.batches)
        if not np.isfinite(result.loss):
            continue
        vectors.entries.append(_right_entry(vectors, case, result))
        if mistakes and case.shape in SHAPES_WITH_MISTAKES:
            vectors.entries += _wrong_entries(vectors, case, result)
    return vectors


def token_terms(name: str, batch: Batch) -> dict[str, np.ndarray]:
    """{column: float64 [B, T]}: every token term at every position, padding included.

    nll and teacher_nll are 0 where the next label is IGNORE or there is no next label.
    """
    sheet = Sheet({name: batch})
    terms = {column: np.zeros(batch["labels"].shape) for column in TERM_COLUMNS}
    for row in sheet.rows(name, "all"):
        for column in TERM_COLUMNS:
            terms[column][row.b, row.t] = sheet.cell(row, column).value
    return terms


def _stored_arrays(name: str, batch: Batch) -> Batch:
    """The arrays of a batch that are written, with the token terms."""
    arrays = dict(batch)
    for column, terms in token_terms(name, batch).items():
        arrays[f"terms/{column}"] = terms
    if name.startswith(("idk", "random")):  # no method reads hidden states of these batches
        arrays = {key: array for key, array in arrays.items() if "hidden" not in key}
    return arrays


def _right_entry(vectors: Vectors, case: Case, result: LossResult) -> Entry:
    """The entry of a case; `acceptable` for the released code, `valid` for other semantics."""
    batches = case.batches
    names = {}
    for name, batch in batches.items():
        names[name] = [key for key in batch if key != "control"]
    gradients = {}
    for name, gradient in result.gradients.items():
        gradients[name] = vectors.add(case.method, f"{case.id}/{name}", gradient)
    entry: Entry = {
        "id": case.id,
        "method": case.method,
        "semantics": case.semantics,
        "options": case.options,
        "shape": case.shape,
        "flags": case.flags,
        "result": "acceptable" if case.semantics.startswith("released") else "valid",
        "batches": names,
        "loss": result.loss,
        "terms": result.terms,
        "scale": result.scale,
        "weight": result.weight,
        "roundings": stored_roundings(result),
        "gradients": gradients,
    }
    if case.method == "rmu":
        entry["control"] = vectors.add("rmu", f"{case.id}/control", batches["forget"]["control"])
    entry["sha256"] = digest(batches, result.gradients)
    return entry


def stored_roundings(result: LossResult) -> StoredRoundings:
    """The Roundings of a result as a case has them: of each gradient, the largest number."""
    roundings = result.roundings()
    return {
        "loss": rounded_up(roundings.loss),
        "gradients": {name: rounded_up(g.max()) for name, g in roundings.gradients.items()},
        "added": {name: rounded_up(g.max()) for name, g in roundings.added.items()},
    }


def rounded_up(size: float) -> float:
    """A size rounded up to three digits.

    A part in 1e9 is taken off first: sizes are computed with numpy's sums and logarithms, whose
    last bits depend on the machine, and would else change the third digit of a round number.
    """
    return float(THREE_DIGITS.create_decimal(float(size) * (1 - 1e-9)))


def _wrong_entries(vectors: Vectors, case: Case, right: LossResult) -> list[Entry]:
    """What the known mistakes give: a wrong loss, or wrong gradients of the right loss."""
    batches = case.batches
    entries = []
    for mistake in MISTAKES:
        wrong = loss_with_mistake(
            mistake,
            case.method,
            case.semantics,
            case.options,
            _with_forget(batches, case.shape),
        )
        if wrong is None or not np.isfinite(wrong.loss):
            continue
        id = f"{case.id}!{mistake.name}"
        wrong_gradients = {}
        if abs(wrong.loss - right.loss) <= SMALLEST_ERROR * right.scale:
            if not _gradients_differ(wrong, right):
                continue
            wrong_gradients = {name: wrong.gradients[name] for name in right.gradients}
        gradients = {}
        for name, gradient in wrong_gradients.items():
            gradients[name] = vectors.add(case.method, f"{id}/{name}", gradient)
        entries.append(
            Entry(
                id=id,
                method=case.method,
                of=case.id,
                mistake=mistake.name,
                result="invalid",
                loss=wrong.loss,
                gradients=gradients,
                sha256=digest(batches, wrong_gradients),
            )
        )
    return entries


def _gradients_differ(wrong: LossResult, right: LossResult) -> bool:
    size = max(np.abs(gradient).max() for gradient in right.gradients.values())
    error = max(
        np.abs(wrong.gradients[name] - gradient).max() for name, gradient in right.gradients.items()
    )
    return bool(error > SMALLEST_ERROR * size)


def _with_forget(batches: Batches, shape: str) -> Batches:
    """The batches of a case; with an idk batch, also the forget batch that a mistake puts there."""
    if "idk" in batches and "forget" not in batches:
        return {**batches, "forget": inputs(shape)["forget"]}
    return batches
