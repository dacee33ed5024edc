"""The soak: commands that are stopped by signals at random moments, resumed, and compared.

    python -m tests.helpers.soak DIR --cycles 200 --seed 1     the same command continues in DIR
    python -m tests.helpers.soak DIR --chain 17 --seed 1       one chain again

A chain is one command: it is started, stopped by a signal, resumed, stopped again, and so on, until
it ends. A cycle is one stop that hit. Then its run directory must have the bytes of one that
nothing stopped (seconds aside); if the number of processes changed between two starts, trained
tensors and losses must be equal up to the order of sums. After each stop: one line on stderr and
the exit status of the signal, no process, and but for SIGKILL no lock and no temporary file. At the
end of a chain there is none at all. It is run by hand; the figures are in clear_ref/PROMISES.md.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers.commands import small_copy
from tests.helpers.soak_cases import Case, cases, differences, files, furthest, words
from tests.helpers.soak_moments import Moment
from tests.helpers.soak_processes import Ended, Launch, do
from tests.helpers.tiny_model import write_tiny

KILL, TERM, INT = int(signal.SIGKILL), int(signal.SIGTERM), int(signal.SIGINT)
MOST_STOPS = 7  # of a chain
# About how many events of a phase one start has.
MOST_EVENTS = {"training": 10, "saving": 60, "evaluating": 24, "robustness": 40, "report": 40}
NEW_PYTHON = 0.05  # share of the starts by `python -m` and torchrun; the others are forks


def write_world(folder: Path) -> None:
    """The tiny model and the small data, once."""
    if not (folder / "data").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        process = os.fork()  # this process must not compute: its threads do not survive forks
        if process == 0:
            write_tiny(folder / "tiny")
            os._exit(0)
        os.waitpid(process, 0)
        small_copy(folder / "data")


def reference(case: Case, processes: int, root: Path) -> Path:
    """The directory of a case that nothing stopped."""
    folder = root / "reference" / f"{case.name}-{processes}".replace(" ", "-")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ended = start(case, words(case, root / "world", 1), folder, processes)
        if ended.status:
            raise SystemExit(f"{case.name}: {ended}")
        (folder / "done").touch()
    return folder / "run"


def start(
    case: Case,
    arguments: tuple[str, ...],
    folder: Path,
    processes: int,
    moment: Moment | None = None,
    forked: bool = True,
    after: tuple[float, int] | None = None,
) -> Ended:
    """One start of a case's command."""
    os.environ["OMP_NUM_THREADS"] = str(case.threads)
    text = moment.text() if moment else ""
    return do(Launch(arguments, folder, processes, forked, text), after)


def drawn(case: Case, processes: int, rng: Random) -> tuple[Moment | None, bool, Any]:
    """(moment, forked, after) of one stop."""
    phase = rng.choice(case.phases)
    number = rng.choice((KILL, KILL, TERM, TERM, INT))
    if phase == "start":
        return None, False, (rng.uniform(0.0, 6.0), number)
    most = MOST_EVENTS[phase]
    n = rng.choice((rng.randint(1, most), rng.randint(1, max(1, most // 4))))
    delay = rng.choice((0.0, 0.0, rng.expovariate(1 / 0.003), rng.expovariate(1 / 0.05)))
    forked = rng.random() > NEW_PYTHON
    targets = ["self", "self", "group"]
    if case.threads > 1 and number == KILL and phase == "evaluating":
        targets = ["self", "group", "child"]
    if processes > 1 and not forked:
        targets = ["self"] if number == KILL else ["launcher"]
    if processes > 1 and forked:
        targets = ["self"] if number == KILL else ["launcher", "group"]
    by = rng.randrange(processes) if number == KILL else 0
    return Moment(phase, n, delay, number, rng.choice(targets), by), forked, None


def problems_of(
    ended: Ended, number: int, moment: Moment | None, forked: bool, processes: int, new: set[str]
) -> list[str]:
    """What is wrong after a stop.

    new  the files that were not there before the start: an earlier SIGKILL may have left others
    """
    found = [f"still runs: {line}" for line in ended.left]
    alone = processes == 1
    lines = [line for line in ended.stderr.splitlines() if line and not line.startswith("soak: ")]
    own = [line for line in lines if line.startswith("clear_ref: ")]
    importing = moment is None and not own
    if "Traceback" in ended.stderr and forked | alone and not importing:
        found.append("a traceback")
    if number == KILL:
        if alone and moment is not None and moment.target != "child" and ended.status != -KILL:
            found.append(f"exit status {ended.status} after SIGKILL")
        return found
    allowed = {128 + number}
    if importing:  # Python's own answer: the package has not begun
        allowed |= {-number, 1}
    if not alone and not forked:
        allowed |= {1, -number}  # torchrun's
    if ended.status not in allowed:
        found.append(f"exit status {ended.status} after signal {number}")
    said = any("stopped by SIGTERM" in line or "interrupted" in line for line in own[-1:])
    if alone and not importing and not said:
        found.append(f"the last line is {own[-1:]}")
    return found + [f"left: {name}" for name in temporary(new)]


def temporary(names: Iterable[str]) -> list[str]:
    """The names of locks and of temporary files."""
    return sorted(
        name
        for name in names
        if name.endswith((".lock", ".unfinished")) or name.startswith("tmp/") or ".tmp" in name
    )


def chain(index: int, seed: int, root: Path, show: bool = False) -> dict[str, Any]:
    """One chain: its stops, and what was wrong."""
    every = cases()
    case = every[index % len(every)]
    rng = Random(f"{seed}/{index}")
    folder = root / "chains" / str(index)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arguments = words(case, root / "world", rng.randint(1, 4))
    stops: list[dict[str, Any]] = []
    problems: list[str] = []
    numbers = set()
    for stop in range(MOST_STOPS + 1):
        processes = case.processes or rng.choice((1, 2))
        moment, forked, after = drawn(case, processes, rng)
        if stop == MOST_STOPS:
            moment, forked, after = None, True, None
        begun = (folder / "run" / "settings.json").exists()
        resumed = (*arguments, "--resume") if begun else arguments
        before = files(folder).keys()
        ended = start(case, resumed, folder, processes, moment, forked, after)
        new = files(folder).keys() - before
        trained = (folder / "run" / "checkpoint" / "state.json").exists()
        numbers.add(processes)
        if show:
            print(processes, moment, forked, after, ended, flush=True)
        if ended.status == 0 and not ended.left:
            break
        number = moment.signal if moment else after[1] if after else 0
        what = {
            "phase": moment.phase if moment else "start",
            "signal": signal.Signals(number).name if number else "none",
            "target": moment.target if moment else "self",
            "processes": processes,
            "forked": forked,
            "status": ended.status,
            "trained": trained,
        }
        wrong = problems_of(ended, number, moment, forked, processes, new)
        if (moment and "soak: " not in ended.stderr) or not number:
            wrong.append(f"ended without a signal: {ended.stderr[-400:]}")
        stops.append(what)
        problems += [f"stop {len(stops)} {what}: {each}" for each in wrong]
    return {"chain": index, "case": case.name, "stops": stops} | end_of(
        case, numbers, problems, folder, root
    )


def end_of(
    case: Case, numbers: set[int], problems: list[str], folder: Path, root: Path
) -> dict[str, Any]:
    """What is wrong at the end of a chain, and how far its tensors are from the reference."""
    n = case.processes or 1
    expected = reference(case, n, root)
    wrong = differences(folder / "run", expected, numbers != {n})
    wrong += [f"left at the end: {name}" for name in temporary(files(folder))]
    problems = problems + wrong
    adapter = "run/adapter/adapter_model.safetensors"
    far = None
    if (folder / adapter).exists() and (expected.parent / adapter).exists():
        far = furthest(folder / adapter, expected.parent / adapter)
    if not problems:
        shutil.rmtree(folder)
    return {"processes": sorted(numbers), "furthest": far, "problems": problems}


def table(records: list[dict[str, Any]]) -> str:
    """Counts of all stops."""
    stops = [stop for record in records for stop in record["stops"]]
    lines = [f"{len(stops)} stops in {len(records)} chains"]
    for key in ("signal", "phase", "processes", "target", "forked"):
        counts = Counter(str(stop[key]) for stop in stops)
        lines.append(f"{key}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    mixed = [record for record in records if record["furthest"]]
    if mixed:
        most = max(record["furthest"] for record in mixed)
        lines.append(f"chains with other numbers of processes: {len(mixed)}, furthest {most:.2g}")
    failed = [record for record in records if record["problems"]]
    lines.append(f"chains that failed: {len(failed)}")
    lines += [f"  chain {r['chain']} ({r['case']}): {'; '.join(r['problems'])}" for r in failed]
    return "\n".join(lines)


def main() -> int:
    """The soak of the command line; exit status 1 if a chain failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chain", type=int, help="this chain alone, with what it printed")
    parser.add_argument("--first", type=int, default=0, help="number of the first chain")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    root = arguments.directory.resolve()
    write_world(root / "world")
    if arguments.chain is not None:
        record = chain(arguments.chain, arguments.seed, root, show=True)
        print(table([record]))
        return 1 if record["problems"] else 0
    kept = root / f"chains-{arguments.seed}.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    until = time.monotonic() + 60 * arguments.minutes
    while sum(len(record["stops"]) for record in records) < arguments.cycles:
        if time.monotonic() > until:
            break
        record = chain(arguments.first + len(records), arguments.seed, root)
        records.append(record)
        with open(kept, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        said = "; ".join(record["problems"]) or "as without stops"
        print(f"{record['chain']} {record['case']}: {len(record['stops'])} stops, {said}"[:600])
        sys.stdout.flush()
    print(table(records))
    return 1 if any(record["problems"] for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
