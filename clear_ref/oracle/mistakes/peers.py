"""What other projects compute under the names of our methods, as data that runs.

Some are meanings of their own, which an implementation may want; the others are mistakes that are
known outside the stored vectors. Each says who has it, and where; projects.py has the commits.
`conform` names them, `explain METHOD --mistake NAME` shows what they do.
"""

from collections.abc import Callable
from dataclasses import dataclass

from clear_ref.oracle.reference import formulas

from . import peer_columns, peer_terms
from .computations import Computation, with_sheet
from .known import EVERY_METHOD, LOGIT_METHODS
from .peer_terms import computed_by, loss_times


@dataclass(frozen=True)
class Peer:
    """One meaning or mistake of another project.

    what        what it computes
    who         (project, file and lines) of each that has it
    methods     the methods for which it is computed
    is_meaning  True for a meaning of its own, False for a mistake
    of_number   the Computation at another value of its one number, which `conform` finds; None if
                it has none
    """

    name: str
    what: str
    who: tuple[tuple[str, str], ...]
    methods: tuple[str, ...]
    compute: Computation
    is_meaning: bool = True
    of_number: Callable[[float], Computation] | None = None

    @property
    def seen(self) -> str:
        """Who has it, and where, as text."""
        return "; ".join(", ".join(filter(None, one)) for one in self.who)


WITH_KL = ("grad_diff", "kl", "npo", "scrub", "llmu", "sku")
WITH_NLL = ("retain_ft", "grad_ascent", "grad_diff", "kl", "idk", "dpo", "scrub", "llmu", "sku")
FORGET_NLL = ("grad_ascent", "grad_diff", "kl", "llmu", "sku")
PEERS = (
    Peer(
        "dpo_two_over_beta",
        "(2/beta) times the DPO loss.",
        (("NPO", "TOFU/dataloader.py:231"), ("open-unlearning", "trainer/utils.py:66")),
        ("dpo",),
        computed_by(peer_terms.dpo_scaled),
    ),
    Peer(
        "kl_answer_token_mean",
        "-nll of forget + the token mean over answer rows of KL(teacher || student) of retain.",
        (
            ("Open-MMUnlearning", "trainer/utils.py:16-50"),
            ("forgetium", "kl_minimization.py:68-107"),
            ("liger-kernel", "jsd_loss.py:33-34 at beta 0"),
        ),
        ("kl",),
        computed_by(peer_terms.kl_answer_token_mean),
    ),
    Peer(
        "kl_jsd_beta_1",
        "-nll of forget + the token mean over answer rows of KL(student || teacher) of retain.",
        (("liger-kernel", "jsd_loss.py:35-36 at beta 1"),),
        ("kl",),
        computed_by(peer_terms.kl_student_teacher_token_mean),
    ),
    Peer(
        "kl_jsd_half",
        "-nll of forget + the token mean over answer rows of retain's Jensen-Shannon divergence.",
        (("liger-kernel", "jsd_loss.py:37-47 at beta 0.5, its default"),),
        ("kl",),
        computed_by(peer_terms.kl_jsd_half, peer_columns.JensenShannon),
    ),
    Peer(
        "kl_plus_retain_nll",
        "-nll of forget + nll of retain + the KL summed over all rows / sequences.",
        (("MLLMU-Bench", "KL_Min.py:551"), ("MMUnlearner", "CLEAR_KL_Min.py:246")),
        ("kl",),
        computed_by(peer_terms.kl_plus_retain),
    ),
    Peer(
        "kl_raw_logits",
        "kl_div of two logit tensors with log_target: sum e^t (t - z) / sequences.",
        (("muse_bench", "iterative.py:152-157"), ("Unlearn-Simple", "MUSE iterative.py:177")),
        ("kl",),
        computed_by(peer_terms.kl_raw, peer_columns.RawKl),
    ),
    Peer(
        "npo_batch_mean",
        "(2/beta) softplus(beta (mean token nll of the teacher - of the student)), one number.",
        (
            ("MLLMU-Bench", "NPO.py:256-266"),
            ("MMUnlearner", "CLEAR_NPO.py:236-245"),
            ("Unlearn-Simple", "WMDP GA.py:86-97"),
        ),
        ("npo",),
        computed_by(peer_terms.with_retain(peer_terms.npo_batch_mean)),
    ),
    Peer(
        "npo_raw_logits",
        "(2/beta) mean over b, t, v of softplus(beta (z - z_teacher)); labels are not read.",
        (("muse_bench", "iterative.py:139-140"), ("Unlearn-Simple", "MUSE iterative.py:159-164")),
        ("npo",),
        computed_by(
            peer_terms.with_retain(peer_terms.npo_raw, "raw_kl"), peer_columns.RawRatioAndKl
        ),
    ),
    Peer(
        "npo_per_token",
        "The mean over tokens of softplus(beta log-ratio), without 2/beta.",
        (("erasus", "npo.py:88-95"),),
        ("npo",),
        computed_by(peer_terms.with_retain(peer_terms.npo_per_token)),
    ),
    Peer(
        "npo_vocabulary_mean",
        "mean softplus(beta (mean log p - mean log q)), over all rows and the whole vocabulary; "
        "labels are not read.",
        (("erasus", "npo.py:146-149"),),
        ("npo",),
        computed_by(peer_terms.npo_vocabulary_mean, peer_columns.VocabularyMean),
    ),
    Peer(
        "npo_no_reference",
        "SimNPO: (2/beta) mean softplus(-beta nll per token of the answer), without a teacher.",
        (("open-unlearning", "simnpo.py:19"), ("Unlearn-Simple", "TOFU/dataloader.py:269-276")),
        ("npo",),
        computed_by(peer_terms.with_retain(peer_terms.simnpo)),
    ),
    Peer(
        "npo_no_reference_batch_mean",
        "SimNPO of one number: (2/beta) softplus(-beta mean token nll of the batch).",
        (("Unlearn-Simple", "WMDP GA.py:125-130"),),
        ("npo",),
        computed_by(peer_terms.with_retain(peer_terms.simnpo_batch_mean)),
    ),
    Peer(
        "npo_no_reference_margin",
        "SimNPO with a margin of m nats: (2/beta) mean softplus(-beta (nll per token - m)); shown "
        "for m = 0.5.",
        (
            ("open-unlearning", "simnpo.py:19, delta"),
            ("Unlearn-Simple", "TOFU/dataloader.py:274, gamma"),
        ),
        ("npo",),
        computed_by(peer_terms.simnpo_with_margin(0.5)),
        of_number=lambda margin: computed_by(peer_terms.simnpo_with_margin(margin)),
    ),
    Peer(
        "npo_no_reference_unshifted",
        "SimNPO without 2/beta, and the logits at t are scored against the label at t.",
        (("erasus", "simnpo.py:80-84,142-148"),),
        ("npo", "simnpo"),
        computed_by(peer_terms.simnpo_unshifted),
        is_meaning=False,
    ),
    *[
        Peer(
            f"npo_accumulation_inside_{k}",
            f"The nll of whole answers are divided by {k} accumulation steps inside the softplus.",
            (("code like npo_batch_mean_accumulated, with sums for means", ""),),
            ("npo",),
            computed_by(peer_terms.npo_accumulated(k)),
            is_meaning=False,
        )
        for k in (2, 4, 8, 16)
    ],
    *[
        Peer(
            f"npo_batch_mean_accumulated_{k}",
            f"npo_batch_mean with both nll divided by {k} accumulation steps inside the softplus.",
            (("MLLMU-Bench", "NPO.py:223,229,232-233, k = 4"),),
            ("npo",),
            computed_by(peer_terms.npo_batch_mean_accumulated(k)),
            is_meaning=False,
        )
        for k in (2, 4, 8)
    ],
    *[
        Peer(
            f"times_accumulation_{k}",
            f"The loss is multiplied by {k} accumulation steps.",
            (("transformers", "issue 37766"),),
            EVERY_METHOD,
            loss_times(k),
            is_meaning=False,
        )
        for k in (2, 4, 8)
    ],
    Peer(
        "rmu_open_unlearning",
        "Answer positions only; [B] meets [B, 1]: mean_j(sum_j) mean_i(1/n_i).",
        (("open-unlearning", "rmu.py:113-117"),),
        ("rmu",),
        computed_by(peer_terms.rmu_answers),
    ),
    Peer(
        "rmu_answer_positions",
        "Mean squares at the answer's positions: a mean over each sequence, then over sequences.",
        (("Open-MMUnlearning", "rmu.py:131-156"),),
        ("rmu",),
        computed_by(peer_terms.rmu_answer_positions),
    ),
    Peer(
        "llmu_llm_unlearn",
        "llmu with divisor_m_plus_1, random_from_third_token and probability_floor.",
        (("llm_unlearn", "utils.py:173-310"),),
        ("llmu",),
        computed_by(formulas.llmu_original, peer_columns.LlmUnlearn),
    ),
    Peer(
        "sku_sku",
        "sku with divisor_m_plus_1 and random_from_third_token.",
        (("SKU", "utils.py:181-330"),),
        ("sku",),
        computed_by(formulas.sku_original, peer_columns.Sku),
    ),
    Peer(
        "scrub_without_forget",
        "KL(teacher || student) of retain, summed over all rows / sequences; no forget term, no "
        "nll.",
        (("erasus", "scrub.py:77-112, beside its L2 distance of the weights"),),
        ("scrub",),
        computed_by(peer_terms.scrub_without_forget),
        is_meaning=False,
    ),
    Peer(
        "undial_softened_teacher",
        "KL(softmax(teacher's logits / 3) || student) of forget, summed over all rows / sequences; "
        "no token is lowered, labels are not read.",
        (("erasus", "undial.py:112-121, without retain data"),),
        ("undial",),
        computed_by(peer_terms.undial_softened_teacher, peer_columns.SoftenedTeacher),
        is_meaning=False,
    ),
    Peer(
        "divisor_m_plus_1",
        "The mean over m answer tokens is divided by m + 1.",
        (("llm_unlearn", "utils.py:66,245-252"), ("SKU", "utils.py:253-262")),
        ("llmu", "sku"),
        with_sheet(peer_columns.OneMoreToken),
        is_meaning=False,
    ),
    Peer(
        "answer_start_after_padding",
        "The answer's start is counted after padding to max_length: no forget answer is left.",
        (("llm_unlearn", "utils.py:60-66"), ("SKU", "utils.py:56-61")),
        FORGET_NLL,
        with_sheet(peer_columns.ForgetAnswersLost),
        is_meaning=False,
    ),
    Peer(
        "random_from_third_token",
        "The start of a random answer is the number of keys of a tokenizer's result, 2: the prompt "
        "is supervised, too.",
        (("llm_unlearn", "utils.py:287"), ("SKU", "utils.py:298")),
        ("llmu", "sku"),
        with_sheet(peer_columns.RandomFromThirdToken),
        is_meaning=False,
    ),
    Peer(
        "probability_floor",
        "log(probability + 1e-12) in place of the log-probability, in KLs and cross-entropies.",
        (("llm_unlearn", "utils.py:203"),),
        ("kl", "scrub", "llmu", "sku"),
        with_sheet(peer_columns.Floored),
        is_meaning=False,
    ),
    Peer(
        "prompt_length_constant",
        "The prompt is masked by its number of tokens - 2 + 1, which fits one tokenizer; with "
        "others its last token is supervised.",
        (("FIUBench", "data_module.py:19-28"),),
        LOGIT_METHODS,
        with_sheet(peer_columns.LastPromptToken),
        is_meaning=False,
    ),
    Peer(
        "eos_not_learnt",
        "The last answer row of each sequence is lost: pad is eos, and labels of pad are masked.",
        (
            ("transformers", "issue 23530"),
            ("trl", "issue 976"),
            ("MLLMU-Bench", "data_preprocess.py:262"),
            ("MMUnlearner", "CLEAR_process.py:157"),
        ),
        (*WITH_NLL, "npo"),
        with_sheet(peer_columns.LastTokenLost),
        is_meaning=False,
    ),
    Peer(
        "ignored_rows_counted",
        "A token mean is divided by all rows but the last, ignored ones included.",
        (("code that takes the plain mean of masked rows: (nll * mask).mean()", ""),),
        (*WITH_NLL, "undial"),
        with_sheet(peer_columns.EveryRowInDivisor),
        is_meaning=False,
    ),
    Peer(
        "kl_over_vocabulary_mean",
        "A KL is divided by the size of the vocabulary, too.",
        (("HikariTJU/LD", "issue 74"),),
        WITH_KL,
        with_sheet(peer_columns.KlOverVocabulary),
        is_meaning=False,
    ),
    Peer(
        "divided_twice",
        "A token mean is divided by the number of tokens twice.",
        (("easydistill", "issue 16"),),
        WITH_NLL,
        with_sheet(peer_columns.DividedTwice),
        is_meaning=False,
    ),
)
