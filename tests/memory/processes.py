"""Running a function in a forked process and learning how it ended."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from patience import PATIENCE_S

LOST_S = 20.0
"""Who waits so long for the other process was never woken."""


class Child:
    """A forked process that runs `work` and exits with 0, or with 1 after an exception."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def join(self, seconds: float = PATIENCE_S) -> int:
        """Exit code, negative for a signal. Kills and fails when it takes too long."""
        deadline = time.monotonic() + seconds
        while self.is_running:
            if time.monotonic() > deadline:
                self.kill()
                os.waitpid(self.pid, 0)
                raise AssertionError(f"process {self.pid} did not end within {seconds} s")
            time.sleep(0.002)
        assert self.status is not None
        return self.status
