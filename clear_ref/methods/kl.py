"""KL minimisation: ascend on the forget answers, keep the predictions on the retain set.

paper      L = -mean_t nll_forget + mean_s mean_t KL(student || teacher)_retain           [App. B.4]
released   L = -mean_t nll_forget + mean_rows KL(teacher || student)_retain
                                                            [CLEAR mm/trainer.py:259-277 at bb14c96]
original   as released                                       [TOFU dataloader.py:113-132 at bdc209e]

needs      forget; retain with teacher. The teacher is the model before unlearning: adapters off, or
           without adapters a frozen copy (loop/teacher.py:Teacher)
positions  mean_t: answer tokens, divided by their number (token mean). mean_s mean_t: mean over the
           answer rows of each sequence, then over sequences. mean_rows: all B x T rows, padding,
           image and prompt included, divided by B x T.
           Label mask: answer; under released: released (D3) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 App. B.4 prints the sum over D_F; the sentence before it says retain set: retain.
           R2 the direction is the printed one: the student's distribution is the first.
           R3 the printed sum is over i = 2..|s| of the whole sequence; here over the answer rows.
deviations D1 the KL has the other direction.
           D2 the KL is averaged over every row of the batch: padding, image and prompt included;
              only 2-5 % of the rows are answer rows.
           D3 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D4 each batch of batch_size records has its own mean; a step takes the mean of these.
           D5 the teacher is loaded only if the name of the loss is spelled "KL"; "kl" crashes. Here
              the teacher is always loaded.
at teacher the KL is 0 and so is its gradient, in either direction: the first step is that of
           grad_ascent
evidence   by hand, finite differences; released: authors' code; original: TOFU's code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import sequence_mean, token_mean

from .loss import Loss
from .variant import Batches, Need, Variant


@dataclass(frozen=True)
class Options:
    """KL minimisation has no options."""


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        retain_kl=sequence_mean(batches["retain"], "kl_student_teacher"),
    )


def released(batches: Batches, options: Options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        retain_kl=token_mean(batches["retain"], "kl_teacher_student", "all"),
    )


ANSWER_ROWS = {"forget": Need(), "retain": Need(teacher=True)}
ALL_ROWS = {"forget": Need(), "retain": Need(rows=("all",), teacher=True)}
VARIANTS = {
    "paper": Variant(paper, ANSWER_ROWS, Options),
    "released": Variant.released(released, ALL_ROWS, Options),
    "original": Variant(released, ALL_ROWS, Options, by_batch=True),
}
