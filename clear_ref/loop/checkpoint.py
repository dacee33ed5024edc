"""The checkpoints of a training: written so that a whole one is there at every moment, found again.

checkpoint/ of a run directory has for each checkpoint its tensor files and an index
(checkpoint_index.py), which appears after them; older checkpoints are removed last.
"""

import secrets
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clear_ref.common import collectives, distributed
from clear_ref.common.atomic import UNFINISHED
from clear_ref.common.errors import Notice, UserError
from clear_ref.common.files import read_json, write_json, write_text
from clear_ref.common.run_directory import TRACE_FILE
from clear_ref.common.transfer import attempt, result_of
from clear_ref.model.weights import fill, read_tensors

from .checkpoint_files import Rows, file_problem, fill_rows, in_all_files, write_file
from .checkpoint_index import (
    FORMAT,
    Ranges,
    State,
    check_step,
    digest,
    index_name,
    index_names,
    read_index,
)
from .trace import NEW_RUN


class Checkpoints:
    """The checkpoints of one stage of a run.

    directory   checkpoint/ of the run directory
    epoch_ends  how many steps are made at the end of each epoch
    keep        how many of the newest stay
    ranges      {tensor: its rows in each process} where the tensors are shared out over processes:
                then each process writes and reads files; {}: the first one alone does
    """

    def __init__(
        self,
        directory: Path,
        stage: str,
        epoch_ends: list[int],
        keep: int = 1,
        ranges: Ranges | None = None,
    ) -> None:
        self.directory = directory
        self.stage = stage
        self.epoch_ends = epoch_ends
        self.keep = keep
        self.ranges = ranges or {}
        # [index, its tensor files] of each checkpoint that may stay, the newest first
        self.kept: list[list[str]] = []

    def newest(self) -> State | None:
        """The newest whole checkpoint of the stage; None if the stage has none.

        A notice names those that are not whole.
        raises  UserError if none of them is whole
        """
        names = distributed.from_first(lambda: index_names(self.directory, self.stage))
        problems: list[str] = []
        for number, name in enumerate(names):
            state, problem = self._checked(name)
            if problem:
                problems.append(problem)
            elif state is not None:
                self._say(problems, state["step"])
                self.kept = [[name, *state["files"]]]
                self.kept += distributed.from_first(partial(self._of_older, names[number + 1 :]))
                return state
        if problems:
            more = f"; {len(problems)} checkpoints, none of them whole" if problems[1:] else ""
            raise UserError(f"{problems[0]}{more}: {NEW_RUN}")
        return None

    def _say(self, problems: list[str], step: int) -> None:
        for problem in problems:
            warnings.warn(
                f"{problem}; the checkpoint of step {step} is used instead", Notice, stacklevel=4
            )

    def _checked(self, name: str) -> tuple[State | None, str]:
        """(the state of an index, "") or (None, why it is not whole); (None, ""): another stage."""
        answer = distributed.from_first(lambda: attempt(lambda: self._read(name)))
        if "error" in answer:
            return None, answer["message"]
        state: State = answer["result"]
        if state["stage"] != self.stage:
            return None, ""
        return state, in_all_files(
            state, self.directory, distributed.shared_out if self.ranges else _in_first
        )

    def _read(self, name: str) -> State:
        """The state of an index; UserError if it or trace.jsonl cannot be that of this run."""
        state = read_index(self.directory, name)
        if state["stage"] != self.stage:
            return state
        check_step(self.directory / name, state, self.epoch_ends[-1], self.epoch_ends)
        trace = self.directory.parent / TRACE_FILE
        size = trace.stat().st_size if trace.is_file() else 0
        if (state["trace_bytes"] or 0) > size:
            raise UserError(
                f"{trace}: has {size} bytes; expected {state['trace_bytes']} or more, as when "
                f"{name} was written"
            )
        return state

    def _of_older(self, names: list[str]) -> list[list[str]]:
        """[index, its files] of those of these checkpoints whose index can be read."""
        answers = {name: attempt(partial(self._read, name)) for name in names}
        return [
            [name, *answer["result"]["files"]]
            for name, answer in answers.items()
            if "result" in answer and answer["result"]["stage"] == self.stage
        ]

    def restore(self, state: State, wanted: dict[str, Rows]) -> None:
        """Copy the values of a checkpoint that is whole into these rows; UserError as fill_rows."""
        fill_rows(self.directory, state, wanted)

    def save(self, step: int, trace_bytes: int, tensors: dict[str, torch.Tensor]) -> None:
        """Write tensor files, then the index, which names them; then remove what is not kept.

        So at every moment the newest index names complete files. All processes call this.

        tensors  what this process writes: its rows where they are shared out; else the first one
                 has all, and the others none
        """
        if not self.ranges and not distributed.is_first():
            return
        n_files = distributed.size() if self.ranges else 1
        part = f"-{distributed.number() + 1}of{n_files}" if self.ranges else ""
        name = f"state-{self.stage}-{step:06d}{part}.safetensors"
        written = attempt(
            lambda: [name, write_file(self.directory / name, tensors, bool(self.ranges))]
        )
        parts = distributed.gather(written) if self.ranges else [written]
        files = dict(result_of(part) for part in parts)
        if distributed.is_first():
            self._write_index(step, trace_bytes, files)

    def _write_index(self, step: int, trace_bytes: int, files: dict[str, str]) -> None:
        state: State = {
            "format": FORMAT,
            "stage": self.stage,
            "step": step,
            "n_steps": self.epoch_ends[-1],
            "epoch": sum(end <= step for end in self.epoch_ends),
            "trace_bytes": trace_bytes,
            "files": files,
            "ranges": self.ranges,
            "sha256": "",
        }
        state["sha256"] = digest(state)
        name = index_name(self.stage, step)
        write_json(self.directory / name, state)
        others = [each for each in self.kept if each[0] != name]
        self.kept = [[name, *files], *others][: self.keep]
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove the checkpoints that are not kept: each index before its tensor files."""
        stay = {name for names in self.kept for name in names}
        for kind in ("state*.json", "state-*.safetensors"):
            for path in self.directory.glob(kind):
                if path.name not in stay:
                    path.unlink()


def check_shared(directory: Path) -> None:
    """UserError unless every process sees the first one's files in this directory."""

    def write() -> str:
        path = directory / f".{secrets.token_hex(4)}{UNFINISHED}"
        write_text(path, "")
        return path.name

    path = directory / distributed.from_first(write)
    seen = distributed.gather(path.exists())
    if distributed.is_first():
        path.unlink(missing_ok=True)
    if not all(seen):
        raise UserError(
            f"{directory}: process {seen.index(False)} does not see what process 0 writes there; "
            "expected a directory that all machines share: every process writes its part of a "
            "checkpoint"
        )


def _in_first(compute: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """[compute(item) for item in items], computed by the first process."""
    return distributed.from_first(lambda: [compute(item) for item in items])


def write_kept(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors that a resumed run reads, then their file's SHA-256 to NAME.json beside it."""
    if not distributed.is_first():
        return
    path.with_suffix(".json").unlink(missing_ok=True)
    write_json(path.with_suffix(".json"), {"sha256": write_file(path, tensors)})


def read_into(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy a file's tensors into these, in all processes; the first one reads the file.

    raises  UserError if it is not the one that `write_kept` wrote. After a kill there may be no
            NAME.json; the file is whole all the same
    """
    beside = path.with_suffix(".json")

    def problem() -> str:
        expected = read_json(beside).get("sha256") if beside.exists() else None
        return "" if expected is None else file_problem(path, str(expected))

    found = distributed.from_first(problem)
    if found:
        raise UserError(f"{found}: {NEW_RUN}")
    if distributed.is_first():
        fill(tensors, read_tensors(path), path)
    collectives.copy_from_first(tensors.values())
