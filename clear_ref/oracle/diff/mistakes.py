"""Which of the known mistakes (oracle/mistakes) explain the first stage that differs."""

import numpy as np

from clear_ref.data.batches import IGNORE
from clear_ref.oracle.mistakes import broken_rules
from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.reference.arithmetic import LossResult
from clear_ref.oracle.reference.rows import Row

from .comparison import Causes, Comparison, Finding, tolerance
from .dump_file import Dump
from .dump_tensors import COLUMNS
from .loss_stages import LossReference, gradient_size, next_labels

# {name of the mistake: the sheet that computes token terms with it}
SHEETS_BY_MISTAKE = {
    "shift_off_by_one": broken_rules.Unshifted,
    "shifted_twice": broken_rules.ShiftedTwice,
    "kl_swapped": broken_rules.SwappedKl,
    "kl_is_cross_entropy": broken_rules.KlWithoutEntropy,
    "logits_for_logp": broken_rules.RawLogits,
    "entropy_sign": broken_rules.WrongEntropySign,
    "bf16_logp": broken_rules.Bf16,
}


def explaining_mistakes(
    comparison: Comparison, first: Finding, reference: LossReference | None
) -> Causes:
    """The causes that give the dump's numbers at the first different stage."""
    if first.stage in COLUMNS:
        return dict.fromkeys(mistakes_in_column(comparison, first), "")
    if first.stage in ("terms", "loss", "gradient") and reference is not None:
        dump = comparison.dump
        causes = {}
        for mistake in MISTAKES:
            try:
                answer = loss_with_mistake(
                    mistake, dump.method, dump.semantics, vars(dump.options), reference.arrays
                )
            except (KeyError, IndexError, ValueError):  # it reads arrays that the dump lacks
                continue
            if answer is not None and explains_loss(dump, answer, reference):
                causes[mistake.name] = ""
        return causes
    explain = comparison.explain.get((first.stage, first.batch))
    causes = {} if explain is None else explain()
    if first.stage == "labels" and "labels_shifted_before" in causes:
        causes["labels_shifted_before"] = shift_detail(comparison, first.batch)
    return causes


def shift_detail(comparison: Comparison, batch: str) -> str:
    """Whether the loss shifts labels that are shifted already, as far as the dump tells."""
    same = {
        (finding.stage, finding.batch): finding.same
        for finding in comparison.findings
        if finding.stage in ("nll", "loss", "gradient")
    }
    for place in (("nll", batch), ("loss", ""), ("gradient", batch)):
        if same.get(place):
            stage = place[0]
            return f"the {stage} shifts them again: the row at t is scored against token t + 2"
    if not same:
        return "the dump has no nll, loss or gradient that tells whether the loss shifts again"
    return (
        "the loss does not shift them again, as far as its numbers tell; if so it is right: write "
        "labels that are aligned with input_ids"
    )


def mistakes_in_column(comparison: Comparison, first: Finding) -> list[str]:
    """The mistakes that give the dump's column at every answer row.

    Without labels: at every real row.
    """
    tensors = comparison.dump.batches[first.batch]
    real = comparison.real_positions(first.batch)
    theirs = tensors[first.stage].double()
    following = next_labels(tensors, real)
    has_labels = "labels" in tensors
    arrays: dict[str, np.ndarray] = {
        key: tensors[key].double().numpy() for key in ("logits", "teacher_logits") if key in tensors
    }
    arrays["labels"] = tensors.get("labels", following).numpy()
    arrays["attention_mask"] = real.long().numpy()
    size = max(1.0, float(np.abs(arrays["logits"]).max()))
    allowed, _ = tolerance(tensors[first.stage].dtype, size, in_loss=True)
    compared = following != IGNORE if has_labels else real
    places = compared[:, : theirs.shape[1]].nonzero().tolist()
    twice = following.roll(-1, 1)
    twice[:, -1] = IGNORE
    label_at = {"shift_off_by_one": tensors.get("labels", following), "shifted_twice": twice}
    names = []
    for name, sheet_class in SHEETS_BY_MISTAKE.items():
        sheet = sheet_class({first.batch: arrays})
        rows = []
        for b, t in places:
            label = int(label_at.get(name, following)[b, t]) if has_labels else IGNORE
            rows.append(Row(first.batch, b, t, label))
        with np.errstate(all="ignore"):
            errors = [
                abs(sheet.cell(row, first.stage)[0] - float(theirs[row.b, row.t])) for row in rows
            ]
        if errors and all(error <= allowed for error in errors):
            names.append(name)
    return names


def explains_loss(dump: Dump, answer: LossResult, reference: LossReference) -> bool:
    """Whether the dump's loss, terms and gradients, where it has them, are those of the answer."""
    size = reference.size + answer.scale
    size_of_gradients = gradient_size(reference.arrays, reference.answer) + gradient_size(
        reference.arrays, answer
    )
    if not np.isfinite([size, size_of_gradients]).all():
        return False  # an infinite tolerance allows every number, so it would prove nothing
    agree = []
    for name, term in dump.terms.items():
        if name in answer.terms:
            allowed, _ = tolerance(term.dtype, size, in_loss=True)
            agree.append(abs(float(term) - answer.terms[name]) <= allowed)
    if dump.loss is not None:
        allowed, _ = tolerance(dump.loss.dtype, size, in_loss=True)
        agree.append(abs(float(dump.loss) - answer.loss) <= allowed)
    for name, tensors in dump.batches.items():
        if "gradient" in tensors:
            gradient = tensors["gradient"]
            allowed, _ = tolerance(gradient.dtype, size_of_gradients, in_loss=True)
            error = np.abs(gradient.double().numpy() - answer.gradients[name]).max()
            agree.append(bool(error <= allowed))
    return bool(agree) and all(agree)
