"""The control channel of a process with tasks: `Channel`, waited for with trio."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import trio

from spacetimedb.workers.channel import Channel


class TaskChannel(Channel):
    """One end. Several tasks may send at the same time, one receives."""

    def __init__(self, sock: socket.socket, kinds: Any, takes_descriptors: bool = True) -> None:
        super().__init__(sock, kinds, takes_descriptors)
        self._sending = trio.Lock()

    async def send_async(self, message: msgspec.Struct, *fds: int) -> None:
        """Sends. Cancelled in the middle, the channel is unusable."""
        async with self._sending:
            data = memoryview(self._pack(message, fds))
            while data:
                sent = self._send_some(data, fds)
                if sent:
                    fds = ()
                    data = data[sent:]
                else:
                    await trio.lowlevel.wait_writable(self.socket)

    async def receive_async(self) -> tuple[Any, list[int]] | None:
        """The next message; None when the peer is gone. Safe to cancel. A peer that never pauses holds up no others."""
        await trio.lowlevel.checkpoint()
        while True:
            item = self._next()
            if item is not None:
                return item
            if self._closed:
                return None
            if not self._fill():
                await trio.lowlevel.wait_readable(self.socket)
