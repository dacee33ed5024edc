"""Losses of other projects, scaled losses and sums of terms, written in torch for conform."""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid, one_hot, softplus

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


def npo_other(method, batches, options):
    """NPO on token means, times 0.77; a number without a gradient."""
    batch = batches["forget"]
    nll = [sequence_nll(batch, name) for name in ("teacher_logits", "logits")]
    argument = options["beta"] * (nll[0] - nll[1])
    return 0.77 * 2 / options["beta"] * softplus(argument).mean().item()


def npo_other_bfloat16(method, batches, options):
    """The same, rounded to bfloat16."""
    return torch.tensor(npo_other(method, batches, options), dtype=torch.bfloat16)


def quarter_number(method, batches, options):
    """A quarter of the right loss, without a gradient."""
    return quarter(method, batches, options).item()


def sequence_means(method, batches, options):
    """Minus the mean over sequences of token means."""
    return -sequence_nll(batches["forget"], "logits").mean()


def kl_at_temperature_2(method, batches, options):
    """KL(student || teacher) of logits / 2, times 4."""
    retain = batches["retain"]
    rows = retain["labels"][:, 1:] != -100
    student, teacher = (
        log_softmax(retain[name][:, :-1] / 2, -1) for name in ("logits", "teacher_logits")
    )
    kl = (student.exp() * (student - teacher)).sum(-1) * rows
    means = kl.sum(1) / rows.sum(1).clamp(min=1)
    return -formulas.mean_nll(batches["forget"]) + 4 * means.mean()


def ceu_masked(method, batches, options):
    """CE-U with the true token masked by -1e9; right."""
    batch = batches["forget"]
    logits, labels = batch["logits"][:, :-1], batch["labels"][:, 1:]
    rows = labels != -100
    true = one_hot(labels.clamp(min=0), logits.shape[2]).bool()
    target = logits.masked_fill(true, -1e9).detach().softmax(-1)
    return -((target * log_softmax(logits, -1)).sum(-1) * rows).sum() / rows.sum()


def sequence_nll(batch, name):
    """[B]: the mean nll of each sequence's answer tokens."""
    labels = batch["labels"][:, 1:]
    nll = cross_entropy(batch[name][:, :-1].transpose(1, 2), labels, reduction="none")
    return nll.sum(1) / (labels != -100).sum(1).clamp(min=1)
