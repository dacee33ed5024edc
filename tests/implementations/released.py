"""The losses of the authors' released code since 2025-03-30, whatever semantics are asked for.

Written from a description of what it computes: cross-entropies are means over the tokens of the
batch; KLs are computed with kl_div over every row of a batch; DPO's last line overwrites its loss.
"""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softmax


def ce(batch, reduction="mean"):
    """Next-token cross-entropy: over the tokens of the batch, or [B] summed over each sequence."""
    logits, labels = batch["logits"][:, :-1], batch["labels"][:, 1:]
    if reduction == "mean":
        return cross_entropy(logits.flatten(0, 1), labels.flatten())
    return cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)


def kl(first, second):
    """kl_div's own order: KL(second || first), mean over all rows."""
    first, second = (log_softmax(logits, -1).flatten(0, 1) for logits in (first, second))
    return kl_div(first, second, reduction="batchmean", log_target=True)


def teacher_student(batch):
    """KL(teacher || student)."""
    return kl(batch["logits"], batch["teacher_logits"])


def student_teacher(batch):
    """KL(student || teacher): the arguments the other way round."""
    return kl(batch["teacher_logits"], batch["logits"])


def npo(batches, options):
    """Every row, every entry of the vocabulary."""
    p, q = (softmax(batches["forget"][name], -1) for name in ("logits", "teacher_logits"))
    beta = options.get("beta", 1.0)
    return 2 / beta * torch.log(1 + (p / (q + 1e-8)) ** beta).mean()


def rmu(batches, options):
    """The mean activation [B, D] against control vectors [B, 1, D], broadcast; mean squares."""
    away = (
        batches["forget"]["hidden"].mean(1) - options["c"] * batches["forget"]["control"][:, None]
    )
    return options.get("beta", 1.0) * away.square().mean() + mse_loss(
        batches["retain"]["hidden"], batches["retain"]["teacher_hidden"]
    )


LOSSES = {
    "retain_ft": lambda batches, options: ce(batches["retain"]),
    "grad_ascent": lambda batches, options: -ce(batches["forget"]),
    "grad_diff": lambda batches, options: (
        -options.get("beta", 1.0) * ce(batches["forget"]) + ce(batches["retain"])
    ),
    "kl": lambda batches, options: -ce(batches["forget"]) + teacher_student(batches["retain"]),
    "idk": lambda batches, options: ce(batches["retain"]) + ce(batches["idk"]),
    "dpo": lambda batches, options: ce(batches["idk"], "sums").mean(),
    "npo": npo,
    "scrub": lambda batches, options: (
        student_teacher(batches["retain"])
        - options.get("beta", 1.0) * student_teacher(batches["forget"])
        + ce(batches["retain"])
    ),
    "llmu": lambda batches, options: (
        -ce(batches["forget"]) + ce(batches["idk"]) + student_teacher(batches["retain"])
    ),
    "rmu": rmu,
    "sku": lambda batches, options: (
        options["w_forget"] * ce(batches["forget"])
        - options["w_retain"] * teacher_student(batches["retain"])
        + options["w_random"]
        * sum(ce(batch) for name, batch in batches.items() if name.startswith("random"))
    ),
}


def loss(method, batches, options):
    """The loss that the released trainer would return."""
    return LOSSES[method](batches, options)
