"""Every method in every meaning once more, in plain numpy: one short function each, written from the formulas, not from methods/.

Each takes a Sheet and the options as a dict and returns the named terms, signed and weighted as they enter the loss.
Golden vectors come from here; the package, anyone else's code and finite differences are held against them.
"""

from .arithmetic import Answer, Sheet, total


def retain_ft(s, o):
    """Every meaning: the retain answers' likelihood."""
    return {"retain_nll": s.token_mean("retain", "nll")}


def grad_ascent(s, o):
    """Every meaning: minus the forget answers'."""
    return {"forget_nll": -s.token_mean("forget", "nll")}


def grad_diff(s, o):
    """Paper: lambda on retain; the entropy is maximised."""
    column = {"ce": "nll", "entropy": "entropy"}[o["forget"]]
    return {
        f"forget_{column}": -s.token_mean("forget", column),
        "retain_nll": o["lambda_retain"] * s.token_mean("retain", "nll"),
    }


def grad_diff_released(s, o):
    """Beta on forget; sum p log p is subtracted, over all rows and undivided."""
    if o["forget"] == "ce":
        forget = {"forget_nll": -o["beta"] * s.token_mean("forget", "nll")}
    elif o["forget"] == "kl":
        forget = {"forget_kl": -o["beta"] * s.token_mean("forget", "kl_teacher_student", "all")}
    else:
        forget = {"forget_entropy": o["beta"] * s.sum_of(s.rows("forget", "all"), "entropy")}
    return {**forget, **_retain(s, o["retain"])}


def grad_diff_original(s, o):
    """No weights."""
    return {"forget_nll": -s.token_mean("forget", "nll"), **_retain(s, o["retain"])}


def kl(s, o):
    """Paper: the student's distribution first, answer rows."""
    return {
        "forget_nll": -s.token_mean("forget", "nll"),
        "retain_kl": s.sequence_mean("retain", "kl_student_teacher"),
    }


def kl_all_rows(s, o):
    """Released and original: the teacher's distribution first, all rows."""
    return {"forget_nll": -s.token_mean("forget", "nll"), **_retain(s, "kl")}


def idk(s, o):
    """Paper and released: two means."""
    return {"retain_nll": s.token_mean("retain", "nll"), "idk_nll": s.token_mean("idk", "nll")}


def idk_original(s, o):
    """One mean over the tokens of both batches."""
    n = len(s.rows("retain")) + len(s.rows("idk"))
    return {f"{name}_nll": s.over(s.sum_of(s.rows(name), "nll"), n) for name in ("retain", "idk")}


def dpo(s, o):
    """Paper: the refusals' likelihood, and the preference for them."""
    terms = {
        "idk_nll": o["lambda_idk"] * s.token_mean("idk", "nll"),
        "dpo": o["lambda_dpo"] * dpo_original(s, o)["dpo"],
    }
    return (
        terms
        if o["retain_weight"] == 0
        else {**terms, "retain_nll": o["retain_weight"] * s.token_mean("retain", "nll")}
    )


def dpo_original(s, o):
    """The preference alone, on sums over whole answers."""
    h = [
        rejected + -chosen
        for chosen, rejected in zip(s.log_ratios("idk"), s.log_ratios("forget"), strict=True)
    ]
    return {"dpo": s.mean_softplus(o["beta"], h)}


def dpo_released(s, o):
    """What the last line leaves: the idk answers' nll, summed over tokens."""
    return {"idk_nll": s.mean(s.sequence_sums("idk", "nll"))}


def npo(s, o):
    """Paper, and the original without a retain term."""
    return {"forget_npo": 2 / o["beta"] * s.mean_softplus(o["beta"], s.log_ratios("forget"))}


def npo_original(s, o):
    """With the retain term asked for."""
    return {**npo(s, o), **({} if o["retain"] == "none" else _retain(s, o["retain"]))}


def npo_released(s, o):
    """All rows, every entry of the vocabulary."""
    return {"forget_npo": 2 / o["beta"] * s.token_mean("forget", ("ratio", o["beta"], 1e-8), "all")}


def npo_released_before(s, o):
    """The ratio's logarithm in the ratio's place."""
    return {"forget_npo": 2 / o["beta"] * s.token_mean("forget", ("log_ratio", o["beta"]), "all")}


def scrub(s, o):
    """Paper: the teacher's distribution first, answer rows."""
    return {
        "retain_kl": o["alpha"] * s.sequence_mean("retain", "kl_teacher_student"),
        "forget_kl": -s.sequence_mean("forget", "kl_teacher_student"),
        "retain_nll": o["gamma"] * s.token_mean("retain", "nll"),
    }


def scrub_released(s, o):
    """The student's first, all rows."""
    return {
        "retain_kl": s.token_mean("retain", "kl_student_teacher", "all"),
        "forget_kl": -o["beta"] * s.token_mean("forget", "kl_student_teacher", "all"),
        "retain_nll": s.token_mean("retain", "nll"),
    }


def scrub_original(s, o):
    """The max pass and the min pass together, at a temperature."""
    column, square = ("kl_teacher_student", o["temperature"]), o["temperature"] ** 2
    return {
        "retain_kl": o["alpha"] * square * s.token_mean("retain", column),
        "forget_kl": -square * s.token_mean("forget", column),
        "retain_nll": o["gamma"] * s.token_mean("retain", "nll"),
    }


def llmu(s, o):
    """Paper."""
    return {
        "forget_nll": -s.token_mean("forget", "nll"),
        "idk_nll": s.sequence_mean("idk", "nll"),
        "retain_kl": s.sequence_mean("retain", f"kl_{o['kl']}"),
    }


def llmu_released(s, o):
    """The idk batch by tokens, the KL over all rows."""
    return {
        "forget_nll": -s.token_mean("forget", "nll"),
        "idk_nll": s.token_mean("idk", "nll"),
        "retain_kl": s.token_mean("retain", "kl_student_teacher", "all"),
    }


def llmu_original(s, o):
    """Random answers; a cross-entropy of whole distributions on retain."""
    random = total([s.sequence_mean(f"random{k + 1}", "nll") for k in range(o["n_random"])])
    return {
        "forget_nll": -o["w_forget"] * s.sequence_mean("forget", "nll"),
        "random_nll": o["w_random"] / o["n_random"] * random,
        "retain_cross_entropy": o["w_retain"] * s.token_mean("retain", "cross_entropy", "all"),
    }


def rmu(s, o):
    """Paper: squared lengths at real tokens."""
    return {
        "forget_distance": s.sequence_mean("forget", ("distance_to_control", o["c"]), "attention"),
        "retain_distance": o["alpha"]
        * s.sequence_mean("retain", "distance_to_teacher", "attention"),
    }


def rmu_mean_squares(s, o, forget=("distance_to_control",)):
    """Original, and released before 2025-03-30: mean squares over all rows."""
    width = s.batches["forget"]["hidden"].shape[2]
    return {
        "forget_distance": o.get("beta", 1.0)
        / width
        * s.token_mean("forget", (*forget, o["c"]), "all"),
        "retain_distance": o.get("alpha", 1.0)
        / width
        * s.token_mean("retain", "distance_to_teacher", "all"),
    }


def rmu_released(s, o):
    """Each sequence's mean state against every control vector."""
    return rmu_mean_squares(s, o, ("mean_to_controls",))


def sku(s, o):
    """Paper, first stage."""
    return _sku(s, o, s.token_mean, o["n_random"], s.sequence_mean("retain", "kl_teacher_student"))


def sku_released(s, o):
    """The random terms are summed, the KL runs over all rows."""
    return _sku(s, o, s.token_mean, 1, s.token_mean("retain", "kl_teacher_student", "all"))


def sku_original(s, o):
    """Means of sequences; the KL over all rows."""
    return _sku(
        s, o, s.sequence_mean, o["n_random"], s.token_mean("retain", "kl_teacher_student", "all")
    )


def _sku(s, o, mean, divisor, retain_kl):
    random = total([mean(f"random{k + 1}", "nll") for k in range(o["n_random"])])
    return {
        "forget_nll": o["w_forget"] * mean("forget", "nll"),
        "random_nll": o["w_random"] / divisor * random,
        "retain_kl": -o["w_retain"] * retain_kl,
    }


def _retain(s, kind):
    if kind == "ce":
        return {"retain_nll": s.token_mean("retain", "nll")}
    return {"retain_kl": s.token_mean("retain", "kl_teacher_student", "all")}


FORMULAS = {
    "retain_ft": {"paper": retain_ft, "released": retain_ft, "original": retain_ft},
    "grad_ascent": {"paper": grad_ascent, "released": grad_ascent, "original": grad_ascent},
    "grad_diff": {
        "paper": grad_diff,
        "released": grad_diff_released,
        "original": grad_diff_original,
    },
    "kl": {"paper": kl, "released": kl_all_rows, "original": kl_all_rows},
    "idk": {"paper": idk, "released": idk, "original": idk_original},
    "dpo": {"paper": dpo, "released": dpo_released, "original": dpo_original},
    "npo": {
        "paper": npo,
        "released": npo_released,
        "released@2024-12-10": npo_released_before,
        "released@2024-10-23": npo_released_before,
        "original": npo_original,
    },
    "scrub": {"paper": scrub, "released": scrub_released, "original": scrub_original},
    "llmu": {"paper": llmu, "released": llmu_released, "original": llmu_original},
    "rmu": {
        "paper": rmu,
        "released": rmu_released,
        "released@2024-12-10": rmu_mean_squares,
        "released@2024-10-23": rmu_mean_squares,
        "original": rmu_mean_squares,
    },
    "sku": {"paper": sku, "released": sku_released, "original": sku_original},
}


def formula(method, semantics):
    """The function of a method's meaning; a dated one without a formula of its own has the head's."""
    own = FORMULAS[method]
    return own[semantics] if semantics in own else own[semantics.split("@")[0]]


def answer(method, semantics, options, batches, sheet=Sheet) -> Answer:
    """The Answer of a method on batches of arrays (sheet.py), options a dict of all the variant's options."""
    found = sheet(batches)
    return found.answer(formula(method, semantics)(found, options))
