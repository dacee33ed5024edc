"""The further losses again, in plain numpy, as formulas.py has the eleven methods.

Each function takes a Sheet and the options as a dict, and returns the named terms.
"""

from collections.abc import Callable
from typing import Any

from .arithmetic import Sheet, Terms
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


FURTHER_FORMULAS: dict[str, dict[str, Callable[[Sheet, dict[str, Any]], Terms]]] = {
    "simnpo": {"paper": simnpo, "original": simnpo_original},
}
