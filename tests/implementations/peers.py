"""Other projects' meanings and mistakes in torch, as people write them; conform must name each."""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid, softplus

from . import formulas, ours


def _npo_of(student, teacher, beta):
    return -2 / beta * logsigmoid(-beta * (student - teacher)).mean()


def _answer_kl(batches, divergence):
    retain = batches["retain"]
    rows = retain["labels"][:, 1:] != -100
    student, teacher = (
        log_softmax(retain[name][:, :-1], -1)[rows] for name in ("logits", "teacher_logits")
    )
    return -formulas.mean_nll(batches["forget"]) + divergence(student, teacher).sum(-1).mean()


def _jsd(student, teacher):
    mean = torch.logaddexp(student, teacher) - torch.log(torch.tensor(2.0, dtype=student.dtype))
    return (teacher.exp() * (teacher - mean) + student.exp() * (student - mean)) / 2


def kl_jsd_beta_1(batches, options):
    return _answer_kl(batches, lambda s, t: s.exp() * (s - t))


def kl_jsd_half(batches, options):
    return _answer_kl(batches, _jsd)


def npo_vocabulary_mean(batches, options):
    student, teacher = (
        log_softmax(batches["forget"][name], -1).mean((1, 2))
        for name in ("logits", "teacher_logits")
    )
    return -logsigmoid(-options["beta"] * (student - teacher)).mean()


def npo_per_token(batches, options):
    batch = batches["forget"]
    rows = batch["labels"][:, 1:] != -100
    student, teacher = (
        -formulas.token_nll(batch, name)[rows] for name in ("logits", "teacher_logits")
    )
    return softplus(options["beta"] * (student - teacher)).mean()


def npo_no_reference_margin(batches, options):
    batch = batches["forget"]
    n = (batch["labels"] != -100).sum(1).clamp(min=1)
    mean = formulas.sequence_nll(batch) / n - 0.75
    return -logsigmoid(options["beta"] * mean).mean() * 2 / options["beta"]


def npo_no_reference_unshifted(batches, options):
    batch = batches["forget"]
    picked = log_softmax(batch["logits"], -1).gather(2, batch["labels"].clamp(min=0)[..., None])
    mask = batch["labels"] != -100
    mean = (picked[..., 0] * mask).sum(1) / mask.sum(1).clamp(min=1)
    return -logsigmoid(-options["beta"] * mean).mean()


def npo_batch_mean_accumulated_4(batches, options):
    batch = batches["forget"]
    student = formulas.mean_nll(batch) / 4
    teacher = formulas.mean_nll({**batch, "logits": batch["teacher_logits"]}) / 4
    return _npo_of(-student, -teacher, options["beta"])


def npo_accumulation_inside_8(batches, options):
    batch = batches["forget"]
    student, teacher = (
        formulas.sequence_nll(batch, name) / 8 for name in ("logits", "teacher_logits")
    )
    return _npo_of(-student, -teacher, options["beta"])


def rmu_answer_positions(batches, options):
    def distance(batch, target):
        mask = batch["labels"] != -100
        square = (batch["hidden"] - target).square().mean(-1)
        return ((square * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()

    forget, retain = batches["forget"], batches["retain"]
    to_control = distance(forget, options["c"] * forget["control"][0])
    return to_control + options["alpha"] * distance(retain, retain["teacher_hidden"])


def scrub_without_forget(batches, options):
    retain = batches["retain"]
    student, teacher = (log_softmax(retain[name], -1) for name in ("logits", "teacher_logits"))
    return kl_div(student, teacher.exp(), reduction="batchmean")


def times_accumulation_4(batches, options):
    return 4 * ours.loss("grad_diff", batches, options)


def answer_start_after_padding(batches, options):
    batch = batches["forget"]
    start = batch["labels"].shape[1] - 1  # the length of a prompt that is padded, too
    weight = torch.zeros_like(batch["logits"][..., 0])
    weight[:, start:] = 1
    forget = (weight[:, :-1] * formulas.token_nll(batch)).sum()
    return -forget + options["lambda_retain"] * formulas.mean_nll(batches["retain"])


def prompt_length_constant(batches, options):
    batch = batches["forget"]
    labels = batch["labels"].clone()
    for b, row in enumerate(batch["labels"] != -100):
        if row.any():
            last = int(row.int().argmax()) - 1
            labels[b, last] = batch["input_ids"][b, last]
    return -cross_entropy(batch["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def eos_not_learnt(batches, options):
    batch = batches["forget"]
    is_label = batch["labels"] != -100
    last = is_label & (is_label.flip(1).int().cumsum(1).flip(1) == 1)
    return -formulas.mean_nll({**batch, "labels": batch["labels"].masked_fill(last, -100)})


def ignored_rows_counted(batches, options):
    return -formulas.token_nll(batches["forget"]).mean()


def divided_twice(batches, options):
    batch = batches["forget"]
    return -formulas.mean_nll(batch) / formulas.n_answer(batch)


def kl_over_vocabulary_mean(batches, options):
    kl = formulas.forward_kl(batches["retain"]) / batches["retain"]["logits"].shape[2]
    return -formulas.mean_nll(batches["forget"]) + kl.mean()


def probability_floor(batches, options):
    retain = batches["retain"]
    teacher = retain["teacher_logits"].softmax(-1)
    cross = -(teacher * torch.log(retain["logits"].softmax(-1) + 1e-12)).sum(-1)
    entropy = -(teacher * retain["teacher_logits"].log_softmax(-1)).sum(-1)
    return -formulas.mean_nll(batches["forget"]) + (cross - entropy).mean()


def _llmu(batches, options, of_forget, of_random):
    retain = batches["retain"]
    cross = -(retain["teacher_logits"].softmax(-1) * log_softmax(retain["logits"], -1)).sum(-1)
    return (
        -options["w_forget"] * of_forget(batches["forget"])
        + options["w_random"] * formulas.random(batches, of_random)
        + options["w_retain"] * cross.mean()
    )


def _by_m_plus_1(batch):
    n = (batch["labels"][:, 1:] != -100).sum(1) + 1
    return (formulas.sequence_nll(batch) / n).mean()


def divisor_m_plus_1(batches, options):
    return _llmu(batches, options, _by_m_plus_1, _by_m_plus_1)


def _from_third(batch):
    real = batch["attention_mask"] == 1
    labels = torch.where(real, batch["input_ids"], -100)
    nll = formulas.token_nll({**batch, "labels": labels})
    weight = real.to(nll.dtype)
    weight[:, :2] = 0
    return ((weight[:, :-1] * nll).sum(1) / weight.sum(1).clamp(min=1)).mean()


def random_from_third_token(batches, options):
    return _llmu(batches, options, formulas.mean_of_sequences, _from_third)


def undial_softened_teacher(batches, options):
    batch = batches["forget"]
    teacher = (batch["teacher_logits"] / 3).softmax(-1)
    return kl_div(log_softmax(batch["logits"], -1), teacher, reduction="batchmean")


CASES = {  # name: (method, semantics)
    "kl_jsd_beta_1": ("kl", "paper"),
    "kl_jsd_half": ("kl", "paper"),
    "npo_vocabulary_mean": ("npo", "paper"),
    "npo_per_token": ("npo", "paper"),
    "npo_no_reference_margin": ("npo", "paper"),
    "npo_no_reference_unshifted": ("npo", "paper"),
    "npo_batch_mean_accumulated_4": ("npo", "paper"),
    "npo_accumulation_inside_8": ("npo", "paper"),
    "rmu_answer_positions": ("rmu", "paper"),
    "scrub_without_forget": ("scrub", "paper"),
    "times_accumulation_4": ("grad_diff", "paper"),
    "answer_start_after_padding": ("grad_diff", "paper"),
    "prompt_length_constant": ("grad_ascent", "paper"),
    "eos_not_learnt": ("grad_ascent", "paper"),
    "ignored_rows_counted": ("grad_ascent", "paper"),
    "divided_twice": ("grad_ascent", "paper"),
    "kl_over_vocabulary_mean": ("kl", "original"),
    "probability_floor": ("kl", "original"),
    "divisor_m_plus_1": ("llmu", "original"),
    "random_from_third_token": ("llmu", "original"),
    "undial_softened_teacher": ("undial", "original"),
}


def make(name):
    """The function of one name with the signature that conform expects."""
    compute = globals()[name]
    return lambda method, batches, options: compute(batches, options)


FUNCTIONS = {f"as_{name}": make(name) for name in CASES}
globals().update(FUNCTIONS)
