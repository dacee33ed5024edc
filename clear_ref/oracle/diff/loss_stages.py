"""The stages of a dump from the logits on, token terms, named terms, loss and gradient, and the mistakes that explain them."""

import numpy as np
import torch

from clear_ref.data.batches import IGNORE
from clear_ref.losses.terms import token_terms
from clear_ref.methods import table
from clear_ref.oracle.mistakes import broken_rules
from clear_ref.oracle.mistakes.known import MISTAKES, wrong
from clear_ref.oracle.reference import cases, formulas
from clear_ref.oracle.reference.arithmetic import KINDS, Row

from . import dump_file
from .comparison import tolerance

BY_COLUMN = {
    "shift_off_by_one": broken_rules.Unshifted,
    "kl_swapped": broken_rules.SwappedKl,
    "kl_is_cross_entropy": broken_rules.KlWithoutEntropy,
    "logits_for_logp": broken_rules.RawLogits,
    "entropy_sign": broken_rules.WrongEntropySign,
    "bf16_logp": broken_rules.Bf16,
}


def compare_columns(c, name: str) -> None:
    """The dump's token terms against those of its logits: nll at answer rows, others also at real rows where not 0."""
    batch, mask = c.given.batches[name], c.mask(name)
    if "logits" not in batch:
        return c.skip(name, dump_file.COLUMNS, "needs logits")
    following, largest = next_labels(batch, mask), float(batch["logits"].double().abs().max())
    student, teacher = (
        batch[key].double().flatten(0, 1) if key in batch else None
        for key in ("logits", "teacher_logits")
    )
    terms = token_terms(student, following.flatten(), teacher)
    for column in dump_file.COLUMNS:
        ours = getattr(terms, column)
        if column in batch and (ours is None or column.endswith("nll") and "labels" not in batch):
            c.skip(name, (column,), "needs teacher_logits" if ours is None else "needs labels")
        elif column in batch:
            theirs = batch[column]
            n = theirs.shape[1]
            places = (
                (following != IGNORE)[:, :n]
                if column.endswith("nll")
                else mask[:, :n] & ((following != IGNORE)[:, :n] | (theirs != 0))
            )
            c.put(column, name, theirs, ours.view(mask.shape)[:, :n], places, max(1.0, largest))


def next_labels(batch, mask):
    """[B, T]: the label that each row predicts, or IGNORE."""
    following = torch.full(mask.shape, IGNORE)
    if "labels" in batch:
        following[:, :-1] = batch["labels"][:, 1:]
    return following


def compare_loss(c) -> None:
    """Terms, loss and gradient against the numpy reference, on the dump's logits or hidden states."""
    given = c.given
    wanted = [
        stage
        for stage, there in (
            ("terms", given.terms),
            ("loss", given.loss is not None),
            ("gradient", any("gradient" in one for one in given.batches.values())),
        )
        if there
    ]
    if not wanted:
        return
    lacking = lacks(given)
    if lacking:
        c.skipped.append(f"{', '.join(wanted)} ({lacking})")
        return
    arrays = as_arrays(c)
    found = formulas.answer(given.method, given.semantics, vars(given.options), arrays)
    c.answer, c.arrays = found, arrays
    c.size = found.scale + largest(arrays) * found.weight
    one, everywhere = (
        torch.ones(1, dtype=torch.bool),
        lambda tensor: torch.ones(tensor.shape[:2], dtype=torch.bool),
    )
    for name, term in given.terms.items():
        if name in found.terms:
            c.put(
                "terms",
                name,
                term.reshape(1),
                torch.tensor([found.terms[name]], dtype=torch.float64),
                one,
                c.size,
            )
        else:
            c.skipped.append(
                f"term {name} ({given.method} ({given.semantics}) has {', '.join(found.terms)})"
            )
    if given.loss is not None:
        c.put(
            "loss",
            "",
            given.loss.reshape(1),
            torch.tensor([found.loss], dtype=torch.float64),
            one,
            c.size,
        )
    for name, batch in given.batches.items():
        if "gradient" in batch:
            ours = torch.from_numpy(found.gradients[name])
            c.put(
                "gradient",
                name,
                batch["gradient"],
                ours,
                everywhere(ours),
                gradient_size(arrays, found),
            )


def lacks(given) -> str:
    """What keeps the loss from being computed, or nothing."""
    if not given.method:
        return "needs a method: --method, or in the metadata"
    for name, need in table.needs(given.method, given.semantics, given.options).items():
        student = "layer_hidden" if need.hidden else "logits"
        for key in ("labels", student, *([f"teacher_{student}"] if need.teacher else [])):
            if key not in given.batches.get(name, {}):
                return f"needs {name}/{key}"
    return ""


def as_arrays(c) -> dict:
    """The dump's batches as oracle/sheet.py has them, in float64."""
    found = {}
    for name, need in table.needs(c.given.method, c.given.semantics, c.given.options).items():
        batch, mask = c.given.batches[name], c.mask(name)
        image = None if c.vlm is None else c.vlm.model.image_token_id
        kinds = np.full(mask.shape, KINDS.index("prompt"))
        if image is not None and "input_ids" in batch:
            kinds[(batch["input_ids"] == image).numpy()] = KINDS.index("image")
        kinds[(batch["labels"] != IGNORE).numpy()] = KINDS.index("answer")
        kinds[~mask.numpy()] = KINDS.index("padding")
        found[name] = {
            "labels": batch["labels"].numpy(),
            "attention_mask": mask.long().numpy(),
            "kinds": kinds,
        }
        if "input_ids" in batch:
            found[name]["input_ids"] = batch["input_ids"].numpy()
        for theirs, ours in (
            (("layer_hidden", "hidden"),) if need.hidden else (("logits", "logits"),)
        ):
            for whose in ("", "teacher_"):
                if whose + theirs in batch:
                    found[name][whose + ours] = batch[whose + theirs].double().numpy()
    if c.given.method == "rmu":
        B, _, D = found["forget"]["hidden"].shape
        found["forget"]["control"] = cases.control(c.given.semantics, c.given.options, B, D)
    return found


def largest(arrays) -> float:
    """The largest logit or hidden state."""
    return max(
        float(np.abs(array).max())
        for batch in arrays.values()
        for key, array in batch.items()
        if key.endswith(("logits", "hidden"))
    )


def gradient_size(arrays, answer) -> float:
    """What is rounded in a gradient: its entries, and each row's weight at the size of the largest logit."""
    return (
        max(float(np.abs(array).max()) for array in answer.gradients.values())
        + largest(arrays) * answer.weight
    )


def explain(c, first) -> list[str]:
    """The names of the known mistakes that give what the dump holds at the first stage that differs."""
    if first.stage in dump_file.COLUMNS:
        return columns_explained(c, first)
    if first.stage in ("terms", "loss", "gradient"):
        return [mistake.name for mistake in MISTAKES if loss_explained(c, mistake)]
    return sorted(c.hints.get((first.stage, first.batch), ()))


def columns_explained(c, first) -> list[str]:
    """Mistakes in a column: those whose numbers the dump has at every answer row (or real row, without labels)."""
    batch, mask, names = c.given.batches[first.batch], c.mask(first.batch), []
    theirs, following = batch[first.stage].double(), next_labels(batch, mask)
    arrays = {
        key: batch[key].double().numpy() for key in ("logits", "teacher_logits") if key in batch
    }
    arrays |= {
        "labels": batch.get("labels", following).numpy(),
        "attention_mask": mask.long().numpy(),
    }
    room, _ = tolerance(
        batch[first.stage].dtype, max(1.0, float(np.abs(arrays["logits"]).max())), True
    )
    places = (
        (following != IGNORE if "labels" in batch else mask)[:, : theirs.shape[1]]
        .nonzero()
        .tolist()
    )
    for name, kind in BY_COLUMN.items():
        sheet = kind({first.batch: arrays})
        label = lambda b, t: (
            int(batch["labels"][b, t]) if name == "shift_off_by_one" else int(following[b, t])
        )  # noqa: E731
        rows = [
            Row(first.batch, b, t, label(b, t) if "labels" in batch else IGNORE) for b, t in places
        ]
        with np.errstate(all="ignore"):
            if rows and all(
                abs(sheet.cell(row, first.stage)[0] - float(theirs[row.b, row.t])) <= room
                for row in rows
            ):
                names.append(name)
    return names


def loss_explained(c, mistake) -> bool:
    """Whether a loss with this mistake in it has the dump's loss, terms and gradient, as far as they are there."""
    given = c.given
    try:
        found = wrong(mistake, given.method, given.semantics, vars(given.options), c.arrays)
    except (KeyError, IndexError, ValueError):  # it reads what this dump does not hold
        return False
    if found is None:
        return False
    size, slope = (
        c.size + found.scale,
        gradient_size(c.arrays, c.answer) + gradient_size(c.arrays, found),
    )
    if not np.isfinite([size, slope]).all():  # everything is near to within infinity
        return False
    near = lambda theirs, ours: abs(float(theirs) - ours) <= tolerance(theirs.dtype, size, True)[0]  # noqa: E731
    checks = [
        near(term, found.terms[name]) for name, term in given.terms.items() if name in found.terms
    ]
    checks += [] if given.loss is None else [near(given.loss, found.loss)]
    for name, batch in given.batches.items():
        if "gradient" in batch:
            away = np.abs(batch["gradient"].double().numpy() - found.gradients[name]).max()
            checks.append(bool(away <= tolerance(batch["gradient"].dtype, slope, True)[0]))
    return bool(checks) and all(checks)
