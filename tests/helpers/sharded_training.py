"""A training of every weight by several processes; the last one is killed in its third save.

python -m torch.distributed.run --nproc-per-node N -m tests.helpers.sharded_training MODEL OUT
goes on with the training in OUT. The clock of the first process says once that a save is due, after
its first step; those of the others always say so.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from clear_ref.common import distributed
from clear_ref.loop import checkpoint, saving
from tests.helpers import distributed_cases

SAVING = saving.Saving(minutes=1.0, keep=2)


def is_due_once():
    """A Clock.is_due: in the first process true the first time, in the others always."""
    calls = [0]

    def is_due(clock):
        calls[0] += 1
        return not distributed.is_first() or calls[0] == 1

    return is_due


def kill_in_save(number):
    """Make this process end in its number-th save, when the others have written their files."""
    n = distributed.size()
    calls, original = [0], checkpoint.write_file

    def counted(path, *arguments):
        calls[0] += 1
        if calls[0] == number:
            others = [path.name.replace(f"-{n}of", f"-{k}of") for k in range(1, n)]
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not all(
                (path.parent / each).exists() for each in others
            ):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, *arguments)

    checkpoint.write_file = counted


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start()
    saving.Clock.is_due = is_due_once()
    if distributed.number() == distributed.size() - 1:
        kill_in_save(3)
    distributed_cases.train(
        sys.argv[1], "scrub", "original", Path(sys.argv[2]), resume=True, rank=0, saving=SAVING
    )
