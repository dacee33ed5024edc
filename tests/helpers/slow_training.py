"""python -m tests.helpers.slow_training SECONDS COMMAND ...: each step of training waits before."""

import sys
import time

from clear_ref import run
from clear_ref.loop import train as training


def wait_in_each_step(seconds):
    """Make every step of this process wait so long."""
    original = training.step_loss

    def waiting(*arguments):
        time.sleep(seconds)
        return original(*arguments)

    training.step_loss = waiting


if __name__ == "__main__":
    wait_in_each_step(float(sys.argv[1]))
    sys.exit(run.main(sys.argv[2:]))
