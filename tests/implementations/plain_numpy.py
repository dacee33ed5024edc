"""The `paper` semantics in vectorised numpy, values only.

It uses masks and sums over whole arrays; the reference computes row by row.
"""

import numpy as np


def log_softmax(z):
    """Over the last axis."""
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def answers(batch):
    """(mask [B, T - 1], its sum per sequence [B], at least 1)."""
    mask = batch["labels"][:, 1:] != -100
    return mask, np.maximum(mask.sum(1), 1)


def nll(batch, logits="logits"):
    """[B, T - 1], 0 where nothing is to be predicted."""
    mask, _ = answers(batch)
    labels = np.where(mask, batch["labels"][:, 1:], 0)
    return -np.where(
        mask,
        np.take_along_axis(log_softmax(batch[logits][:, :-1]), labels[..., None], 2)[..., 0],
        0,
    )


def token_mean(batch):
    """Mean over the answer tokens of the whole batch."""
    return nll(batch).sum() / answers(batch)[0].sum()


def kl(batch, first, second):
    """Mean over sequences of the mean over answer rows of KL(first || second)."""
    one, two = log_softmax(batch[first][:, :-1]), log_softmax(batch[second][:, :-1])
    mask, n = answers(batch)
    return ((np.exp(one) * (one - two)).sum(2) * mask).sum(1).__truediv__(n).mean()


def log_ratio(batch):
    """[B]."""
    return (nll(batch, "teacher_logits") - nll(batch)).sum(1)


def softplus(x):
    """log(1 + exp(x))."""
    return np.logaddexp(0, x)


def dpo(batches, options):
    """With the retain term where it has a weight."""
    preference = softplus(
        -options["beta"] * (log_ratio(batches["idk"]) - log_ratio(batches["forget"]))
    ).mean()
    retain = (
        options["retain_weight"] * token_mean(batches["retain"]) if options["retain_weight"] else 0
    )
    return (
        options["lambda_idk"] * token_mean(batches["idk"])
        + options["lambda_dpo"] * preference
        + retain
    )


def grad_diff(batches, options):
    """forget = ce or entropy."""
    if options["forget"] == "ce":
        return -token_mean(batches["forget"]) + options["lambda_retain"] * token_mean(
            batches["retain"]
        )
    ls = log_softmax(batches["forget"]["logits"][:, :-1])
    mask, _ = answers(batches["forget"])
    return (np.exp(ls) * ls).sum(2)[mask].mean() + options["lambda_retain"] * token_mean(
        batches["retain"]
    )


def llmu(batches, options):
    """kl names the direction."""
    order = (
        ("logits", "teacher_logits")
        if options["kl"] == "student_teacher"
        else ("teacher_logits", "logits")
    )
    idk = (nll(batches["idk"]).sum(1) / answers(batches["idk"])[1]).mean()
    return -token_mean(batches["forget"]) + idk + kl(batches["retain"], *order)


def rmu(batches, options):
    """Squared lengths at real positions."""

    def mean(batch, away):
        mask = batch["attention_mask"]
        return ((away**2).sum(2) * mask).sum(1).__truediv__(mask.sum(1)).mean()

    forget, retain = batches["forget"], batches["retain"]
    return mean(forget, forget["hidden"] - options["c"] * forget["control"][0]) + options[
        "alpha"
    ] * mean(retain, retain["hidden"] - retain["teacher_hidden"])


def sku(batches, options):
    """First stage."""
    random = np.mean(
        [token_mean(batch) for name, batch in batches.items() if name.startswith("random")]
    )
    return (
        options["w_forget"] * token_mean(batches["forget"])
        + options["w_random"] * random
        - options["w_retain"] * kl(batches["retain"], "teacher_logits", "logits")
    )


LOSSES = {
    "retain_ft": lambda batches, options: token_mean(batches["retain"]),
    "grad_ascent": lambda batches, options: -token_mean(batches["forget"]),
    "grad_diff": grad_diff,
    "kl": lambda batches, options: (
        -token_mean(batches["forget"]) + kl(batches["retain"], "logits", "teacher_logits")
    ),
    "idk": lambda batches, options: token_mean(batches["retain"]) + token_mean(batches["idk"]),
    "dpo": dpo,
    "npo": lambda batches, options: (
        2 / options["beta"] * softplus(options["beta"] * log_ratio(batches["forget"])).mean()
    ),
    "scrub": lambda batches, options: (
        options["alpha"] * kl(batches["retain"], "teacher_logits", "logits")
        - kl(batches["forget"], "teacher_logits", "logits")
        + options["gamma"] * token_mean(batches["retain"])
    ),
    "llmu": llmu,
    "rmu": rmu,
    "sku": sku,
}


def loss(method, batches, options):
    """The loss under `paper` semantics, a float."""
    return float(LOSSES[method](batches, options))


loss.framework = "numpy"
