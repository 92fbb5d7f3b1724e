"""The supervisor's end of a database's way to the outside: starts the process that sends HTTP requests when there is
one to send."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

import trio


class OutboundLink:
    """A socket pair and the process at our end of it (`outbound`). `theirs` goes to the database process."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    async def run(self, renew: Callable[[int], Awaitable[None]]) -> None:
        """Until the database process is gone. `renew` hands it another descriptor after a process that failed."""
        while await self._is_wanted():
            if await self._serve():
                self.close()
                self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                await renew(self.theirs.fileno())
                self.theirs.close()

    async def _is_wanted(self) -> bool:
        """Waits for a request. False: nobody is there to send one."""
        await trio.lowlevel.wait_readable(self._ours)
        try:
            return bool(self._ours.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def _serve(self) -> bool:
        """Runs one process to its end; whether it failed."""
        fd = self._ours.fileno()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "spacetimedb.workers.outbound", str(fd)],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        try:
            return await process.wait() != 0
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    def close(self) -> None:
        """Closes both ends."""
        self._ours.close()
        self.theirs.close()
