"""What other projects compute under the names of our methods, as data that runs.

Some are meanings of their own, which an implementation may want; the others are mistakes that are
known outside the stored vectors. Each says who has it, and where. `conform` names them. Commits:
open-unlearning d3d7cf9, NPO 1207bbe, Unlearn-Simple f1a355d, MLLMU-Bench 0e3098e, MMUnlearner
fa77c66, muse_bench 54719c5, llm_unlearn 647f309, SKU a17663f; packages erasus 0.2.0, forgetium
0.2.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet, Terms
from clear_ref.oracle.reference.exact import add, exp, log1p
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.rows import IGNORE, Batches, CaseRows, Row
from clear_ref.oracle.reference.sums import Column, Sum, softplus
from clear_ref.oracle.reference.token_columns import COLUMNS, Cell

from .computations import Computation, Rule, with_rule, with_sheet


@dataclass(frozen=True)
class Peer:
    """One meaning or mistake of another project.

    what, seen  what it computes; who has it, file and lines
    methods     the methods for which it is computed
    is_meaning  True for a meaning of its own, False for a mistake
    """

    name: str
    what: str
    seen: str
    methods: tuple[str, ...]
    compute: Computation
    is_meaning: bool = True


def _terms(make: Callable[[Sheet, Options], Terms], base: type[Sheet] = Sheet) -> Computation:
    """The Computation of a formula, whatever the semantics asked for."""

    def rule(
        method: str, semantics: str, options: Options, batches: Batches, sheet_class: type[Sheet]
    ) -> LossResult:
        sheet = (base if sheet_class is Sheet else sheet_class)(batches)
        return sheet.result(make(sheet, options))

    named: Rule = rule
    return with_rule(named)


def _forget(sheet: Sheet) -> Terms:
    return {"forget_nll": -sheet.token_mean("forget", "nll")}


def _dpo_scaled(sheet: Sheet, options: Options) -> Terms:
    return {"dpo": 2 / options["beta"] * formulas.dpo_original(sheet, options)["dpo"]}


def _kl_answer_token_mean(sheet: Sheet, options: Options) -> Terms:
    return {**_forget(sheet), "retain_kl": sheet.token_mean("retain", "kl_teacher_student")}


def _kl_plus_retain(sheet: Sheet, options: Options) -> Terms:
    rows = sheet.rows("retain", "all")
    kl = sheet.divide(
        sheet.column_sum(rows, "kl_teacher_student"), len(sheet.batches["retain"]["labels"])
    )
    retain = {"retain_nll": sheet.token_mean("retain", "nll"), "retain_kl": kl}
    return {**_forget(sheet), **retain}


def _kl_raw(sheet: Sheet, options: Options) -> Terms:
    rows = sheet.rows("retain", "all")
    kl = sheet.divide(sheet.column_sum(rows, "raw_kl"), len(sheet.batches["retain"]["labels"]))
    return {**_forget(sheet), "retain_kl": kl}


def _npo_batch_mean(sheet: Sheet, options: Options) -> Terms:
    beta = options["beta"]
    teacher = sheet.token_mean("forget", "teacher_nll")
    ratio = teacher + -sheet.token_mean("forget", "nll")
    return {"forget_npo": 2 / beta * softplus(beta, ratio)}


def _npo_per_token(sheet: Sheet, options: Options) -> Terms:
    ratios = []
    for row in sheet.rows("forget"):
        teacher = sheet.column_sum([row], "teacher_nll")
        ratios.append(teacher + -sheet.column_sum([row], "nll"))
    return {"forget_npo": sheet.mean_softplus(options["beta"], ratios)}


def _npo_raw(sheet: Sheet, options: Options) -> Terms:
    beta = options["beta"]
    return {"forget_npo": 2 / beta * sheet.token_mean("forget", ("raw_ratio", beta), "all")}


def _simnpo(sheet: Sheet, options: Options) -> Terms:
    beta = options["beta"]
    means = []
    for rows in sheet.rows_by_sequence("forget"):
        means.append(-sheet.divide(sheet.column_sum(rows, "nll"), len(rows)))
    return {"forget_simnpo": 2 / beta * sheet.mean_softplus(beta, means)}


def _npo_accumulated(k: int) -> Callable[[Sheet, Options], Terms]:
    def terms(sheet: Sheet, options: Options) -> Terms:
        beta = options["beta"]
        inside = sheet.mean_softplus(beta / k, sheet.log_ratios("forget"))
        return {"forget_npo": 2 / beta * inside}

    return terms


def _rmu_answers(sheet: Sheet, options: Options) -> Terms:
    """mean over j of the sum of sequence j, times mean over i of 1 / n_i; NaN without a label."""
    terms = {}
    columns: dict[str, Column] = {
        "forget": ("distance_to_control", options["c"]),
        "retain": "distance_to_teacher",
    }
    for batch, column in columns.items():
        labels = sheet.batches[batch]["labels"]
        width = sheet.batches[batch]["hidden"].shape[2]
        rows = [Row(batch, b, t, IGNORE) for b, t in np.argwhere(labels != IGNORE).tolist()]
        counts = (labels != IGNORE).sum(1).astype(float)
        with np.errstate(divide="ignore"):
            factor = float((1 / counts).mean()) / len(labels) / width
        terms[f"{batch}_distance"] = factor * sheet.column_sum(rows, column)
    terms["retain_distance"] = options.get("alpha", 1.0) * terms["retain_distance"]
    return terms


def _raw_ratio(rows: CaseRows, row: Row, beta: float) -> Cell:
    """mean_v softplus(beta (z - z_teacher)), on logits."""
    x = beta * (rows.at(row).z - rows.at(row, "teacher_").z)
    small = exp(-np.abs(x))
    value = add(np.maximum(x, 0) + log1p(small)) / len(x)
    slope = beta * np.where(x >= 0, 1.0, small) / (1 + small) / len(x)
    return Cell(value, slope, -slope)


def _raw_kl(rows: CaseRows, row: Row) -> Cell:
    """sum_v exp(z_teacher) (z_teacher - z), on logits."""
    z = rows.at(row).z
    teacher = rows.at(row, "teacher_").z
    with np.errstate(over="ignore"):
        size = np.exp(teacher)
    return Cell(float((size * (teacher - z)).sum()), -size, 0.0)


class RawRatio(Sheet):
    """NPO's ratio, entry by entry, of logits."""

    columns = {**COLUMNS, "raw_ratio": _raw_ratio}


class RawKl(Sheet):
    """kl_div(log_target=True) of logits."""

    columns = {**COLUMNS, "raw_kl": _raw_kl}


class OneMoreToken(Sheet):
    """The mean over m answer tokens is divided by m + 1."""

    def sequence_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if column != "nll" or row_set != "answer":
            return super().sequence_mean(batch, column, row_set)
        means = []
        for rows in self.rows_by_sequence(batch):
            means.append(self.divide(self.column_sum(rows, column), len(rows) + 1))
        return self.mean(means)


class LastTokenLost(Sheet):
    """The last answer row of each sequence is missing."""

    def rows(self, batch: str, row_set: str = "answer") -> list[Row]:
        rows = super().rows(batch, row_set)
        if row_set != "answer":
            return rows
        following = [*rows[1:], None]
        pairs = zip(rows, following, strict=True)
        return [row for row, after in pairs if after is not None and after.b == row.b]


class EveryRowInDivisor(Sheet):
    """A token mean of the nll is divided by all rows but the last, ignored ones included."""

    def token_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        if column != "nll" or row_set != "answer":
            return super().token_mean(batch, column, row_set)
        n_sequences, n_positions = self.batches[batch]["labels"].shape
        total = self.column_sum(self.rows(batch), column)
        return self.divide(total, n_sequences * (n_positions - 1))


class DividedTwice(Sheet):
    """A token mean is divided by the number of tokens again."""

    def token_mean(self, batch: str, column: Column, row_set: str = "answer") -> Sum:
        mean = super().token_mean(batch, column, row_set)
        return self.divide(mean, len(self.rows(batch, row_set)))


class KlOverVocabulary(Sheet):
    """A KL is divided by the size of the vocabulary, too."""

    def column_sum(self, rows: list[Row], column: Column) -> Sum:  # type: ignore[override]
        total = super().column_sum(rows, column)
        name = column if isinstance(column, str) else column[0]
        if not rows or not name.startswith("kl_"):
            return total
        return 1.0 / self.batches[rows[0].batch]["logits"].shape[2] * total


WITH_KL = ("grad_diff", "kl", "npo", "scrub", "llmu", "sku")
WITH_NLL = ("retain_ft", "grad_ascent", "grad_diff", "kl", "idk", "dpo", "scrub", "llmu", "sku")
PEERS = (
    Peer(
        "dpo_two_over_beta",
        "(2/beta) times the DPO loss.",
        "NPO, TOFU/dataloader.py:231; open-unlearning, trainer/utils.py:66",
        ("dpo",),
        _terms(_dpo_scaled),
    ),
    Peer(
        "kl_answer_token_mean",
        "-nll of forget + the token mean over answer rows of KL(teacher || student) of retain.",
        "Open-MMUnlearning; forgetium",
        ("kl",),
        _terms(_kl_answer_token_mean),
    ),
    Peer(
        "kl_plus_retain_nll",
        "-nll of forget + nll of retain + the KL summed over all rows / sequences.",
        "MLLMU-Bench, KL_Min.py:551; MMUnlearner, CLEAR_KL_Min.py:246",
        ("kl",),
        _terms(_kl_plus_retain),
    ),
    Peer(
        "kl_raw_logits",
        "kl_div of two logit tensors with log_target: sum e^t (t - z) / sequences.",
        "muse_bench, iterative.py:152-157; Unlearn-Simple/MUSE :177",
        ("kl",),
        _terms(_kl_raw, RawKl),
    ),
    Peer(
        "npo_batch_mean",
        "(2/beta) softplus(beta (mean token nll of the teacher - of the student)), one number.",
        "MLLMU-Bench, NPO.py:256-266; MMUnlearner, CLEAR_NPO.py:236-245",
        ("npo",),
        _terms(_npo_batch_mean),
    ),
    Peer(
        "npo_raw_logits",
        "(2/beta) mean over b, t, v of softplus(beta (z - z_teacher)); labels are not read.",
        "muse_bench, iterative.py:139-140; Unlearn-Simple/MUSE :159-164",
        ("npo",),
        _terms(_npo_raw, RawRatio),
    ),
    Peer(
        "npo_per_token",
        "The mean over tokens of softplus(beta log-ratio), without 2/beta.",
        "erasus, npo.py:88-95",
        ("npo",),
        _terms(_npo_per_token),
    ),
    Peer(
        "npo_no_reference",
        "SimNPO: (2/beta) mean softplus(-beta nll per token of the answer), without a teacher.",
        "open-unlearning, simnpo.py:19; Unlearn-Simple",
        ("npo",),
        _terms(_simnpo),
    ),
    *[
        Peer(
            f"npo_accumulation_inside_{k}",
            f"Both nll are divided by {k} accumulation steps inside the softplus.",
            "MLLMU-Bench, NPO.py:223,229,232-233",
            ("npo",),
            _terms(_npo_accumulated(k)),
            is_meaning=False,
        )
        for k in (2, 4, 8, 16)
    ],
    Peer(
        "rmu_open_unlearning",
        "Answer positions only; [B] meets [B, 1]: mean_j(sum_j) mean_i(1/n_i).",
        "open-unlearning, rmu.py:113-117",
        ("rmu",),
        _terms(_rmu_answers),
    ),
    Peer(
        "divisor_m_plus_1",
        "The mean over m answer tokens is divided by m + 1.",
        "llm_unlearn, utils.py:66,245-252; SKU",
        ("llmu", "sku"),
        with_sheet(OneMoreToken),
        is_meaning=False,
    ),
    Peer(
        "eos_not_learnt",
        "The last answer row of each sequence is lost: pad is eos, and labels of pad are masked.",
        "transformers#23530, trl#976; MLLMU-Bench, data_preprocess.py:262; MMUnlearner, "
        "CLEAR_process.py:157",
        WITH_NLL + ("npo",),
        with_sheet(LastTokenLost),
        is_meaning=False,
    ),
    Peer(
        "ignored_rows_counted",
        "A token mean is divided by all rows, ignored ones included.",
        "open-unlearning, utils.py:93-99",
        WITH_NLL,
        with_sheet(EveryRowInDivisor),
        is_meaning=False,
    ),
    Peer(
        "kl_over_vocabulary_mean",
        "A KL is divided by the size of the vocabulary, too.",
        "HikariTJU/LD#74",
        WITH_KL,
        with_sheet(KlOverVocabulary),
        is_meaning=False,
    ),
    Peer(
        "divided_twice",
        "A token mean is divided by the number of tokens twice.",
        "easydistill#16",
        WITH_NLL,
        with_sheet(DividedTwice),
        is_meaning=False,
    ),
)
