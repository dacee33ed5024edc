"""Formulas of other projects' losses, as named terms of a Sheet; peers.py says whose they are."""

from collections.abc import Callable

import numpy as np

from clear_ref.oracle.reference import formulas
from clear_ref.oracle.reference.arithmetic import LossResult, Sheet, Terms
from clear_ref.oracle.reference.formulas import Options
from clear_ref.oracle.reference.rows import IGNORE, Batches, Row
from clear_ref.oracle.reference.sums import Column, Sum, softplus

from .computations import Computation, Rule, combined, times, with_rule

Formula = Callable[[Sheet, Options], Terms]


def computed_by(make: Formula, base: type[Sheet] = Sheet) -> Computation:
    """The Computation of a formula, whatever the semantics asked for."""

    def rule(
        method: str, semantics: str, options: Options, batches: Batches, sheet_class: type[Sheet]
    ) -> LossResult:
        sheet = combined(sheet_class, base)(batches)
        return sheet.result(make(sheet, options))

    named: Rule = rule
    return with_rule(named)


def forget(sheet: Sheet) -> Terms:
    """Minus the token mean of the nll of the forget answers."""
    return {"forget_nll": -sheet.token_mean("forget", "nll")}


def dpo_scaled(sheet: Sheet, options: Options) -> Terms:
    """(2/beta) times DPO."""
    return {"dpo": 2 / options["beta"] * formulas.dpo_original(sheet, options)["dpo"]}


def kl_answer_token_mean(sheet: Sheet, options: Options) -> Terms:
    """A token mean of KL(teacher || student) over answer rows."""
    return {**forget(sheet), "retain_kl": sheet.token_mean("retain", "kl_teacher_student")}


def kl_plus_retain(sheet: Sheet, options: Options) -> Terms:
    """The nll of retain, and KL(teacher || student) of all rows / sequences."""
    rows = sheet.rows("retain", "all")
    kl = sheet.divide(
        sheet.column_sum(rows, "kl_teacher_student"), len(sheet.batches["retain"]["labels"])
    )
    retain = {"retain_nll": sheet.token_mean("retain", "nll"), "retain_kl": kl}
    return {**forget(sheet), **retain}


def kl_raw(sheet: Sheet, options: Options) -> Terms:
    """kl_div of two logit tensors."""
    rows = sheet.rows("retain", "all")
    kl = sheet.divide(sheet.column_sum(rows, "raw_kl"), len(sheet.batches["retain"]["labels"]))
    return {**forget(sheet), "retain_kl": kl}


def with_retain(make: Formula, kl: Column = "kl_teacher_student") -> Formula:
    """An NPO formula and the retain term that the option `retain` names, if there is one.

    kl  the column of retain=kl, a mean over all rows; raw_kl: summed over all rows / sequences
    """

    def terms(sheet: Sheet, options: Options) -> Terms:
        kind = options.get("retain", "none")
        if kind == "none":
            return make(sheet, options)
        if kind == "ce":
            return {**make(sheet, options), "retain_nll": sheet.token_mean("retain", "nll")}
        if kl == "raw_kl":
            return {**make(sheet, options), "retain_kl": kl_raw(sheet, options)["retain_kl"]}
        return {**make(sheet, options), "retain_kl": sheet.token_mean("retain", kl, "all")}

    return terms


def npo_batch_mean(sheet: Sheet, options: Options) -> Terms:
    """NPO of the batch's mean token nll."""
    beta = options["beta"]
    teacher = sheet.token_mean("forget", "teacher_nll")
    ratio = teacher + -sheet.token_mean("forget", "nll")
    return {"forget_npo": 2 / beta * softplus(beta, ratio)}


def simnpo_batch_mean(sheet: Sheet, options: Options) -> Terms:
    """SimNPO of the batch's mean token nll."""
    beta = options["beta"]
    return {"forget_simnpo": 2 / beta * softplus(beta, -sheet.token_mean("forget", "nll"))}


def npo_per_token(sheet: Sheet, options: Options) -> Terms:
    """The mean over answer tokens of softplus(beta log-ratio), without 2/beta."""
    ratios = []
    for row in sheet.rows("forget"):
        teacher = sheet.column_sum([row], "teacher_nll")
        ratios.append(teacher + -sheet.column_sum([row], "nll"))
    return {"forget_npo": sheet.mean_softplus(options["beta"], ratios)}


def npo_raw(sheet: Sheet, options: Options) -> Terms:
    """NPO of logits, entry by entry."""
    beta = options["beta"]
    return {"forget_npo": 2 / beta * sheet.token_mean("forget", ("raw_ratio", beta), "all")}


def simnpo(sheet: Sheet, options: Options) -> Terms:
    """SimNPO without a margin."""
    return simnpo_with_margin(0.0)(sheet, options)


def simnpo_with_margin(margin: float) -> Formula:
    """(2/beta) mean softplus(-beta (nll per token of the answer - margin)); the margin in nats."""

    def terms(sheet: Sheet, options: Options) -> Terms:
        beta = options["beta"]
        means = []
        for rows in sheet.rows_by_sequence("forget"):
            mean = -sheet.divide(sheet.column_sum(rows, "nll"), len(rows))
            means.append(Sum(margin) + mean)
        return {"forget_simnpo": 2 / beta * sheet.mean_softplus(beta, means)}

    return terms


def simnpo_unshifted(sheet: Sheet, options: Options) -> Terms:
    """mean softplus(-beta nll per token), the logits at t scored against the label at t."""
    labels = sheet.batches["forget"]["labels"]
    means = []
    for b in range(len(labels)):
        places = np.flatnonzero(labels[b] != IGNORE).tolist()
        rows = [Row("forget", b, t, int(labels[b, t])) for t in places]
        means.append(-sheet.divide(sheet.column_sum(rows, "nll"), len(rows)))
    return {"forget_simnpo": sheet.mean_softplus(options["beta"], means)}


def npo_vocabulary_mean(sheet: Sheet, options: Options) -> Terms:
    """mean softplus(beta (mean log p - mean log q)), means over all rows and vocabulary entries."""
    ratios = []
    for rows in sheet.rows_by_sequence("forget", "all"):
        student = sheet.divide(sheet.column_sum(rows, "mean_logp"), len(rows))
        teacher = sheet.divide(sheet.column_sum(rows, "teacher_mean_logp"), len(rows))
        ratios.append(student + -teacher)
    return {"forget_npo": sheet.mean_softplus(options["beta"], ratios)}


def npo_batch_mean_accumulated(k: int) -> Formula:
    """NPO of the batch's mean token nll / k."""

    def terms(sheet: Sheet, options: Options) -> Terms:
        beta = options["beta"]
        ratio = sheet.token_mean("forget", "teacher_nll") + -sheet.token_mean("forget", "nll")
        return {"forget_npo": 2 / beta * softplus(beta / k, ratio)}

    return terms


def npo_accumulated(k: int) -> Formula:
    """NPO of the answers' sums / k."""

    def terms(sheet: Sheet, options: Options) -> Terms:
        beta = options["beta"]
        inside = sheet.mean_softplus(beta / k, sheet.log_ratios("forget"))
        return {"forget_npo": 2 / beta * inside}

    return terms


def rmu_answers(sheet: Sheet, options: Options) -> Terms:
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


def rmu_answer_positions(sheet: Sheet, options: Options) -> Terms:
    """Mean squares at positions with a label: a mean over each sequence, then over sequences."""
    width = sheet.batches["forget"]["hidden"].shape[2]
    columns: dict[str, Column] = {
        "forget": ("distance_to_control", options["c"]),
        "retain": "distance_to_teacher",
    }
    weights = {"forget": 1.0, "retain": options.get("alpha", 1.0)}
    terms = {}
    for batch, column in columns.items():
        labels = sheet.batches[batch]["labels"]
        means = []
        for b in range(len(labels)):
            places = np.flatnonzero(labels[b] != IGNORE).tolist()
            rows = [Row(batch, b, t, IGNORE) for t in places]
            means.append(sheet.divide(sheet.column_sum(rows, column), len(rows)))
        terms[f"{batch}_distance"] = weights[batch] / width * sheet.mean(means)
    return terms


def kl_student_teacher_token_mean(sheet: Sheet, options: Options) -> Terms:
    """A token mean of KL(student || teacher) over answer rows."""
    return {**forget(sheet), "retain_kl": sheet.token_mean("retain", "kl_student_teacher")}


def kl_jsd_half(sheet: Sheet, options: Options) -> Terms:
    """A token mean of the Jensen-Shannon divergence over answer rows."""
    return {**forget(sheet), "retain_jsd": sheet.token_mean("retain", ("kl_jsd", 0.5))}


def scrub_without_forget(sheet: Sheet, options: Options) -> Terms:
    """KL(teacher || student) of retain, all rows / sequences: nothing else."""
    kl_sum = sheet.column_sum(sheet.rows("retain", "all"), "kl_teacher_student")
    return {"retain_kl": sheet.divide(kl_sum, len(sheet.batches["retain"]["labels"]))}


def undial_softened_teacher(sheet: Sheet, options: Options) -> Terms:
    """KL(softmax(z_teacher / 3) || student) of forget, all rows / sequences; no label is read."""
    kl_sum = sheet.column_sum(sheet.rows("forget", "all"), ("kl_from_softened", 3.0))
    return {"forget_kl": sheet.divide(kl_sum, len(sheet.batches["forget"]["labels"]))}


def loss_times(k: int) -> Computation:
    """The right loss times k."""

    def rule(
        method: str, semantics: str, options: Options, batches: Batches, sheet_class: type[Sheet]
    ) -> LossResult:
        return times(k, formulas.reference_loss(method, semantics, options, batches, sheet_class))

    named: Rule = rule
    return with_rule(named)
