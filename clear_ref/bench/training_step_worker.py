"""The process that measures the ways of `bench --what step`: python -m clear_ref.bench.training_step_worker JOB, JSON in and out.

JOB   {kind: time | peak, directory, shape, tasks, threads, rounds}; a peak has one task and one way
"""

import json
import sys
import time
from pathlib import Path

import torch

from .memory import growth
from .training_step_inputs import EVALUATIONS, SHAPES, make_inputs
from .training_step_ways import WAYS


def run_task(way, task, inputs, shape):
    """What a task gives: {loss, ...}, generated ids or summed nll."""
    if task == "generate":
        return way.generate(inputs["prompts"], SHAPES[shape]["new_tokens"])
    if task == "likelihood":
        return way.likelihood(inputs["questions"])
    for parameter in way.trained().values():
        parameter.grad = None
    return way.step(task, inputs)


def made_ways(names, directory, task="") -> tuple[dict, dict]:
    """{name: way}, {name: {absent: reason}} where a package is missing."""
    ways, absent = {}, {}
    for name in names:
        try:
            ways[name] = WAYS[name](Path(directory), task)
        except ImportError as error:
            absent[name] = {"absent": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return ways, absent


def gradients(way) -> dict:
    """The gradients of the last step, by PEFT's names; a parameter without one is left out."""
    return {name: p.grad for name, p in way.trained().items() if p.grad is not None}


def compared(task, values: dict, grads: dict) -> dict:
    """How far apart the ways are: {loss, gradient: relative}, {ids: equal or not} or {nll: the largest relative difference}.

    Of losses, which are differences of larger numbers: relative to the sum of the magnitudes of their terms. Of gradients: the
    norm of the difference of all of them together, relative to the released norm.
    """
    ours, released = values["ours"], values["released"]
    if task == "generate":
        return {"ids": ours == released}
    if task == "likelihood":
        return {"nll": max(abs(a - b) / abs(b) for a, b in zip(ours, released, strict=True))}
    loss = abs(ours["loss"] - released["loss"]) / sum(map(abs, ours["terms"].values()))
    if grads["ours"].keys() != grads["released"].keys():
        return {"loss": loss, "gradient": float("inf")}

    def norm(tensors):
        return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5

    apart = norm(grads["ours"][name] - grads["released"][name] for name in grads["released"])
    return {"loss": loss, "gradient": apart / norm(grads["released"].values())}


def time_job(job) -> dict:
    """{ways: {way: {absent} or {weights_bytes}}, tasks: {task: {way: {seconds, cpu_seconds: one a round, value}, difference}}}.

    The ways take turns; in every round their results are compared, and the largest difference is kept.
    """
    ways, found = made_ways(WAYS, job["directory"])
    tasks = {}
    for task in job["tasks"]:
        inputs, measured = (
            make_inputs(job["shape"], task),
            {name: {"seconds": [], "cpu_seconds": []} for name in ways},
        )
        for turn in range(job["rounds"]):
            grads, values = {}, {}
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                cpu, wall = time.process_time(), time.perf_counter()
                values[name] = run_task(ways[name], task, inputs, job["shape"])
                measured[name]["seconds"].append(time.perf_counter() - wall)
                measured[name]["cpu_seconds"].append(time.process_time() - cpu)
                grads[name] = gradients(ways[name]) if task not in EVALUATIONS else None
            if len(ways) == len(WAYS):
                for key, value in compared(task, values, grads).items():
                    worst = min if key == "ids" else max
                    measured.setdefault("difference", {})[key] = worst(
                        value, measured.get("difference", {}).get(key, value)
                    )
        for name, value in values.items():
            measured[name]["value"] = value
        tasks[task] = measured
    return {"absent": found, "tasks": tasks}


def peak_job(job) -> dict:
    """{bytes, how, weights_bytes | absent}: growth of the resident high-water mark in one run of the only task, models and inputs
    loaded before; weights_bytes: of those models, adapters included."""
    (task,), name = job["tasks"], job["way"]
    ways, absent = made_ways([name], job["directory"], task)
    if absent:
        return absent[name]
    inputs, weights = make_inputs(job["shape"], task), 0
    for module in ways[name].modules():
        for parameter in module.parameters():
            weights += parameter.nbytes
            parameter.detach().sum()  # weights that are mapped from a file become resident when they are read
    return growth(lambda: run_task(ways[name], task, inputs, job["shape"])) | {
        "weights_bytes": weights
    }


def main(argument: str) -> dict:
    """What the job in `argument` (JSON) found."""
    job = json.loads(argument)
    torch.set_num_threads(job["threads"])
    return {"time": time_job, "peak": peak_job}[job["kind"]](job)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
