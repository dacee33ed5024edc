"""Regular expressions from a user's files and options, with a time limit.

They are matched against layer names. A faulty expression is an error, and so is one that is not
matched within the time limit.
"""

import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

# Seconds of CPU time for one name. Usual expressions take microseconds; an expression with nested
# repetitions can take time exponential in the length of the name.
TIME_LIMIT_S = 0.2


@dataclass(frozen=True)
class Expression:
    """A regular expression for whole names; error messages begin with `where`."""

    pattern: re.Pattern[str]
    where: str

    @classmethod
    def of(cls, text: str, where: str) -> "Expression":
        """The compiled expression; UserError if the text is not a regular expression."""
        try:
            return cls(re.compile(text), where)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"{where} is {one_line(repr(text), 100)}, no regular expression ({error}); "
                "expected one, or a list of names"
            ) from None

    def matches(self, name: str) -> bool:
        """True if the expression matches the whole name; raises as `match_of`."""
        return self._in_time(self.pattern.fullmatch, name) is not None

    def match_of(self, name: str) -> re.Match[str] | None:
        """The match with the beginning of a name.

        raises  UserError after TIME_LIMIT_S without a result. The limit applies in the main thread
                of a program only, because a timer can interrupt no other thread.
        """
        return self._in_time(self.pattern.match, name)

    def _in_time(
        self, match: Callable[[str], re.Match[str] | None], name: str
    ) -> re.Match[str] | None:
        if threading.current_thread() is not threading.main_thread():
            return match(name)

        def stop(signal_number: int, frame: FrameType | None) -> None:
            raise UserError(
                f"{self.where} is {one_line(repr(self.pattern.pattern), 100)}, not matched with "
                f"{one_line(name, 100)} within {TIME_LIMIT_S:g} s; "
                "expected a simpler expression, or a list of names"
            )

        old_handler = signal.signal(signal.SIGVTALRM, stop)
        old_timer = signal.setitimer(signal.ITIMER_VIRTUAL, TIME_LIMIT_S)
        try:
            return match(name)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, *old_timer)
            signal.signal(signal.SIGVTALRM, old_handler)
