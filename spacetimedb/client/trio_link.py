"""The trio face's way to the network: a non-blocking socket, or a TLS stream.

Sending is a plain call: what the socket takes at once costs one system call and no task switch; the rest waits in a
buffer for a task that lives only as long as there is something in it.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from .address import Address
from .errors import Disconnected
from .face import READ_BYTES

MAX_UNSENT: Final = 64 * 1024 * 1024
"""Bytes that may wait for the network; a request beyond is refused with Disconnected."""


class Link:
    """One connection. `nursery` must be set before `send` is used."""

    __slots__ = ("_socket", "_stream", "_unsent", "nursery")

    def __init__(self, raw: socket.socket | None, stream: trio.abc.Stream | None) -> None:
        self._socket = raw
        self._stream = stream
        self._unsent: bytearray | None = None
        self.nursery: trio.Nursery | None = None

    @classmethod
    async def open(cls, address: Address) -> Link:
        """OSError if nobody answers."""
        tcp = await trio.open_tcp_stream(address.host, address.port)
        context = address.tls()
        if context is None:
            raw = socket.socket(fileno=tcp.socket.detach())
            raw.setblocking(False)
            return cls(raw, None)
        tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
        return cls(None, tls)

    async def receive(self) -> bytes:
        """What has arrived; b"" at the end of the stream, however it came."""
        if self._socket is None:
            assert self._stream is not None
            try:
                return bytes(await self._stream.receive_some(READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return b""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    return self._socket.recv(READ_BYTES)
                except BlockingIOError:
                    continue
        except (OSError, trio.ClosedResourceError):
            return b""

    def send(self, data: bytes) -> None:
        """Sends without waiting. What the network does not take is lost if the connection is; the reader notices."""
        if self._unsent is not None:
            if len(self._unsent) + len(data) > MAX_UNSENT:
                raise Disconnected(f"more than {MAX_UNSENT} bytes wait to be sent")
            self._unsent += data
            return
        if self._socket is not None:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._unsent = bytearray(data)
        assert self.nursery is not None
        self.nursery.start_soon(self._send_rest)

    async def _send_rest(self) -> None:
        while self._unsent:
            data, self._unsent = bytes(self._unsent), bytearray()
            try:
                await self.send_all(data)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return
        self._unsent = None

    async def send_all(self, data: bytes) -> None:
        """Sends all of it. OSError, trio.BrokenResourceError or trio.ClosedResourceError if the connection is gone."""
        if self._socket is None:
            assert self._stream is not None
            await self._stream.send_all(data)
            return
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    def close(self) -> None:
        """At once, without ceremony."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        elif isinstance(self._stream, trio.SSLStream) and isinstance(self._stream.transport_stream, trio.SocketStream):
            self._stream.transport_stream.socket.close()
