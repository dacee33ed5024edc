"""IDK: answer the forget questions with "I don't know", and keep training on the retain set.

paper      L = mean_t nll_retain + mean_t nll_idk                               [Sec. 3.2, App. B.5]
released   the same formula; the idk batch holds the true forget answers
                                                            [CLEAR mm/trainer.py:355-358 at bb14c96]
released@2024-12-10  the same formula; the idk batch holds refusals
                                                            [CLEAR mm/trainer.py:364-367 at dcc7070]
released@2024-10-23  the same formula; the idk batch holds refusals for texts,
           the true captions for pictures
                                                            [CLEAR mm/trainer.py:364-367 at 3e33dae]
released@nlp  as original                               [CLEAR nlp/dataloader.py:403-410 at bb14c96]
original   L = (sum_t nll_idk + sum_t nll_retain) / (n_idk + n_retain tokens)
                                                             [TOFU dataloader.py:134-145 at bdc209e]

needs      retain; idk (the forget questions with refusals as answers); no teacher
positions  answer tokens; mean_t: each batch divided by its own number of them (token mean).
           original, released@nlp: one divisor, the number of answer tokens of both batches.
           Label mask: answer; under released: released (D3) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 the idk batch really refuses.
           R2 the paper averages over samples, all code over tokens: token mean, one per batch.
              (With the single mean of the original the short refusals weigh less.)
deviations D1 since 2025-03-30 the idk batch holds the true forget answers: the row is copied, the
              refusal is written into the copy, and the uncopied row is used (CLEAR
              mm/dataset.py:262-266 at bb14c96). So the forget set is trained on. Before 2024-12-10
              this was so for picture rows only; between the two dates the batch was right.
           D2 each refusal but the last of the file keeps its line end, "\\n" (CLEAR
              mm/dataset.py:223,263 at bb14c96).
           D3 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D4 each batch of batch_size records has its own mean; a step takes the mean of these.
           D5 the caption question of a picture is drawn twice, for its forget and for its idk
              record (CLEAR mm/dataset.py:245 at bb14c96).
           D6 released@nlp has D4 alone: it strips each refusal (nlp/data_module.py:90), labels
              answers alone, and reads no picture. Its single mean is TOFU's, not that of App. B.5.
at teacher nothing special
evidence   by hand, finite differences; released: authors' code; original: TOFU's code
"""

from dataclasses import dataclass

from clear_ref.losses.reductions import token_mean

from .loss import Loss
from .variant import Batches, Need, Variant


@dataclass(frozen=True)
class Options:
    """IDK has no options."""


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(
        retain_nll=token_mean(batches["retain"], "nll"),
        idk_nll=token_mean(batches["idk"], "nll"),
    )


def original(batches: Batches, options: Options) -> Loss:
    n_retain = batches["retain"].n_rows["answer"]
    n_idk = batches["idk"].n_rows["answer"]
    n_both = max(n_retain + n_idk, 1)
    return Loss.of(
        retain_nll=n_retain / n_both * token_mean(batches["retain"], "nll"),
        idk_nll=n_idk / n_both * token_mean(batches["idk"], "nll"),
    )


NEEDS = {"retain": Need(), "idk": Need()}
VARIANTS = {
    "paper": Variant(paper, NEEDS, Options),
    **Variant.released_by_date(paper, NEEDS, Options),
    **Variant.released_nlp(original, NEEDS, Options),
    "original": Variant(original, NEEDS, Options, by_batch=True),
}
