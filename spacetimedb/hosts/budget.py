"""The time budget of a call, and the interval timer that enforces it.

A signal every TICK_S seconds counts ticks; a call that has seen too many of them is stopped by `BudgetExceeded`, raised
inside it by the signal's handler, but never in the host's own frames: there the function was not entered yet or has
ended already. Beginning and ending a call are two attribute stores. The timer runs only between `start` and `stop`, so
a process without work is not woken.

Module code may swallow the exception. Then the timer hurries: it ticks so fast that the next exception comes before an
`except` clause has got anywhere, until the call has ended. Every tick tells `beat`, so that others can see that this
process works; if a call cannot be stopped for DEFIANT_S it tells `defied` instead. A C call that never returns to the
interpreter is not stopped, and there are no beats meanwhile.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from os.path import dirname
from types import FrameType
from typing import Final

from spacetimedb.module.errors import BudgetExceeded
from spacetimedb.store.table import in_table_code

TICK_S: Final = 0.01
HURRY_TICK_S: Final = 0.00005
HURRY_AFTER_S: Final = 0.05
"""How long a call may go on after its budget before the timer hurries."""
DEFIANT_S: Final = 2.0
DEFAULT_LIMIT_S: Final = 1.0
NO_CALL: Final = -1


def _is_host_code(frame: FrameType | None) -> bool:
    """Whether the frame is one of the host's own."""
    return frame is not None and frame.f_code.co_filename.startswith(_HOST_CODE)


_ROOT: Final = dirname(dirname(_is_host_code.__code__.co_filename))
_HOST_CODE: Final = (f"{_ROOT}/hosts/", f"{_ROOT}/workers/")


def _nothing() -> None:
    """Nobody wants to know."""


class Budget:
    """Wall-clock limit of a single call in this process's main thread. Without `start` nothing is ever stopped."""

    __slots__ = (
        "_interval_s",
        "_is_installed",
        "_is_ticking",
        "_over_since",
        "beat",
        "defied",
        "full",
        "left",
        "limit_s",
    )

    def __init__(self, limit_s: float = DEFAULT_LIMIT_S) -> None:
        self.limit_s = limit_s
        self.beat: Callable[[], None] = _nothing
        self.defied: Callable[[], None] = _nothing
        self._interval_s = 0.0
        """Of the timer now; 0: it is stopped."""
        self._is_installed = False
        self._is_ticking = False
        self.full = max(1, round(limit_s / TICK_S)) + 1
        """Ticks that a call has. Its first may come early, so it has one more than its time."""
        self.left = NO_CALL
        self._over_since = 0.0
        """When the call that runs was first told to stop; 0: it was not."""

    def begin(self) -> None:
        """A call begins; where every call counts, `left = full` is written out."""
        self.left = self.full

    def begin_within(self, limit_s: float) -> None:
        """As `begin`, for something that has a limit of its own."""
        self.left = round(limit_s / TICK_S) + 1

    def end(self) -> None:
        """The call has ended; ticks no longer count. Or `left = NO_CALL`."""
        self.left = NO_CALL

    @property
    def running(self) -> bool:
        """Whether the timer runs."""
        return self._interval_s > 0

    def start(self) -> None:
        """Starts the timer; only from the main thread."""
        if not self._interval_s and threading.current_thread() is threading.main_thread():
            if not self._is_installed:
                self._is_installed = True
                signal.signal(signal.SIGALRM, self._tick)
            self._every(TICK_S)

    def stop(self) -> None:
        """Stops the timer."""
        if self._interval_s:
            self._every(0.0)

    def _every(self, interval_s: float) -> None:
        self._interval_s = interval_s
        signal.setitimer(signal.ITIMER_REAL, interval_s, interval_s)

    def _tick(self, _signal: int, frame: FrameType | None) -> None:
        if self._is_ticking:
            return  # the one before takes its time
        self._is_ticking = True
        try:
            self._count(frame)
        finally:
            self._is_ticking = False

    def _count(self, frame: FrameType | None) -> None:
        if self.left > 0:
            self.left -= 1
        if self.left:  # there is no call, or it has time left
            if self._over_since:
                self._over_since = 0.0
                if self._interval_s:
                    self._every(TICK_S)
            self.beat()
            return
        now = time.monotonic()
        if not self._over_since:
            self._over_since = now
        over_s = now - self._over_since
        (self.defied if over_s > DEFIANT_S else self.beat)()
        if over_s > HURRY_AFTER_S and self._interval_s == TICK_S:
            self._every(HURRY_TICK_S)
        if not in_table_code(frame) and not _is_host_code(frame):  # a write that is half done is let finish
            raise BudgetExceeded(f"the call ran longer than {self.limit_s:g} s")
