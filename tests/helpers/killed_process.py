"""python -m tests.helpers.killed_process STEPS COMMAND ...: a command whose process 1 is killed.

It kills itself before the step after STEPS steps, as the system does when memory runs out.
"""

import os
import signal
import sys

from clear_ref import run
from clear_ref.loop import train as training


def kill_after(n_steps):
    """Make this process end without a word when the step after n_steps begins."""
    steps, original = [0], training.step_loss

    def counted(*arguments):
        if steps[0] == n_steps:
            os.kill(os.getpid(), signal.SIGKILL)
        steps[0] += 1
        return original(*arguments)

    training.step_loss = counted


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        kill_after(int(sys.argv[1]))
    sys.exit(run.main(sys.argv[2:]))
