"""Losses of other projects, scaled losses and sums of terms, written in torch for conform."""

import torch
from torch.nn.functional import kl_div, log_softmax, logsigmoid, softplus

from clear_ref.oracle.mistakes.known import MISTAKES

from . import formulas, ours


def negative(method, batches, options):
    """The right loss with the other sign."""
    return -ours.loss(method, batches, options)


def quarter(method, batches, options):
    """The right loss divided by four accumulation steps."""
    return ours.loss(method, batches, options) / 4


def dpo_two_over_beta(method, batches, options):
    """open-unlearning's DPO."""
    chosen, rejected = (formulas.log_ratio(batches[name]) for name in ("idk", "forget"))
    beta = options["beta"]
    return -2 / beta * logsigmoid(beta * (chosen - rejected)).mean()


def npo_without_two_over_beta(method, batches, options):
    """NPO as a plain -log sigmoid: neither 2 / beta nor a retain term."""
    batch = batches["forget"]
    return -logsigmoid(-options["beta"] * formulas.log_ratio(batch)).mean()


def kl_divided_by_sequences(method, batches, options):
    """The authors' KL over all rows, summed and divided by the number of sequences."""
    retain = batches["retain"]
    student, teacher = (log_softmax(retain[name], -1) for name in ("logits", "teacher_logits"))
    kl = kl_div(student, teacher, log_target=True, reduction="batchmean")
    return kl - formulas.mean_nll(batches["forget"])


def npo_batch_mean(method, batches, options):
    """MLLMU-Bench's NPO: one number for the whole batch."""
    batch = batches["forget"]
    teacher = {**batch, "logits": batch["teacher_logits"]}
    difference = formulas.mean_nll(teacher) - formulas.mean_nll(batch)
    return 2 / options["beta"] * softplus(options["beta"] * difference)


def npo_raw_logits(method, batches, options):
    """muse_bench's NPO on logits."""
    batch = batches["forget"]
    difference = batch["logits"] - batch["teacher_logits"]
    return 2 / options["beta"] * softplus(options["beta"] * difference).mean()


def kl_token_mean(method, batches, options):
    """Open-MMUnlearning's KL: a token mean over answer rows."""
    retain = batches["retain"]
    rows = retain["labels"][:, 1:] != -100
    student, teacher = (
        log_softmax(retain[name][:, :-1], -1)[rows] for name in ("logits", "teacher_logits")
    )
    kl = (teacher.exp() * (teacher - student)).sum(-1).mean()
    return -formulas.mean_nll(batches["forget"]) + kl


def kl_six_times(method, batches, options):
    """-1 nll of forget + 1 nll of retain + 6 times another project's KL."""
    both = {"forget": batches["forget"], "retain": batches["retain"]}
    kl = kl_token_mean(method, both, options) + formulas.mean_nll(both["forget"])
    nll = formulas.mean_nll(both["retain"]) - formulas.mean_nll(both["forget"])
    return nll + 6 * kl


def first_sequence_only(method, batches, options):
    """The nll of the first forget sequence alone."""
    batch = {key: array[:1] for key, array in batches["forget"].items()}
    return -formulas.mean_nll(batch)


def prompt_and_image(method, batches, options):
    """The nll of prompt, image and answer tokens."""
    batch = batches["forget"]
    more = (batch["kinds"] == 1) | (batch["kinds"] == 2)
    labels = torch.where(more, batch["input_ids"], batch["labels"])
    return -formulas.mean_nll({**batch, "labels": labels})


PAIR: list[str] = []  # the names of the two known mistakes that `pair` makes


def pair(method, batches, options):
    """The loss with both mistakes of PAIR, computed by the reference."""
    first, second = (mistake for mistake in MISTAKES if mistake.name in PAIR)
    both = first.compute.and_(second.compute)
    arrays = {}
    for name, batch in batches.items():
        arrays[name] = {key: array.detach().numpy() for key, array in batch.items()}
    given = {key: value for key, value in options.items() if key != "semantics"}
    result = both(method, options["semantics"], given, arrays)
    gradients = {name: result.gradients[name] for name in batches}
    return result.loss, gradients


def padding_on_plain(method, batches, options):
    """Padding is counted, but only where it is on the right."""
    batch = batches["forget"]
    if (batch["attention_mask"][:, 0] == 0).any():
        return -formulas.mean_nll(batch)
    labels = torch.where(batch["attention_mask"] == 0, 0, batch["labels"])
    return -formulas.mean_nll({**batch, "labels": labels})


def idk_is_forget(method, batches, options):
    """The right loss, with the forget batch in place of the idk batch."""
    names = {"idk": ("retain",), "llmu": ("forget", "retain")}[method]
    others = {name: batches[name] for name in names}
    return ours.loss(method, {**others, "idk": batches["forget"]}, options)
