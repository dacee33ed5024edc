"""Starts commands for the soak, ends them by a signal, and finds what they have left.

A command is started as a user starts it (`python -m`, torchrun), or faster: as a fork of this
process, which has imported the package. Two forks have the environment that torchrun gives them,
and one that ends with an error ends the other, as torchrun does.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo  # torch imports it for the first tensor without memory: once for all forks

from clear_ref import run
from clear_ref.common.stopping import SIGNALS
from tests.helpers import soak_moments

ROOT = Path(__file__).parents[2]
MARK = "CLEAR_REF_SOAK"
PATIENCE = 60.0  # seconds in which all processes of a command must have ended after a signal
MOST_SECONDS = 600.0
MODULE = "tests.helpers.soak_moments"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: a signal), its stderr, what was left."""

    status: int
    stderr: str
    left: list[str]


@dataclass(frozen=True)
class Launch:
    """One start of a command.

    arguments  of the command
    folder     working directory
    processes  1 or 2
    forked     a fork, else a new Python (with two processes: torchrun)
    moment     JSON of a Moment, or "": nothing stops it
    """

    arguments: tuple[str, ...]
    folder: Path
    processes: int = 1
    forked: bool = True
    moment: str = ""


def environment(mark: str, folder: Path) -> dict[str, str]:
    """Of a command: found again by its mark, with temporary files in folder/tmp."""
    (folder / "tmp").mkdir(exist_ok=True)
    more = {MARK: mark, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **more, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def do(launch: Launch, after: tuple[float, int] | None = None) -> Ended:
    """Start a command and wait for its end.

    after  (seconds, signal): sent to the command itself, from outside
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    error_file = launch.folder / "stderr.txt"
    with open(error_file, "wb") as error:
        if launch.forked:
            process = _fork(launch, error.fileno())
        else:
            process = subprocess.Popen(
                _words(launch),
                cwd=launch.folder,
                env=environment(mark, launch.folder),
                stdout=subprocess.DEVNULL,
                stderr=error,
                start_new_session=True,
            ).pid
    if after is not None:
        _send_later(process, *after)
    status = _wait(process, MOST_SECONDS)
    return Ended(status, error_file.read_text(errors="replace"), _left(process, mark))


def _words(launch: Launch) -> list[str]:
    if launch.processes == 1:
        return [sys.executable, "-m", MODULE, launch.moment, *launch.arguments]
    n = str(launch.processes)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", n]
    return [*start, "--master-port", str(_free_port()), "-m", MODULE, launch.moment] + [
        *launch.arguments
    ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _fork(launch: Launch, error: int) -> int:
    """The id of a fork that leads a session of its own."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        os.environ.update(environment("", launch.folder))
        os.chdir(launch.folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(error, 2)
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8", buffering=1)  # noqa: SIM115
        tmp_of_process()
        if launch.processes == 1:
            status = _command(launch)
        else:
            status = _as_torchrun(launch)
    finally:
        sys.stdout.flush()
        os._exit(status)


def tmp_of_process() -> None:
    """Let Python look again where temporary files are."""
    import tempfile

    tempfile.tempdir = None


def _command(launch: Launch) -> int:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    soak_moments.watch(launch.moment)
    return run.main(list(launch.arguments))


def _as_torchrun(launch: Launch) -> int:
    """Two forks; the status of the first that fails. SIGTERM and SIGINT are passed on."""
    port = str(_free_port())
    wanted: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: wanted.append(number))
    forks = [_worker(launch, number, port) for number in range(launch.processes)]
    status = 0
    while forks:
        for process in list(forks):
            ended, code = os.waitpid(process, os.WNOHANG)
            if ended:
                forks.remove(process)
                code = os.waitstatus_to_exitcode(code)
                if code and not status:
                    status = code if code > 0 else 1
                    wanted.append(int(signal.SIGTERM))
        while wanted:
            number = wanted.pop(0)
            status = status or 128 + number
            for process in forks:
                os.kill(process, number)
        time.sleep(0.01)
    return status


def _worker(launch: Launch, number: int, port: str) -> int:
    """The id of a fork that is one of the processes of a run."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ |= {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(launch.processes),
            "LOCAL_WORLD_SIZE": str(launch.processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        status = _command(launch)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _send_later(process: int, seconds: float, number: int) -> None:
    """Send the signal after so many seconds, unless the process has ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(max(0.0, min(0.01, until - time.monotonic())))
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
    os.kill(process, number)


def _wait(process: int, most: float) -> int:
    until = time.monotonic() + most
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise TimeoutError(f"the command did not end in {most} s")


def _left(session: int, mark: str, patience: float = PATIENCE) -> list[str]:
    """Processes of a session or with a mark that do not end; they are killed then."""
    until = time.monotonic() + patience
    while found := _of(session, mark):
        if time.monotonic() > until:
            for process in found:
                os.kill(process, signal.SIGKILL)
            return list(found.values())
        time.sleep(0.02)
    return []


def _of(session: int, mark: str) -> dict[int, str]:
    """{process: its command line} of all that run in the session or have the mark."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            own = int(fields[3]) == session or f"{MARK}={mark}".encode() in (
                (folder / "environ").read_bytes().split(b"\0")
            )
            if own:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace")[:200]
        except OSError:
            continue
    return found


def texts_of(arguments: Sequence[object]) -> tuple[str, ...]:
    """The words of a command."""
    return tuple(map(str, arguments))
