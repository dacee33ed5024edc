"""KL minimisation: ascend on the forget answers while the retain predictions stay where they were.

paper      L = -mean_t nll_forget + mean_s mean_t KL(student || teacher)_retain        [App. B.4]
released   L = -mean_t nll_forget + mean_rows KL(teacher || student)_retain            [mm/trainer.py:259-277]
original   as released                                                                 [TOFU, dataloader.py:113-132]

needs      forget; retain with teacher (the model before unlearning)
positions  mean_t: answer tokens, divided by their number (token mean). mean_s mean_t: mean over the answer rows of each
           sequence, then over sequences. mean_rows: all B x T rows, padding, image and prompt included, divided by B x T
resolved   R1 the sum of App. B.4 is printed over D_F; the sentence before it says retain set: retain.
           R2 the direction is the printed one: the student's distribution comes first.
           R3 the printed sum runs over i = 2..|s| of the whole sequence; here over the answer rows.
deviations D1 the KL direction is the other one.
           D2 the KL is averaged over every row of the batch: padding, image and prompt included; 2-5 % are answers.
           D3 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D4 each batch of batch_size records is a mean of its own, and a step the mean of its batches.
           D5 the teacher is loaded only if the name is spelled "KL"; "kl" crashes. Here it is always there.
at teacher the KL is 0 and so is its gradient, in either direction: the first step is grad_ascent's
evidence   by hand, finite differences; released: authors' code; original: TOFU's code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import sequence_mean, token_mean

from .loss import Loss
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    """KL minimisation has no options."""


def paper(batches, options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        retain_kl=sequence_mean(batches["retain"], "kl_student_teacher"),
    )


def released(batches, options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        retain_kl=token_mean(batches["retain"], "kl_teacher_student", "all"),
    )


ALL_ROWS = {"forget": Need(), "retain": Need(rows=("all",), teacher=True)}
VARIANTS = {
    "paper": Variant(paper, {"forget": Need(), "retain": Need(teacher=True)}, Options),
    "released": Variant.released(released, ALL_ROWS, Options),
    "original": Variant(released, ALL_ROWS, Options, by_batch=True),
}
