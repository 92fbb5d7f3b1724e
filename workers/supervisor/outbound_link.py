"""The supervisor's end of a database's way to the outside: starts the process that sends HTTP requests when there is
one to send."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from spacetimedb.workers.channel import ChannelClosed

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 10.0
"""Between two processes of which the first failed; from failure to failure it doubles."""
_COMMAND: Final = (sys.executable, "-P", "-m", "spacetimedb.workers.outbound")


class OutboundLink:
    """A socket pair and the process at our end of it (`outbound`). `theirs` goes to the database process.

    `database`: its identity in hex, for whoever looks at the process. `memory_bytes`: what the process may have, 0 for
    no limit; answers to many requests come together in it. `networks`: see `HttpReach`.
    """

    def __init__(self, database: str, memory_bytes: int, networks: tuple[str, ...], say: Callable[[str], None]) -> None:
        self._database = database
        self._memory_bytes = memory_bytes
        self._networks = networks
        self._say = say
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    async def run(self, renew: Callable[[int], Awaitable[None]]) -> None:
        """Until the database process is gone. `renew` hands it another descriptor after a process that failed."""
        wait_s = FIRST_BACKOFF_S
        while await self._is_wanted():
            try:
                if not await self._serve():
                    wait_s = FIRST_BACKOFF_S
                    continue
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            except OSError as error:
                self._say(f"HTTP requests cannot be sent: {error.strerror}")
            else:
                self.close()
                self._ours, self.theirs = ours, theirs
                try:
                    await renew(theirs.fileno())
                except ChannelClosed:
                    return
                theirs.close()
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_BACKOFF_S)

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
            [*_COMMAND, str(fd), self._database, str(self._memory_bytes), *self._networks],
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
