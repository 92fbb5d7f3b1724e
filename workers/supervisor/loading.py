"""Starts the processes that look at programs (`loader`), one ahead of time while somebody is publishing.

Starting Python and importing this package is most of the work, so a publish within a minute of another one finds a
process that has done it already.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import trio

from spacetimedb.workers.supervisor.child import bare_environment
from spacetimedb.workers.supervisor.errors import ControlError

LOAD_LIMIT_S: Final = 30.0
"""Time a process has to start, import a program and describe it, however busy the machine is."""
MAX_LOADED_BYTES: Final = 64 << 20
"""Longest answer of a loading process."""
SPARE_S: Final = 60.0
"""How long after a publish a process is kept ready for the next."""


class Loaders:
    """Loading processes; each looks at one program. `run` keeps the spare one and must run all the time."""

    def __init__(self) -> None:
        self._spare: trio.Process | None = None
        self._is_wanted = False
        self._used = trio.Event()

    async def run(self) -> None:
        """Keeps a process ready for `SPARE_S` after a use. Cancelling it ends that process."""
        try:
            while True:
                await self._used.wait()
                self._used = trio.Event()
                if self._spare is None:
                    try:
                        self._spare = await _start()
                    except OSError:
                        continue  # whoever needs one is told
                with trio.move_on_after(SPARE_S) as idle:
                    await self._used.wait()
                if idle.cancelled_caught:
                    await self._end_spare()
        finally:
            with trio.CancelScope(shield=True):
                await self._end_spare()

    def prepare(self) -> None:
        """Starts the process for the next program if one has been used. To be called when the request that used it has
        its answer: until then the database has more need of the processor."""
        if self._is_wanted:
            self._is_wanted = False
            self._used.set()

    async def load(self, order: bytes) -> bytes:
        """The answer of a process to an order (`messages.Load`, packed); what a module makes of the process is in it.

        Raises ControlError if there is none in time. Cancelling it kills the process.
        """
        process, self._spare = self._spare, None
        if process is None or process.poll() is not None:
            try:
                process = await _start()
            except OSError as error:
                raise ControlError(503, f"the system cannot load the module: {error.strerror}") from None
        answer = bytearray()
        try:
            with trio.move_on_after(LOAD_LIMIT_S) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_feed, process, order)
                    assert process.stdout is not None
                    async for piece in process.stdout:
                        answer += piece
                        if len(answer) > MAX_LOADED_BYTES:
                            answer.clear()
                            break
                    nursery.cancel_scope.cancel()
        finally:
            await _end(process)
            self._is_wanted = True
        if scope.cancelled_caught:
            raise ControlError(500, f"the module was not loaded within {LOAD_LIMIT_S:g} s")
        return bytes(answer)

    async def _end_spare(self) -> None:
        process, self._spare = self._spare, None
        if process is not None:
            await _end(process)


async def _start() -> trio.Process:
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", "spacetimedb.workers.loader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=bare_environment(),
    )


async def _feed(process: trio.Process, order: bytes) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.send_all(order)
        await process.stdin.aclose()
    except trio.BrokenResourceError:
        pass  # it has ended: there will be no answer


async def _end(process: trio.Process) -> None:
    """At once: what it had to say has been said."""
    with trio.CancelScope(shield=True):
        process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()
