"""The `original` semantics in torch: losses as TOFU, NPO and open-unlearning define them.

Written from the formulas. Sequences are summed with cross_entropy and reduction="none"; KLs use
every row of a batch, RMU every position.
"""

import torch
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid


def token_nll(batch, logits="logits"):
    """[B, T - 1]: next-token nll, 0 at ignored labels."""
    return cross_entropy(
        batch[logits][:, :-1].transpose(1, 2),
        batch["labels"][:, 1:],
        reduction="none",
        ignore_index=-100,
    )


def n_answer(batch):
    """Labelled tokens of the whole batch."""
    return (batch["labels"][:, 1:] != -100).sum()


def mean_nll(batch):
    """Mean over the labelled tokens of the whole batch."""
    return token_nll(batch).sum() / n_answer(batch)


def sequence_nll(batch, logits="logits"):
    """[B]: summed over each answer."""
    return token_nll(batch, logits).sum(1)


def mean_of_sequences(batch):
    """Mean over sequences of the mean over each one's labelled tokens."""
    n = (batch["labels"][:, 1:] != -100).sum(1).clamp(min=1)
    return (sequence_nll(batch) / n).mean()


def forward_kl(batch, temperature=1.0):
    """[B, T]: KL(teacher || student) of each row."""
    student, teacher = (
        log_softmax(batch[name] / temperature, -1) for name in ("logits", "teacher_logits")
    )
    return (teacher.exp() * (teacher - student)).sum(-1)


def retain_term(b, o):
    """The added retain term of grad_diff and npo."""
    return {
        "none": lambda: 0.0,
        "ce": lambda: mean_nll(b["retain"]),
        "kl": lambda: forward_kl(b["retain"]).mean(),
    }[o["retain"]]()


def log_ratio(batch):
    """[B]: log pi - log pi_ref of each answer."""
    return sequence_nll(batch, "teacher_logits") - sequence_nll(batch)


def dpo(b, o):
    """Chosen: the refusal."""
    return -logsigmoid(o["beta"] * (log_ratio(b["idk"]) - log_ratio(b["forget"]))).mean()


def npo(b, o):
    """The dispreferred half of DPO."""
    return -2 / o["beta"] * logsigmoid(-o["beta"] * log_ratio(b["forget"])).mean() + retain_term(
        b, o
    )


def scrub(b, o):
    """Distillation at a temperature, on answer rows: T^2 KL."""
    t = o["temperature"]

    def distilled(batch):
        rows = batch["labels"][:, 1:] != -100
        return t * t * forward_kl(batch, t)[:, :-1][rows].mean()

    return (
        o["alpha"] * distilled(b["retain"])
        - distilled(b["forget"])
        + o["gamma"] * mean_nll(b["retain"])
    )


def llmu(b, o):
    """Random answers, and the cross-entropy of whole distributions on retain."""
    retain = (
        -(b["retain"]["teacher_logits"].softmax(-1) * log_softmax(b["retain"]["logits"], -1))
        .sum(-1)
        .mean()
    )
    return (
        -o["w_forget"] * mean_of_sequences(b["forget"])
        + o["w_random"] * random(b, mean_of_sequences)
        + o["w_retain"] * retain
    )


def random(b, mean):
    """The mean over the random batches."""
    return torch.stack(
        [mean(batch) for name, batch in b.items() if name.startswith("random")]
    ).mean()


def sku(b, o):
    """First stage."""
    return (
        o["w_forget"] * mean_of_sequences(b["forget"])
        + o["w_random"] * random(b, mean_of_sequences)
        - o["w_retain"] * forward_kl(b["retain"]).mean()
    )


def idk(b, o):
    """One mean over the tokens of both batches."""
    return sum(token_nll(b[name]).sum() for name in ("idk", "retain")) / sum(
        n_answer(b[name]) for name in ("idk", "retain")
    )


def rmu(b, o):
    """Mean squares at every position."""
    away = b["forget"]["hidden"] - o["c"] * b["forget"]["control"][0]
    moved = b["retain"]["hidden"] - b["retain"]["teacher_hidden"]
    return away.square().mean() + o["alpha"] * moved.square().mean()


LOSSES = {
    "retain_ft": lambda b, o: mean_nll(b["retain"]),
    "grad_ascent": lambda b, o: -mean_nll(b["forget"]),
    "grad_diff": lambda b, o: -mean_nll(b["forget"]) + retain_term(b, o),
    "kl": lambda b, o: -mean_nll(b["forget"]) + forward_kl(b["retain"]).mean(),
    "idk": idk,
    "dpo": dpo,
    "npo": npo,
    "scrub": scrub,
    "llmu": llmu,
    "rmu": rmu,
    "sku": sku,
}


def loss(method, batches, options):
    """The loss under `original` semantics, a torch scalar with its graph."""
    return LOSSES[method](batches, options)
