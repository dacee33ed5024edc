"""A training that stops after some optimiser steps, as if the process had been killed."""

from contextlib import contextmanager

import pytest

from clear_ref.loop import train as training


class Stopped(Exception):
    """What the stopped training raises."""


@contextmanager
def stopped_after(n_steps):
    """Inside the block the step after `n_steps` steps raises Stopped."""
    steps, original = [0], training.step_loss

    def counted(*arguments):
        if steps[0] == n_steps:
            raise Stopped
        steps[0] += 1
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step_loss", counted)
        yield
