"""The child process of `bench --what step`.

python -m clear_ref.bench.training_step_worker JOB prints JSON.
JOB   {kind: time | peak, directory, shape, tasks, threads, rounds}; a peak has one task, and a way
"""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .memory import growth
from .process import Findings
from .settings import EVALUATIONS
from .training_step_inputs import SHAPES, Inputs, make_inputs
from .training_step_ways import WAYS, Ours, Way

Gradients = dict[str, Tensor]


def run_task(way: Way, task: str, inputs: Inputs, shape: str) -> Any:
    """What a task gives: {loss, ...} of a step, generated ids, or summed nll."""
    if task == "generate":
        return way.generate(inputs["prompts"], SHAPES[shape].new_tokens)
    if task == "likelihood":
        return way.likelihood(inputs["questions"])
    for parameter in way.trained().values():
        parameter.grad = None
    return way.step(task, inputs)


def load_ways(
    names: Iterable[str], directory: str, task: str = ""
) -> tuple[dict[str, Way], dict[str, Findings]]:
    """({name: way}, {name: {absent: reason}} where a package is missing)."""
    ways: dict[str, Way] = {}
    absent: dict[str, Findings] = {}
    for name in names:
        try:
            ways[name] = WAYS[name](Path(directory), task)
        except ImportError as error:
            absent[name] = {"absent": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return ways, absent


def gradients(way: Way) -> Gradients:
    """The gradients of the last step, by PEFT's names; a parameter without one is left out."""
    return {name: p.grad for name, p in way.trained().items() if p.grad is not None}


def compared(task: str, values: dict[str, Any], grads: dict[str, Gradients]) -> Findings:
    """The differences of the ways: {loss, gradient}, {ids: whether equal} or {nll}.

    loss      difference relative to the sum of the magnitudes of the loss's terms: a loss is a
              difference of larger numbers
    gradient  norm of the difference of all gradients together, relative to the released norm
    nll       the largest relative difference
    """
    ours, released = values["ours"], values["released"]
    if task == "generate":
        return {"ids": ours == released}
    if task == "likelihood":
        return {"nll": max(abs(a - b) / abs(b) for a, b in zip(ours, released, strict=True))}
    magnitude = sum(abs(term) for term in ours["terms"].values())
    loss = abs(ours["loss"] - released["loss"]) / magnitude
    if grads["ours"].keys() != grads["released"].keys():
        return {"loss": loss, "gradient": float("inf")}
    difference = norm(grads["ours"][name] - grads["released"][name] for name in grads["released"])
    return {"loss": loss, "gradient": difference / norm(grads["released"].values())}


def norm(tensors: Iterable[Tensor]) -> float:
    """The norm of all tensors together."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def time_job(job: Findings) -> Findings:
    """Times of both ways, in turns, and the largest difference of their results in any round.

    returns  {absent: {way: {absent}}, tasks: {task: {way: {seconds, cpu_seconds: [one a round],
             value}, difference}}}; ours of generate has parts (generation_parts.py) too
    """
    ways, absent = load_ways(WAYS, job["directory"])
    tasks = {task: time_task(ways, task, job) for task in job["tasks"]}
    return {"absent": absent, "tasks": tasks}


def time_task(ways: dict[str, Way], task: str, job: Findings) -> Findings:
    """One task of time_job."""
    inputs = make_inputs(job["shape"], task)
    measured: Findings = {name: {"seconds": [], "cpu_seconds": []} for name in ways}
    values: dict[str, Any] = {}
    difference: Findings = {}
    for turn in range(job["rounds"]):
        grads = {}
        names = list(ways)
        for name in names[::-1] if turn % 2 else names:
            cpu, wall = time.process_time(), time.perf_counter()
            values[name] = run_task(ways[name], task, inputs, job["shape"])
            measured[name]["seconds"].append(time.perf_counter() - wall)
            measured[name]["cpu_seconds"].append(time.process_time() - cpu)
            if task not in EVALUATIONS:
                grads[name] = gradients(ways[name])
        if len(ways) == len(WAYS):
            for key, value in compared(task, values, grads).items():
                worst = min if key == "ids" else max
                difference[key] = worst(value, difference.get(key, value))
    for name, value in values.items():
        measured[name]["value"] = value
    ours = ways.get("ours")
    if task == "generate" and isinstance(ours, Ours):
        new_tokens = SHAPES[job["shape"]].new_tokens
        measured["ours"]["parts"] = ours.generation_parts(inputs["prompts"], new_tokens)
    if difference:
        measured["difference"] = difference
    return measured


def peak_job(job: Findings) -> Findings:
    """{bytes, how, weights_bytes | absent}: growth of the peak of resident memory in one run.

    Of the only task, with models and inputs loaded before. weights_bytes: of those models, adapters
    included.
    """
    (task,) = job["tasks"]
    ways, absent = load_ways([job["way"]], job["directory"], task)
    if absent:
        return absent[job["way"]]
    way = ways[job["way"]]
    inputs = make_inputs(job["shape"], task)
    weights = 0
    for module in way.modules():
        for parameter in module.parameters():
            weights += parameter.nbytes
            # Weights that are mapped from a file become resident when they are read.
            parameter.detach().sum()
    found = growth(lambda: run_task(way, task, inputs, job["shape"]))
    return found | {"weights_bytes": weights}


JOBS = {"time": time_job, "peak": peak_job}


def main(argument: str) -> Findings:
    """What the job in `argument` (JSON) finds."""
    job = json.loads(argument)
    torch.set_num_threads(job["threads"])
    return JOBS[job["kind"]](job)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
