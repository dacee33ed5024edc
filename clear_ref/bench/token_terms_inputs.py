"""The tensors that `bench` computes on, and the exact value of each loss."""

import torch
from torch import Tensor

from clear_ref.data.batches import IGNORE

from .process import Findings
from .token_terms_peers import PEERS

HIDDEN = 2048  # width of the hidden states of task head


def make_inputs(job: Findings, device: torch.device, seed: int = 0) -> dict[str, tuple]:
    """{task: its tensors} on a device; job has dtype, rows, vocabulary and peers.

    Random logits of scale 3, teacher = student + noise, every 7th label ignored. Task head is
    there on a GPU, if one of the peers computes it.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, job["dtype"])
    n, vocabulary = job["rows"], job["vocabulary"]
    student = torch.randn(n, vocabulary, generator=generator).mul_(3).to(dtype)
    noise = torch.randn(n, vocabulary, generator=generator)
    teacher = noise.add_(student).to(dtype).to(device)
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    labels[6::7] = IGNORE
    student = student.to(device).requires_grad_()
    labels = labels.to(device)
    inputs: dict[str, tuple] = {"all": (student, labels, teacher), "ce": (student, labels)}
    if device.type == "cuda" and any(PEERS[name].task == "head" for name in job["peers"]):
        hidden = torch.randn(n, HIDDEN, generator=generator).to(dtype).to(device).requires_grad_()
        head = torch.randn(vocabulary, HIDDEN, generator=generator).mul_(3 / HIDDEN**0.5)
        inputs["head"] = (hidden, labels, head.to(dtype).to(device))
    return inputs


def reference(task: str, tensors: tuple) -> float:
    """The task's loss in float64 by definition (softmax, logarithm, sum), 64 rows at a time."""
    first, labels, *others = (tensor.detach() for tensor in tensors)
    cross_entropy = 0.0
    divergences = 0.0
    for start in range(0, len(labels), 64):
        rows = slice(start, start + 64)
        log_p = _logits(task, first[rows], others).log_softmax(-1)
        labelled = labels[rows] != IGNORE
        cross_entropy -= float(log_p[labelled, labels[rows][labelled]].sum())
        if task == "all":
            log_q = others[0][rows].double().log_softmax(-1)
            divergences += float(((log_q.exp() - log_p.exp()) * (log_q - log_p)).sum())
    return cross_entropy / max(int((labels != IGNORE).sum()), 1) + divergences


def _logits(task: str, first: Tensor, others: list[Tensor]) -> Tensor:
    if task == "head":
        return first.double() @ others[0].double().T
    return first.double()
