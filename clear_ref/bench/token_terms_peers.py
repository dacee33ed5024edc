"""The peers of `bench` and the process that measures them: python -m clear_ref.bench.token_terms_peers JOB, one JSON object in and out.

JOB    {kind: time | memory, device, dtype, rows, vocabulary, threads, rounds, peers: names}
Every peer turns tensors into one number; its backward computes the gradient in the first of them:
    all    (student, labels, teacher): mean cross-entropy of the labelled rows + sum of KL(teacher || student) + sum of
           KL(student || teacher), over every row
    ce     (student, labels): the cross-entropy alone
    head   (hidden, labels, head): the cross-entropy of hidden @ head.T, product included
"""

import gc
import hashlib
import importlib
import json
import math
import resource
import sys
import time
from dataclasses import dataclass

import numpy
import torch
import torch.nn.functional as F

from clear_ref.common.errors import UserError
from clear_ref.data.batches import IGNORE
from clear_ref.losses.terms import token_terms

from .memory import growth

HIDDEN = 2048  # width of the hidden states of task head
GPU_SETS_BYTES, GPU_WARM_UPS, GPU_REPEATS = 160 << 20, 20, 100
BANDWIDTH_BYTES = 256 << 20


@dataclass(frozen=True)
class Peer:
    """One competitor: `make()` gives the loss as a function of the task's tensors; note: what else it does, or does not."""

    make: object
    task: str = "all"
    needs_gpu: bool = False
    note: str = ""


def _mean(nll, labels):
    return nll.sum() / (labels != IGNORE).sum()


def _ours(impl):
    def loss(student, labels, teacher):
        terms = token_terms(student, labels, teacher, impl=impl, entropy=False)
        return (
            _mean(terms.nll, labels)
            + terms.kl_teacher_student.sum()
            + terms.kl_student_teacher.sum()
        )

    return lambda: loss


def _ours_ce(student, labels):
    return _mean(token_terms(student, labels, impl="native", entropy=False).nll, labels)


def _kl(log_p, log_q):
    return F.kl_div(log_p, log_q, log_target=True, reduction="sum")


def _eager(student, labels, teacher):
    return (
        F.cross_entropy(student, labels, ignore_index=IGNORE)
        + _kl(F.log_softmax(student, -1), F.log_softmax(teacher, -1))
        + _kl(F.log_softmax(teacher, -1), F.log_softmax(student, -1))
    )


def _fp32(student, labels, teacher):
    return _eager(student.float(), labels, teacher.float())


def _tuned(student, labels, teacher):
    student, teacher = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return (
        F.nll_loss(student, labels, ignore_index=IGNORE)
        + _kl(student, teacher)
        + _kl(teacher, student)
    )


def _liger():
    f = importlib.import_module("liger_kernel.transformers.functional")

    def loss(student, labels, teacher):
        p, q = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
        return (
            f.liger_cross_entropy(student.clone(), labels, ignore_index=IGNORE)
            + f.liger_kl_div(p, q, reduction="sum", log_target=True)
            + len(labels) * f.liger_jsd(p, q, None, 1.0)
        )

    return loss


def _liger_ce():
    f = importlib.import_module("liger_kernel.transformers.functional").liger_cross_entropy
    return lambda student, labels: f(student.clone(), labels, ignore_index=IGNORE)


def _flash():
    f = importlib.import_module("flash_attn.ops.triton.cross_entropy").cross_entropy_loss
    return lambda student, labels: _mean(f(student, labels, ignore_index=IGNORE)[0].float(), labels)


def _cut():
    f = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return lambda hidden, labels, head: f(hidden, head, labels, ignore_index=IGNORE)


def _linear(hidden, labels, head):
    return F.linear_cross_entropy(hidden, head, labels, ignore_index=IGNORE)


PEERS = {
    "ours native": Peer(_ours("native")),
    "ours torch": Peer(_ours("torch")),
    "eager": Peer(lambda: _eager, note="upstream's formulation: log_softmax again for every term"),
    "eager fp32": Peer(lambda: _fp32, note="the same after .float()"),
    "eager tuned": Peer(lambda: _tuned, note="one log_softmax per tensor"),
    "compile eager": Peer(
        lambda: torch.compile(_eager, dynamic=False), note="torch.compile of eager"
    ),
    "compile tuned": Peer(
        lambda: torch.compile(_tuned, dynamic=False), note="torch.compile of eager tuned"
    ),
    "liger": Peer(
        _liger,
        needs_gpu=True,
        note="CE on a copy of the logits (it overwrites them); KLDiv, JSD(1) of log_softmax",
    ),
    "ours native ce": Peer(lambda: _ours_ce, "ce", True),
    "liger ce": Peer(_liger_ce, "ce", True, "on a copy of the logits, which it overwrites"),
    "flash-attn ce": Peer(_flash, "ce", True),
    "ours native head": Peer(
        lambda: lambda hidden, labels, head: _ours_ce(hidden @ head.T, labels),
        "head",
        True,
        "a matrix product, then the kernel",
    ),
    "cut cross-entropy": Peer(_cut, "head", True),
    "linear_cross_entropy": Peer(lambda: _linear, "head", True, "torch.nn.functional"),
}


def make_inputs(job, device, seed=0) -> dict:
    """{task: its tensors} on a device: random logits of scale 3, teacher = student + noise, every 7th label ignored."""
    g, dtype, size = (
        torch.Generator().manual_seed(seed),
        getattr(torch, job["dtype"]),
        (job["rows"], job["vocabulary"]),
    )
    student = torch.randn(size, generator=g).mul_(3).to(dtype)
    teacher = torch.randn(size, generator=g).add_(student).to(dtype).to(device)
    labels = torch.randint(0, size[1], size[:1], generator=g)
    labels[6::7] = IGNORE
    student, labels = student.to(device).requires_grad_(), labels.to(device)
    found = {"all": (student, labels, teacher), "ce": (student, labels)}
    if device.type == "cuda" and any(PEERS[name].task == "head" for name in job["peers"]):
        hidden = torch.randn(size[0], HIDDEN, generator=g).to(dtype).to(device).requires_grad_()
        found["head"] = (
            hidden,
            labels,
            torch.randn(size[1], HIDDEN, generator=g).mul_(3 / HIDDEN**0.5).to(dtype).to(device),
        )
    return found


def reference(task, tensors) -> float:
    """The task's loss in float64 by definition (softmax, logarithm, sum), 64 rows at a time."""
    first, labels, *other = (tensor.detach() for tensor in tensors)
    cross = kls = 0.0
    for part in (slice(at, at + 64) for at in range(0, len(labels), 64)):
        p = (
            first[part].double() @ other[0].double().T if task == "head" else first[part].double()
        ).log_softmax(-1)
        kept = labels[part] != IGNORE
        cross -= float(p[kept, labels[part][kept]].sum())
        if task == "all":
            q = other[0][part].double().log_softmax(-1)
            kls += float(((q.exp() - p.exp()) * (q - p)).sum())
    return cross / max(int((labels != IGNORE).sum()), 1) + kls


def ready(names, inputs, device) -> tuple[dict, dict, dict]:
    """{name: loss}, {name: value of its first call}, {name: {absent: reason}}; of ours, only a UserError is a reason."""
    losses, values, absent = {}, {}, {}
    for name in names:
        if PEERS[name].needs_gpu and device.type != "cuda":
            absent[name] = {"absent": "needs a GPU"}
            continue
        try:
            made, tensors = PEERS[name].make(), inputs[PEERS[name].task]
            loss = made(*tensors)
            torch.autograd.grad(loss, tensors[0])
            losses[name], values[name] = made, float(loss.detach())
        except Exception as error:
            if name.startswith("ours") and not isinstance(error, UserError):
                raise
            lines = str(error).strip().splitlines() or [""]
            absent[name] = {"absent": f"{type(error).__name__}: {lines[0]}"[:200]}
    return losses, values, absent


def wait(device) -> None:
    """Until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device) -> dict:
    """{copy, read} in bytes per second: torch's copy_ (read + written) and its fastest reduction of 256 MB, best of 7."""
    source = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    target = torch.empty_like(source)
    wait(device)

    def best(call):
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            wait(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    copy, read = best(lambda: target.copy_(source)), min(best(source.sum), best(source.amax))
    return {"copy": 2 * BANDWIDTH_BYTES / copy, "read": BANDWIDTH_BYTES / read}


def _mark(device):
    """Now: in seconds, or as an event in the GPU's queue."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def once(loss_of, tensors, device) -> dict:
    """One forward and backward, in ms: each, both, CPU time of the process (GPU: host time until all is queued); page faults."""
    wait(device)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    cpu, start = clock(), _mark(device)
    loss = loss_of(*tensors)
    middle = _mark(device)
    gradient = torch.autograd.grad(loss, tensors[0])  # noqa: F841 - alive until the clock has stopped
    end = _mark(device)
    cpu = clock() - cpu
    wait(device)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    forward, backward, both = (
        (b - a) * 1e3 if device.type == "cpu" else a.elapsed_time(b)
        for a, b in ((start, middle), (middle, end), (start, end))
    )
    return {
        "forward_ms": forward,
        "backward_ms": backward,
        "both_ms": both,
        "cpu_ms": cpu * 1e3,
        "page_faults": faults,
    }


def time_job(job, device) -> dict:
    """{bandwidth, inputs_sha256, input_sets, peers: {name: times, loss, reference, loss_error | absent}}; peers in turn."""
    inputs, bands = make_inputs(job, device), bandwidth(device)
    digest = hashlib.sha256()
    for tensor in inputs["all"]:
        digest.update(tensor.detach().cpu().view(torch.uint8).numpy())
    losses, values, found = ready(job["peers"], inputs, device)
    taken, sets, warm_ups, repeats = {name: [] for name in losses}, [inputs], 2, job["rounds"]
    if device.type == "cuda":
        warm_ups, repeats = GPU_WARM_UPS, max(GPU_REPEATS, job["rounds"])
        needed = max(2, math.ceil(GPU_SETS_BYTES / (2 * inputs["all"][0].nbytes)))
        sets += [make_inputs(job, device, seed) for seed in range(1, needed)]
    gc.disable()
    for turn in range(warm_ups + repeats):
        gc.collect()
        order = [*losses][turn % max(len(losses), 1) :] + [*losses][: turn % max(len(losses), 1)]
        for name in order[
            :: -1 if turn % 2 else 1
        ]:  # not always after the same peer, whose freed pages it gets
            taken[name].append(once(losses[name], sets[turn % len(sets)][PEERS[name].task], device))
    for name, calls in taken.items():
        columns = {
            key: numpy.percentile([call[key] for call in calls[warm_ups:]], [50, 20, 80]).tolist()
            for key in calls[0]
        }
        wanted = reference(PEERS[name].task, inputs[PEERS[name].task])
        found[name] = {
            "page_faults": int(columns.pop("page_faults")[0]),
            "loss": values[name],
            "reference": wanted,
            "loss_error": abs(values[name] - wanted) / max(abs(wanted), 1e-30),
        }
        found[name] |= {
            key: dict(zip(("median", "p20", "p80"), column)) for key, column in columns.items()
        }
        if device.type == "cuda":
            found[name]["memory"] = gpu_memory(losses[name], inputs[PEERS[name].task])
    return {
        "bandwidth": bands,
        "inputs_sha256": digest.hexdigest(),
        "input_sets": len(sets),
        "peers": {name: found[name] | {"task": PEERS[name].task} for name in job["peers"]},
    }


def gpu_memory(loss_of, tensors) -> dict:
    """Peak bytes of one forward and backward over what was allocated before, gradient included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(loss_of(*tensors), tensors[0])
    return {
        "bytes": torch.cuda.max_memory_allocated() - before,
        "how": "max_memory_allocated - inputs",
    }


def memory_job(job, device) -> dict:
    """{bytes, how | absent}: growth of the resident high-water mark in one forward and backward of the only peer, on the CPU."""
    (name,), inputs = job["peers"], make_inputs(job, device)
    small = make_inputs(job | {"rows": 2, "vocabulary": min(job["vocabulary"], 64)}, device)
    losses, _, absent = ready(
        [name], inputs if name.startswith("compile") else small, device
    )  # compiled for its shape
    if absent:
        return absent[name]
    return growth(lambda: torch.autograd.grad(losses[name](*inputs["all"]), inputs["all"][0]))


def main(argument: str) -> dict:
    """What the job in `argument` (JSON) found."""
    job = json.loads(argument)
    device = torch.device(job["device"])
    torch.set_num_threads(job["threads"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return {"time": time_job, "memory": memory_job}[job["kind"]](job, device)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
