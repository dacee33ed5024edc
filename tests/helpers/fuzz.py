"""Fuzz of every reader of files: seeded changes of valid files, each read in a child process.

    python -m tests.helpers.fuzz --count 1000 --seed 1              1000 cases of each entry
    python -m tests.helpers.fuzz --count 1 --seed 1 --first 17 rows  case 17 of one entry, with
                                                                    its traceback
    python -m tests.helpers.fuzz --list

A case passes if the reader returns, or raises UserError or RunFailed with one line of at most 1,000
printable characters. It fails with any other exception, a crash, more than 5 s of CPU time, memory
of more than ten times the files and 64 MB, and a file that is opened, made or removed outside the
case's folder (opened for reading: outside that folder, the package and Python's own).
"""

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from clear_ref.common.errors import RunFailed, UserError
from tests.helpers.fuzz_entries import Entry, LongLine, check_line
from tests.helpers.fuzz_mutations import KINDS
from tests.helpers.fuzz_resumed import ENTRIES

CPU_SECONDS = 5.0
WALL_SECONDS = 120  # for a reader that waits and computes nothing
FREE_BYTES = 64 << 20
TIMES = 10
MOST_ADDRESS_SPACE = 6 << 30  # beside what the process has: an allocation above it fails
MAY_READ = (str(Path(__file__).parents[2]), *map(os.path.realpath, sys.path), "/usr", "/proc")
CHANGING = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
CHANGING |= {"os.truncate", "shutil.rmtree"}


@dataclass(frozen=True)
class Failure:
    """A case that failed: what happened and where, and how to make it again."""

    entry: str
    number: int
    what: str
    where: str
    text: str

    @property
    def kind(self) -> tuple[str, str, str]:
        """Failures of one kind have one cause, most likely."""
        return self.entry, self.what, self.where


class Watch:
    """Notes every file that Python opens or changes outside the folder of the case."""

    def __init__(self) -> None:
        self.folder = ""
        self.outside: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python before it does something with a file."""
        if not self.folder or not (event == "open" or event in CHANGING):
            return
        for path in arguments[: 2 if event == "os.rename" else 1]:
            if isinstance(path, (str, bytes)):
                self.note(os.fsdecode(path), event, arguments)

    def note(self, path: str, event: str, arguments: tuple[Any, ...]) -> None:
        """Keep the path if it is outside."""
        full = os.path.abspath(path)
        if full.startswith(self.folder) or full in ("/dev/null", "/dev/urandom"):
            return
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event == "open" and not writes and full.startswith(MAY_READ):
            return
        self.outside.append(f"{event} {full}")


def changed(entry: Entry, name: str, seed: int, number: int, folder: Path) -> tuple[Path, bytes]:
    """(file, its new bytes) of one case, a function of the seed and the number alone."""
    rng = Random(f"{name}/{seed}/{number}")
    file, kind = rng.choice(entry.targets)
    return folder / file, KINDS[kind]((folder / file).read_bytes(), rng)


def peak_of(status: str, key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    return int(status.split(key + ":")[1].split()[0]) * 1024


def memory(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the last reset."""
    return peak_of(Path("/proc/self/status").read_text(encoding="ascii"), key)


def place_of(error: BaseException) -> str:
    """The last line of the package in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "clear_ref/" in frame.filename] or frames
    return f"{own[-1].filename.rpartition('clear_ref/')[2]}:{own[-1].lineno}"


def read_case(entry: Entry, folder: Path, show: bool) -> tuple[str, str, str] | None:
    """(what, where, text) of a failure; None if the reader did what it should."""
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nothing:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nothing):
                entry.read(folder)
    except (UserError, RunFailed) as error:
        if show:
            print(f"{type(error).__name__}: {error}")
        try:
            check_line(str(error))
        except LongLine as long:
            return "line", place_of(error), str(long)
    except LongLine as error:
        return "line", place_of(error), str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # Rust's panics are no Exception
        if show:
            traceback.print_exc()
        return type(error).__name__, place_of(error), " ".join(str(error).split())[:200]
    return None


def one_case(
    entry: Entry, name: str, seed: int, number: int, folder: Path, watch: Watch, show: bool
) -> tuple[str, str, str] | None:
    """Change a file, read the folder, put the file back."""
    file, data = changed(entry, name, seed, number, folder)
    before = file.read_bytes()
    file.write_bytes(data)
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    present = set(folder.rglob("*"))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    used = memory("VmRSS")
    watch.outside.clear()
    watch.folder = str(folder.resolve())
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        found = read_case(entry, folder, show)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watch.folder = ""
        file.write_bytes(before)
        remove_new(folder, present)
    more = memory("VmHWM") - used
    if found is None and watch.outside:
        return "outside", file.name, watch.outside[0]
    if found is None and more > TIMES * n_bytes + FREE_BYTES:
        return "memory", file.name, f"{more >> 20} MB for {n_bytes} bytes"
    return found


def remove_new(folder: Path, present: set[Path]) -> None:
    """Remove what a reader has written into the folder."""
    for path in sorted(set(folder.rglob("*")) - present, reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def child(name: str, seed: int, numbers: range, folder: Path, write: int, show: bool) -> None:
    """The cases of one entry; one line of JSON for each failure, and the number before each."""
    torch.set_num_threads(1)
    faulthandler.disable()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also inside a library
    space = memory("VmSize") + MOST_ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    if not show:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # The valid files once: what libraries load and write at their first use is no case's doing.
    present = set(folder.rglob("*"))
    signal.setitimer(signal.ITIMER_PROF, 4 * CPU_SECONDS)
    read_case(ENTRIES[name], folder, False)
    signal.setitimer(signal.ITIMER_PROF, 0)
    remove_new(folder, present)
    watch = Watch()
    with os.fdopen(write, "w", encoding="utf-8") as pipe:
        for number in numbers:
            print(number, file=pipe, flush=True)
            found = one_case(ENTRIES[name], name, seed, number, folder, watch, show)
            if found is not None:
                print(json.dumps(found), file=pipe, flush=True)
        print("end", file=pipe)


def lines_of(read: int, process: int) -> Iterator[str]:
    """The child's lines; it is killed where it says nothing for a long time."""

    def stop(*_: Any) -> None:
        os.kill(process, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with os.fdopen(read, encoding="utf-8") as pipe:
            signal.alarm(WALL_SECONDS)
            for line in pipe:
                signal.alarm(WALL_SECONDS)
                yield line.strip()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def failures_of(
    name: str, seed: int, numbers: range, folder: Path, show: bool = False
) -> list[Failure]:
    """The failures among these cases of one entry. A case that ends the child is one of them."""
    found: list[Failure] = []
    while numbers:
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(read)
            try:
                child(name, seed, numbers, folder, write, show)
            finally:
                os._exit(0)
        os.close(write)
        number = numbers.start
        ended = False
        for line in lines_of(read, process):
            if line == "end":
                ended = True
            elif line.isdecimal():
                number = int(line)
            else:
                found.append(Failure(name, number, *json.loads(line)))
        _, status = os.waitpid(process, 0)
        if ended:
            break
        what = "hang" if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL) else "crash"
        found.append(Failure(name, number, what, f"signal {os.WTERMSIG(status)}", ""))
        numbers = range(number + 1, numbers.stop)
        shutil.rmtree(folder)
        write_folder(name, folder)
    return found


def write_folder(name: str, folder: Path) -> None:
    """The valid files of an entry; its reader accepts them."""
    folder.mkdir()
    ENTRIES[name].write(folder)


def run(
    names: list[str], seed: int, count: int | None, first: int = 0, show: bool = False
) -> list[Failure]:
    """The failures of `count` cases of each entry; None: of its short run."""
    # The threads of the tokenizers library would not survive the fork of this process.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(names):
            folder = Path(temporary).resolve() / str(number)
            write_folder(name, folder)
            n = ENTRIES[name].short if count is None else count
            found += failures_of(name, seed, range(first, first + n), folder, show)
    return found


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> int:
    """Run the fuzz of the command line; exit status 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help="default: all")
    parser.add_argument("--count", type=int, help="cases of each entry (default: CI's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--list", action="store_true", help="print the entries and stop")
    arguments = parser.parse_args()
    names = arguments.entries or list(ENTRIES)
    if arguments.list:
        print("\n".join(f"{name:20} {ENTRIES[name].short} cases in CI" for name in names))
        return 0
    show = arguments.count == 1 and len(names) == 1
    all_found = []
    n_cases = 0
    for name in names:
        before = cpu_seconds()
        found = run([name], arguments.seed, arguments.count, arguments.first, show)
        n_cases += ENTRIES[name].short if arguments.count is None else arguments.count
        kinds = Counter(failure.kind for failure in found)
        for kind, n in kinds.most_common():
            example = next(failure for failure in found if failure.kind == kind)
            print(f"{name} {example.number}: {n} x {kind[1]} at {kind[2]}: {example.text[:160]}")
        all_found += found
        print(f"{name}: {len(found)} failures, {cpu_seconds() - before:.1f} s", flush=True)
    print(f"{n_cases} cases, seed {arguments.seed}: {len(all_found)} failures")
    return 1 if all_found else 0


if __name__ == "__main__":
    sys.exit(main())
