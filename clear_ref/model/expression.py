"""Regular expressions from outside, matched against layer names: a faulty or an endless one is an error, never a wait."""

import re
import signal
import threading
from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.common.files import one_line

TIME_LIMIT_S = 0.2  # seconds of CPU time for one name: honest expressions take microseconds, some others more than a lifetime


@dataclass(frozen=True)
class Expression:
    """A regular expression for whole names; `where` names it in errors."""

    pattern: re.Pattern
    where: str

    @classmethod
    def of(cls, text: str, where: str) -> "Expression":
        """raises UserError if the text is no regular expression"""
        try:
            return cls(re.compile(text), where)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"{where} is {one_line(repr(text), 100)}, no regular expression ({error}); "
                "expected one, or a list of names"
            ) from None

    def matches(self, name: str) -> bool:
        """Whether it matches the whole name. UserError where that is not known within TIME_LIMIT_S (in a program's main thread, the
        only one that a timer can interrupt)."""
        if threading.current_thread() is not threading.main_thread():
            return self.pattern.fullmatch(name) is not None

        def stop(*_):
            raise UserError(
                f"{self.where} is {one_line(repr(self.pattern.pattern), 100)}, not matched with "
                f"{one_line(name, 100)} within {TIME_LIMIT_S:g} s; expected a simpler expression, or a list of names"
            )

        before = signal.signal(signal.SIGVTALRM, stop)
        timer = signal.setitimer(signal.ITIMER_VIRTUAL, TIME_LIMIT_S)
        try:
            return self.pattern.fullmatch(name) is not None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
            signal.signal(signal.SIGVTALRM, before)
