"""curve.jsonl: evaluations between the steps of a training, and the weights of the best of them.

An evaluation sees the model as the run would end with if it stopped there. It changes nothing of
the training: adapters are not merged, no gradient is computed, and the number of threads is
restored. A stopped and resumed run ends with the same bytes of curve.jsonl.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from clear_ref.common import distributed
from clear_ref.common.errors import UserError
from clear_ref.common.file_keys import shown
from clear_ref.common.files import one_line, parse_json, read_text, write_jsonl
from clear_ref.common.run_directory import CHECKPOINT_DIRECTORY, CURVE_FILE
from clear_ref.model.vlm import VLM

from .checkpoint import read_into, write_kept
from .stage import trainable
from .trace import NEW_RUN, TraceLine
from .train import AfterStep, Training

EPOCH = "epoch"
# stage, step (0: the start), epoch (as in trace.jsonl), and what was measured
CurveLine = dict[str, Any]
# (model, step) -> numbers by name; it must not change the model
Measure = Callable[[VLM, int], dict[str, Any]]
Best = Callable[[list[CurveLine]], int]
Finished = Callable[[], AbstractContextManager[object]]


def check_every(every: str, option: str) -> None:
    """UserError unless `every` is epoch or a number of steps."""
    if every != EPOCH and not (every.isdecimal() and int(every) >= 1):
        raise UserError(
            f"{option} is {every!r}; expected {EPOCH}, or after how many steps: 1 or more"
        )


def due_steps(training: Training, every: str) -> set[int]:
    """The steps after which the model is evaluated; the last step is one of them."""
    ends = training.epoch_ends()
    if every == EPOCH:
        return set(ends)
    return {*range(int(every), ends[-1], int(every)), ends[-1]}


def checked_line(text: str, where: str) -> CurveLine:
    """A line of curve.jsonl; UserError if it is none."""
    line: CurveLine = parse_json(text.encode("utf-8"), where)
    for key, value in line.items():
        kind: type | tuple[type, ...] = (int, float, dict)
        if key in ("stage", "step", "epoch"):
            kind = str if key == "stage" else int
        if not isinstance(value, kind) and not (value is None and kind is not int):
            raise UserError(
                f"{where}: {one_line(key, 60)} is {shown(value)}, as in no line of a curve: "
                f"{NEW_RUN}"
            )
    if "step" not in line:
        raise UserError(f"{where}: has no step, as no line of a curve: {NEW_RUN}")
    try:
        json.dumps(line, allow_nan=False)
    except ValueError:
        raise UserError(
            f"{where}: holds a number that is not finite, as no line of a curve: {NEW_RUN}"
        ) from None
    return line


def read_lines(path: Path) -> list[CurveLine]:
    """The lines of a curve.jsonl; none if there is no such file.

    raises  UserError for a line that is none of a curve, or has not the names of the first one
    """
    if not path.exists():
        return []
    lines: list[CurveLine] = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}:{number}"
        lines.append(checked_line(text, where))
        odd = sorted(lines[0].keys() ^ lines[-1].keys())
        if odd:
            raise UserError(
                f"{where}: {one_line(odd[0], 60)} is in only one of this line and the first one; "
                f"expected the same in all: {NEW_RUN}"
            )
    return lines


class Curve:
    """The evaluations of one training.

    out      run directory
    every    epoch, or the number of steps from one evaluation to the next
    measure  what is measured
    best     the index of the best of some lines; a line that is once not the best of those before
             and itself is never the best again. None: no weights are kept
    """

    def __init__(self, out: Path, every: str, measure: Measure, best: Best | None = None) -> None:
        self.out = out
        self.every = every
        self.measure = measure
        self.best = best
        self.n_threads = torch.get_num_threads()
        self.seconds = 0.0
        self.lines = distributed.from_first(lambda: read_lines(out / CURVE_FILE))

    def begin(self, vlm: VLM, training: Training, finished: Finished = nullcontext) -> AfterStep:
        """What `train` calls after each step of this training.

        The model as it is now is step 0; a resumed run has its line already.
        finished  inside its block the model is what the run would end with
        """
        due = due_steps(training, self.every)

        def add(step: int, epoch: int) -> None:
            self.lines = [line for line in self.lines if line["step"] < step]
            line: CurveLine = {"stage": training.stage.name, "step": step, "epoch": epoch}
            with finished(), self._as_outside_training():
                self.lines.append(line | self.measure(vlm, step))
            if self.best and step and self.best_line() is self.lines[-1]:
                write_kept(self._weights(step), trainable(vlm))
            write_jsonl(self.out / CURVE_FILE, self.lines)  # so a line has its weights

        def call(line: TraceLine) -> None:
            if line["step"] in due:
                add(line["step"], line["epoch"])

        def again(line: TraceLine) -> None:
            step = line["step"]
            self.lines = [each for each in self.lines if each["step"] <= step]
            known = {each["step"] for each in self.lines}
            missing = sorted(each for each in due if each < step and each not in known)
            if missing:
                raise UserError(
                    f"{self.out / CURVE_FILE}: has no line of step {missing[0]}; expected one of "
                    f"each evaluation up to step {step}, which is done: {NEW_RUN}"
                )
            if step not in known:
                call(line)

        if not self.lines:
            add(0, 0)
        return AfterStep(call, again, due)

    @contextmanager
    def _as_outside_training(self) -> Iterator[None]:
        """Inside the block torch has the threads of the whole command; its time is counted."""
        started = time.monotonic()
        n_threads = torch.get_num_threads()
        torch.set_num_threads(self.n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            self.seconds += time.monotonic() - started

    def best_line(self) -> CurveLine:
        """The line of the best evaluation; the start is none of those to choose from."""
        assert self.best is not None
        after_start = [line for line in self.lines if line["step"] > 0]
        return after_start[self.best(after_start)]

    def give_best(self, vlm: VLM) -> None:
        """Give the model the weights of the best line, if weights are kept; remove the others'."""
        if self.best is None:
            return
        path = self._weights(self.best_line()["step"])
        read_into(trainable(vlm), path)
        if not distributed.is_first():
            return
        for other in path.parent.glob("best-*.*"):
            if other.stem != path.stem:
                other.unlink()

    def _weights(self, step: int) -> Path:
        return self.out / CHECKPOINT_DIRECTORY / f"best-{step:06d}.safetensors"
