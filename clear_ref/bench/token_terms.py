"""The token terms beside their peers: time, peak memory and error of one forward and backward, each in processes of its own."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from clear_ref.common import run_directory
from clear_ref.common.errors import RunFailed, UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import parse_names, setting
from clear_ref.common.text_table import aligned
from clear_ref.losses import native

from .token_terms_peers import PEERS

DTYPES = ("float32", "bfloat16")
ALLOCATORS = {  # what the environment of a process says to glibc
    "default": {},
    "heap kept": {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    },  # freed memory is used again
}
RETURNED_AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}  # for peaks: what is freed is gone
LEAST_BYTES = 1 << 20  # peaks in units of smaller tensors would be noise
TASK = (
    "all: mean cross-entropy of the labelled rows + sum of KL(teacher || student) + sum of KL(student || teacher) over every "
    "row, and the gradient in the student's logits"
)
COLUMNS = (
    "peer",
    "forward ms",
    "backward ms",
    "both ms",
    "20-80 %",
    "cpu ms",
    "to native",
    "forward/floor",
    "peak",
    "loss error",
)
INPUTS = "random logits of scale 3, teacher = student + noise of scale 1, every 7th label ignored"


@dataclass(frozen=True)
class BenchSettings:
    """bench: what is measured."""

    device: str = setting("cpu", "torch device, such as cpu or cuda")
    rows: int = setting(512, "rows of logits")
    vocabulary: int = setting(32064, "columns of logits", "LLaVA-1.5-7B's vocabulary")
    dtype: str = setting("both", "dtype of the logits: float32, bfloat16 or both")
    threads: int = setting(1, "CPU threads; one more measurement shows 1 and 2")
    rounds: int = setting(7, "timed rounds, in which the peers take turns; on a GPU at least 100")
    peers: str = setting("all", "all, or names with commas: " + ", ".join(PEERS))


def check(settings: BenchSettings) -> tuple[list[str], list[str]]:
    """The dtypes and the peers that the settings name; UserError for a value that cannot be measured."""
    for name, least in (("rows", 1), ("vocabulary", 2), ("threads", 1), ("rounds", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}; expected {least} or more")
    if settings.dtype not in (*DTYPES, "both"):
        raise UserError(f"dtype is {settings.dtype!r}; expected float32, bfloat16 or both")
    peers = list(PEERS) if settings.peers == "all" else parse_names(settings.peers, PEERS, "peers")
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {settings.device!r}; expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is {settings.device!r}; expected one of the {torch.cuda.device_count()} GPUs found"
        )
    return list(DTYPES) if settings.dtype == "both" else [settings.dtype], peers


def run(settings: BenchSettings) -> dict:
    """Everything measured, with what it was measured on.

    measurements  one for each dtype and allocator: {dtype, allocator, threads, bandwidth, floor_ms, inputs_sha256, peers: {name:
                  {forward_ms, backward_ms, both_ms, cpu_ms: {median, p20, p80}, slower, forward_over_floor, loss, reference,
                  loss_error, task} or {absent: reason}}}; floor_ms: both tensors once at the read (GPU: copy) bandwidth
    memory        {dtype: {peer: {bytes, tensors, how} or {absent}}}; tensors: bytes in units of one tensor of logits
    scaling       {dtype: {"1": times, "2": times, speedup}}: ours native on 1 and 2 threads, in turns in one process
                  (token_terms_threads.py); only on the CPU
    """
    dtypes, peers = check(settings)
    on_gpu = torch.device(settings.device).type == "cuda"
    allocators = {"torch's": {}} if on_gpu else ALLOCATORS
    scaled = not on_gpu and "ours native" in peers and native.built()
    of_memory = [] if on_gpu else [name for name in peers if not PEERS[name].needs_gpu]
    progress = Progress(
        "bench", len(dtypes) * (len(allocators) + len(of_memory) + scaled), "process"
    )

    def measure(kind, dtype, names, environment, threads=settings.threads):
        job = {name: getattr(settings, name) for name in ("device", "rows", "vocabulary", "rounds")}
        module = (
            "clear_ref.bench.token_terms_threads"
            if kind == "scaling"
            else "clear_ref.bench.token_terms_peers"
        )
        found = child(
            job | {"kind": kind, "dtype": dtype, "threads": threads, "peers": names},
            environment,
            module,
        )
        progress.step(note=f"{kind} {dtype}")
        return found

    measurements, memory, scaling = [], {}, {}
    for dtype in dtypes:
        size = settings.rows * settings.vocabulary * getattr(torch, dtype).itemsize
        for allocator, environment in allocators.items():
            found = measure("time", dtype, peers, environment)
            measurements.append(
                {"dtype": dtype, "allocator": allocator, "threads": settings.threads}
                | found
                | against(found["peers"], found["bandwidth"], size, on_gpu)
            )
        memory[dtype] = {
            name: measure("memory", dtype, [name], RETURNED_AT_ONCE) for name in of_memory
        }
        if on_gpu:
            memory[dtype] = {
                name: peer.get("memory", peer) for name, peer in measurements[-1]["peers"].items()
            }
        for peak in memory[dtype].values():
            if "bytes" in peak:
                peak["tensors"] = peak["bytes"] / size if size >= LEAST_BYTES else None
        if scaled:
            scaling[dtype] = measure("scaling", dtype, ["ours native"], ALLOCATORS["heap kept"], 2)
    progress.close()
    return {
        "command": command(settings),
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


def against(peers: dict, bandwidth: dict, size: int, on_gpu: bool) -> dict:
    """{floor_ms, peers}: each measured peer also compared with ours native and with reading both tensors once."""
    floor = (
        2 * size / bandwidth["copy" if on_gpu else "read"] * 1e3
    )  # a GPU's copy is the protocol's yardstick
    ours, made = {"all": "ours native", "ce": "ours native ce", "head": "ours native head"}, {}
    for name, peer in peers.items():
        own = peers.get(ours[peer["task"]], {"absent": ""})
        made[name] = (
            peer
            if "absent" in peer
            else peer
            | {
                "slower": None
                if "absent" in own
                else peer["both_ms"]["median"] / own["both_ms"]["median"],
                "forward_over_floor": peer["forward_ms"]["median"] / floor
                if peer["task"] == "all"
                else None,
            }
        )
    return {"floor_ms": floor, "peers": made}


def child(job: dict, environment: dict, module: str) -> dict:
    """What a fresh process of a module finds for a job; RunFailed with the last line that it wrote."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        capture_output=True,
        text=True,
        env=kept | {"OMP_NUM_THREADS": str(job["threads"]), "PYTHONPATH": path} | environment,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [
            f"exit status {done.returncode}, nothing on stderr"
        ]
        raise RunFailed(
            f"bench: {job['kind']} of {', '.join(job['peers'])} in {job['dtype']}: {lines[-1]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def command(settings: BenchSettings) -> str:
    """The command line that measures the same again."""
    given = [
        f"--{f.name} {getattr(settings, f.name)!r}"
        if " " in str(getattr(settings, f.name))
        else f"--{f.name} {getattr(settings, f.name)}"
        for f in fields(settings)
        if getattr(settings, f.name) != f.default
    ]
    return " ".join(["python -m clear_ref.run bench", *given])


def hardware(device: str) -> dict:
    """{cpu, cores, torch_instruction_set, system} and on a GPU {gpu, capability, gpu_bytes, cuda, driver}, as found."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    found = {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.device(device).type == "cuda":
        of_gpu = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": of_gpu.name,
            "capability": f"{of_gpu.major}.{of_gpu.minor}",
            "gpu_bytes": of_gpu.total_memory,
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return found


def _driver():
    try:
        lines = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return lines[0].split(":", 1)[-1].strip()


def text(found: dict) -> str:
    """The measurements as aligned tables, one for each dtype and allocator."""
    settings, machine, kernel = found["settings"], found["hardware"], found["kernel"]
    lines = [
        found["command"],
        f"task    {found['task']}",
        f"inputs  {settings['rows']} x {settings['vocabulary']} {found['inputs']}",
        f"on      {machine.get('gpu') or machine['cpu']}, kernel {kernel['instruction_set'] or 'not built'}, "
        f"Python {found['versions']['python']}, torch {found['versions']['torch']}; medians of {settings['rounds']} rounds",
    ]
    for one in found["measurements"]:
        speeds = ", ".join(
            f"{what} {speed / 1e9:.1f} GB/s" for what, speed in one["bandwidth"].items()
        )
        threads = f"{one['threads']} thread{'s' if one['threads'] > 1 else ''}"
        lines += [
            "",
            f"{one['dtype']}, allocator {one['allocator']}, {threads}; {speeds}: floor {one['floor_ms']:.2f} ms",
        ]
        lines += aligned(
            COLUMNS,
            [
                row(name, peer, found["memory"][one["dtype"]].get(name, {}))
                for name, peer in one["peers"].items()
                if "absent" not in peer
            ],
        )
        timed = [peer for peer in one["peers"].values() if "absent" not in peer]
        waits = max(
            [peer["both_ms"]["median"] / peer["cpu_ms"]["median"] for peer in timed], default=0
        )
        if "gpu" not in machine and waits > 1.2:
            lines.append(
                f"the machine was busy: wall time up to {waits:.1f} x CPU time; measure again when it is idle"
            )
    lines += [
        "",
        "floor: moving the logits of student and teacher once; peak: extra memory of forward and backward, in tensors "
        "of logits; loss error: relative, against float64",
    ]
    for dtype, times in found["scaling"].items():
        lines.append(
            f"threads, {dtype}, in turns: native {times['1']['median']:.2f} ms on 1, {times['2']['median']:.2f} on 2, "
            f"{times['speedup']['median']:.2f} x; least {times['1']['min']:.2f} and {times['2']['min']:.2f}, "
            f"{times['speedup']['min']:.2f} x"
        )
        if (
            times["1"]["median"] / times["1"]["cpu"] > 1.2
            or 2 * times["2"]["median"] / times["2"]["cpu"] > 1.4
        ):
            lines.append("the machine was busy while threads were compared: a lower bound")
    absent = {
        name: peer["absent"]
        for one in found["measurements"]
        for name, peer in one["peers"].items()
        if "absent" in peer
    }
    for reason in dict.fromkeys(absent.values()):
        lines.append(
            f"absent: {', '.join(name for name, why in absent.items() if why == reason)}: {reason}"
        )
    lines += [f"{name}: {note}" for name, note in found["notes"].items() if name not in absent]
    return "\n".join(lines)


def row(name: str, peer: dict, peak: dict) -> tuple:
    """The cells of one measured peer."""

    def shown(value, form):
        return "-" if value is None else form.format(value)

    both = peer["both_ms"]
    return (
        name,
        f"{peer['forward_ms']['median']:.2f}",
        f"{peer['backward_ms']['median']:.2f}",
        f"{both['median']:.2f}",
        f"{both['p20']:.2f}-{both['p80']:.2f}",
        f"{peer['cpu_ms']['median']:.2f}",
        "1" if name.startswith("ours native") else shown(peer["slower"], "{:.1f} x slower"),
        shown(peer["forward_over_floor"], "{:.1f}"),
        shown(peak.get("tensors"), "{:.1f}"),
        f"{peer['loss_error']:.0e}",
    )
