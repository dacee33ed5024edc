"""The child process of `bench --what head`: python -m clear_ref.bench.frozen_head_worker JOB.

JOB    {kind: time | memory, dtype, rows, width, vocabulary, threads, rounds, case, ways}
prints JSON
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clear_ref.data.batches import IGNORE
from clear_ref.losses.planning import plan
from clear_ref.losses.rows import CHUNK_ROWS, BatchRows, FrozenHead

from .memory import growth
from .process import Findings

CASES = ("nll", "nll and both KLs")
NOISE = 0.3  # of the teacher's hidden states
EXACT_ROWS = 64  # whose gradient is compared with float64


@dataclass(frozen=True)
class Inputs:
    """Hidden states [n, D] of student and teacher, weight [V, D], labels and loss weights [n]."""

    hidden: Tensor
    teacher_hidden: Tensor | None
    weight: Tensor
    labels: Tensor
    weights: Tensor

    def rows(self, own: slice, dtype: torch.dtype) -> "Inputs":
        """Some rows, in another dtype."""
        teacher = self.teacher_hidden
        return Inputs(
            self.hidden.detach()[own].to(dtype).requires_grad_(),
            None if teacher is None else teacher[own].to(dtype),
            self.weight.to(dtype),
            self.labels[own],
            self.weights[own].to(dtype),
        )


def make_inputs(job: Findings) -> Inputs:
    """Random numbers: logits of scale 3, a weight of the loss for each row, every 7th ignored."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, job["dtype"])
    n, width, vocabulary = job["rows"], job["width"], job["vocabulary"]
    hidden = torch.randn(n, width, generator=generator)
    teacher_hidden = hidden + NOISE * torch.randn(n, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * (3 / width**0.5)
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    labels[6::7] = IGNORE
    return Inputs(
        hidden.to(dtype).requires_grad_(),
        teacher_hidden.to(dtype) if job["case"] == CASES[1] else None,
        weight.to(dtype),
        labels,
        torch.randn(n, generator=generator),
    )


def _sum(weights: Tensor, nll: Tensor, kls: tuple[Tensor, Tensor] | None) -> Tensor:
    """sum w nll + sum |w| KL(teacher || student) + sum |w| KL(student || teacher) / 2."""
    loss = (weights * nll).sum()
    if kls is None:
        return loss
    return loss + (weights.abs() * kls[0]).sum() + (weights.abs() / 2 * kls[1]).sum()


def ours(given: Inputs, fused: bool = True) -> Tensor:
    """As training computes it. fused False: as for a head that is trained."""
    teacher = given.teacher_hidden
    head = FrozenHead(lambda _, position: given.hidden[position], given.weight)
    batch = BatchRows(
        labels=F.pad(given.labels, (1, 0), value=0)[None],
        student_logits=lambda _, position: F.linear(given.hidden[position], given.weight),
        teacher_logits=None
        if teacher is None
        else lambda _, position: F.linear(teacher[position], given.weight),
        chunk_rows=min(CHUNK_ROWS, max(len(given.labels) // 2, 1)),
        frozen_head=head if fused else None,
    )
    labelled = given.labels != IGNORE

    def loss(batches: dict[str, BatchRows]) -> Tensor:
        terms = batches["forget"].terms("answer")
        kls = None
        if terms.kl_teacher_student is not None and terms.kl_student_teacher is not None:
            kls = (terms.kl_teacher_student, terms.kl_student_teacher)
        return _sum(given.weights[labelled], terms.nll, kls)

    batches = {"forget": batch}
    plan(loss, batches)
    return loss(batches)


def ours_chunked(given: Inputs) -> Tensor:
    """Chunks that are computed again in the backward pass."""
    return ours(given, fused=False)


def _labelled(given: Inputs) -> Inputs:
    """The labelled rows alone; the values are views or copies with a gradient."""
    chosen = given.labels != IGNORE
    teacher = given.teacher_hidden
    return Inputs(
        given.hidden[chosen],
        None if teacher is None else teacher[chosen],
        given.weight,
        given.labels[chosen],
        given.weights[chosen],
    )


def eager(given: Inputs) -> Tensor:
    """F.linear, F.cross_entropy; one log_softmax of each tensor for the KLs."""
    given = _labelled(given)
    logits = F.linear(given.hidden, given.weight)
    nll = F.cross_entropy(logits, given.labels, reduction="none")
    if given.teacher_hidden is None:
        return _sum(given.weights, nll, None)
    log_p = logits.log_softmax(-1)
    log_q = F.linear(given.teacher_hidden, given.weight).log_softmax(-1)
    kls = (_kl(log_p, log_q), _kl(log_q, log_p))
    return _sum(given.weights, nll, kls)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[n]: KL(q || p)."""
    return F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1)


def linear_cross_entropy(given: Inputs) -> Tensor:
    """torch's own in chunks; it is not in every version of torch."""
    function = getattr(F, "linear_cross_entropy")  # noqa: B009
    options = getattr(torch.nn, "LinearCrossEntropyOptions")()  # noqa: B009
    given = _labelled(given)
    nll = function(given.hidden, given.weight, given.labels, reduction="none", options=options)
    return _sum(given.weights, nll, None)


WAYS: dict[str, Callable[[Inputs], Tensor]] = {
    "ours": ours,
    "ours, chunked": ours_chunked,
    "eager": eager,
    "linear_cross_entropy": linear_cross_entropy,
}
NLL_ALONE = "linear_cross_entropy"


def gradient(way: str, given: Inputs) -> Tensor:
    """The gradient [n, D] of the loss in the hidden states."""
    return torch.autograd.grad(WAYS[way](given), given.hidden)[0]


def time_job(job: Findings) -> Findings:
    """{way: {seconds: [CPU time of each round], wall: [...], error} or {absent}}.

    The ways take turns; a first round is not counted.
    error  of the gradient of some rows, relative to its norm, against float64 by torch's functions
    """
    given = make_inputs(job)
    own = slice(0, EXACT_ROWS)
    exact = gradient("eager", given.rows(own, torch.float64))
    found: dict[str, Findings] = {way: {"seconds": [], "wall": []} for way in job["ways"]}
    for turn in range(job["rounds"] + 1):
        for way in job["ways"][::-1] if turn % 2 else job["ways"]:
            if "absent" in found[way]:
                continue
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                result = gradient(way, given)
            except AttributeError as error:
                found[way] = {"absent": str(error)}
                continue
            if turn:
                found[way]["seconds"].append(time.process_time() - cpu)
                found[way]["wall"].append(time.perf_counter() - wall)
            found[way]["error"] = float((result[own].double() - exact).norm() / exact.norm())
            del result
    return found


def memory_job(job: Findings) -> Findings:
    """{bytes, how}: growth of the resident memory's peak in one forward and backward of one way."""
    (way,) = job["ways"]
    given = make_inputs(job)
    small = {"rows": 8, "width": 8, "vocabulary": 16}
    gradient(way, make_inputs(job | small))
    return growth(lambda: gradient(way, given))


def main(argument: str) -> Findings:
    """What the job in `argument` (JSON) finds."""
    job = json.loads(argument)
    torch.set_num_threads(job["threads"])
    return time_job(job) if job["kind"] == "time" else memory_job(job)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
