"""Known mistakes, as data that runs: each computes the wrong loss, or the wrong gradient, from the same inputs.

A mistake is a change to the batches, or a Sheet with one rule broken, so it exists for every meaning with that rule. Where it
changes nothing (a KL swapped in a method without one) it is no mistake there, and `wrong` gives the right answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clear_ref.methods import SEMANTICS
from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import Answer, Sheet

from . import broken_rules

EVERY = tuple(formulas.FORMULAS)
LOGITS = tuple(method for method in EVERY if method != "rmu")
WITH_KL = (
    "grad_diff",
    "kl",
    "npo",
    "scrub",
    "llmu",
    "sku",
)  # grad_diff and npo: where an option asks for it
TEACHER = (*WITH_KL, "dpo", "rmu")
IDS = ("input_ids", "kinds")


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    what      it, in one sentence; seen: where it was made
    methods   those in which the vectors must catch it
    compute   (method, semantics, options, batches) -> the wrong Answer
    reads     arrays of a batch that it needs besides those of the loss
    meanings  those in which it is a mistake, and not the meaning itself
    """

    name: str
    what: str
    seen: str
    methods: tuple[str, ...]
    compute: Callable
    reads: tuple[str, ...] = ()
    meanings: tuple[str, ...] = SEMANTICS


def wrong(mistake, method, semantics, options, batches) -> Answer | None:
    """The Answer of a method with the mistake in it; None where it is none in this meaning, or an array that it reads lacks."""
    lacking = [
        name for name in mistake.reads if any(name not in batch for batch in batches.values())
    ]
    if lacking or method not in mistake.methods or semantics not in mistake.meanings:
        return None
    with np.errstate(all="ignore"):
        return mistake.compute(method, semantics, options, batches)


def table(entries) -> str:
    """README's table of the mistakes, from the `invalid` entries of golden vectors; caught: rejected in each of its methods."""
    lines, caught = [], 0
    for mistake in MISTAKES:
        found = [entry for entry in entries if entry["mistake"] == mistake.name]
        caught += {entry["method"] for entry in found} >= set(mistake.methods)
        by_gradient = sum(bool(entry["gradients"]) for entry in found)
        methods = {EVERY: "all", LOGITS: "all but rmu"}.get(
            mistake.methods, ", ".join(mistake.methods)
        )
        cells = (
            f"`{mistake.name}`",
            mistake.what.replace("|", "\\|"),
            mistake.seen,
            methods,
            str(len(found) - by_gradient),
            str(by_gradient),
        )
        lines.append("| " + " | ".join(cells) + " |")
    head = [
        "| mistake | what it is | seen | methods | losses | gradients |",
        "|---|---|---|---|---|---|",
    ]
    return (
        "\n".join([f"{len(MISTAKES)} known mistakes, {caught} caught.", "", *head, *lines]) + "\n"
    )


def by_sheet(sheet) -> Callable:
    """The computation of a mistake that changes a rule."""
    return lambda method, semantics, options, batches: formulas.answer(
        method, semantics, options, batches, sheet
    )


def by_batches(change) -> Callable:
    """The computation of a mistake that changes the batches: change(batches) -> batches."""
    return lambda method, semantics, options, batches: formulas.answer(
        method, semantics, options, change(batches)
    )


def _student_for_teacher(batches):
    return {
        name: {
            **batch,
            **{
                f"teacher_{tensor}": batch[tensor]
                for tensor in ("logits", "hidden")
                if tensor in batch
            },
        }
        for name, batch in batches.items()
    }


def _last_line(method, semantics, options, batches):
    sheet = Sheet(batches)
    return sheet.answer(formulas.dpo_released(sheet, options))


def _micro_batches(method, semantics, options, batches):
    def part(chosen):
        cut = {
            name: {
                key: array if key == "control" else array[chosen] for key, array in batch.items()
            }
            for name, batch in batches.items()
        }
        return formulas.answer(method, semantics, options, cut)

    if any(len(batch["labels"]) == 1 for batch in batches.values()):  # nothing to divide
        return formulas.answer(method, semantics, options, batches)
    first, last = part(slice(0, -1)), part(slice(-1, None))
    gradients = {
        name: np.concatenate([first.gradients[name], last.gradients[name]]) / 2 for name in batches
    }
    terms = {name: (first.terms[name] + last.terms[name]) / 2 for name in first.terms}
    return Answer((first.loss + last.loss) / 2, terms, gradients, first.scale, first.weight)


MISTAKES = tuple(
    Mistake(*row)
    for row in (
        (
            "padding_counted",
            "Rows that predict padding are counted, with the padding id for a label (rmu: padded positions).",
            "released code, mm/trainer.py:302-326 and every KL",
            EVERY,
            by_sheet(broken_rules.Padding),
            IDS,
        ),
        (
            "prompt_counted",
            "Prompt tokens are supervised like the answer's.",
            "released label mask, mm/dataset.py:315-339",
            LOGITS,
            by_sheet(broken_rules.Prompt),
            IDS,
        ),
        (
            "image_tokens_counted",
            "Image placeholders are supervised like the answer's tokens.",
            "released label mask with expanded images, mm/dataset.py:315-339",
            LOGITS,
            by_sheet(broken_rules.Images),
            IDS,
        ),
        (
            "shift_off_by_one",
            "The logits at t are scored against the token at t instead of t + 1.",
            "frameworks that shift inside, called by code that shifts too, or neither",
            LOGITS,
            by_sheet(broken_rules.Unshifted),
        ),
        (
            "bos_off_by_one",
            "The prompt is counted with one token (a second BOS) too many: each answer's first token is lost.",
            "prompt and answer tokenised apart, each with its BOS",
            LOGITS,
            by_sheet(broken_rules.FirstTokenLost),
        ),
        (
            "kl_swapped",
            "KL(student || teacher) for KL(teacher || student), or the reverse.",
            "released SCRUB and LLMU, mm/trainer.py:231-300",
            WITH_KL,
            by_sheet(broken_rules.SwappedKl),
        ),
        (
            "kl_is_cross_entropy",
            "The first distribution's entropy is left out: a cross-entropy is reported as a KL.",
            "llm_unlearn, utils.py:173-205",
            WITH_KL,
            by_sheet(broken_rules.KlWithoutEntropy),
        ),
        (
            "sum_for_mean",
            "Nothing is divided: sums over rows and sequences.",
            "released entropy term, mm/trainer.py:187-211; reduction='sum'",
            EVERY,
            by_sheet(broken_rules.Sums),
        ),
        (
            "batchmean_over_batch",
            "A KL is summed over the rows and divided by the number of sequences.",
            "kl_div(reduction='batchmean') on [B, T, V]",
            WITH_KL,
            by_sheet(broken_rules.BatchMean),
        ),
        (
            "mean_inside_nonlinearity",
            "The mean is taken before the softplus (rmu: before the square) instead of after it.",
            "released RMU, mm/trainer.py:302-326",
            ("dpo", "npo", "rmu"),
            by_sheet(broken_rules.MeanInside),
        ),
        (
            "logits_for_logp",
            "Logits are used where log-probabilities belong.",
            "kl_div and nll_loss called on raw logits",
            LOGITS,
            by_sheet(broken_rules.RawLogits),
        ),
        (
            "vocabulary_wise_ratio",
            "The ratio of probabilities is taken entry by entry over the vocabulary; the answer is not read.",
            "released NPO, mm/trainer.py:343-353",
            ("npo",),
            by_sheet(broken_rules.VocabularyRatio),
            (),
            ("paper", "original"),
        ),
        (
            "reference_not_detached",
            "The gradient also flows through the teacher, which moves with the student.",
            "one model called twice without no_grad",
            TEACHER,
            by_sheet(broken_rules.Attached),
        ),
        (
            "reference_is_wrong_model",
            "The teacher is the student itself.",
            "adapters left on while the teacher runs; a reference that is not a copy",
            TEACHER,
            by_batches(_student_for_teacher),
        ),
        (
            "idk_is_forget",
            "The idk batch holds the true forget answers.",
            "released code since 2025-03-30, mm/dataset.py:262-266",
            ("idk", "dpo", "llmu"),
            by_batches(
                lambda batches: {
                    **batches,
                    "idk": batches["forget"] if "forget" in batches else batches["idk"],
                }
            ),
        ),
        (
            "last_debug_line_wins",
            "The loss is overwritten by a later line: the idk answers' summed nll is all that is left.",
            "released DPO, mm/trainer.py:393-396",
            ("dpo",),
            _last_line,
            (),
            ("paper", "original"),
        ),
        (
            "broadcast_pairs",
            "[B] meets [B, 1]: every sequence is compared with every other's teacher.",
            "released RMU, mm/trainer.py:302-326",
            ("dpo", "npo", "rmu"),
            by_sheet(broken_rules.Pairs),
            (),
            ("paper", "original"),
        ),
        (
            "entropy_sign",
            "sum p log p is taken for the entropy: it is minimised instead of maximised, or the reverse.",
            "released grad_diff, mm/trainer.py:187-211",
            ("grad_diff",),
            by_sheet(broken_rules.WrongEntropySign),
        ),
        (
            "mean_of_means",
            "Micro-batches of unequal size are averaged as if they were equal.",
            "gradient accumulation as transformers 4.45.1 does it",
            EVERY,
            _micro_batches,
            (),
            ("paper",),
        ),
        (
            "bf16_logp",
            "Log-probabilities are rounded to bfloat16 before they are used.",
            "losses computed in the model's dtype",
            LOGITS,
            by_sheet(broken_rules.Bf16),
        ),
        (
            "uniform_upstream",
            "A backward that gives every row the same upstream gradient.",
            "fused cross-entropies that scale by one number",
            ("kl", "dpo", "npo", "scrub", "llmu", "sku"),
            by_sheet(broken_rules.Uniform),
        ),
        (
            "ignore_index_used",
            "Ignored labels are clamped to id 0 and counted.",
            "gather with labels.clamp(min=0) and no mask",
            LOGITS,
            by_sheet(broken_rules.IgnoredCounted),
        ),
    )
)
