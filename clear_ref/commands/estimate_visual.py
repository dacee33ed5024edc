"""estimate visual: memory and time of the visual-only track at real size."""

import math
from argparse import Namespace
from dataclasses import asdict, replace
from typing import Any

from clear_ref.common.errors import UserError
from clear_ref.common.text_table import aligned
from clear_ref.visual import costs
from clear_ref.visual.method_names import SEMANTICS

from .file_settings import EstimateSettings
from .given import settings_from
from .output import Output
from .visual_inputs import N_SPLITS

USED = {"semantics", "processes", "tflops"}
VISUAL = "visual"
FP32_TFLOPS = 20.0  # without --tflops: an assumption, a third of an H100's nominal float32 rate


def command(arguments: Namespace) -> Output:
    """What `estimate visual` prints."""
    settings = settings_from(arguments, EstimateSettings)
    given = {name for name in vars(settings) if name in vars(arguments)}
    unused = sorted(given - USED)
    if unused:
        raise UserError(
            f"--{unused[0].replace('_', '-')} changes nothing in estimate visual; expected some of "
            + ", ".join(f"--{name}" for name in sorted(USED))
        )
    if "tflops" not in given:
        settings = replace(settings, tflops=FP32_TFLOPS)
    return Output(run(settings), text)


def run(settings: EstimateSettings) -> dict[str, Any]:
    """{"shape", "splits", "picture", "runs": [{"run", "steps", "memory_gb", "pflop", "minutes"}]}
    of one training of each stage that the semantics has, and of all of 128 splits.

    raises  UserError for a rate or a number of processes that is not above 0, and for a semantics
            that the visual-only track does not have
    """
    for name in ("tflops", "processes"):
        if not 0 < getattr(settings, name) < math.inf:
            raise UserError(f"--{name} is {getattr(settings, name)}; expected a number above 0")
    if settings.semantics not in SEMANTICS:
        raise UserError(
            f"--semantics is {settings.semantics}; expected one of {', '.join(SEMANTICS)} in "
            "estimate visual"
        )
    experiment = costs.real_size(settings.semantics)
    runs: list[dict[str, Any]] = []
    for stage in experiment.stages:
        own = costs.costs_of(experiment, stage)
        runs.append({"run": stage, **own, "minutes": minutes(own["pflop"], settings.tflops)})
    picture = costs.picture_costs()
    total = N_SPLITS * sum(each["pflop"] for each in runs)
    return {
        "shape": VISUAL,
        "semantics": settings.semantics,
        "splits": N_SPLITS,
        "parameters": costs.parameters(),
        "picture": asdict(picture),
        "runs": runs,
        "all": {
            "steps": N_SPLITS * sum(each["steps"] for each in runs),
            "memory_gb": max(each["memory_gb"] for each in runs),
            "pflop": total,
            "minutes": minutes(total, settings.tflops * settings.processes),
            "networks_gb": N_SPLITS * 4 * costs.parameters() / 1e9,
        },
        "tflops": settings.tflops,
        "processes": settings.processes,
    }


def minutes(pflop: float, tflops: float) -> float:
    """Minutes for so many operations at so many a second."""
    return pflop * 1e15 / (tflops * 1e12) / 60


def text(found: dict[str, Any]) -> str:
    """The table, and the assumptions behind it."""
    every = {"run": f"all, {found['splits']} splits", **found["all"]}
    rows = [
        [
            each["run"],
            f"{each['steps']:,}",
            f"{each['memory_gb']:.1f}",
            f"{each['pflop']:.2f}",
            f"{each['minutes']:.1f}",
        ]
        for each in (*found["runs"], every)
    ]
    return "\n".join(
        [
            f"visual: ResNet-18, {found['parameters']:,} parameters, 224 x 224 pixels, "
            f"semantics {found['semantics']}; a picture takes "
            f"{found['picture']['training'] / 1e9:.1f} GFLOP forward and backward",
            "",
            *aligned(["training", "steps", "memory GB", "PFLOP", "minutes"], rows),
            "",
            "memory: float32, of one process, in 10^9 bytes, without what torch needs beside it: "
            "measured on a CPU, 1.1 times for each picture of a batch, and 0.2 GB",
            f"disk: {found['all']['networks_gb']:.1f} GB of base networks, with --networks base",
            f"minutes: if {found['tflops']:.0f} TFLOP/s of float32 are sustained (--tflops: an "
            f"assumption), {found['processes']} process{'es' if found['processes'] > 1 else ''}",
        ]
    )
