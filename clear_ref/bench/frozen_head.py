"""bench --what head: the token terms of a frozen output layer, its products included.

Time, peak memory and error of one forward and backward, as adapters train: the hidden states get a
gradient, the layer's weight none.
"""

from dataclasses import asdict
from statistics import median

from clear_ref.common import run_directory
from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.text_table import aligned
from clear_ref.losses import native

from .frozen_head_worker import CASES, NLL_ALONE, WAYS
from .process import (
    RETURNED_AT_ONCE,
    Findings,
    busy_note,
    command_line,
    hardware,
    kernel_and_versions,
    run_in_child,
    threads_text,
)
from .settings import DTYPES, BenchHeadSettings

MODULE = "clear_ref.bench.frozen_head_worker"
COLUMNS = (
    "dtype",
    "loss",
    "way",
    "CPU s (least-most)",
    "x eager",
    "extra MB",
    "% of eager's",
    "gradient error",
)
NOTES = (
    "loss: sum of w nll; with both KLs + |w| KL(teacher || student) + |w|/2 KL(student || teacher);"
    " w random, one for each row",
    "ours: the gradient computed with the columns; ours, chunked: chunks computed again in backward"
    ", as for a head that is trained",
    "eager: linear, cross_entropy, log_softmax, kl_div; linear_cross_entropy: torch's own, in "
    "chunks, reduction none",
    "extra MB: growth of the peak of resident memory, gradient of the hidden states included; "
    "gradient error: relative, of some rows, against float64",
)


def run(settings: BenchHeadSettings) -> Findings:
    """Everything measured, with the machine and versions.

    cases  [{dtype, loss, ways: {way: {seconds, wall: [one a round], error, bytes, how}
           or {absent: reason}}}]
    """
    for name, least in (("rows", 8), ("vocabulary", 2), ("threads", 1), ("rounds", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}; expected {least} or more")
    if settings.width < 1:
        raise UserError(f"width is {settings.width}; expected 1 or more")
    if settings.dtype not in (*DTYPES, "both"):
        raise UserError(f"dtype is {settings.dtype!r}; expected float32, bfloat16 or both")
    dtypes = list(DTYPES) if settings.dtype == "both" else [settings.dtype]
    n_ways = [len(WAYS) - (case != CASES[0]) for case in CASES]
    progress = Progress("bench", len(dtypes) * (sum(n_ways) + len(CASES)), "measurement")
    cases = []
    for dtype in dtypes:
        for case in CASES:
            found = measured(settings, dtype, case, progress)
            cases.append({"dtype": dtype, "loss": case, "ways": found})
    progress.close()
    return {
        "command": command_line(settings, "head"),
        "settings": asdict(settings),
        "hardware": hardware("cpu"),
        "kernel": native.description(),
        "versions": run_directory.versions(),
        "cases": cases,
    }


def measured(settings: BenchHeadSettings, dtype: str, case: str, progress: Progress) -> Findings:
    """The ways of one case: time in one process, peak memory of each way in its own."""
    ways = [way for way in WAYS if case == CASES[0] or way != NLL_ALONE]
    job = asdict(settings) | {"dtype": dtype, "case": case}
    label = f"{case} in {dtype}"
    found = run_in_child(MODULE, job | {"kind": "time", "ways": ways}, label, {})
    progress.step(note=label)
    for way in ways:
        if "absent" not in found[way]:
            one = job | {"kind": "memory", "ways": [way]}
            found[way] |= run_in_child(MODULE, one, f"memory of {way}", RETURNED_AT_ONCE)
        progress.step(note=f"memory of {way}")
    return found


def text(found: Findings) -> str:
    """The measurements as one aligned table."""
    settings = found["settings"]
    rows, waits, absent = [], [], {}
    for case in found["cases"]:
        eager = case["ways"]["eager"]
        for way, one in case["ways"].items():
            if "absent" in one:
                absent[way] = one["absent"]
                continue
            seconds = one["seconds"]
            waits.append(median(one["wall"]) / median(seconds) / settings["threads"])
            rows.append(
                (
                    case["dtype"],
                    case["loss"],
                    way,
                    f"{median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
                    f"{median(seconds) / median(eager['seconds']):.2f}",
                    f"{one['bytes'] / 1e6:.0f}",
                    f"{100 * one['bytes'] / eager['bytes']:.1f}" if eager["bytes"] else "-",
                    f"{one['error']:.0e}",
                )
            )
    lines = [
        found["command"],
        f"inputs  {settings['rows']} rows, {settings['width']} x {settings['vocabulary']} weights; "
        "random, logits of scale 3, every 7th label ignored",
        f"on      {found['hardware']['cpu']}, {threads_text(settings['threads'])}, "
        f"{kernel_and_versions(found)}; medians of {settings['rounds']} rounds in which the ways "
        "take turns",
        "",
        *aligned(COLUMNS, rows),
        *busy_note(max(waits)),
        *NOTES,
        *(f"absent: {way}: {why}" for way, why in absent.items()),
    ]
    return "\n".join(lines)
