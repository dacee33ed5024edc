"""A training step, generation and likelihoods beside the released way of computing them: time, peak memory, and equal results."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from statistics import median

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import parse_names, setting
from clear_ref.common.text_table import aligned
from clear_ref.losses import native

from .token_terms import RETURNED_AT_ONCE, child, hardware
from .training_step_inputs import EVALUATIONS, METHODS, SHAPES, TASKS, described, write
from .training_step_ways import WAYS

COLUMNS = (
    "task",
    "ours s",
    "released s",
    "faster",
    "in CPU time",
    "ours MB",
    "released MB",
    "share",
    "+ weights: ours MB",
    "released MB",
    "share",
    "difference",
)
PEERS = ("transformers", "peft")


@dataclass(frozen=True)
class BenchStepSettings:
    """bench --what step: what is measured."""

    shape: str = setting(
        "small",
        "small: a LLaVA of 78 million parameters at 336 pixels; tiny: for a look in seconds",
    )
    tasks: str = setting("default", "default, all, or names with commas: " + ", ".join(TASKS))
    threads: int = setting(1, "CPU threads")
    rounds: int = setting(3, "timed rounds, in which the two ways take turns")


def check(settings: BenchStepSettings) -> list[str]:
    """The tasks that the settings name; UserError for a value that cannot be measured."""
    for name in ("threads", "rounds"):
        if getattr(settings, name) < 1:
            raise UserError(f"{name} is {getattr(settings, name)}; expected 1 or more")
    if settings.shape not in SHAPES:
        raise UserError(f"shape is {settings.shape!r}; expected one of {', '.join(SHAPES)}")
    chosen = {"default": [*METHODS, *EVALUATIONS], "all": list(TASKS)}.get(settings.tasks)
    return parse_names(settings.tasks, TASKS, "tasks", "default, all") if chosen is None else chosen


def run(settings: BenchStepSettings) -> dict:
    """Everything measured, with what it was measured on.

    tasks   {task: {ours, released: {seconds, cpu_seconds: {median, least, most}, peak: {bytes, how, weights_bytes}, value},
            difference: {loss, gradient | ids | nll}, faster, cpu_faster, memory_share, share_with_weights}}; the last five only
            where both ways could be measured. faster: released / ours; shares: ours / released
    absent  {way: {absent: reason}}
    """
    tasks = check(settings)
    job = {
        "shape": settings.shape,
        "threads": settings.threads,
        "rounds": settings.rounds,
        "dtype": "float32",
    }
    progress = Progress("bench", 1 + len(tasks) * len(WAYS), "process")
    with tempfile.TemporaryDirectory() as directory:
        n_parameters = write(Path(directory), settings.shape)

        def measure(kind, names, environment, **more):
            found = child(
                job
                | {
                    "kind": kind,
                    "directory": directory,
                    "tasks": names,
                    "peers": [*names, *more.values()],
                }
                | more,
                environment,
                "clear_ref.bench.training_step_worker",
            )
            progress.step(note=f"{kind} of {', '.join([*names, *more.values()])}")
            return found

        timed = measure("time", tasks, {})
        present = [way for way in WAYS if way not in timed["absent"]]
        for task in tasks:
            with ThreadPoolExecutor(len(present)) as pool:  # a peak does not depend on a neighbour
                for way, peak in zip(
                    present,
                    pool.map(
                        lambda way: measure("peak", [task], RETURNED_AT_ONCE, way=way), present
                    ),
                ):
                    timed["tasks"][task][way]["peak"] = peak
    progress.close()
    given = [
        f"--{f.name} {getattr(settings, f.name)}"
        if " " not in str(getattr(settings, f.name))
        else f"--{f.name} {getattr(settings, f.name)!r}"
        for f in fields(settings)
        if getattr(settings, f.name) != f.default
    ]
    return {
        "command": " ".join(["python -m clear_ref.run bench --what step", *given]),
        "settings": asdict(settings),
        "inputs": described(settings.shape, n_parameters),
        "hardware": hardware("cpu"),
        "kernel": native.description(),
        "versions": run_directory.versions() | {name: version(name) for name in PEERS},
        "absent": timed["absent"],
        "tasks": {task: summary(measured) for task, measured in timed["tasks"].items()},
    }


def version(package: str) -> str | None:
    """The installed version of a package; None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def summary(found: dict) -> dict:
    """A task's measurements in medians, and ours beside released: `run`'s docstring."""
    made = {}
    for way in set(WAYS) & set(found):
        made[way] = found[way] | {
            key: {
                "median": median(found[way][key]),
                "least": min(found[way][key]),
                "most": max(found[way][key]),
            }
            for key in ("seconds", "cpu_seconds")
        }
    if len(made) == len(WAYS):
        ours, released = made["ours"], made["released"]
        whole = [way["peak"]["bytes"] + way["peak"]["weights_bytes"] for way in (ours, released)]
        made |= {
            "difference": found["difference"],
            "faster": released["seconds"]["median"] / ours["seconds"]["median"],
            "cpu_faster": released["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"],
            "memory_share": ours["peak"]["bytes"] / max(released["peak"]["bytes"], 1),
            "share_with_weights": whole[0] / whole[1],
        }
    return made


def text(found: dict) -> str:
    """The measurements as one aligned table."""
    settings, versions, kernel = found["settings"], found["versions"], found["kernel"]
    lines = [
        found["command"],
        *(f"inputs  {line}" for line in found["inputs"]),
        f"on      {found['hardware']['cpu']}, {settings['threads']} thread{'s' if settings['threads'] > 1 else ''}, kernel "
        f"{kernel['instruction_set'] or 'not built'}, Python {versions['python']}, torch {versions['torch']}, "
        + ", ".join(f"{name} {versions[name] or 'absent'}" for name in PEERS)
        + f"; medians (least-most) of {settings['rounds']} rounds",
        "",
    ]
    lines += aligned(COLUMNS, [row(task, measured) for task, measured in found["tasks"].items()])
    waits = max(
        measured[way]["seconds"]["median"]
        / measured[way]["cpu_seconds"]["median"]
        / settings["threads"]
        for measured in found["tasks"].values()
        for way in WAYS
        if way in measured
    )
    if waits > 1.2:
        lines.append(
            f"the machine was busy: wall time up to {waits:.1f} x CPU time; measure again when it is idle"
        )
    new = SHAPES[settings["shape"]]["rows"] * SHAPES[settings["shape"]]["new_tokens"]
    if "generate" in found["tasks"]:
        lines.append(
            "generate, tokens/s: "
            + ", ".join(
                f"{way} {new / measured['seconds']['median']:.1f}"
                for way in WAYS
                if (measured := found["tasks"]["generate"].get(way))
            )
        )
    lines += [
        "faster: released / ours, in wall time and in CPU time; share: ours / released",
        "MB: growth of the resident high-water mark over loaded models and inputs, in a process of its own; + weights: the",
        "parameters of the models added: released holds a second copy where there is a teacher",
        "difference: relative; loss: to the sum of its terms' magnitudes; gradient: of all adapters together, by norm",
    ]
    return "\n".join(
        lines + [f"absent: {way}: {why['absent']}" for way, why in found["absent"].items()]
    )


def row(task: str, measured: dict) -> tuple:
    """The cells of one task; a dash where a way is absent."""

    def of(way, cell):
        return cell(measured[way]) if way in measured else "-"

    def ratio(key, form):
        return form.format(measured[key]) if key in measured else "-"

    def seconds(way):
        return f"{way['seconds']['median']:.2f} ({way['seconds']['least']:.2f}-{way['seconds']['most']:.2f})"

    def whole(way):
        return f"{(way['peak']['bytes'] + way['peak']['weights_bytes']) / 1e6:.0f}"

    shown = [
        f"{name} {'equal' if value is True else 'DIFFERENT' if value is False else format(value, '.0e')}"
        for name, value in measured.get("difference", {}).items()
    ]
    return (
        task,
        of("ours", seconds),
        of("released", seconds),
        ratio("faster", "{:.2f}"),
        ratio("cpu_faster", "{:.2f}"),
        *(of(way, lambda way: f"{way['peak']['bytes'] / 1e6:.0f}") for way in WAYS),
        ratio("memory_share", "{:.2f}"),
        *(of(way, whole) for way in WAYS),
        ratio("share_with_weights", "{:.2f}"),
        ", ".join(shown) or "-",
    )
