"""Threads that procedures run in, and their way back to the main thread.

Threads are started as they are needed, up to MAX_THREADS, and stay. They are for waiting: they share one interpreter
with the transactions. All of them are daemons: a process that ends does not wait for them.

The main thread polls `run_posted`; `wake` is called, from any thread, whenever there is something for it. The order of
posting is the order of running. No locks: a deque and a list do one append or pop at a time, and each counter belongs
to the main thread.
"""

from __future__ import annotations

import sys
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread, get_ident
from typing import Final, TypeVar, cast

from spacetimedb.hosts.module_log import ModuleLog
from spacetimedb.hosts.procedures import Unpublished, attempt

R = TypeVar("R")
End = Callable[[BaseException | None, bytes], None]

MAX_THREADS: Final = 32
MAX_WAITING: Final = 10_000
"""Procedures that wait for a thread; beyond that they are refused."""
POSTED_PER_ROUND: Final = 64
"""Transactions and ends of procedures that the main thread runs before it looks at other requests again."""
SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread that computes may keep the main thread from going on."""


class ProcedureThreads:
    """A `Runner` (`procedures.py`). `clock` gives microseconds since the epoch."""

    def __init__(self, log: ModuleLog, clock: Callable[[], int], wake: Callable[[], None]) -> None:
        self.posted: deque[Callable[[], None]] = deque()
        """What the main thread has to run."""
        self._log = log
        self._clock = clock
        self._wake = wake
        self._queue: SimpleQueue[tuple[str, Callable[[], bytes], End]] = SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        """Calls that have not ended, running or waiting."""
        log.wake = wake

    # -- for the main thread

    def start(self, name: str, compute: Callable[[], bytes], end: End) -> bool:
        if self._unfinished >= MAX_THREADS + MAX_WAITING:
            return False
        if self._threads < min(self._unfinished + 1, MAX_THREADS) and not self._add_thread() and not self._threads:
            return False
        self._unfinished += 1
        self._queue.put((name, compute, end))
        return True

    def run_posted(self) -> bool:
        posted = self.posted
        if not posted:
            return False
        for _ in range(min(len(posted), POSTED_PER_ROUND)):
            posted.popleft()()
        return True

    def _add_thread(self) -> bool:
        if not self._threads:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            Thread(target=self._serve, name=f"procedures-{self._threads}", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            return False
        self._threads += 1
        return True

    def _ended(self, end: End, failure: BaseException | None, body: bytes) -> None:
        self._unfinished -= 1
        end(failure, body)

    # -- for the procedures

    def _serve(self) -> None:
        while True:
            self._run_next()

    def _run_next(self) -> None:
        """Its own frame, so that an idle thread keeps nothing alive."""
        name, compute, end = self._queue.get()
        self._log.thread_functions[get_ident()] = name
        failure, body = attempt(compute)
        self._post(partial(self._ended, end, failure, body))

    def _post(self, work: Callable[[], None]) -> None:
        self.posted.append(work)
        self._wake()

    @property
    def may_wait(self) -> bool:
        return get_ident() in self._log.thread_functions

    def on_main(self, work: Callable[[], R]) -> R:
        posting = _Posting(work)
        self._post(posting.run)
        posting.done.acquire()
        return cast(R, posting.outcome())

    def sleep(self, until_us: int) -> int:
        time.sleep(max(0, until_us - self._clock()) / 1e6)
        return max(until_us, self._clock())


class _Posting:
    """Work that a thread waits for. `done` is taken until it has been run."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work
        self.result: object = None
        self.error: BaseException | None = None
        self.done = allocate_lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self.result = self.work()
        except Unpublished:
            raise
        except BaseException as error:
            self.error = error
        finally:
            self.done.release()

    def outcome(self) -> object:
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # or the exception would hold its own traceback, forever
