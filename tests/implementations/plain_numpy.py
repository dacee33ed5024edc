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


def dpo(b, o):
    """With the retain term where it has a weight."""
    preference = softplus(-o["beta"] * (log_ratio(b["idk"]) - log_ratio(b["forget"]))).mean()
    retain = o["retain_weight"] * token_mean(b["retain"]) if o["retain_weight"] else 0
    return o["lambda_idk"] * token_mean(b["idk"]) + o["lambda_dpo"] * preference + retain


def grad_diff(b, o):
    """forget = ce or entropy."""
    if o["forget"] == "ce":
        return -token_mean(b["forget"]) + o["lambda_retain"] * token_mean(b["retain"])
    ls = log_softmax(b["forget"]["logits"][:, :-1])
    mask, _ = answers(b["forget"])
    return (np.exp(ls) * ls).sum(2)[mask].mean() + o["lambda_retain"] * token_mean(b["retain"])


def llmu(b, o):
    """kl names the direction."""
    order = (
        ("logits", "teacher_logits")
        if o["kl"] == "student_teacher"
        else ("teacher_logits", "logits")
    )
    idk = (nll(b["idk"]).sum(1) / answers(b["idk"])[1]).mean()
    return -token_mean(b["forget"]) + idk + kl(b["retain"], *order)


def rmu(b, o):
    """Squared lengths at real positions."""

    def mean(batch, away):
        mask = batch["attention_mask"]
        return ((away**2).sum(2) * mask).sum(1).__truediv__(mask.sum(1)).mean()

    forget, retain = b["forget"], b["retain"]
    return mean(forget, forget["hidden"] - o["c"] * forget["control"][0]) + o["alpha"] * mean(
        retain, retain["hidden"] - retain["teacher_hidden"]
    )


def sku(b, o):
    """First stage."""
    random = np.mean([token_mean(batch) for name, batch in b.items() if name.startswith("random")])
    return (
        o["w_forget"] * token_mean(b["forget"])
        + o["w_random"] * random
        - o["w_retain"] * kl(b["retain"], "teacher_logits", "logits")
    )


LOSSES = {
    "retain_ft": lambda b, o: token_mean(b["retain"]),
    "grad_ascent": lambda b, o: -token_mean(b["forget"]),
    "grad_diff": grad_diff,
    "kl": lambda b, o: -token_mean(b["forget"]) + kl(b["retain"], "logits", "teacher_logits"),
    "idk": lambda b, o: token_mean(b["retain"]) + token_mean(b["idk"]),
    "dpo": dpo,
    "npo": lambda b, o: 2 / o["beta"] * softplus(o["beta"] * log_ratio(b["forget"])).mean(),
    "scrub": lambda b, o: (
        o["alpha"] * kl(b["retain"], "teacher_logits", "logits")
        - kl(b["forget"], "teacher_logits", "logits")
        + o["gamma"] * token_mean(b["retain"])
    ),
    "llmu": llmu,
    "rmu": rmu,
    "sku": sku,
}


def loss(method, batches, options):
    """The loss under `paper` semantics, a float."""
    return float(LOSSES[method](batches, options))


loss.framework = "numpy"
