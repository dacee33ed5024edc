"""bench --what step: a training step, generation and likelihoods beside the released way.

It measures time and peak memory of both ways, in child processes (training_step_worker.py), and
that the results are equal.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import median

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import parse_names
from clear_ref.losses import native

from .process import RETURNED_AT_ONCE, Findings, command_line, hardware, run_in_child
from .settings import EVALUATIONS, METHODS, STEP_TASKS, BenchStepSettings
from .training_step_inputs import SHAPES, described, write
from .training_step_ways import WAYS

PACKAGES = ("transformers", "peft")  # of the released way


def check(settings: BenchStepSettings) -> list[str]:
    """The tasks that the settings name; UserError for a value that cannot be measured."""
    for name in ("threads", "rounds"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} is {getattr(settings, name)}; expected 1 or more")
    if settings.shape not in SHAPES:
        raise UserError(f"shape is {settings.shape!r}; expected one of {', '.join(SHAPES)}")
    if settings.tasks == "default":
        return [*METHODS, *EVALUATIONS]
    if settings.tasks == "all":
        return list(STEP_TASKS)
    return parse_names(settings.tasks, STEP_TASKS, "tasks", "default, all")


class Measuring:
    """Runs the child processes of one benchmark and shows the progress."""

    def __init__(self, settings: BenchStepSettings, directory: str, n_processes: int) -> None:
        self.job = {
            "shape": settings.shape,
            "threads": settings.threads,
            "rounds": settings.rounds,
            "directory": directory,
        }
        self.progress = Progress("bench", n_processes, "measurement")

    def times(self, tasks: list[str]) -> Findings:
        """What training_step_worker.time_job finds."""
        job = self.job | {"kind": "time", "tasks": tasks}
        return self._run(job, f"time of {', '.join(tasks)}", {})

    def peak(self, task: str, way: str) -> Findings:
        """What training_step_worker.peak_job finds."""
        job = self.job | {"kind": "peak", "tasks": [task], "way": way}
        return self._run(job, f"peak of {task}, {way}", RETURNED_AT_ONCE)

    def _run(self, job: Findings, label: str, environment: dict[str, str]) -> Findings:
        found = run_in_child("clear_ref.bench.training_step_worker", job, label, environment)
        self.progress.step(note=label)
        return found


def run(settings: BenchStepSettings) -> Findings:
    """Everything measured, with the machine and versions.

    tasks   {task: {ours, released: {seconds, cpu_seconds: {median, least, most}, peak: {bytes, how,
            weights_bytes}, value}, difference: {loss, gradient | ids | nll}, faster, cpu_faster,
            memory_share, share_with_weights}}; the last five only if both ways could be measured.
            faster: released / ours; shares: ours / released. ours of generate has parts
            (generation_parts.py) too
    absent  {way: {absent: reason}}
    """
    tasks = check(settings)
    with tempfile.TemporaryDirectory() as directory:
        processes = Measuring(settings, directory, 1 + len(tasks) * len(WAYS))
        n_parameters = write(Path(directory), settings.shape)
        timed = processes.times(tasks)
        present = [way for way in WAYS if way not in timed["absent"]]
        for task in tasks:
            # Both ways at once: a peak does not depend on another process.
            with ThreadPoolExecutor(len(present)) as pool:
                running = {way: pool.submit(processes.peak, task, way) for way in present}
                for way, future in running.items():
                    timed["tasks"][task][way]["peak"] = future.result()
    processes.progress.close()
    return {
        "command": command_line(settings, "step"),
        "settings": asdict(settings),
        "inputs": described(settings.shape, n_parameters),
        "hardware": hardware("cpu"),
        "kernel": native.description(),
        "versions": run_directory.versions() | {name: version(name) for name in PACKAGES},
        "absent": timed["absent"],
        "tasks": {task: summary(measured) for task, measured in timed["tasks"].items()},
    }


def version(package: str) -> str | None:
    """The installed version of a package; None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def summary(measured: Findings) -> Findings:
    """A task's measurements in medians, and ours compared with released (docstring of `run`)."""
    found: Findings = {}
    for way in WAYS:
        if way in measured:
            found[way] = measured[way] | {
                key: {
                    "median": median(measured[way][key]),
                    "least": min(measured[way][key]),
                    "most": max(measured[way][key]),
                }
                for key in ("seconds", "cpu_seconds")
            }
    if len(found) < len(WAYS):
        return found
    ours, released = found["ours"], found["released"]
    return found | {
        "difference": measured["difference"],
        "faster": released["seconds"]["median"] / ours["seconds"]["median"],
        "cpu_faster": released["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"],
        "memory_share": ours["peak"]["bytes"] / max(released["peak"]["bytes"], 1),
        "share_with_weights": bytes_with_weights(ours) / bytes_with_weights(released),
    }


def bytes_with_weights(way: Findings) -> int:
    """Bytes of a way's peak and of its models' parameters."""
    return way["peak"]["bytes"] + way["peak"]["weights_bytes"]
