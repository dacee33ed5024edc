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


def retain_term(batches, options):
    """The added retain term of grad_diff and npo."""
    return {
        "none": lambda: 0.0,
        "ce": lambda: mean_nll(batches["retain"]),
        "kl": lambda: forward_kl(batches["retain"]).mean(),
    }[options["retain"]]()


def log_ratio(batch):
    """[B]: log pi - log pi_ref of each answer."""
    return sequence_nll(batch, "teacher_logits") - sequence_nll(batch)


def dpo(batches, options):
    """Chosen: the refusal."""
    return -logsigmoid(
        options["beta"] * (log_ratio(batches["idk"]) - log_ratio(batches["forget"]))
    ).mean()


def npo(batches, options):
    """The dispreferred half of DPO."""
    return -2 / options["beta"] * logsigmoid(
        -options["beta"] * log_ratio(batches["forget"])
    ).mean() + retain_term(batches, options)


def scrub(batches, options):
    """Distillation at a temperature, on answer rows: T^2 KL."""
    t = options["temperature"]

    def distilled(batch):
        rows = batch["labels"][:, 1:] != -100
        return t * t * forward_kl(batch, t)[:, :-1][rows].mean()

    return (
        options["alpha"] * distilled(batches["retain"])
        - distilled(batches["forget"])
        + options["gamma"] * mean_nll(batches["retain"])
    )


def llmu(batches, options):
    """Random answers, and the cross-entropy of whole distributions on retain."""
    retain = (
        -(
            batches["retain"]["teacher_logits"].softmax(-1)
            * log_softmax(batches["retain"]["logits"], -1)
        )
        .sum(-1)
        .mean()
    )
    return (
        -options["w_forget"] * mean_of_sequences(batches["forget"])
        + options["w_random"] * random(batches, mean_of_sequences)
        + options["w_retain"] * retain
    )


def random(batches, mean):
    """The mean over the random batches."""
    return torch.stack(
        [mean(batch) for name, batch in batches.items() if name.startswith("random")]
    ).mean()


def sku(batches, options):
    """First stage."""
    return (
        options["w_forget"] * mean_of_sequences(batches["forget"])
        + options["w_random"] * random(batches, mean_of_sequences)
        - options["w_retain"] * forward_kl(batches["retain"]).mean()
    )


def idk(batches, options):
    """One mean over the tokens of both batches."""
    return sum(token_nll(batches[name]).sum() for name in ("idk", "retain")) / sum(
        n_answer(batches[name]) for name in ("idk", "retain")
    )


def rmu(batches, options):
    """Mean squares at every position."""
    away = batches["forget"]["hidden"] - options["c"] * batches["forget"]["control"][0]
    moved = batches["retain"]["hidden"] - batches["retain"]["teacher_hidden"]
    return away.square().mean() + options["alpha"] * moved.square().mean()


LOSSES = {
    "retain_ft": lambda batches, options: mean_nll(batches["retain"]),
    "grad_ascent": lambda batches, options: -mean_nll(batches["forget"]),
    "grad_diff": lambda batches, options: (
        -mean_nll(batches["forget"]) + retain_term(batches, options)
    ),
    "kl": lambda batches, options: (
        -mean_nll(batches["forget"]) + forward_kl(batches["retain"]).mean()
    ),
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
