"""The child process of `bench`: python -m clear_ref.bench.token_terms_worker JOB prints JSON.

JOB    {kind: time | memory | scaling, device, dtype, rows, vocabulary, threads, rounds,
       peers: names}
"""

import gc
import hashlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable

import numpy
import torch

from clear_ref.common.errors import UserError

from .memory import growth
from .process import Findings
from .token_terms_inputs import make_inputs, reference
from .token_terms_peers import PEERS, LossFunction

GPU_SETS_BYTES = 160 << 20  # inputs of a GPU's calls: together more than its cache
GPU_WARM_UPS = 20
GPU_REPEATS = 100
CPU_WARM_UPS = 2
BANDWIDTH_BYTES = 256 << 20
THREAD_CALLS = 5  # of each number of threads in one round
THREAD_WARM_UPS = 4


def ready(
    names: list[str], inputs: dict[str, tuple], device: torch.device
) -> tuple[dict[str, LossFunction], dict[str, float], dict[str, Findings]]:
    """({name: loss}, {name: value of its first call}, {name: {absent: reason}}).

    An error of another implementation makes it absent; of ours, only a UserError does.
    """
    losses: dict[str, LossFunction] = {}
    values: dict[str, float] = {}
    absent: dict[str, Findings] = {}
    for name in names:
        if PEERS[name].needs_gpu and device.type != "cuda":
            absent[name] = {"absent": "needs a GPU"}
            continue
        try:
            loss_of = PEERS[name].make()
            tensors = inputs[PEERS[name].task]
            loss = loss_of(*tensors)
            torch.autograd.grad(loss, tensors[0])
        except Exception as error:
            if name.startswith("ours") and not isinstance(error, UserError):
                raise
            lines = str(error).strip().splitlines() or [""]
            absent[name] = {"absent": f"{type(error).__name__}: {lines[0]}"[:200]}
        else:
            losses[name] = loss_of
            values[name] = float(loss.detach())
    return losses, values, absent


def wait(device: torch.device) -> None:
    """Waits until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device) -> dict[str, float]:
    """{copy, read} in bytes per second, best of 7, for 256 MB.

    copy: torch's copy_, bytes read and written; read: torch's fastest reduction
    """
    source = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    target = torch.empty_like(source)
    wait(device)

    def best(call: Callable[[], object]) -> float:
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            wait(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    copy = best(lambda: target.copy_(source))
    read = min(best(source.sum), best(source.amax))
    return {"copy": 2 * BANDWIDTH_BYTES / copy, "read": BANDWIDTH_BYTES / read}


def once(loss_of: LossFunction, tensors: tuple, device: torch.device) -> dict[str, float]:
    """One forward and backward pass.

    forward_ms, backward_ms, both_ms  wall time; on a GPU, the time between events in its queue
    cpu_ms       CPU time of the process; on a GPU, the host's time until all work is queued
    page_faults  of the process
    """
    wait(device)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if device.type == "cpu":
        found = _once_on_cpu(loss_of, tensors)
    else:
        found = _once_on_gpu(loss_of, tensors, device)
    return found | {"page_faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults}


def _once_on_cpu(loss_of: LossFunction, tensors: tuple) -> dict[str, float]:
    cpu = time.process_time()
    start = time.perf_counter()
    loss = loss_of(*tensors)
    middle = time.perf_counter()
    gradient = torch.autograd.grad(loss, tensors[0])
    end = time.perf_counter()
    cpu = time.process_time() - cpu
    del gradient  # not freed before the times are taken
    return {
        "forward_ms": (middle - start) * 1e3,
        "backward_ms": (end - middle) * 1e3,
        "both_ms": (end - start) * 1e3,
        "cpu_ms": cpu * 1e3,
    }


def _once_on_gpu(loss_of: LossFunction, tensors: tuple, device: torch.device) -> dict[str, float]:
    start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    host = time.perf_counter()
    start.record()
    loss = loss_of(*tensors)
    middle.record()
    gradient = torch.autograd.grad(loss, tensors[0])
    end.record()
    host = time.perf_counter() - host
    wait(device)
    del gradient  # not freed before the times are taken
    return {
        "forward_ms": start.elapsed_time(middle),
        "backward_ms": middle.elapsed_time(end),
        "both_ms": start.elapsed_time(end),
        "cpu_ms": host * 1e3,
    }


def time_job(job: Findings, device: torch.device) -> Findings:
    """The peers of a job, timed in turns.

    returns  {bandwidth, inputs_sha256, input_sets, peers: {name: {forward_ms, backward_ms, both_ms,
             cpu_ms: {median, p20, p80}, page_faults, loss, reference, loss_error, task} | absent}}
    """
    inputs = make_inputs(job, device)
    bands = bandwidth(device)
    digest = hashlib.sha256()
    for tensor in inputs["all"]:
        digest.update(tensor.detach().cpu().view(torch.uint8).numpy())
    losses, values, found = ready(job["peers"], inputs, device)
    sets = [inputs]
    warm_ups, repeats = CPU_WARM_UPS, job["rounds"]
    if device.type == "cuda":
        warm_ups, repeats = GPU_WARM_UPS, max(GPU_REPEATS, job["rounds"])
        needed = max(2, math.ceil(GPU_SETS_BYTES / (2 * inputs["all"][0].nbytes)))
        sets += [make_inputs(job, device, seed) for seed in range(1, needed)]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in losses}
    gc.disable()
    for turn in range(warm_ups + repeats):
        gc.collect()
        for name in _order(list(losses), turn):
            tensors = sets[turn % len(sets)][PEERS[name].task]
            taken[name].append(once(losses[name], tensors, device))
    for name, calls in taken.items():
        tensors = inputs[PEERS[name].task]
        found[name] = summary(calls[warm_ups:], values[name], reference(PEERS[name].task, tensors))
        if device.type == "cuda":
            found[name]["memory"] = gpu_memory(losses[name], tensors)
    return {
        "bandwidth": bands,
        "inputs_sha256": digest.hexdigest(),
        "input_sets": len(sets),
        "peers": {name: found[name] | {"task": PEERS[name].task} for name in job["peers"]},
    }


def _order(names: list[str], turn: int) -> list[str]:
    """The order of the peers in a turn; it differs: a peer reuses pages that another has freed."""
    if not names:
        return []
    first = turn % len(names)
    order = names[first:] + names[:first]
    return order[::-1] if turn % 2 else order


def summary(calls: list[dict[str, float]], loss: float, expected: float) -> Findings:
    """Percentiles of the calls of one peer, and the error of its loss."""
    found: Findings = {}
    for key in calls[0]:
        median, p20, p80 = numpy.percentile([call[key] for call in calls], [50, 20, 80]).tolist()
        if key == "page_faults":
            found[key] = int(median)
        else:
            found[key] = {"median": median, "p20": p20, "p80": p80}
    return found | {
        "loss": loss,
        "reference": expected,
        "loss_error": abs(loss - expected) / max(abs(expected), 1e-30),
    }


def gpu_memory(loss_of: LossFunction, tensors: tuple) -> Findings:
    """{bytes, how}: peak of one forward and backward over the inputs, gradient included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(loss_of(*tensors), tensors[0])
    return {
        "bytes": torch.cuda.max_memory_allocated() - before,
        "how": "max_memory_allocated - inputs",
    }


def memory_job(job: Findings, device: torch.device) -> Findings:
    """{bytes, how | absent}: growth of the resident memory's peak in one forward and backward.

    The job has one peer; on the CPU.
    """
    (name,) = job["peers"]
    inputs = make_inputs(job, device)
    first_inputs = inputs  # of the first call, which is not measured
    if not name.startswith("compile"):  # a compiled function is compiled for its shape
        small = {"rows": 2, "vocabulary": min(job["vocabulary"], 64)}
        first_inputs = make_inputs(job | small, device)
    losses, _, absent = ready([name], first_inputs, device)
    if absent:
        return absent[name]
    student = inputs["all"][0]
    return growth(lambda: torch.autograd.grad(losses[name](*inputs["all"]), student))


def scaling_job(job: Findings, device: torch.device) -> Findings:
    """{"1": times, "2": times, speedup: {median, min}} of ours native on 1 and on 2 threads.

    times  {median, min, cpu: the process's CPU time, median} in ms, of one forward and backward.
           Calls on 1 and on 2 threads take turns, so that another load on the machine slows both;
           the minima are the calls that it slowed least.
    """
    inputs = make_inputs(job, device)
    losses, _, _ = ready(["ours native"], inputs, device)
    taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for turn in range(THREAD_WARM_UPS + THREAD_CALLS * job["rounds"]):
        for threads in (1, 2) if turn % 2 else (2, 1):
            torch.set_num_threads(threads)
            taken[threads].append(once(losses["ours native"], inputs["all"], device))
    found: Findings = {}
    for threads, calls in taken.items():
        timed = calls[THREAD_WARM_UPS:]
        both = [call["both_ms"] for call in timed]
        found[str(threads)] = {
            "median": float(numpy.median(both)),
            "min": min(both),
            "cpu": float(numpy.median([call["cpu_ms"] for call in timed])),
        }
    found["speedup"] = {key: found["1"][key] / found["2"][key] for key in ("median", "min")}
    return found


JOBS = {"time": time_job, "memory": memory_job, "scaling": scaling_job}


def main(argument: str) -> Findings:
    """What the job in `argument` (JSON) finds."""
    job = json.loads(argument)
    device = torch.device(job["device"])
    torch.set_num_threads(job["threads"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return JOBS[job["kind"]](job, device)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
