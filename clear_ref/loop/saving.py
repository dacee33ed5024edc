"""When the training state is saved inside an epoch, and how many of the last states stay."""

import math
import time
from dataclasses import dataclass

from clear_ref.common.errors import UserError

OPTION = "--save-every"
MOST_KEPT = 1000


@dataclass(frozen=True)
class Saving:
    """When a training saves its state, beside the ends of epochs.

    steps    after every so many steps; 0: never for this reason
    minutes  when so many have passed since the last save; 0: never for this reason
    keep     how many of the newest checkpoints stay
    """

    steps: int = 0
    minutes: float = 0.0
    keep: int = 1


def read_saving(every: str, keep: int) -> Saving:
    """The Saving of --save-every and --keep-checkpoints; UserError for wrong values.

    every  a number of steps (50), minutes (10m), or 0
    """
    if not 1 <= keep <= MOST_KEPT:
        raise UserError(
            f"--keep-checkpoints is {keep}; expected how many of the newest stay: 1 to {MOST_KEPT}"
        )
    if every.isdecimal() and every.isascii() and len(every) < 10:
        return Saving(steps=int(every), keep=keep)
    try:
        given = every.endswith("m") and "_" not in every
        minutes = float(every.removesuffix("m")) if given else -1.0
    except ValueError:
        minutes = -1.0
    if not 0 < minutes < math.inf:
        raise UserError(
            f"{OPTION} is {every[:40]!r}; expected after how many steps, such as 50, after how "
            "many minutes, such as 10m, or 0"
        )
    return Saving(minutes=minutes, keep=keep)


NO_SAVING = Saving()  # inside an epoch


class Clock:
    """The time since the last save."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.begin()

    def begin(self) -> None:
        """Begin again: the state was saved."""
        self.since = time.monotonic()

    def is_due(self) -> bool:
        """True if a save is due."""
        return bool(self.seconds) and time.monotonic() - self.since >= self.seconds
