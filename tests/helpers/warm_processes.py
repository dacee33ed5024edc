"""Starts processes of a module, alone or as torchrun does, by forks of one that has imported torch.

A new interpreter needs five seconds of CPU time until the package and what torch takes for a first
training are imported; a fork needs none. The process that is forked computes nothing itself. What a
process does on its own stays the same: its environment, directory, outputs, signals and exit
status. Tests of torchrun itself use torchrun.py.

    python -m tests.helpers.warm_processes     reads requests in JSON lines, answers each with one
"""

import atexit
import contextlib
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 550


class Started:
    """A started process, or the group that `n` asked for; `stderr` and `stdout` when it has ended.

    pid  of the process; of a group, of the process that has started it and waits for it
    """

    def __init__(self, forks, pid, outputs):
        self._forks, self._outputs = forks, outputs
        self.pid, self.returncode = pid, None

    def poll(self):
        """The exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._forks.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout=TIMEOUT):
        """The finished process: returncode, stdout, stderr. It is killed after `timeout` s."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return self

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def stdout(self):
        return self._outputs[0].read_text(encoding="utf-8")

    @property
    def stderr(self):
        return self._outputs[1].read_text(encoding="utf-8")


class Forks:
    """A process that has imported torch and the package, and is forked on request."""

    def __init__(self, environment=None):
        self._environment = environment or {}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.warm_processes"],
            cwd=ROOT,
            env=os.environ | self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._outputs = tempfile.TemporaryDirectory()
        self._started = 0
        atexit.register(self.end)

    def ask(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, module, *arguments, n=0, cwd=ROOT):
        """`python -m MODULE ARGUMENTS`; with n as n processes that torchrun started."""
        self._started += 1
        outputs = [Path(self._outputs.name) / f"{self._started}.{each}" for each in ("out", "err")]
        request = {
            "module": module,
            "arguments": list(map(str, arguments)),
            "n": n,
            "cwd": str(cwd),
            "environment": os.environ | self._environment,
            "outputs": list(map(str, outputs)),
        }
        return Started(self, self.ask(request)["pid"], outputs)

    def end(self):
        """The process ends, as with the interpreter."""
        self._server.stdin.close()
        self._server.wait()
        self._outputs.cleanup()


@functools.cache
def forks():
    """The process that is forked, one for all tests of this process."""
    return Forks()


def start(module, *arguments, n=0, cwd=ROOT):
    """`python -m MODULE ARGUMENTS` is started; with n as n processes that torchrun started."""
    return forks().start(module, *arguments, n=n, cwd=cwd)


def run(module, *arguments, n=0, cwd=ROOT):
    """`start`, when it has ended: returncode, stdout, stderr."""
    return start(module, *arguments, n=n, cwd=cwd).wait()


def _serve():
    """Answer requests until stdin is closed."""
    import torch._dynamo  # noqa: F401  # what an optimiser imports when it is made
    import torch.distributed.fsdp  # noqa: F401

    import clear_ref.commands.evaluate  # noqa: F401
    import clear_ref.commands.unlearn  # noqa: F401
    import clear_ref.run  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, which closes stdin
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    running = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            ended, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(ended)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            process = _fork(lambda request=request: _group_or_process(request))
            running.add(process)
            answer = {"pid": process}
        print(json.dumps(answer), file=answers, flush=True)
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def _fork(do):
    """The id of a fork that does something and ends with the status that it returns."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = do()
    except BaseException:  # as the interpreter does; the fork must not go on in its parent's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _group_or_process(request):
    """The exit status of what was asked for, in a session of its own."""
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    for number, path in zip((1, 2), request["outputs"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding="utf-8", buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not request["n"]:
        return _module(request)
    return _as_torchrun(request)


def _module(request):
    """The exit status of the module as __main__."""
    import torch

    if "OMP_NUM_THREADS" in os.environ:  # it was read when torch was imported
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = [request["module"], *request["arguments"]]
    sys.path[0] = request["cwd"]
    sys.modules.pop(request["module"], None)
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _as_torchrun(request):
    """The status of n processes: 1 when one fails, which ends the others by SIGTERM."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = {_fork(lambda rank=rank: _rank(request, rank, port)) for rank in range(request["n"])}
    failed = False
    while running:
        ended, status = os.wait()
        running.discard(ended)
        if status and not failed:
            failed = True
            for process in running:
                os.kill(process, signal.SIGTERM)
    return int(failed)


def _rank(request, rank, port):
    """One of n processes, with the environment that torchrun gives it."""
    n = str(request["n"])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": n}
    os.environ |= {"LOCAL_WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return _module(request)


if __name__ == "__main__":
    _serve()
