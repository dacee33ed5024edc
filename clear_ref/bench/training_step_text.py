"""The findings of `bench --what step` as text."""

from collections.abc import Callable

from clear_ref.common.text_table import aligned

from .process import Findings, busy_note, kernel_and_versions, threads_text
from .training_step import PACKAGES, bytes_with_weights
from .training_step_inputs import SHAPES
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


def text(found: Findings) -> str:
    """The measurements as one aligned table."""
    settings, versions = found["settings"], found["versions"]
    packages = ", ".join(f"{name} {versions[name] or 'absent'}" for name in PACKAGES)
    lines = [
        found["command"],
        *(f"inputs  {line}" for line in found["inputs"]),
        f"on      {found['hardware']['cpu']}, {threads_text(settings['threads'])}, "
        f"{kernel_and_versions(found)}, {packages}; "
        f"medians (least-most) of {settings['rounds']} rounds",
        "",
    ]
    lines += aligned(COLUMNS, [cells(task, measured) for task, measured in found["tasks"].items()])
    waits = [
        measured[way]["seconds"]["median"]
        / measured[way]["cpu_seconds"]["median"]
        / settings["threads"]
        for measured in found["tasks"].values()
        for way in WAYS
        if way in measured
    ]
    lines += busy_note(max(waits))
    if "generate" in found["tasks"]:
        lines.append(generation_speed(found["tasks"]["generate"], settings["shape"]))
        lines += parts_text(found["tasks"]["generate"]["ours"]["parts"])
    lines += [
        "faster: released / ours, in wall time and in CPU time; share: ours / released",
        "MB: growth of the peak of resident memory over loaded models and inputs, in a process of "
        "its own; + weights: the",
        "parameters of the models added: released has a second copy where there is a teacher",
        "difference: relative; loss: to the sum of its terms' magnitudes; gradient: of all "
        "adapters together, by norm",
    ]
    lines += [f"absent: {way}: {why['absent']}" for way, why in found["absent"].items()]
    return "\n".join(lines)


def generation_speed(measured: Findings, shape: str) -> str:
    """Generated tokens per second of each way."""
    n_tokens = SHAPES[shape].rows * SHAPES[shape].new_tokens
    speeds = [
        f"{way} {n_tokens / measured[way]['seconds']['median']:.1f}"
        for way in WAYS
        if way in measured
    ]
    return "generate, tokens/s: " + ", ".join(speeds)


def parts_text(parts: dict[str, dict[str, float]]) -> list[str]:
    """Where the time of our generation goes."""
    total = sum(part["cpu_seconds"] for part in parts.values())
    words = [
        f"{name} {part['cpu_seconds'] / total:.0%} ({part['gflop']:.0f})"
        for name, part in parts.items()
    ]
    return [
        f"generate, ours: shares of {total:.2f} s CPU time (10^9 operations of products with "
        "weights):",
        "  " + ", ".join(words),
    ]


def cells(task: str, measured: Findings) -> tuple[str, ...]:
    """The cells of one task; a dash where a way is absent."""

    def of(way: str, cell: Callable[[Findings], str]) -> str:
        return cell(measured[way]) if way in measured else "-"

    def ratio(key: str) -> str:
        return f"{measured[key]:.2f}" if key in measured else "-"

    return (
        task,
        of("ours", seconds),
        of("released", seconds),
        ratio("faster"),
        ratio("cpu_faster"),
        of("ours", peak),
        of("released", peak),
        ratio("memory_share"),
        of("ours", peak_and_weights),
        of("released", peak_and_weights),
        ratio("share_with_weights"),
        differences(measured.get("difference", {})),
    )


def seconds(way: Findings) -> str:
    """Median, least and most seconds of a way."""
    times = way["seconds"]
    return f"{times['median']:.2f} ({times['least']:.2f}-{times['most']:.2f})"


def peak(way: Findings) -> str:
    """The peak of a way in MB."""
    return f"{way['peak']['bytes'] / 1e6:.0f}"


def peak_and_weights(way: Findings) -> str:
    """The peak and the parameters of a way in MB."""
    return f"{bytes_with_weights(way) / 1e6:.0f}"


def differences(found: dict[str, float | bool]) -> str:
    """The differences of two ways; a dash without any."""
    words = []
    for name, value in found.items():
        if isinstance(value, bool):
            words.append(f"{name} {'equal' if value else 'DIFFERENT'}")
        else:
            words.append(f"{name} {value:.0e}")
    return ", ".join(words) or "-"
