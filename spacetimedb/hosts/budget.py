"""The time budget of a call, and the interval timer that enforces it.

A signal every TICK_S seconds counts ticks; a call that has seen too many of them is stopped by `BudgetExceeded`, raised
inside it by the signal's handler, but never in the host's own frames: there the function was not entered yet or has
ended already. Beginning and ending a call are two attribute stores. The timer runs only between `start` and `stop`, so
a process without work is not woken. A C call that never returns to the interpreter is not stopped.
"""

from __future__ import annotations

import signal
import threading
from os.path import dirname
from types import FrameType
from typing import Final

from spacetimedb.module.errors import BudgetExceeded
from spacetimedb.store.table import in_table_code

TICK_S: Final = 0.01
DEFAULT_LIMIT_S: Final = 1.0


def _is_host_code(frame: FrameType | None) -> bool:
    """Whether the frame is one of the host's own."""
    return frame is not None and frame.f_code.co_filename.startswith(_HOST_CODE)


_HOST_CODE: Final = dirname(_is_host_code.__code__.co_filename)


class Budget:
    """Wall-clock limit of a single call in this process's main thread. Without `start` nothing is ever stopped."""

    __slots__ = ("_is_installed", "_left", "_ticks", "limit_s", "running")

    def __init__(self, limit_s: float = DEFAULT_LIMIT_S) -> None:
        self.limit_s = limit_s
        self.running = False
        self._is_installed = False
        self._ticks = max(1, round(limit_s / TICK_S))
        self._left = -1

    def begin(self) -> None:
        """A call begins. Its first tick may come early, so it gets one more."""
        self._left = self._ticks + 1

    def end(self) -> None:
        """The call has ended; ticks no longer count."""
        self._left = -1

    def start(self) -> None:
        """Starts the timer; only from the main thread."""
        if not self.running and threading.current_thread() is threading.main_thread():
            if not self._is_installed:
                self._is_installed = True
                signal.signal(signal.SIGALRM, self._tick)
            self.running = True
            signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)

    def stop(self) -> None:
        """Stops the timer."""
        if self.running:
            self.running = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _tick(self, _signal: int, frame: FrameType | None) -> None:
        if self._left >= 0:
            self._left -= 1
            if self._left < 0:
                # Module code may swallow it: the next tick raises again. A write that is half done is let finish.
                self._left = 0
                if in_table_code(frame) or _is_host_code(frame):
                    return
                raise BudgetExceeded(f"the call ran longer than {self.limit_s:g} s")
