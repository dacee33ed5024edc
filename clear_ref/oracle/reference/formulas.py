"""Every method under every semantics again, in plain numpy: one short function each.

The functions are written from the formulas, not from methods/. Each takes a Sheet and the options
as a dict, and returns the named terms, signed and weighted as they enter the loss. The golden
vectors are computed here; the package, other implementations and finite differences are compared
with them.
"""

from collections.abc import Callable
from typing import Any

from .arithmetic import LossResult, Sheet, Terms
from .further_formulas import FURTHER_FORMULAS, retain_term
from .rows import Batches
from .sums import Column, Sum, total

Options = dict[str, Any]  # {option: value}, as dataclasses.asdict returns it
Formula = Callable[[Sheet, Options], Terms]


def retain_ft(sheet: Sheet, options: Options) -> Terms:
    """All semantics: the nll of the retain answers."""
    return {"retain_nll": sheet.token_mean("retain", "nll")}


def grad_ascent(sheet: Sheet, options: Options) -> Terms:
    """All semantics: minus the nll of the forget answers."""
    return {"forget_nll": -sheet.token_mean("forget", "nll")}


def grad_diff(sheet: Sheet, options: Options) -> Terms:
    """Paper: lambda_retain weights the retain term; the entropy is maximised."""
    column = {"ce": "nll", "entropy": "entropy"}[options["forget"]]
    return {
        f"forget_{column}": -sheet.token_mean("forget", column),
        "retain_nll": options["lambda_retain"] * sheet.token_mean("retain", "nll"),
    }


def grad_diff_released(sheet: Sheet, options: Options) -> Terms:
    """Released: beta weights the forget term; sum p log p is subtracted, over all rows, undivided.

    That is for forget=entropy; forget=ce and forget=kl are means.
    """
    beta = options["beta"]
    if options["forget"] == "ce":
        forget = {"forget_nll": -beta * sheet.token_mean("forget", "nll")}
    elif options["forget"] == "kl":
        forget = {"forget_kl": -beta * sheet.token_mean("forget", "kl_teacher_student", "all")}
    else:
        rows = sheet.rows("forget", "all")
        forget = {"forget_entropy": beta * sheet.column_sum(rows, "entropy")}
    return {**forget, **retain_term(sheet, options["retain"])}


def grad_diff_original(sheet: Sheet, options: Options) -> Terms:
    """Original: no weights."""
    retain = retain_term(sheet, options["retain"])
    return {"forget_nll": -sheet.token_mean("forget", "nll"), **retain}


def kl(sheet: Sheet, options: Options) -> Terms:
    """Paper: KL(student || teacher) over answer rows."""
    return {
        "forget_nll": -sheet.token_mean("forget", "nll"),
        "retain_kl": sheet.sequence_mean("retain", "kl_student_teacher"),
    }


def kl_all_rows(sheet: Sheet, options: Options) -> Terms:
    """Released and original: KL(teacher || student) over all rows."""
    return {"forget_nll": -sheet.token_mean("forget", "nll"), **retain_term(sheet, "kl")}


def idk(sheet: Sheet, options: Options) -> Terms:
    """Paper and released: the sum of two means."""
    return {
        "retain_nll": sheet.token_mean("retain", "nll"),
        "idk_nll": sheet.token_mean("idk", "nll"),
    }


def idk_original(sheet: Sheet, options: Options) -> Terms:
    """Original, and the released text-only code: one mean over the tokens of both batches."""
    n_tokens = len(sheet.rows("retain")) + len(sheet.rows("idk"))
    terms = {}
    for batch in ("retain", "idk"):
        terms[f"{batch}_nll"] = sheet.divide(sheet.column_sum(sheet.rows(batch), "nll"), n_tokens)
    return terms


def dpo(sheet: Sheet, options: Options) -> Terms:
    """Paper: the nll of the refusals, and the preference for them."""
    terms = {
        "idk_nll": options["lambda_idk"] * sheet.token_mean("idk", "nll"),
        "dpo": options["lambda_dpo"] * dpo_original(sheet, options)["dpo"],
    }
    if options["retain_weight"] != 0:
        terms["retain_nll"] = options["retain_weight"] * sheet.token_mean("retain", "nll")
    return terms


def dpo_original(sheet: Sheet, options: Options) -> Terms:
    """Original: the preference alone, on sums over whole answers."""
    pairs = zip(sheet.log_ratios("idk"), sheet.log_ratios("forget"), strict=True)
    differences = [rejected + -chosen for chosen, rejected in pairs]
    return {"dpo": sheet.mean_softplus(options["beta"], differences)}


def dpo_released(sheet: Sheet, options: Options) -> Terms:
    """Released: only the nll of the idk answers, summed over tokens.

    The last line of the authors' code overwrites the preference.
    """
    return {"idk_nll": sheet.mean(sheet.sequence_sums("idk", "nll"))}


def dpo_released_nlp(sheet: Sheet, options: Options) -> Terms:
    """Released, text-only code: the retain batch in place of the idk batch."""
    return {"retain_nll": sheet.mean(sheet.sequence_sums("retain", "nll"))}


def npo(sheet: Sheet, options: Options) -> Terms:
    """Paper, and the original without a retain term."""
    beta = options["beta"]
    return {"forget_npo": 2 / beta * sheet.mean_softplus(beta, sheet.log_ratios("forget"))}


def npo_original(sheet: Sheet, options: Options) -> Terms:
    """Original: with the retain term that the option `retain` names."""
    if options["retain"] == "none":
        return npo(sheet, options)
    return {**npo(sheet, options), **retain_term(sheet, options["retain"])}


def npo_released(sheet: Sheet, options: Options) -> Terms:
    """Released: the ratio at every entry of the vocabulary, over all rows."""
    beta = options["beta"]
    return {"forget_npo": 2 / beta * sheet.token_mean("forget", ("ratio", beta, 1e-8), "all")}


def npo_released_before(sheet: Sheet, options: Options) -> Terms:
    """Released before 2025-03-30, and text-only: the ratio's logarithm in place of the ratio."""
    beta = options["beta"]
    return {"forget_npo": 2 / beta * sheet.token_mean("forget", ("log_ratio", beta), "all")}


def scrub(sheet: Sheet, options: Options) -> Terms:
    """Paper: KL(teacher || student) over answer rows."""
    return {
        "retain_kl": options["alpha"] * sheet.sequence_mean("retain", "kl_teacher_student"),
        "forget_kl": -sheet.sequence_mean("forget", "kl_teacher_student"),
        "retain_nll": options["gamma"] * sheet.token_mean("retain", "nll"),
    }


def scrub_released(sheet: Sheet, options: Options) -> Terms:
    """Released: KL(student || teacher) over all rows."""
    forget_kl = sheet.token_mean("forget", "kl_student_teacher", "all")
    return {
        "retain_kl": sheet.token_mean("retain", "kl_student_teacher", "all"),
        "forget_kl": -options["beta"] * forget_kl,
        "retain_nll": sheet.token_mean("retain", "nll"),
    }


def scrub_original(sheet: Sheet, options: Options) -> Terms:
    """Original: the max pass and the min pass together, at a temperature."""
    column: Column = ("kl_teacher_student", options["temperature"])
    square = options["temperature"] ** 2
    return {
        "retain_kl": options["alpha"] * square * sheet.token_mean("retain", column),
        "forget_kl": -square * sheet.token_mean("forget", column),
        "retain_nll": options["gamma"] * sheet.token_mean("retain", "nll"),
    }


def llmu(sheet: Sheet, options: Options) -> Terms:
    """Paper: the option `kl` names the direction of the KL."""
    return {
        "forget_nll": -sheet.token_mean("forget", "nll"),
        "idk_nll": sheet.sequence_mean("idk", "nll"),
        "retain_kl": sheet.sequence_mean("retain", f"kl_{options['kl']}"),
    }


def llmu_released(sheet: Sheet, options: Options) -> Terms:
    """Released: a token mean of the idk batch; the KL over all rows."""
    return {
        "forget_nll": -sheet.token_mean("forget", "nll"),
        "idk_nll": sheet.token_mean("idk", "nll"),
        "retain_kl": sheet.token_mean("retain", "kl_student_teacher", "all"),
    }


def llmu_released_nlp(sheet: Sheet, options: Options) -> Terms:
    """Released, text-only code: the three batches in each other's places."""
    return {
        "idk_nll": -sheet.token_mean("idk", "nll"),
        "retain_nll": sheet.token_mean("retain", "nll"),
        "forget_kl": sheet.token_mean("forget", "kl_student_teacher", "all"),
    }


def llmu_original(sheet: Sheet, options: Options) -> Terms:
    """Original: random answers; a cross-entropy of whole distributions on retain."""
    n_random = options["n_random"]
    random_nll = total(sheet.sequence_mean(batch, "nll") for batch in random_batches(n_random))
    cross_entropy = sheet.token_mean("retain", "cross_entropy", "all")
    return {
        "forget_nll": -options["w_forget"] * sheet.sequence_mean("forget", "nll"),
        "random_nll": options["w_random"] / n_random * random_nll,
        "retain_cross_entropy": options["w_retain"] * cross_entropy,
    }


def rmu(sheet: Sheet, options: Options) -> Terms:
    """Paper: squared lengths at real tokens."""
    to_control: Column = ("distance_to_control", options["c"])
    to_teacher = sheet.sequence_mean("retain", "distance_to_teacher", "attention")
    return {
        "forget_distance": sheet.sequence_mean("forget", to_control, "attention"),
        "retain_distance": options["alpha"] * to_teacher,
    }


def rmu_mean_squares(sheet: Sheet, options: Options) -> Terms:
    """Original, released before 2025-03-30, and the text-only code: mean squares over all rows."""
    return _rmu_over_all_rows(sheet, options, ("distance_to_control", options["c"]))


def rmu_released(sheet: Sheet, options: Options) -> Terms:
    """Released: each sequence's mean state against every control vector."""
    return _rmu_over_all_rows(sheet, options, ("mean_to_controls", options["c"]))


def _rmu_over_all_rows(sheet: Sheet, options: Options, forget_column: Column) -> Terms:
    """Token means over all rows, divided by the width D; a weight that is no option is 1."""
    width = sheet.batches["forget"]["hidden"].shape[2]
    forget = sheet.token_mean("forget", forget_column, "all")
    retain = sheet.token_mean("retain", "distance_to_teacher", "all")
    return {
        "forget_distance": options.get("beta", 1.0) / width * forget,
        "retain_distance": options.get("alpha", 1.0) / width * retain,
    }


def sku(sheet: Sheet, options: Options) -> Terms:
    """Paper, first stage."""
    retain_kl = sheet.sequence_mean("retain", "kl_teacher_student")
    return _sku(sheet, options, sheet.token_mean, options["n_random"], retain_kl)


def sku_released(sheet: Sheet, options: Options) -> Terms:
    """Released: the random terms are summed; the KL over all rows."""
    retain_kl = sheet.token_mean("retain", "kl_teacher_student", "all")
    return _sku(sheet, options, sheet.token_mean, 1, retain_kl)


def sku_original(sheet: Sheet, options: Options) -> Terms:
    """Original, first stage: means over sequences; the KL over all rows."""
    retain_kl = sheet.token_mean("retain", "kl_teacher_student", "all")
    return _sku(sheet, options, sheet.sequence_mean, options["n_random"], retain_kl)


def _sku(
    sheet: Sheet,
    options: Options,
    mean: Callable[[str, Column], Sum],
    divisor: int,
    retain_kl: Sum,
) -> Terms:
    random_nll = total(mean(batch, "nll") for batch in random_batches(options["n_random"]))
    return {
        "forget_nll": options["w_forget"] * mean("forget", "nll"),
        "random_nll": options["w_random"] / divisor * random_nll,
        "retain_kl": -options["w_retain"] * retain_kl,
    }


def random_batches(n: int) -> list[str]:
    """The names of n batches of random answers."""
    return [f"random{k}" for k in range(1, n + 1)]


FORMULAS: dict[str, dict[str, Formula]] = {
    "retain_ft": {"paper": retain_ft, "released": retain_ft, "original": retain_ft},
    "grad_ascent": {"paper": grad_ascent, "released": grad_ascent, "original": grad_ascent},
    "grad_diff": {
        "paper": grad_diff,
        "released": grad_diff_released,
        "original": grad_diff_original,
    },
    "kl": {"paper": kl, "released": kl_all_rows, "original": kl_all_rows},
    "idk": {"paper": idk, "released": idk, "released@nlp": idk_original, "original": idk_original},
    "dpo": {
        "paper": dpo,
        "released": dpo_released,
        "released@nlp": dpo_released_nlp,
        "original": dpo_original,
    },
    "npo": {
        "paper": npo,
        "released": npo_released,
        "released@2024-12-10": npo_released_before,
        "released@2024-10-23": npo_released_before,
        "released@nlp": npo_released_before,
        "original": npo_original,
    },
    "scrub": {"paper": scrub, "released": scrub_released, "original": scrub_original},
    "llmu": {
        "paper": llmu,
        "released": llmu_released,
        "released@nlp": llmu_released_nlp,
        "original": llmu_original,
    },
    "rmu": {
        "paper": rmu,
        "released": rmu_released,
        "released@2024-12-10": rmu_mean_squares,
        "released@2024-10-23": rmu_mean_squares,
        "released@nlp": rmu_mean_squares,
        "original": rmu_mean_squares,
    },
    "sku": {"paper": sku, "released": sku_released, "original": sku_original},
    **FURTHER_FORMULAS,
}


def formula(method: str, semantics: str) -> Formula:
    """The function of a method; that of `released` for released@... without one of its own."""
    formulas = FORMULAS[method]
    return formulas[semantics if semantics in formulas else semantics.split("@")[0]]


def reference_loss(
    method: str,
    semantics: str,
    options: Options,
    batches: Batches,
    sheet_class: type[Sheet] = Sheet,
) -> LossResult:
    """The LossResult of a method on batches of arrays (rows.py).

    options      every option of the variant
    sheet_class  Sheet, or a subclass with one rule broken
    """
    sheet = sheet_class(batches)
    return sheet.result(formula(method, semantics)(sheet, options))
