"""IDK: answer the forget questions with "I don't know", and keep training on the retain set.

paper      L = mean_t nll_retain + mean_t nll_idk                                      [Sec. 3.2, App. B.5]
released   the same formula; the idk batch holds the true forget answers               [mm/trainer.py:355-358]
released@2024-12-10  the same formula; the idk batch holds refusals                    [the same at dcc7070]
released@2024-10-23  the same formula; the idk batch holds refusals for texts, the true captions for pictures
                                                                                       [the same at 3e33dae]
original   L = (sum_t nll_idk + sum_t nll_retain) / (n_idk + n_retain tokens)          [TOFU, dataloader.py:134-145]

needs      retain; idk (the forget questions with refusals as answers); no teacher
positions  answer tokens; mean_t: each batch divided by the number of its own (token mean). original: one divisor, the answer
           tokens of both batches
resolved   R1 the idk batch really refuses.
           R2 samples are averaged in print, tokens in all code: token mean, one per batch. (The original's single mean
              gives the short refusals less weight.)
deviations D1 the idk batch holds the true forget answers since 2025-03-30: the row is copied, refusals are written into
              the copy, the original is used (mm/dataset.py:262-266). So the forget set is trained on. Before
              2024-12-10 this held for image rows only; between the two dates the batch was right.
           D2 refusals keep their line end, "\\n", but the file's last (mm/dataset.py:223,263).
           D3 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
           D4 each batch of batch_size records is a mean of its own, and a step the mean of its batches.
           D5 a picture's forget and idk view draw a caption question each (mm/dataset.py:245).
at teacher nothing special
evidence   by hand, finite differences; released: authors' code; original: TOFU's code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .variant import Need, Variant


@dataclass(frozen=True)
class Options:
    """IDK has no options."""


def paper(batches, options) -> Loss:
    return Loss.of(
        retain_nll=token_mean(batches["retain"], "nll"), idk_nll=token_mean(batches["idk"], "nll")
    )


def original(batches, options) -> Loss:
    n = {name: batch.n_rows["answer"] for name, batch in batches.items()}
    share = {name: n[name] / max(sum(n.values()), 1) for name in n}
    return Loss.of(
        retain_nll=share["retain"] * token_mean(batches["retain"], "nll"),
        idk_nll=share["idk"] * token_mean(batches["idk"], "nll"),
    )


NEEDS = {"retain": Need(), "idk": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options),
    **Variant.released_by_date(paper, NEEDS, Options),
    "original": Variant(original, NEEDS, Options, by_batch=True),
}
