"""IDK: answer the forget questions with "I don't know", and keep training on the retain set.

paper      L = mean_t nll_retain + mean_t nll_idk                                      Sec. 3.2, App. B.5
released   the same formula on another idk batch (D1)                                  mm/trainer.py:355-358
original   L = (sum_t nll_idk + sum_t nll_retain) / (n_idk + n_retain tokens)          TOFU, dataloader.py:134-145

needs      retain; idk (the forget questions with refusals as answers); no teacher
positions  answer tokens; each batch divided by the number of its own answer tokens in the whole step (token mean)
resolved   R1 the idk batch really refuses.
           R2 samples are averaged in print, tokens in all code: token mean, one per batch. (The original's single mean
              gives the short refusals less weight.)
deviations D1 the idk batch holds the true forget answers since 2025-03-30: the row is copied, refusals are written into
              the copy, the original is used (mm/dataset.py:262-266). So the forget set is trained on. Before
              2024-12-10 this held for image rows only; between the two dates the batch was right.
           D2 refusals keep their line end, "\\n" (mm/dataset.py:223,263).
           D3 labels may cover image and prompt tokens besides the answer, by processor version (mm/dataset.py:315-339).
at teacher nothing special
"""

from dataclasses import dataclass

from ..losses.reductions import token_mean
from .loss import Loss, Need, Variant


@dataclass(frozen=True)
class Options:
    """IDK has no options."""


def paper(splits, options) -> Loss:
    return Loss.of(retain_nll=token_mean(splits["retain"], "nll"), idk_nll=token_mean(splits["idk"], "nll"))


VARIANTS = {"paper": Variant(loss=paper, needs={"retain": Need(), "idk": Need()})}
