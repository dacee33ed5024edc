"""The further losses again, in plain numpy, as formulas.py has the eleven methods.

Each function takes a Sheet and the options as a dict, and returns the named terms.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .arithmetic import Sheet, Terms
from .exact import exp, power
from .sums import Sum


def retain_term(sheet: Sheet, kind: str) -> Terms:
    """The added retain term: ce, the nll; kl, KL(teacher || student) over all rows."""
    if kind == "ce":
        return {"retain_nll": sheet.token_mean("retain", "nll")}
    return {"retain_kl": sheet.token_mean("retain", "kl_teacher_student", "all")}


def _with_retain(sheet: Sheet, options: dict[str, Any], name: str, forget: Sum) -> Terms:
    """Open-unlearning's sum: gamma times the forget term, alpha times the retain term."""
    terms = {name: options["gamma"] * forget}
    if options["alpha"] != 0:
        for retain, value in retain_term(sheet, options["retain"]).items():
            terms[retain] = options["alpha"] * value
    return terms


def _simnpo(sheet: Sheet, beta: float, margin: float) -> Sum:
    arguments = []
    for rows in sheet.rows_by_sequence("forget"):
        mean = sheet.divide(sheet.column_sum(rows, "nll"), len(rows))
        arguments.append(-beta * mean + Sum(margin))
    return 2 / beta * sheet.mean_softplus(1.0, arguments)


def simnpo(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Paper: the margin is not multiplied by beta."""
    retain = sheet.token_mean("retain", "nll")
    return {
        "forget_simnpo": _simnpo(sheet, options["beta"], options["margin"]),
        "retain_nll": options["lambda_retain"] * retain,
    }


def simnpo_original(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Original: beta multiplies the margin."""
    forget = _simnpo(sheet, options["beta"], options["beta"] * options["delta"])
    return _with_retain(sheet, options, "forget_simnpo", forget)


def undial(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Paper: over answer rows."""
    column = ("lowered_cross_entropy", options["beta"])
    return {"forget_undial": sheet.token_mean("forget", column)}


def undial_original(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Original: over every row but the last of each sequence."""
    last = sheet.batches["forget"]["labels"].shape[1] - 1
    rows = [row for row in sheet.rows("forget", "all") if row.t < last]
    column = ("lowered_cross_entropy", options["beta"])
    forget = sheet.divide(sheet.column_sum(rows, column), len(rows))
    return _with_retain(sheet, options, "forget_undial", forget)


def _confidence(beta1: float, beta2: float) -> Callable[[float], tuple[float, float]]:
    """nll -> (w, dw / d nll) of w = p^beta1 (1 - p)^beta2, p = exp(-nll)."""

    def weight(nll: float) -> tuple[float, float]:
        p = float(exp(-nll))
        rest = np.asarray(1 - p)
        saturation = float(exp(-beta1 * nll))
        factor = saturation * float(power(rest, beta2))
        slope = -beta1 * factor
        if beta2 != 0:
            slope += beta2 * saturation * p * float(power(rest, beta2 - 1))
        return factor, slope

    return weight


def wga(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Paper: with the KL that the option `retain` may add."""
    terms = {"forget_wga": -sheet.weighted_mean("forget", _confidence(options["beta"], 0.0))}
    if options["retain"] == "kl":
        terms.update(retain_term(sheet, "kl"))
    return terms


def wga_original(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Original: with weights of both terms."""
    forget = -sheet.weighted_mean("forget", _confidence(options["beta"], 0.0))
    return _with_retain(sheet, options, "forget_wga", forget)


def satimp(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Paper: lambda_retain weighs the retain term."""
    weight = _confidence(options["beta1"], options["beta2"])
    return {
        "forget_satimp": -sheet.weighted_mean("forget", weight),
        "retain_nll": options["lambda_retain"] * sheet.token_mean("retain", "nll"),
    }


def satimp_original(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Original: with weights of both terms."""
    weight = _confidence(options["beta1"], options["beta2"])
    forget = -sheet.weighted_mean("forget", weight)
    return _with_retain(sheet, options, "forget_satimp", forget)


def ceu(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Paper: over all answer rows."""
    return {"forget_ceu": sheet.token_mean("forget", "own_cross_entropy")}


def ceu_original(sheet: Sheet, options: dict[str, Any]) -> Terms:
    """Original: without the first answer rows of each sequence."""
    rows = [row for own in sheet.rows_by_sequence("forget") for row in own[options["skip"] :]]
    return {"forget_ceu": sheet.divide(sheet.column_sum(rows, "own_cross_entropy"), len(rows))}


FURTHER_FORMULAS: dict[str, dict[str, Callable[[Sheet, dict[str, Any]], Terms]]] = {
    "simnpo": {"paper": simnpo, "original": simnpo_original},
    "undial": {"paper": undial, "original": undial_original},
    "wga": {"paper": wga, "original": wga_original},
    "satimp": {"paper": satimp, "original": satimp_original},
    "ceu": {"paper": ceu, "original": ceu_original},
}
