"""Losses in torch with one known mistake each, which conform must reject and name."""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid, softmax

from . import formulas


def _labels(batch, chosen):
    ids = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 0)
    return torch.where((batch["labels"] != -100) | chosen, ids, -100)


def _ascent(labels_of):
    return lambda batches, options: (
        -cross_entropy(
            batches["forget"]["logits"][:, :-1].flatten(0, 1),
            labels_of(batches["forget"])[:, 1:].flatten(),
        )
    )


def _first_lost(batch):
    first = (batch["labels"] != -100).int().cumsum(1) == 1
    return batch["labels"].masked_fill(first & (batch["labels"] != -100), -100)


def _retain_kl(make):
    """KL minimisation, semantics `original`, with another KL."""
    return lambda batches, options: -formulas.mean_nll(batches["forget"]) + make(batches["retain"])


def _npo(batches, options, nonlinear):
    return 2 / options["beta"] * nonlinear(options["beta"] * formulas.log_ratio(batches["forget"]))


def _raw(batch):
    picked = batch["logits"][:, :-1].gather(2, batch["labels"][:, 1:].clamp(min=0)[..., None])[
        ..., 0
    ]
    mask = batch["labels"][:, 1:] != -100
    return -(picked * mask).sum() / mask.sum()


def _ignored_used(batch):
    ls = log_softmax(batch["logits"][:, :-1], -1)
    return -ls.gather(2, batch["labels"][:, 1:].clamp(min=0)[..., None]).mean()


def _entry_by_entry(batches, options):
    rows = batches["forget"]["labels"][:, 1:] != -100
    ls, lt = (
        log_softmax(batches["forget"][name][:, :-1], -1)[rows]
        for name in ("logits", "teacher_logits")
    )
    return -2 / options["beta"] * logsigmoid(-options["beta"] * (ls - lt)).mean()


def _pairs(batches, options):
    student = -formulas.sequence_nll(batches["forget"])
    teacher = -formulas.sequence_nll(batches["forget"], "teacher_logits")
    return -2 / options["beta"] * logsigmoid(-options["beta"] * (student - teacher[:, None])).mean()


def _attached(batches, options):
    """The teacher's logits are the student's, moved by constants."""
    batch = batches["retain"]
    teacher = batch["logits"] + (batch["teacher_logits"] - batch["logits"]).detach()
    return (
        -formulas.mean_nll(batches["forget"])
        + formulas.forward_kl({**batch, "teacher_logits": teacher}).mean()
    )


def _bf16(batches, options):
    ls = (
        log_softmax(batches["forget"]["logits"][:, :-1], -1)
        .to(torch.bfloat16)
        .to(batches["forget"]["logits"].dtype)
    )
    return (
        ls.transpose(1, 2)
        .gather(1, batches["forget"]["labels"][:, None, 1:].clamp(min=0))[:, 0][
            batches["forget"]["labels"][:, 1:] != -100
        ]
        .mean()
    )


def _one_scale(batches, options):
    """A fused loss whose backward hands every row the mean of the upstream gradients."""
    batch = batches["forget"]
    rows = batch["labels"][:, 1:] != -100
    ls = log_softmax(batch["logits"][:, :-1], -1).gather(
        2, batch["labels"][:, 1:].clamp(min=0)[..., None]
    )[..., 0]
    ls = torch.where(rows, ls, 0.0)
    weights = torch.sigmoid(options["beta"] * formulas.log_ratio(batch)).detach() * 2 / len(rows)
    mean = (weights * rows.sum(1)).sum() / rows.sum()
    return (
        _npo(batches, options, lambda x: -logsigmoid(-x).mean()).detach()
        + mean * (ls - ls.detach()).sum()
    )


def _accumulated(batches, options):
    if len(batches["forget"]["labels"]) == 1:
        return -formulas.mean_nll(batches["forget"])
    parts = [
        {"forget": {key: array[part] for key, array in batches["forget"].items()}}
        for part in (slice(0, -1), slice(-1, None))
    ]
    return sum(-formulas.mean_nll(part["forget"]) for part in parts) / 2


MISTAKEN = {  # mistake: (method, semantics, function)
    "padding_counted": (
        "grad_ascent",
        "paper",
        _ascent(lambda batch: _labels(batch, batch["attention_mask"] == 0)),
    ),
    "prompt_counted": (
        "grad_ascent",
        "paper",
        _ascent(lambda batch: _labels(batch, batch["kinds"] == 2)),
    ),
    "image_tokens_counted": (
        "grad_ascent",
        "paper",
        _ascent(lambda batch: _labels(batch, batch["kinds"] == 1)),
    ),
    "shift_off_by_one": (
        "grad_ascent",
        "paper",
        lambda batches, options: (
            -cross_entropy(
                batches["forget"]["logits"].flatten(0, 1), batches["forget"]["labels"].flatten()
            )
        ),
    ),
    "shifted_twice": (
        "grad_ascent",
        "paper",
        lambda batches, options: (
            -cross_entropy(
                batches["forget"]["logits"][:, :-2].flatten(0, 1),
                batches["forget"]["labels"][:, 2:].flatten(),
            )
        ),
    ),
    "bos_off_by_one": ("grad_ascent", "paper", _ascent(_first_lost)),
    "kl_swapped": (
        "kl",
        "original",
        _retain_kl(
            lambda batch: formulas.forward_kl(
                {"logits": batch["teacher_logits"], "teacher_logits": batch["logits"]}
            ).mean()
        ),
    ),
    "kl_is_cross_entropy": (
        "kl",
        "original",
        _retain_kl(
            lambda batch: (
                -(softmax(batch["teacher_logits"], -1) * log_softmax(batch["logits"], -1))
                .sum(-1)
                .mean()
            )
        ),
    ),
    "sum_for_mean": (
        "grad_ascent",
        "paper",
        lambda batches, options: -formulas.token_nll(batches["forget"]).sum(),
    ),
    "batchmean_over_batch": (
        "kl",
        "original",
        _retain_kl(
            lambda batch: kl_div(
                log_softmax(batch["logits"], -1),
                log_softmax(batch["teacher_logits"], -1),
                reduction="batchmean",
                log_target=True,
            )
        ),
    ),
    "mean_inside_nonlinearity": (
        "npo",
        "paper",
        lambda batches, options: _npo(batches, options, lambda x: -logsigmoid(-x.mean())),
    ),
    "logits_for_logp": ("grad_ascent", "paper", lambda batches, options: -_raw(batches["forget"])),
    "vocabulary_wise_ratio": ("npo", "paper", _entry_by_entry),
    "reference_not_detached": ("kl", "original", _attached),
    "reference_is_wrong_model": (
        "npo",
        "paper",
        lambda batches, options: _npo(
            {
                "forget": {
                    **batches["forget"],
                    "teacher_logits": batches["forget"]["logits"].detach(),
                }
            },
            options,
            lambda x: -logsigmoid(-x).mean(),
        ),
    ),
    "last_debug_line_wins": (
        "dpo",
        "paper",
        lambda batches, options: formulas.sequence_nll(batches["idk"]).mean(),
    ),
    "broadcast_pairs": ("npo", "paper", _pairs),
    "entropy_sign": (
        "grad_diff",
        "paper",
        lambda batches, options: (
            formulas.mean_nll(batches["retain"]) * options["lambda_retain"]
            + torch.stack(
                [
                    -(row.softmax(-1) * log_softmax(row, -1)).sum()
                    for row in batches["forget"]["logits"][:, :-1][
                        batches["forget"]["labels"][:, 1:] != -100
                    ]
                ]
            ).mean()
        ),
    ),
    "mean_of_means": ("grad_ascent", "paper", _accumulated),
    "bf16_logp": ("grad_ascent", "paper", _bf16),
    "uniform_upstream": ("npo", "paper", _one_scale),
    "ignore_index_used": (
        "grad_ascent",
        "paper",
        lambda batches, options: -_ignored_used(batches["forget"]),
    ),
}


def make(name):
    """The function of one mistake with the signature that conform expects."""
    return lambda method, batches, options: MISTAKEN[name][2](batches, options)


globals().update({name: make(name) for name in MISTAKEN})
