"""The Explanation of a known mistake or of another project's meaning, on the same records.

Its loss and gradients are those of oracle/mistakes, computed in float64 from the tensors that
student and teacher give for the records. Contributions and weights are its parts
(oracle/reference/parts.py); of hidden states a row contributes its weights times its columns.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from clear_ref.common.errors import UserError
from clear_ref.loop.plan import UnlearnPlan
from clear_ref.methods import LOSSES, table
from clear_ref.model.vlm import VLM
from clear_ref.oracle.mistakes.computations import combined
from clear_ref.oracle.mistakes.known import Mistake
from clear_ref.oracle.mistakes.projects import Entry
from clear_ref.oracle.reference import cases, formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.inputs import control_vectors, inputs
from clear_ref.oracle.reference.rows import KINDS, Batches, Distribution

from .attribution import RecordAttribution
from .explanation import (
    Encoded,
    Explanation,
    MistakeAbout,
    encode,
    explained_records,
)

# A stored case shows an entry if it moves the loss or a gradient by more than this, relatively.
SHOWS = 1e-6


class PlainSoftmax(Sheet):
    """The softmax by numpy; the exact one takes a minute for a few records with a vocabulary."""

    def distribution(self, z: np.ndarray) -> Distribution:
        shifted = z - z.max()
        e = np.exp(shifted)
        return Distribution(z, shifted - np.log(e.sum()), e / e.sum())


def explain_mistake(
    vlm: VLM,
    method: str,
    semantics: str,
    options: object,
    plan: UnlearnPlan,
    indices: Sequence[int],
    mask: str,
    teacher: str,
    entry: Entry,
) -> Explanation:
    """The Explanation of an entry under the method's semantics; the arguments as for `explain`.

    raises  UserError if the entry is not computed under these semantics
    """
    encoded = encode(vlm, table.variant(method, semantics), options, plan, indices, mask)
    given = asdict(encoded.options)
    batches = arrays_of(encoded, semantics, given, indices[0])
    sheet = combined(entry.compute.sheet, PlainSoftmax)
    fast = replace(entry, compute=replace(entry.compute, sheet=sheet))
    result = computed(fast, method, semantics, given, batches)
    if result is None:
        raise UserError(
            f"{entry.name} reads batches or options that {method} lacks under {semantics}; "
            f"expected --semantics {first_semantics(entry, method)}"
        )
    return Explanation(
        method=method,
        semantics=entry.name,
        options=vars(encoded.options),
        mask=mask,
        loss=result.loss,
        terms=result.terms,
        hidden=encoded.hidden,
        batches=explained_records(vlm, encoded, attributions(encoded, result)),
        teacher=teacher,
        mistake=about(entry, method, semantics),
    )


def arrays_of(encoded: Encoded, semantics: str, options: Options, first: int) -> Batches:
    """The records as the reference reads them (reference/rows.py); first: the first's index."""
    batches: Batches = {}
    for name, one in encoded.batches.items():
        outputs = encoded.outputs[name]
        tensors = {
            "input_ids": one.batch.input_ids,
            "labels": outputs.labels,
            "attention_mask": one.batch.attention_mask,
        }
        arrays = {key: tensor.cpu().long().numpy() for key, tensor in tensors.items()}
        arrays["kinds"] = np.array([[KINDS.index(kind) for kind in kinds] for kinds in one.kinds])
        for key in ("logits", "teacher_logits", "hidden", "teacher_hidden"):
            tensor = getattr(outputs, key)
            if tensor is not None:
                arrays[key] = tensor.detach().double().cpu().numpy()
        if encoded.hidden and name == "forget":
            n_sequences, _, width = arrays["hidden"].shape
            arrays["control"] = control_vectors(semantics, options, n_sequences, width, first)
        batches[name] = arrays
    return batches


def computed(
    entry: Entry, method: str, semantics: str, options: Options, batches: Batches
) -> LossResult | None:
    """What the entry gives; None if it reads batches or options that are not there."""
    with np.errstate(all="ignore"):
        try:
            return entry.compute(method, semantics, options, batches)
        except (KeyError, TypeError):
            return None


def attributions(encoded: Encoded, result: LossResult) -> dict[str, list[RecordAttribution]]:
    """{batch name: RecordAttribution of each record} of a result."""
    parts = result.parts()
    found: dict[str, list[RecordAttribution]] = {}
    for name, one in encoded.batches.items():
        gradients = torch.from_numpy(result.gradients[name])
        contributions = torch.from_numpy(parts.contributions[name])
        found[name] = []
        for s in range(len(one.records)):
            if encoded.hidden:
                own = RecordAttribution(contributions[s], gradient=gradients[s].norm(dim=1))
            else:
                weights = {
                    column: torch.from_numpy(array[s])
                    for column, array in parts.weights[name].items()
                    if not column.startswith("teacher_")
                }
                logits = encoded.outputs[name].logits
                assert logits is not None  # the loss reads logits
                ids = one.batch.input_ids[s, 1:, None].cpu()
                d_logit = gradients[s, :-1].gather(1, ids)[:, 0]
                logp = logits[s, :-1].double().cpu().log_softmax(-1).gather(1, ids)[:, 0]
                one_minus_p = -torch.expm1(logp)
                d_logp = torch.where(
                    one_minus_p == 0, torch.zeros_like(d_logit), d_logit / one_minus_p
                )
                own = RecordAttribution(contributions[s], weights, d_logp, d_logit)
            found[name].append(own)
    return found


def about(entry: Entry, method: str, semantics: str) -> MistakeAbout:
    """The entry in words."""
    kind = "known mistake"
    if not isinstance(entry, Mistake):
        kind = f"{'meaning' if entry.is_meaning else 'mistake'} of another project"
    stored = on_stored_case(entry, method, semantics)
    return MistakeAbout(
        name=entry.name,
        what=entry.what,
        seen=entry.seen,
        kind=kind,
        stored=stored or f"every stored case of {method} under {semantics}: the right numbers",
    )


def on_stored_case(entry: Entry, method: str, semantics: str) -> str | None:
    """What the entry gives on the first stored case that shows it; None if none does."""
    if semantics not in getattr(entry, "semantics", (semantics,)):
        return None
    for case in cases.cases():
        if (case.method, case.semantics) != (method, semantics):
            continue
        result = computed(entry, method, semantics, case.options, every_batch(case))
        if result is None or not np.isfinite(result.loss):
            continue
        right = formulas.reference_loss(method, semantics, case.options, case.batches)
        size = max(np.abs(gradient).max() for gradient in right.gradients.values())
        moved = 0.0
        for name, gradient in result.gradients.items():
            expected = right.gradients.get(name, np.zeros_like(gradient))
            moved = max(moved, float(np.abs(gradient - expected).max()))
        if abs(result.loss - right.loss) > SHOWS * right.scale or moved > SHOWS * size:
            return (
                f"stored case {case.id}: loss {result.loss:.6g} instead of {right.loss:.6g}; "
                f"largest gradient {size:.3g}, off by up to {moved:.3g}"
            )
    return None


def every_batch(case: cases.Case) -> Batches:
    """Every batch of the case's shape: the entry may read more of them than the method."""
    own = case.batches
    if case.method == "rmu":
        return own
    return {name: {**batch, **own.get(name, {})} for name, batch in inputs(case.shape).items()}


def first_semantics(entry: Entry, method: str) -> str:
    """The first semantics of the method under which a stored case shows the entry."""
    variants: dict[str, Any] = LOSSES[method].VARIANTS
    for semantics in sorted(variants, key=table.SEMANTICS.index):
        if on_stored_case(entry, method, semantics):
            return semantics
    return table.DEFAULT_SEMANTICS
