"""python -m tests.helpers.soak_moments MOMENT COMMAND ...: a command that a signal stops.

MOMENT is JSON (`Moment`): at the n-th event of a phase, or a little later, a signal is sent. Events
are calls of the functions that train and evaluate, and changes of files, in the order in which they
happen; so a seed gives the same moment again, but for the delay.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from clear_ref import run
from clear_ref.evaluation import evaluate, robustness
from clear_ref.loop import train
from clear_ref.model.vlm import VLM

# "start" is not among them: the signal comes from outside while Python imports the package.
PHASES = ("training", "saving", "evaluating", "robustness", "report")
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
SAVED = ("/checkpoint", "/trace", "/curve", "settings.json", ".lock")
EVALUATED = ("/evaluation", "/.evaluated")


@dataclass(frozen=True)
class Moment:
    """When and to whom a signal is sent.

    phase    one of PHASES
    n        the event of the phase that it follows, from 1
    delay    seconds between the two
    signal   its number
    target   self: the process itself; group: it and all that it has forked; child: the first fork
             that comes to the event; launcher: torchrun
    process  number of the process of torchrun that counts
    """

    phase: str
    n: int
    delay: float
    signal: int
    target: str = "self"
    process: int = 0

    def text(self) -> str:
        """The moment as JSON."""
        return json.dumps(asdict(self))


class Watch:
    """Counts the events of a moment's phase and sends the signal."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self.main = os.getpid()
        self.left = moment.n
        self.in_robustness = False
        sys.addaudithook(self.hook)
        self.count_calls(train, "step_loss", "training")
        self.count_calls(evaluate, "group_logs", "evaluating")
        self.count_calls(VLM, "prefill", "evaluating")
        measured, original = self, robustness.run

        def run_robustness(*arguments: Any, **named: Any) -> Any:
            measured.in_robustness = True
            try:
                return original(*arguments, **named)
            finally:
                measured.in_robustness = False

        robustness.run = run_robustness  # type: ignore[assignment]

    def count_calls(self, owner: Any, name: str, phase: str) -> None:
        """Each call of owner.name is an event, before it is made."""
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.event(phase)
            return original(*arguments, **named)

        setattr(owner, name, counted)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python before it opens or changes a file."""
        if event not in CHANGES and not (event == "open" and self.writes(arguments)):
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if not isinstance(path, (str, os.PathLike)):
            return
        name = os.fspath(path)
        if name.startswith(os.environ.get("TMPDIR", "/tmp")):  # of Python's own library
            return
        if any(part in name for part in EVALUATED):
            self.event("evaluating")
        else:
            self.event("saving" if any(part in name for part in SAVED) else "report")

    @staticmethod
    def writes(arguments: tuple[Any, ...]) -> bool:
        """Whether an audited open changes the file."""
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def event(self, phase: str) -> None:
        """One event; the n-th of the moment's phase sends the signal."""
        if phase != self.moment.phase and not (
            self.moment.phase == "robustness" and self.in_robustness
        ):
            return
        if (os.getpid() == self.main) == (self.moment.target == "child"):
            return
        self.left -= 1
        if self.left == 0:
            if self.moment.delay:
                timer = threading.Timer(self.moment.delay, self.send)
                timer.daemon = True
                timer.start()
            else:
                self.send()

    def send(self) -> None:
        """Send the signal; the note on stderr comes first, for it may be the last word."""
        os.write(2, f"soak: {self.moment.text()}\n".encode())
        if self.moment.target == "group":
            os.killpg(0, self.moment.signal)
        elif self.moment.target == "launcher":
            os.kill(os.getppid(), self.moment.signal)
        else:
            os.kill(os.getpid(), self.moment.signal)


def watch(text: str) -> None:
    """Watch for a moment, given as JSON, if this is the process that counts; "" is none."""
    if text:
        moment = Moment(**json.loads(text))
        if int(os.environ.get("RANK", "0")) == moment.process:
            Watch(moment)


if __name__ == "__main__":
    watch(sys.argv[1])
    sys.exit(run.main(sys.argv[2:]))
