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


def npo(b, o):
    """Every row, every entry of the vocabulary."""
    p, q = (softmax(b["forget"][name], -1) for name in ("logits", "teacher_logits"))
    beta = o.get("beta", 1.0)
    return 2 / beta * torch.log(1 + (p / (q + 1e-8)) ** beta).mean()


def rmu(b, o):
    """The mean activation [B, D] against control vectors [B, 1, D], broadcast; mean squares."""
    away = b["forget"]["hidden"].mean(1) - o["c"] * b["forget"]["control"][:, None]
    return o.get("beta", 1.0) * away.square().mean() + mse_loss(
        b["retain"]["hidden"], b["retain"]["teacher_hidden"]
    )


LOSSES = {
    "retain_ft": lambda b, o: ce(b["retain"]),
    "grad_ascent": lambda b, o: -ce(b["forget"]),
    "grad_diff": lambda b, o: -o.get("beta", 1.0) * ce(b["forget"]) + ce(b["retain"]),
    "kl": lambda b, o: -ce(b["forget"]) + teacher_student(b["retain"]),
    "idk": lambda b, o: ce(b["retain"]) + ce(b["idk"]),
    "dpo": lambda b, o: ce(b["idk"], "sums").mean(),
    "npo": npo,
    "scrub": lambda b, o: (
        student_teacher(b["retain"])
        - o.get("beta", 1.0) * student_teacher(b["forget"])
        + ce(b["retain"])
    ),
    "llmu": lambda b, o: -ce(b["forget"]) + ce(b["idk"]) + student_teacher(b["retain"]),
    "rmu": rmu,
    "sku": lambda b, o: (
        o["w_forget"] * ce(b["forget"])
        - o["w_retain"] * teacher_student(b["retain"])
        + o["w_random"] * sum(ce(batch) for name, batch in b.items() if name.startswith("random"))
    ),
}


def loss(method, batches, options):
    """The loss that the released trainer would return."""
    return LOSSES[method](batches, options)
