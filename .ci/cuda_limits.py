"""Registers, stack and instructions per logit of the CUDA kernels in an object or library; exits 1 past a limit.

usage    python .ci/cuda_limits.py FILE
needs    cuobjdump and nvdisasm on PATH
         FILE with machine code for every architecture below: a kernel, loop or architecture that is not there fails too

No GPU is needed and no speed is seen, only what bounds it. At 4.3 TB/s each SM of an H200 has 13.8 instructions for a bf16
logit read, 27.5 for a pair of student and teacher or for a logit read and its gradient written, 41 for a pair and a gradient;
fp32 moves twice the bytes and has twice that. Limits stand about a tenth above what is reached and well below the budget.
"""

import re
import subprocess
import sys

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_110", "sm_120")
TYPES = {"0": "fp32", "1": "bf16", "2": "fp16"}
KERNELS = {"row_sums": 24, "merge_parts": 3, "row_gradients": 12}  # instances in each architecture

# Instructions per logit, or per pair where the loop loads both rows: the loops of each kernel for rows on 16-byte boundaries,
# fewest first, for 16 bits and for fp32. A loop is known by its 128-bit loads.
FORWARD = {
    "Lb0ELb0": ("nll", 6.7, 6.7),
    "Lb0ELb1": ("nll, entropy", 8.5, 9.0),
    "Lb1ELb0": ("all", 19.0, 20.6),
    "Lb1ELb1": ("all, entropy", 21.5, 23.4),
}
LOGIT_GRADIENTS = {"16": (11.6, 14.8), "32": (31.2, 33.8)}  # without and with entropy
PAIR_GRADIENTS = {
    "16": (20.7, 22.9, 25.1, 28.4),
    "32": (40.9, 57.9, 61.8, 65.1),
}  # one divergence, entropy too, both
# sm_75 has no packed maximum and converts to 16 bits by hand: up to 2.1 times the instructions. A T4 has 1.8 times as many of
# them for each byte that it reads.
SLOWER = {"sm_75": 2.1}

# 64 let two blocks of 512 threads (forward) or four of 256 (backward) share a multiprocessor, enough loads in flight to hide
# the memory; 128 let one block of 512 start at all. No stack: a spill in a hot loop would double its memory traffic.
REGISTERS = {"hot": 64, "other": 128}
STACK = 0


def main(path):
    usage, code = dump("-res-usage", path), dump("-sass", path)
    troubles = []
    print(
        f"{'':7} {'kernel':34} {'registers':>9} {'stack':>5}   instructions per logit or pair, loop by loop (limit)"
    )
    for architecture in ARCHITECTURES:
        kernels = functions(usage, architecture), functions(code, architecture)
        found = [key(name) for name in kernels[0]]
        for kernel, expected in KERNELS.items():
            count = sum(k is not None and k[0] == kernel for k in found)
            if count != expected:
                troubles.append(
                    f"{architecture}: {count} instances of {kernel}, expected {expected}"
                )
        for name in sorted(kernels[0], key=lambda name: key(name) or ()):
            if key(name) is not None:
                troubles += check(
                    architecture, key(name), kernels[0][name], kernels[1].get(name, "")
                )
    print("\n".join(troubles) or "every kernel is within its limits")
    return 1 if troubles else 0


def check(architecture, kernel, usage, code):
    """Prints the line of a kernel; what is wrong with it, in words."""
    name, kind, switches = kernel
    hot = name != "merge_parts" and switches.endswith("Lb1")
    label = f"{name} {TYPES[kind]}{described(name, switches)}"
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if not numbers or not code:
        return [f"{architecture} {label}: no resource usage or no machine code"]
    registers, stack = map(int, numbers.groups())
    allowed = REGISTERS[
        "hot" if hot and not (architecture == "sm_75" and name == "row_sums") else "other"
    ]
    troubles = []
    if registers > allowed:
        troubles.append(f"{architecture} {label}: {registers} registers, limit {allowed}")
    if stack > STACK:
        troubles.append(f"{architecture} {label}: {stack} bytes of stack, limit {STACK}")
    shown = []
    for what, reached, limits in (
        loop_groups(architecture, name, kind, switches, code) if hot else ()
    ):
        if len(reached) != len(limits):
            troubles.append(
                f"{architecture} {label}: {len(reached)} loops over {what}, expected {len(limits)}"
            )
        shown += [f"{r:.1f} ({limit:.1f}) {what}" for r, limit in zip(reached, limits)]
        troubles += [
            f"{architecture} {label}: {r:.1f} instructions per {what}, limit {limit:.1f}"
            for r, limit in zip(reached, limits)
            if r > limit
        ]
    if hot or troubles:
        print(f"{architecture:7} {label:34} {registers:9} {stack:5}   {', '.join(shown)}")
    return troubles


def described(name, switches):
    """What the template's switches mean, in words."""
    if name == "merge_parts":
        return ""
    terms = (
        FORWARD[switches[:7]][0]
        if name == "row_sums"
        else "teacher"
        if switches.startswith("Lb1")
        else "student alone"
    )
    return f" {terms}" + ("" if switches.endswith("Lb1") else ", unaligned")


def loop_groups(architecture, name, kind, switches, code):
    """(what one loop handles, instructions per one of it for each loop found, their limits), fewest first."""
    wide, slower = "32" if kind == "0" else "16", SLOWER.get(architecture, 1)
    of_vector = 4 if kind == "0" else 8  # logits in 16 bytes
    found = loops(code)
    if name == "row_sums":
        _, *limits = FORWARD[switches[:7]]
        pair = switches.startswith("Lb1")
        handled = (
            4 * of_vector // (2 if pair else 1)
        )  # four loads in flight; loops with fewer finish the row
        reached = sorted(length / handled for length, loads in found if loads == 4)
        return [("pair" if pair else "logit", reached, [limits[wide == "32"] * slower])]
    # The same two vectors of the student, and of the teacher where it is needed.
    logits = sorted(length / (2 * of_vector) for length, loads in found if loads == 2)
    groups = [("logit", logits, [limit * slower for limit in LOGIT_GRADIENTS[wide]])]
    if switches.startswith("Lb1"):
        pairs = sorted(length / (2 * of_vector) for length, loads in found if loads == 4)
        groups.append(("pair", pairs, [limit * slower for limit in PAIR_GRADIENTS[wide]]))
    return groups


def loops(code):
    """(instructions, 128-bit global loads) of each loop that has such loads: from a backward branch's target to the branch."""
    instructions = [
        (int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?);", code)
    ]
    place = {at: i for i, (at, _) in enumerate(instructions)}
    found = []
    for i, (at, text) in enumerate(instructions):
        target = re.search(r"\bBRA\b.*?\b(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < at and int(target[1], 16) in place:
            body = instructions[place[int(target[1], 16)] : i + 1]
            loads = sum(bool(re.search(r"\bLDG\.\S*\b128\b", text)) for _, text in body)
            if loads:
                found.append((len(body), loads))
    return found


def key(mangled):
    """(kernel, type, template switches) of a mangled name, or None for any other function."""
    found = re.search(
        r"(row_sums|merge_parts|row_gradients)ILNS_4TypeE(\d)E((?:Lb[01]E)*)EEv", mangled
    )
    return found and (found[1], found[2], found[3].rstrip("E"))


def functions(text, architecture):
    """{mangled name: its lines} of one architecture."""
    parts = re.split(r"^arch = (\S+)$", text, flags=re.M)
    found = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        if name == architecture:
            pieces = re.split(r"^\s*Function\s*:?\s*(\w+):?\s*$", body, flags=re.M)
            found |= dict(zip(pieces[1::2], pieces[2::2]))
    return found


def dump(what, path):
    return subprocess.run(
        ["cuobjdump", what, path], check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
