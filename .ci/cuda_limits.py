"""Registers, stack and instructions per logit of the CUDA kernels in an object or library.

usage    python .ci/cuda_limits.py FILE
needs    cuobjdump and nvdisasm on PATH; FILE with machine code for every architecture below
exits    1 if a limit is exceeded, or if a kernel, a loop or an architecture is missing

No GPU is needed. No speed is measured, only what limits it. At 4.3 TB/s each multiprocessor of an
H200 can execute 13.8 instructions for a bf16 logit that is read, 27.5 for a pair of student and
teacher or for a logit that is read and its gradient written, 41 for a pair and a gradient; fp32
moves twice the bytes, so the numbers are twice as large. The limits are about a tenth above what
the kernels need, and well below these numbers.
"""

import re
import subprocess
import sys
from typing import NamedTuple

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_110", "sm_120")
TYPES = {"0": "fp32", "1": "bf16", "2": "fp16"}
KERNELS = {
    "row_sums": 24,
    "merge_parts": 3,
    "row_gradients": 12,
    "row_both": 6,
}  # instances in each architecture

# Instructions per logit, or per pair where the loop loads both rows: the loops of each kernel for
# rows on 16-byte boundaries, fewest first, for 16 bits and for fp32. A loop is recognised by its
# 128-bit loads.
FORWARD = {
    "Lb0ELb0": ("nll", 6.7, 6.7),
    "Lb0ELb1": ("nll, entropy", 8.5, 9.0),
    "Lb1ELb0": ("all", 19.0, 20.6),
    "Lb1ELb1": ("all, entropy", 21.5, 23.4),
}
LOGIT_GRADIENTS = {"16": (11.6, 14.8), "32": (31.2, 33.8)}  # without and with entropy
PAIR_GRADIENTS = {  # one divergence; with entropy too; both divergences
    "16": (20.7, 22.9, 25.1, 28.4),
    "32": (40.9, 57.9, 61.8, 65.1),
}
# sm_75 has no packed maximum and no instruction for the conversion to 16 bits: it needs up to 2.1
# times the instructions. A T4 can execute 1.8 times as many for each byte that it reads.
SLOWER = {"sm_75": 2.1}

# With 64 registers, two blocks of 512 threads (forward) or four of 256 (backward) fit on a
# multiprocessor: enough loads are then in flight to hide the latency of memory. With at most 128,
# one block of 512 threads can start. No stack: registers that are stored to memory in an inner loop
# would double its memory traffic.
REGISTERS = {"hot": 64, "other": 128}
STACK = 0


class Kernel(NamedTuple):
    """One instance of a kernel: its name, the digit of its type, its template switches."""

    name: str
    kind: str
    switches: str


class Loops(NamedTuple):
    """The loops of one sort in a kernel.

    unit          what is counted: logit or pair
    instructions  per unit, of each loop, fewest first
    limits        of each
    """

    unit: str
    instructions: list[float]
    limits: list[float]


def main(path: str) -> int:
    """Prints a line for each kernel with an inner loop, then the problems; returns exit status."""
    usage = dump("-res-usage", path)
    code = dump("-sass", path)
    problems = []
    print(
        f"{'':7} {'kernel':34} {'registers':>9} {'stack':>5}   "
        "instructions per logit or pair, loop by loop (limit)"
    )
    for architecture in ARCHITECTURES:
        usages = functions(usage, architecture)
        codes = functions(code, architecture)
        kernels = {name: kernel_of(name) for name in usages}
        for name, expected in KERNELS.items():
            count = sum(kernel is not None and kernel.name == name for kernel in kernels.values())
            if count != expected:
                problems.append(f"{architecture}: {count} instances of {name}, expected {expected}")
        for mangled in sorted(usages, key=lambda mangled: kernels[mangled] or ()):
            kernel = kernels[mangled]
            if kernel is not None:
                problems += check(architecture, kernel, usages[mangled], codes.get(mangled, ""))
    print("\n".join(problems) or "every kernel is within its limits")
    return 1 if problems else 0


def check(architecture: str, kernel: Kernel, usage: str, code: str) -> list[str]:
    """Prints the line of a kernel and returns its problems."""
    hot = kernel.name in ("row_sums", "row_gradients") and kernel.switches.endswith("Lb1")
    label = f"{architecture} {kernel.name} {TYPES[kernel.kind]}{described(kernel)}"
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if not numbers or not code:
        return [f"{label}: no resource usage or no machine code"]
    registers, stack = int(numbers[1]), int(numbers[2])
    large = architecture == "sm_75" and kernel.name == "row_sums"
    allowed = REGISTERS["hot" if hot and not large else "other"]
    problems = []
    if registers > allowed:
        problems.append(f"{label}: {registers} registers, limit {allowed}")
    if stack > STACK:
        problems.append(f"{label}: {stack} bytes of stack, limit {STACK}")
    shown = []
    for loops in loops_of(architecture, kernel, code) if hot else []:
        shown += loops_text(loops)
        problems += [f"{label}: {problem}" for problem in loop_problems(loops)]
    if hot or problems:
        name = label.removeprefix(architecture + " ")
        print(f"{architecture:7} {name:34} {registers:9} {stack:5}   {', '.join(shown)}")
    return problems


def loops_text(loops: Loops) -> list[str]:
    """The instructions of each loop with its limit."""
    pairs = zip(loops.instructions, loops.limits, strict=False)  # a loop may be missing
    return [f"{count:.1f} ({limit:.1f}) {loops.unit}" for count, limit in pairs]


def loop_problems(loops: Loops) -> list[str]:
    """Missing loops, and loops with too many instructions."""
    problems = []
    if len(loops.instructions) != len(loops.limits):
        problems.append(
            f"{len(loops.instructions)} loops over {loops.unit}, expected {len(loops.limits)}"
        )
    for count, limit in zip(loops.instructions, loops.limits, strict=False):
        if count > limit:
            problems.append(f"{count:.1f} instructions per {loops.unit}, limit {limit:.1f}")
    return problems


def described(kernel: Kernel) -> str:
    """The meaning of the template's switches, in words."""
    if kernel.name == "merge_parts":
        return ""
    if kernel.name == "row_both":
        return " teacher" if kernel.switches.startswith("Lb1") else " student alone"
    if kernel.name == "row_sums":
        terms = FORWARD[kernel.switches[:7]][0]
    else:
        terms = "teacher" if kernel.switches.startswith("Lb1") else "student alone"
    return f" {terms}" + ("" if kernel.switches.endswith("Lb1") else ", unaligned")


def loops_of(architecture: str, kernel: Kernel, code: str) -> list[Loops]:
    """The inner loops of a kernel."""
    wide = kernel.kind == "0"
    slower = SLOWER.get(architecture, 1.0)
    per_vector = 4 if wide else 8  # logits in 16 bytes
    found = counted_loops(code)
    teacher = kernel.switches.startswith("Lb1")
    if kernel.name == "row_sums":
        _, limit_16, limit_32 = FORWARD[kernel.switches[:7]]
        # Four loads are in flight; loops with fewer compute the end of the row.
        per_pass = 4 * per_vector // (2 if teacher else 1)
        counts = sorted(length / per_pass for length, loads in found if loads == 4)
        limit = limit_32 if wide else limit_16
        return [Loops("pair" if teacher else "logit", counts, [limit * slower])]
    # Each pass computes two vectors of the student, and of the teacher where it is needed.
    bits = "32" if wide else "16"
    logits = sorted(length / (2 * per_vector) for length, loads in found if loads == 2)
    groups = [Loops("logit", logits, [limit * slower for limit in LOGIT_GRADIENTS[bits]])]
    if teacher:
        pairs = sorted(length / (2 * per_vector) for length, loads in found if loads == 4)
        groups.append(Loops("pair", pairs, [limit * slower for limit in PAIR_GRADIENTS[bits]]))
    return groups


def counted_loops(code: str) -> list[tuple[int, int]]:
    """(instructions, 128-bit global loads) of each loop that has such loads.

    A loop is the code from the target of a backward branch to the branch.
    """
    instructions = [
        (int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?);", code)
    ]
    index_of = {at: index for index, (at, _) in enumerate(instructions)}
    found = []
    for index, (at, text) in enumerate(instructions):
        branch = re.search(r"\bBRA\b.*?\b(0x[0-9a-f]+)", text)
        target = int(branch[1], 16) if branch else at
        if target < at and target in index_of:
            body = instructions[index_of[target] : index + 1]
            loads = sum(bool(re.search(r"\bLDG\.\S*\b128\b", line)) for _, line in body)
            if loads:
                found.append((len(body), loads))
    return found


def kernel_of(mangled: str) -> Kernel | None:
    """The kernel of a mangled name; None for any other function."""
    found = re.search(
        r"(row_sums|merge_parts|row_gradients|row_both)ILNS_4TypeE(\d)E((?:Lb[01]E)*)EEv", mangled
    )
    return Kernel(found[1], found[2], found[3].rstrip("E")) if found else None


def functions(text: str, architecture: str) -> dict[str, str]:
    """{mangled name: its lines} of one architecture."""
    _, *parts = re.split(r"^arch = (\S+)$", text, flags=re.M)
    found: dict[str, str] = {}
    for name, body in zip(parts[0::2], parts[1::2], strict=True):
        if name == architecture:
            _, *pieces = re.split(r"^\s*Function\s*:?\s*(\w+):?\s*$", body, flags=re.M)
            found |= dict(zip(pieces[0::2], pieces[1::2], strict=True))
    return found


def dump(what: str, path: str) -> str:
    """What cuobjdump prints of a file."""
    done = subprocess.run(["cuobjdump", what, path], check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
