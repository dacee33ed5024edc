"""What all benchmarks share: child processes, the hardware, the printed command, a busy machine."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from clear_ref.common.errors import RunFailed
from clear_ref.losses.choice import VARIABLE, default_implementation

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What a benchmark found, or the job of a child process. The functions that return one state its
# keys; it is printed as JSON.
Findings = dict[str, Any]

# Environment of glibc's allocator for a child process. For peaks: freed memory is returned to the
# system at once.
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
BUSY = 1.2  # wall time / CPU time from which a machine counts as busy


class Hardware(TypedDict, total=False):
    """The machine of a measurement; the last five only on a GPU."""

    cpu: str
    cores: int | None
    system: str
    torch_instruction_set: str
    gpu: str
    capability: str
    gpu_bytes: int
    cuda: str | None
    driver: str | None


def run_in_child(module: str, job: Findings, label: str, environment: dict[str, str]) -> Findings:
    """What a new process of a module (python -m MODULE JOB) prints for a job.

    job          JSON; job["threads"] is also set as OMP_NUM_THREADS
    label        what the job measures, for the error message
    environment  further variables; those of glibc's allocator are not inherited
    raises       RunFailed with the last line that the process wrote
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    package_parent = str(Path(__file__).parents[2])
    paths = [package_parent, os.environ.get("PYTHONPATH", "")]
    own = {
        "OMP_NUM_THREADS": str(job["threads"]),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        VARIABLE: default_implementation(),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        capture_output=True,
        text=True,
        env=inherited | own | environment,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = lines[-1] if lines else f"exit status {done.returncode}, nothing on stderr"
        raise RunFailed(f"bench: {label}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def command_line(settings: "DataclassInstance", what: str = "") -> str:
    """The command that measures the same again: the settings that differ from their defaults.

    what  value of --what; "" if it is the default
    """
    words = ["python -m clear_ref.run bench"]
    if what:
        words.append(f"--what {what}")
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            words.append(
                f"--{field.name} {value!r}" if " " in str(value) else f"--{field.name} {value}"
            )
    return " ".join(words)


def hardware(device: str) -> Hardware:
    """The hardware of a device as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found: Hardware = {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["gpu_bytes"] = properties.total_memory
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
    return found


def _driver() -> str | None:
    try:
        lines = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return lines[0].split(":", 1)[-1].strip()


def kernel_and_versions(found: Findings) -> str:
    """ "kernel avx2, Python 3.11.9, torch 2.9.0": for the line that names the machine."""
    kernel = found["kernel"]["instruction_set"] or "not built"
    versions = found["versions"]
    return f"kernel {kernel}, Python {versions['python']}, torch {versions['torch']}"


def threads_text(threads: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def busy_note(waits: float) -> list[str]:
    """A line if the machine was busy, else nothing. waits: wall time / CPU time of one thread."""
    if waits <= BUSY:
        return []
    return [
        f"the machine was busy: wall time up to {waits:.1f} x CPU time; "
        "measure again when it is idle"
    ]
