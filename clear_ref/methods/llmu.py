"""LLMU: ascend on the forget answers, learn refusals instead, keep the retain predictions.

paper      L = -mean_t nll_forget + mean_s mean_t nll_idk
             + mean_s mean_t KL(student || teacher)_retain                                [App. B.9]
released   L = -mean_t nll_forget + mean_t nll_idk + mean_rows KL(student || teacher)_retain;
           the idk batch holds the true forget answers      [CLEAR mm/trainer.py:279-300 at bb14c96]
released@2024-12-10  the same formula; the idk batch holds refusals
                                                            [CLEAR mm/trainer.py:278-299 at dcc7070]
released@2024-10-23  the same formula; the idk batch holds refusals for texts,
           the true captions for pictures                   [CLEAR mm/trainer.py:278-299 at 3e33dae]
released@nlp  L = -mean_t nll_idk + mean_t nll_retain
             + mean_rows KL(student || teacher)_forget  [CLEAR nlp/dataloader.py:303-338 at bb14c96]
original   L = -w_forget mean_s mean_t nll_forget + w_random (1/K) sum_k mean_s mean_t nll_random_k
               + w_retain mean_rows H(teacher, student)_retain,  weights 0.5, 1, 1, K = 5
                                                    [llm_unlearn unlearn_harm.py:101-124 at 647f309]
           random_k: unrelated answers to the forget question
                                                           [llm_unlearn utils.py:173-312 at 647f309]
           H = -sum q log p has the gradient of KL(teacher || student)

needs      forget; idk (the forget questions with refusals as answers), original: random1 .. randomK
           (with answers of the retain set); retain with teacher (released@nlp: forget). The
           teacher is the model before unlearning: adapters off, or a frozen copy
           (loop/teacher.py:Teacher)
positions  answer tokens. mean_t: divided by their number (token mean). mean_s mean_t: mean over the
           answer rows of each sequence, then over sequences. mean_rows: all B x T rows, padding,
           image and prompt included, divided by B x T.
           Label mask: answer; under released: released (D4) for Qwen2-VL and 2.5, answer for LLaVA
           (loop/unlearn.py:label_mask)
resolved   R1 App. B.9 prints KL(student || teacher) and calls it forward; Sec. 3.2 prints the other
              direction. The formula of B.9 is the default, kl = teacher_student is the other.
           R2 the paper sums the KL over D_R: the mean over sequences. R3 1/|y_r| is inside its sum
              over all idk answers: each is divided by its own length. R4 all three weights are 1.
           R5 original: the sum over m tokens is divided by m; its code counts the last token's row
              too. It supervises the random prompts but for 2 tokens, by mistake; here only answers.
deviations D1 since 2025-03-30 the idk batch holds the true forget answers: the refusal is written
              into a copy of the row, and the uncopied row is used (CLEAR mm/dataset.py:262-266 at
              bb14c96). On text rows the first two terms then cancel exactly, and the KL starts
              with a zero gradient. Before 2024-12-10 this was so for pictures only. A caption
              question is drawn anew (245), refusals keep their line end (mm/dataset.py:223,263).
           D2 the idk nll is a token mean.
           D3 the KL is averaged over every row of the batch: padding, image and prompt included.
           D4 the labels may cover image and prompt tokens besides the answer; this depends on the
              version of the processor (CLEAR mm/dataset.py:315-339 at bb14c96).
           D5 each batch of batch_size records has its own mean; a step takes the mean of these.
           D6 released@nlp, without D1 and D4: the data set yields idk, forget, retain, the trainer
              unpacks forget, retain, idk (nlp/data_module.py:115, nlp/dataloader.py:145).
at teacher the KL is 0 and so is its gradient, in either direction, and the gradient of H: the first
           step is that of the nll terms
evidence   by hand, finite differences; released: authors' code; original: LLMU's code, the retain
           term to 1e-9 (it adds 1e-12 in its log), the two answer terms on equal lengths m, times
           (m + 1) / m. On other lengths these are divisor_m_plus_1 (oracle/mistakes)
"""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.losses.reductions import sequence_mean, token_mean

from .batch_contents import BatchContents, RandomAnswer
from .loss import Loss, total
from .option_checks import check_at_least, check_finite, check_one_of
from .variant import Batches, Need, Variant, random_batches

HARM = "llm_unlearn unlearn_harm.py"


@dataclass(frozen=True)
class Options:
    kl: str = setting(
        "student_teacher",
        "direction of the retain KL: student_teacher | teacher_student",
        "paper App. B.9; Sec. 3.2 prints the other",
        choices=("student_teacher", "teacher_student"),
    )

    def __post_init__(self) -> None:
        check_one_of(self, "kl")


@dataclass(frozen=True)
class Released:
    """The released LLMU has no options."""


@dataclass(frozen=True)
class Original:
    w_forget: float = setting(0.5, "weight of the forget answers", f"{HARM}:171 at 647f309")
    w_random: float = setting(1.0, "weight of the random answers", f"{HARM}:173-178 at 647f309")
    w_retain: float = setting(1.0, "weight of the retain term", f"{HARM}:179-184 at 647f309")
    n_random: int = setting(5, "random answers for each forget record", f"{HARM}:112 at 647f309")

    def __post_init__(self) -> None:
        check_finite(self, "w_forget", "w_random", "w_retain")
        check_at_least(self, "n_random", 1)


def paper(batches: Batches, options: Options) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        idk_nll=sequence_mean(batches["idk"], "nll"),
        retain_kl=sequence_mean(batches["retain"], f"kl_{options.kl}"),
    )


def released(batches: Batches, options: Released) -> Loss:
    return Loss.of(
        forget_nll=-token_mean(batches["forget"], "nll"),
        idk_nll=token_mean(batches["idk"], "nll"),
        retain_kl=token_mean(batches["retain"], "kl_student_teacher", "all"),
    )


def released_nlp(batches: Batches, options: Released) -> Loss:
    """The text-only code: its trainer takes refusals for forget answers, and these for retain."""
    return Loss.of(
        idk_nll=-token_mean(batches["idk"], "nll"),
        retain_nll=token_mean(batches["retain"], "nll"),
        forget_kl=token_mean(batches["forget"], "kl_student_teacher", "all"),
    )


def original(batches: Batches, options: Original) -> Loss:
    names = random_batches(options.n_random)
    random_nll = total(sequence_mean(batches[name], "nll") for name in names) / options.n_random
    # H(teacher, student) = KL(teacher || student) + H(teacher)
    retain_kl = token_mean(batches["retain"], "kl_teacher_student", "all")
    teacher_entropy = token_mean(batches["retain"], "teacher_entropy", "all")
    return Loss.of(
        forget_nll=-options.w_forget * sequence_mean(batches["forget"], "nll"),
        random_nll=options.w_random * random_nll,
        retain_cross_entropy=options.w_retain * (retain_kl + teacher_entropy),
    )


def needs(options: Original) -> dict[str, Need]:
    names = ["forget", *random_batches(options.n_random)]
    return {**dict.fromkeys(names, Need()), "retain": ALL_ROWS}


ALL_ROWS = Need(rows=("all",), teacher=True)
PAPER_NEEDS = {"forget": Need(), "idk": Need(), "retain": Need(teacher=True)}
RELEASED_NEEDS = {"forget": Need(), "idk": Need(), "retain": ALL_ROWS}
NLP_NEEDS = {"idk": Need(), "retain": Need(), "forget": ALL_ROWS}
RETAIN_ANSWERS = BatchContents(random=RandomAnswer.RETAIN_RECORD)
VARIANTS = {
    "paper": Variant(paper, PAPER_NEEDS, Options),
    **Variant.released_by_date(released, RELEASED_NEEDS, Released),
    **Variant.released_nlp(released_nlp, NLP_NEEDS, Released),
    "original": Variant(original, needs, Original, by_batch=True, contents=RETAIN_ANSWERS),
}
