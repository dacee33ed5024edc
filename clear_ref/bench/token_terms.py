"""bench: the token terms and other implementations: time, peak memory and error.

Each measurement is one forward and backward pass, in child processes (token_terms_worker.py).
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import parse_names
from clear_ref.losses import native

from .process import RETURNED_AT_ONCE, Findings, command_line, hardware, run_in_child
from .settings import DTYPES, BenchSettings
from .token_terms_peers import PEERS

ALLOCATORS: dict[str, dict[str, str]] = {  # environment of a process, read by glibc
    "default": {},
    # Freed memory is kept and used again.
    "heap kept": {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    },
}
LEAST_BYTES = 1 << 20  # peaks are not given in units of tensors that are smaller
TASK = (
    "all: mean cross-entropy of the labelled rows + sum of KL(teacher || student) + sum of "
    "KL(student || teacher) over every row, and the gradient in the student's logits"
)
INPUTS = "random logits of scale 3, teacher = student + noise of scale 1, every 7th label ignored"
OURS = {"all": "ours native", "ce": "ours native ce", "head": "ours native head"}  # of each task


def check(settings: BenchSettings) -> tuple[list[str], list[str]]:
    """(dtypes, peers) that the settings name; UserError for a value that cannot be measured."""
    for name, least in (("rows", 1), ("vocabulary", 2), ("threads", 1), ("rounds", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}; expected {least} or more")
    if settings.dtype not in (*DTYPES, "both"):
        raise UserError(f"dtype is {settings.dtype!r}; expected float32, bfloat16 or both")
    peers = list(PEERS) if settings.peers == "all" else parse_names(settings.peers, PEERS, "peers")
    _check_device(settings.device)
    return list(DTYPES) if settings.dtype == "both" else [settings.dtype], peers


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device is {name!r}; expected cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {name!r}; expected cpu, cuda or cuda:N")
    n_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise UserError(f"device is {name!r}; expected one of the {n_gpus} GPUs found")


class Measuring:
    """Runs the child processes of one benchmark and shows the progress."""

    def __init__(self, settings: BenchSettings, n_processes: int) -> None:
        self.settings = settings
        self.progress = Progress("bench", n_processes, "measurement")

    def measure(
        self,
        kind: str,
        dtype: str,
        peers: list[str],
        environment: dict[str, str],
        threads: int | None = None,
    ) -> Findings:
        """What one process finds; kind: time, memory or scaling (token_terms_worker.py)."""
        job = {
            "device": self.settings.device,
            "rows": self.settings.rows,
            "vocabulary": self.settings.vocabulary,
            "rounds": self.settings.rounds,
            "kind": kind,
            "dtype": dtype,
            "threads": self.settings.threads if threads is None else threads,
            "peers": peers,
        }
        label = f"{kind} of {', '.join(peers)} in {dtype}"
        found = run_in_child("clear_ref.bench.token_terms_worker", job, label, environment)
        self.progress.step(note=f"{kind} {dtype}")
        return found


def run(settings: BenchSettings) -> Findings:
    """Everything measured, with the machine and versions.

    measurements  one for each dtype and allocator: {dtype, allocator, threads, bandwidth, floor_ms,
                  inputs_sha256, peers: {name: {forward_ms, backward_ms, both_ms, cpu_ms: {median,
                  p20, p80}, slower, forward_over_floor, loss, reference, loss_error, task} or
                  {absent: reason}}}; floor_ms: both tensors once at the read (GPU: copy) bandwidth
    memory        {dtype: {peer: {bytes, tensors, how} or {absent}}}; tensors: bytes in units of one
                  tensor of logits
    scaling       {dtype: {"1": times, "2": times, speedup}}: ours native on 1 and 2 threads, in
                  turns in one process (token_terms_threads.py); only on the CPU
    """
    dtypes, peers = check(settings)
    on_gpu = torch.device(settings.device).type == "cuda"
    allocators = {"torch's": {}} if on_gpu else ALLOCATORS
    compare_threads = not on_gpu and "ours native" in peers and native.built()
    on_cpu = [] if on_gpu else [name for name in peers if not PEERS[name].needs_gpu]
    n_processes = len(dtypes) * (len(allocators) + len(on_cpu) + compare_threads)
    processes = Measuring(settings, n_processes)
    measurements: list[Findings] = []
    memory: dict[str, Findings] = {}
    scaling: dict[str, Findings] = {}
    for dtype in dtypes:
        size = settings.rows * settings.vocabulary * getattr(torch, dtype).itemsize
        for allocator, environment in allocators.items():
            found = processes.measure("time", dtype, peers, environment)
            measurements.append(
                {"dtype": dtype, "allocator": allocator, "threads": settings.threads}
                | found
                | compared(found["peers"], found["bandwidth"], size, on_gpu)
            )
        if on_gpu:
            timed = measurements[-1]["peers"]
            memory[dtype] = {name: peer.get("memory", peer) for name, peer in timed.items()}
        else:
            memory[dtype] = {
                name: processes.measure("memory", dtype, [name], RETURNED_AT_ONCE)
                for name in on_cpu
            }
        for peak in memory[dtype].values():
            if "bytes" in peak:
                peak["tensors"] = peak["bytes"] / size if size >= LEAST_BYTES else None
        if compare_threads:
            scaling[dtype] = processes.measure(
                "scaling", dtype, ["ours native"], ALLOCATORS["heap kept"], threads=2
            )
    processes.progress.close()
    return {
        "command": command_line(settings),
        "task": TASK,
        "inputs": INPUTS,
        "settings": asdict(settings),
        "hardware": hardware(settings.device),
        "versions": run_directory.versions(),
        "kernel": native.description(),
        "notes": {name: PEERS[name].note for name in peers if PEERS[name].note},
        "measurements": measurements,
        "memory": memory,
        "scaling": scaling,
    }


def compared(
    peers: Mapping[str, Findings], bandwidth: dict[str, float], size: int, on_gpu: bool
) -> Findings:
    """{floor_ms, peers}: each measured peer with its ratio to ours native and to the floor.

    size      bytes of one tensor of logits
    floor_ms  both tensors once, at the bandwidth of reading; on a GPU, of copying
    """
    floor = 2 * size / bandwidth["copy" if on_gpu else "read"] * 1e3
    results = {}
    for name, peer in peers.items():
        if "absent" in peer:
            results[name] = peer
            continue
        ours = peers.get(OURS[peer["task"]], {"absent": ""})
        slower = None
        if "absent" not in ours:
            slower = peer["both_ms"]["median"] / ours["both_ms"]["median"]
        over_floor = peer["forward_ms"]["median"] / floor if peer["task"] == "all" else None
        results[name] = peer | {"slower": slower, "forward_over_floor": over_floor}
    return {"floor_ms": floor, "peers": results}
