"""The thread scaling of `bench`, in a process of its own: python -m clear_ref.bench.token_terms_threads JOB, one JSON object in and out.

JOB    {device: cpu, dtype, rows, vocabulary, rounds, threads: the most}, as token_terms_peers.py has it
"""

import json
import sys

import numpy
import torch

from .token_terms_peers import make_inputs, once, ready

CALLS, WARM_UPS = 5, 4  # of each thread count in one round; before the first


def scaling(job: dict) -> dict:
    """{"1": times, "2": times, speedup: {median, min}} of ours native, forward and backward through autograd, gradient allocated.

    times  {median, min, cpu: the process's CPU time, median} in ms. Calls on 1 and on 2 threads take turns, so that another
           load on the machine meets both; the minima are what it disturbed least.
    """
    device = torch.device("cpu")
    inputs = make_inputs(job | {"peers": ["ours native"]}, device)
    losses, _, _ = ready(["ours native"], inputs, device)
    taken = {1: [], 2: []}
    for turn in range(WARM_UPS + CALLS * job["rounds"]):
        for threads in (1, 2) if turn % 2 else (2, 1):
            torch.set_num_threads(threads)
            taken[threads].append(once(losses["ours native"], inputs["all"], device))
    found = {}
    for threads, calls in taken.items():
        both, cpu = ([call[key] for call in calls[WARM_UPS:]] for key in ("both_ms", "cpu_ms"))
        found[str(threads)] = {
            "median": float(numpy.median(both)),
            "min": min(both),
            "cpu": float(numpy.median(cpu)),
        }
    return found | {
        "speedup": {key: found["1"][key] / found["2"][key] for key in ("median", "min")}
    }


if __name__ == "__main__":
    print(json.dumps(scaling(json.loads(sys.argv[1]))))
