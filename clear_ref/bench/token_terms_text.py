"""The findings of `bench` as text: one aligned table for each dtype and allocator."""

from clear_ref.common.text_table import aligned

from .process import Findings, busy_note, kernel_and_versions, threads_text

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


def text(found: Findings) -> str:
    """The tables, then notes on threads, absent peers and what peers do differently."""
    settings, machine = found["settings"], found["hardware"]
    lines = [
        found["command"],
        f"task    {found['task']}",
        f"inputs  {settings['rows']} x {settings['vocabulary']} {found['inputs']}",
        f"on      {machine.get('gpu') or machine['cpu']}, {kernel_and_versions(found)}; "
        f"medians of {settings['rounds']} rounds",
    ]
    for measurement in found["measurements"]:
        peaks = found["memory"][measurement["dtype"]]
        lines += table(measurement, peaks, on_gpu="gpu" in machine)
    lines += [
        "",
        "floor: moving the logits of student and teacher once; peak: extra memory of forward and "
        "backward, in tensors of logits; loss error: relative, against float64",
    ]
    for dtype, times in found["scaling"].items():
        lines += scaling_lines(dtype, times)
    absent = {
        name: peer["absent"]
        for measurement in found["measurements"]
        for name, peer in measurement["peers"].items()
        if "absent" in peer
    }
    for reason in dict.fromkeys(absent.values()):
        names = [name for name, why in absent.items() if why == reason]
        lines.append(f"absent: {', '.join(names)}: {reason}")
    lines += [f"{name}: {note}" for name, note in found["notes"].items() if name not in absent]
    return "\n".join(lines)


def table(measurement: Findings, peaks: Findings, on_gpu: bool) -> list[str]:
    """The lines of one measurement."""
    speeds = ", ".join(
        f"{what} {speed / 1e9:.1f} GB/s" for what, speed in measurement["bandwidth"].items()
    )
    timed = {name: peer for name, peer in measurement["peers"].items() if "absent" not in peer}
    lines = [
        "",
        f"{measurement['dtype']}, allocator {measurement['allocator']}, "
        f"{threads_text(measurement['threads'])}; {speeds}: "
        f"floor {measurement['floor_ms']:.2f} ms",
    ]
    lines += aligned(
        COLUMNS, [cells(name, peer, peaks.get(name, {})) for name, peer in timed.items()]
    )
    if not on_gpu:
        waits = [peer["both_ms"]["median"] / peer["cpu_ms"]["median"] for peer in timed.values()]
        lines += busy_note(max(waits, default=0))
    return lines


def scaling_lines(dtype: str, times: Findings) -> list[str]:
    """The times on 1 and on 2 threads."""
    one, two, speedup = times["1"], times["2"], times["speedup"]
    lines = [
        f"threads, {dtype}, in turns: native {one['median']:.2f} ms on 1, "
        f"{two['median']:.2f} on 2, {speedup['median']:.2f} x; "
        f"least {one['min']:.2f} and {two['min']:.2f}, {speedup['min']:.2f} x"
    ]
    if one["median"] / one["cpu"] > 1.2 or 2 * two["median"] / two["cpu"] > 1.4:
        lines.append("the machine was busy while threads were compared: a lower bound")
    return lines


def cells(name: str, peer: Findings, peak: Findings) -> tuple[str, ...]:
    """The cells of one measured peer."""
    both = peer["both_ms"]
    slower = peer["slower"]
    ratio = number(slower, "{:.1f} x slower")
    if slower is not None and slower < 1:
        ratio = f"{1 / slower:.1f} x faster"
    return (
        name,
        f"{peer['forward_ms']['median']:.2f}",
        f"{peer['backward_ms']['median']:.2f}",
        f"{both['median']:.2f}",
        f"{both['p20']:.2f}-{both['p80']:.2f}",
        f"{peer['cpu_ms']['median']:.2f}",
        "1" if name.startswith("ours native") else ratio,
        number(peer["forward_over_floor"], "{:.1f}"),
        number(peak.get("tensors"), "{:.1f}"),
        f"{peer['loss_error']:.0e}",
    )


def number(value: float | None, form: str) -> str:
    """The number in a format; a dash for None."""
    return "-" if value is None else form.format(value)
