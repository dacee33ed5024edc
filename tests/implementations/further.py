"""The losses beside the eleven in torch, as open-unlearning defines them; some with a mistake.

Written from the formulas, on masks and whole arrays.
"""

import torch
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid

from .formulas import forward_kl, mean_nll, sequence_nll, token_nll


def retain(batches, options):
    """alpha times the retain term."""
    if options["alpha"] == 0:
        return 0.0
    if options["retain"] == "kl":
        return options["alpha"] * forward_kl(batches["retain"]).mean()
    return options["alpha"] * mean_nll(batches["retain"])


def simnpo(batches, options):
    """Length-normalised, no reference."""
    batch = batches["forget"]
    n = (batch["labels"][:, 1:] != -100).sum(1).clamp(min=1)
    argument = options["beta"] * (sequence_nll(batch) / n - options["delta"])
    forget = -2 / options["beta"] * logsigmoid(argument).mean()
    return options["gamma"] * forget + retain(batches, options)


def adjusted(batch, beta):
    """[B, T - 1]: cross-entropy with the teacher's softmax, the labels' logits lowered by beta."""
    labels = batch["labels"][:, 1:]
    teacher = batch["teacher_logits"][:, :-1]
    lowered = torch.zeros_like(teacher)
    for b, t in (labels != -100).nonzero().tolist():
        lowered[b, t, labels[b, t]] = beta
    if teacher.shape[-1] >= 100:
        lowered[..., -100] += beta * (labels == -100)
    target = (teacher - lowered).softmax(-1)
    return -(target * log_softmax(batch["logits"][:, :-1], -1)).sum(-1)


def undial(batches, options):
    """Every row but the last of each sequence."""
    forget = adjusted(batches["forget"], options["beta"]).mean()
    return options["gamma"] * forget + retain(batches, options)


def weighted(batch, weight):
    """-mean of weight(p) nll over the answer tokens, the weights detached."""
    nll = token_nll(batch)[batch["labels"][:, 1:] != -100]
    return -(weight((-nll).exp().detach()) * nll).mean()


def wga(batches, options):
    """p^beta."""
    forget = weighted(batches["forget"], lambda p: p ** options["beta"])
    return options["gamma"] * forget + retain(batches, options)


def satimp(batches, options):
    """p^beta1 (1 - p)^beta2."""
    forget = weighted(
        batches["forget"], lambda p: p ** options["beta1"] * (1 - p) ** options["beta2"]
    )
    return options["gamma"] * forget + retain(batches, options)


def ceu(batches, options):
    """The own distribution without the label, from the token after the first `skip` on."""
    batch = batches["forget"]
    labelled = batch["labels"] != -100
    read = (labelled & (labelled.cumsum(1) > options["skip"]))[:, 1:]
    logits, labels = batch["logits"][:, :-1][read], batch["labels"][:, 1:][read]
    if len(labels) == 0:
        return batch["logits"].sum() * 0.0
    target = logits.detach().clone().scatter(1, labels[:, None], -torch.inf).softmax(-1)
    return cross_entropy(logits, target)


LOSSES = {"simnpo": simnpo, "undial": undial, "wga": wga, "satimp": satimp, "ceu": ceu}


def loss(method, batches, options):
    """The loss under `original` semantics, a torch scalar with its graph."""
    return LOSSES[method](batches, options)


def answer_rows_only(method, batches, options):
    """UNDIAL over answer rows: the paper's."""
    batch = batches["forget"]
    return adjusted(batch, options["beta"])[batch["labels"][:, 1:] != -100].mean()


def all_rows_counted(method, batches, options):
    """UNDIAL over answer rows, divided by all rows but the last."""
    batch = batches["forget"]
    is_read = batch["labels"][:, 1:] != -100
    return (adjusted(batch, options["beta"]) * is_read).sum() / is_read.numel()


def mean_inside(method, batches, options):
    """SimNPO of the mean over sequences."""
    batch = batches["forget"]
    n = (batch["labels"][:, 1:] != -100).sum(1).clamp(min=1)
    argument = options["beta"] * ((sequence_nll(batch) / n).mean() - options["delta"])
    forget = -2 / options["beta"] * logsigmoid(argument)
    return options["gamma"] * forget + retain(batches, options)


def unshifted(method, batches, options):
    """WGA and SatImp with the token at t as the label of row t."""
    moved = {}
    for name, batch in batches.items():
        first = torch.full_like(batch["labels"][:, :1], -100)
        more = torch.zeros_like(batch["logits"][:, :1])
        moved[name] = {**batch, "labels": torch.cat([first, batch["labels"]], 1)}
        moved[name]["logits"] = torch.cat([batch["logits"], more], 1)
    return LOSSES[method](moved, options)
