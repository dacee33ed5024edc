"""Laws that hold of every method in every meaning, measured on random inputs."""

from dataclasses import fields, replace

import torch

from clear_ref import methods
from clear_ref.losses.outputs import Outputs
from clear_ref.losses.rows import ROW_SETS, select_rows

from . import random_trials

ROUNDING = 1000 * 2.0**-53
WHY = "1000 roundings of the terms' size: no sum here has more summands"
CURVED = {
    ("npo", "beta"),
    ("dpo", "beta"),
    ("scrub", "temperature"),
    ("rmu", "c"),
}  # options that are no weights


def meanings() -> list[tuple[str, str]]:
    """(method, meaning) of all."""
    return [
        (method, semantics)
        for method, module in methods.METHODS.items()
        for semantics in module.VARIANTS
    ]


def larger(*errors) -> float:
    """The largest; NaN where one is."""
    return max(errors) if all(error == error for error in errors) else float("nan")


def with_tensor(outputs: Outputs, tensor) -> Outputs:
    """The batch with another student tensor."""
    return replace(outputs, **{random_trials.field(outputs): tensor})


def each(outputs: dict, change) -> dict:
    """Every batch with change(tensor) for each of its [B, T, ...] tensors, labels and mask included."""
    return {
        name: Outputs(
            **{
                f.name: None if getattr(one, f.name) is None else change(getattr(one, f.name), one)
                for f in fields(Outputs)
            }
        )
        for name, one in outputs.items()
    }


def measure() -> list[tuple]:
    """Rows (claim, method, meaning, n, error, bound, reason) of every law."""
    rows = []
    for law in LAWS:
        for method, semantics in meanings():
            errors = [
                law(method, semantics, given)
                for given in random_trials.option_sets(method, semantics)
            ]
            errors = [error for error in errors if error is not None]
            if errors:
                bound, why = (
                    (0.0, "nothing is computed with them")
                    if law in (unread, teacher_constant)
                    else (ROUNDING, WHY)
                )
                rows.append(
                    (
                        law.__doc__.splitlines()[0],
                        method,
                        semantics,
                        len(errors),
                        larger(*errors),
                        bound,
                        why,
                    )
                )
    return rows


def difference(
    before: random_trials.Result, after: random_trials.Result, place=lambda gradient: gradient
) -> float:
    """The larger of the relative difference of two losses and that of their gradients, the first's put in the second's place."""
    slopes = [
        float((place(before.gradients[name]) - after.gradients[name]).abs().max())
        for name in after.gradients
    ]
    return larger(abs(before.loss - after.loss), *slopes) / before.scale


def _setting(method, semantics, given):
    outputs = random_trials.batches(
        method, semantics, given, random_trials.shape_for(method, semantics)
    )
    return outputs, random_trials.loss(method, semantics, given, outputs)


def shift(method, semantics, given):
    """A number added to all logits of a row changes nothing, another one at each row and for each model"""
    outputs, found = _setting(method, semantics, given)
    if method == "rmu":
        return None

    def change(tensor, one):
        if not tensor.is_floating_point():
            return tensor
        offset = 8 * random_trials.direction(f"offset/{tensor is one.logits}", tensor.shape[:2])
        return tensor + offset[..., None]

    return difference(found, random_trials.loss(method, semantics, given, each(outputs, change)))


def sums_to_zero(method, semantics, given):
    """The gradient of each row of logits sums to zero: no probability is made or lost"""
    _, found = _setting(method, semantics, given)
    return (
        None
        if method == "rmu"
        else larger(*(float(g.sum(-1).abs().max()) for g in found.gradients.values())) / found.scale
    )


def renamed_vocabulary(method, semantics, given):
    """Tokens may be numbered in any order"""
    outputs, found = _setting(method, semantics, given)
    if method == "rmu":
        return None
    V = next(iter(outputs.values())).logits.shape[2]
    renamed = torch.arange(V).roll(-2)

    def change(tensor, one):
        if tensor is one.labels:
            return torch.where(tensor >= 0, renamed[tensor.clamp(min=0)], tensor)
        return tensor.roll(2, 2) if tensor.ndim == 3 else tensor

    return difference(
        found,
        random_trials.loss(method, semantics, given, each(outputs, change)),
        lambda gradient: gradient.roll(2, 2),
    )


def order(method, semantics, given):
    """Sequences may stand in any order, the same in every batch"""
    outputs, found = _setting(method, semantics, given)
    turned = each(outputs, lambda tensor, one: tensor.flip(0))
    return difference(
        found,
        random_trials.loss(method, semantics, given, turned),
        lambda gradient: gradient.flip(0),
    )


def padding_side(method, semantics, given):
    """Padding may stand on either side"""
    outputs, found = _setting(method, semantics, given)

    def change(tensor, one):
        pads = (one.attention_mask == 0).sum(1).tolist()
        return torch.stack([row.roll(n, 0) for row, n in zip(tensor, pads, strict=True)])

    moved = random_trials.loss(method, semantics, given, each(outputs, change))
    back = {name: change(gradient, outputs[name]) for name, gradient in found.gradients.items()}
    return difference(random_trials.Result(found.loss, found.terms, back), moved)


def micro_batches(method, semantics, given):
    """A batch's loss is the sum over its records, each divided by the counts of the whole"""
    outputs, found = _setting(method, semantics, given)
    chosen, options = (
        methods.variant(method, semantics),
        methods.make_options(method, given, semantics),
    )
    n = min(len(one.labels) for one in outputs.values())
    outputs = each(outputs, lambda tensor, one: tensor[:n])
    if chosen.prepare_options is not None:
        options = chosen.prepare_options(options, n)
    whole = chosen.loss({name: one.batch_rows() for name, one in outputs.items()}, options)
    total = 0.0
    for s in range(n):
        batches = {
            name: part.batch_rows(
                n, {row_set: outputs[name].batch_rows().n_rows[row_set] for row_set in ROW_SETS}
            )
            for name, part in each(outputs, lambda tensor, one: tensor[s : s + 1]).items()
        }
        total += float(chosen.loss(batches, options).value)
    return abs(total - float(whole.value)) / found.scale


def unread(method, semantics, given):
    """What stands at rows that the meaning does not read changes neither loss nor gradient, and gets no gradient: NaN there"""
    outputs, found = _setting(method, semantics, given)
    needs = methods.variant(method, semantics).needs_of(
        methods.make_options(method, given, semantics)
    )
    if all("all" in need.rows for need in needs.values()):
        return None
    spoilt, errors = {}, []
    for name, one in outputs.items():
        read = torch.zeros_like(one.labels, dtype=torch.bool)
        for row_set in needs[name].rows:
            rows = select_rows(one.labels, one.attention_mask, row_set)
            read[rows.sequence, rows.position] = True
        spoilt[name] = replace(
            one,
            **{
                f.name: getattr(one, f.name).masked_fill(~read[..., None], torch.nan)
                for f in fields(Outputs)
                if getattr(one, f.name) is not None and f.name not in ("labels", "attention_mask")
            },
        )
        errors.append(float(found.gradients[name][~read].abs().sum()))
    return larger(*errors, difference(found, random_trials.loss(method, semantics, given, spoilt)))


def teacher_constant(method, semantics, given):
    """No gradient reaches the teacher"""
    outputs, _ = _setting(method, semantics, given)
    leaves = [getattr(one, f"teacher_{random_trials.field(one)}") for one in outputs.values()]
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    students = [getattr(one, random_trials.field(one)).requires_grad_() for one in outputs.values()]
    if not leaves:
        return None
    slopes = torch.autograd.grad(
        methods.method_loss(method, outputs, semantics, **given).value,
        leaves + students,
        allow_unused=True,
    )
    return larger(
        0.0, *(float(slope.abs().max()) for slope in slopes[: len(leaves)] if slope is not None)
    )


def weights(method, semantics, given):
    """The loss is linear in each weight among the options: L(w) - 2 L(2w) + L(3w) = 0, in value and gradient"""
    options = methods.make_options(method, given, semantics)
    errors = []
    for f in fields(options):
        if f.type is float and (method, f.name) not in CURVED:
            start = getattr(options, f.name) or 1.0
            outputs = random_trials.batches(
                method,
                semantics,
                given | {f.name: start},
                random_trials.shape_for(method, semantics),
            )
            one, two, three = (
                random_trials.loss(method, semantics, given | {f.name: n * start}, outputs)
                for n in (1, 2, 3)
            )
            middle = {
                name: 2 * two.gradients[name] - three.gradients[name] for name in two.gradients
            }
            errors.append(
                difference(
                    random_trials.Result(2 * two.loss - three.loss, three.terms, middle), one
                )
            )
    return larger(*errors) if errors else None


LAWS = (
    shift,
    sums_to_zero,
    renamed_vocabulary,
    order,
    padding_side,
    micro_batches,
    unread,
    teacher_constant,
    weights,
)
