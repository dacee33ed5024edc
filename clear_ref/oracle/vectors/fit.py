"""What a gradient is made of: a least-squares fit by named terms, with its coefficients."""

from collections.abc import Sequence

import numpy as np

from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet
from clear_ref.oracle.reference.sums import Column, Sum

from .agreement import UNITS
from .case_inputs import Asked
from .judged_function import Answer

MOST_TERMS = 6
ROUNDINGS = 64  # allowed in a gradient, and as many times more in a loss; in bfloat16 4, and 2
COLUMNS: tuple[tuple[str, str, Column], ...] = (
    ("forget", "nll", "nll"),
    ("idk", "nll", "nll"),
    ("retain", "nll", "nll"),
    ("forget", "entropy", "entropy"),
    ("forget", "KL(teacher || student)", "kl_teacher_student"),
    ("forget", "KL(student || teacher)", "kl_student_teacher"),
    ("retain", "KL(teacher || student)", "kl_teacher_student"),
    ("retain", "KL(student || teacher)", "kl_student_teacher"),
)


def fit(judged: Sequence[tuple[Asked, Answer]]) -> str | None:
    """The sum of named terms that gives every loss and gradient, as text; None without one.

    The coefficients are the same in all cases. Terms of the method's own formula, such as dpo, have
    the coefficient 1 if they enter as the formula says.
    """
    dtypes = {dtype for _, answer in judged for dtype in (answer.gradient_dtype, answer.dtype)}
    terms = [_terms(asked) for asked, _ in judged]
    names = [name for name in terms[0] if all(name in one for one in terms)]
    blocks = []
    targets = []
    unit = max(UNITS[dtype] for dtype in dtypes)
    tolerance = ROUNDINGS * unit if "bfloat16" not in dtypes else 4 * unit
    for (_, answer), results in zip(judged, terms, strict=True):
        if answer.gradients is None:
            return None
        size = max(np.abs(gradient).max() for gradient in answer.gradients.values()) or 1.0
        targets.append(np.concatenate([g.ravel() for g in answer.gradients.values()]) / size)
        columns = [_flat(results[name], answer) / size for name in names]
        blocks.append(np.stack(columns, 1))
    matrix, target = np.concatenate(blocks), np.concatenate(targets)
    found = _sparse(matrix, target, tolerance)
    if found is None:
        return None
    chosen, values = found
    for (_, answer), results in zip(judged, terms, strict=True):
        parts = [value * results[names[i]].loss for i, value in zip(chosen, values, strict=True)]
        allowed = tolerance * (ROUNDINGS if tolerance < 1e-3 else 2) * sum(map(abs, parts))
        if abs(sum(parts) - answer.loss) > allowed + 1e-12:
            return None
    about = "about " if "bfloat16" in dtypes else ""
    return about + " ".join(
        f"{value:+.4g} {names[i]}" for i, value in zip(chosen, values, strict=True)
    )


def _sparse(
    matrix: np.ndarray, target: np.ndarray, tolerance: float
) -> tuple[list[int], list[float]] | None:
    """(columns, coefficients) of a least-squares solution of few terms; None without one.

    No term can be left out, and the coefficients have no more digits than the tolerance asks for.
    """
    if not np.isfinite(matrix).all():
        return None
    chosen = list(range(matrix.shape[1]))
    values = _solution(matrix, target, tolerance)
    if values is None:
        return None
    while True:
        sizes = np.abs(values) * np.abs(matrix[:, chosen]).max(0)
        for left_out in np.argsort(sizes, kind="stable"):
            kept = [i for k, i in enumerate(chosen) if k != left_out]
            fewer = _solution(matrix[:, kept], target, tolerance)
            if fewer is not None:
                chosen, values = kept, fewer
                break
        else:
            break
    if not 1 <= len(chosen) <= MOST_TERMS:
        return None
    for digits in range(1, 5):
        rounded = np.array([float(f"{value:.{digits}g}") for value in values])
        if np.abs(matrix[:, chosen] @ rounded - target).max() <= tolerance:
            return chosen, [float(value) for value in rounded]
    return chosen, [float(value) for value in values]


def _solution(matrix: np.ndarray, target: np.ndarray, tolerance: float) -> np.ndarray | None:
    """The coefficients of the least-squares solution; None if it is off by more than that."""
    values = np.linalg.lstsq(matrix, target, rcond=1e-10)[0]
    within = np.abs(matrix @ values - target).max() <= tolerance
    return values if within else None


def _terms(asked: Asked) -> dict[str, LossResult]:
    """{name: LossResult} of the terms on a case."""
    entry = asked.entry
    sheet = Sheet(asked.every)
    own = formulas.formula(entry["method"], entry["semantics"])(sheet, entry["options"])
    sums: dict[str, Sum] = {}
    if entry["method"] != "rmu":
        for batch, name, column in COLUMNS:
            sums[f"{batch} {name}"] = sheet.token_mean(batch, column)
            sums[f"{batch} {name} (mean of sequence means)"] = sheet.sequence_mean(batch, column)
            if name == "nll":
                mean = sheet.mean(sheet.sequence_sums(batch, column))
                sums[f"{batch} nll (mean of sequence sums)"] = mean
            elif name.startswith("KL"):
                every = sheet.token_mean(batch, column, "all")
                sums[f"{batch} {name} (all rows)"] = every
    for name, term in own.items():
        if entry["method"] == "rmu" or name in ("dpo", "forget_npo", "random_nll"):
            sums[name] = term
    with np.errstate(all="ignore"):
        return {name: sheet.result({name: term}) for name, term in sums.items()}


def _flat(result: LossResult, answer: Answer) -> np.ndarray:
    """The term's gradient, in the order of the answer's."""
    parts = []
    for name, gradient in (answer.gradients or {}).items():
        parts.append(result.gradients.get(name, np.zeros_like(gradient)).ravel())
    return np.concatenate(parts)
