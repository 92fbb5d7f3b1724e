"""The control channel between the supervisor and a child: messages and file descriptors over a socket pair.

    message := u32 length, u8 number of descriptors, 3 bytes 0, MessagePack of a tagged Struct

Descriptors travel as ancillary data with the first byte of the message that announces them, and are handed out in
order. When the peer is gone, sending raises ChannelClosed and receiving returns None: that is how children notice the
end. A peer that runs module code may send anything: what is no message raises ChannelCorrupt, and descriptors are taken
only by an end that expects some.

The actor, the log keeper and others have no tasks and do without trio, which takes long to import and memory as long as
they live; `task_channel` is for those that have.
"""

from __future__ import annotations

import array
import select
import socket
from collections import deque
from struct import Struct as Layout
from typing import Any, Final, Self, TypeVar

import msgspec

from spacetimedb.workers.descriptors import wait_for

MAX_MESSAGE_BYTES: Final = 256 << 20
MAX_DESCRIPTORS: Final = 64
_HEAD: Final = Layout("<IB3x")
_READ_BYTES: Final = 1 << 18

T = TypeVar("T")


class ChannelClosed(Exception):
    """The other process is gone."""


class ChannelCorrupt(Exception):
    """The other process sent something that is no message."""


class Channel:
    """One end. `kinds` is the union of Structs that this end receives."""

    def __init__(self, sock: socket.socket, kinds: Any, takes_descriptors: bool = True) -> None:
        sock.setblocking(False)
        self._takes_descriptors = takes_descriptors
        self.socket = sock
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._closed = False

    @classmethod
    def pair(cls) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    @classmethod
    def from_fd(cls, fd: int, kinds: Any) -> Self:
        """The end that a child inherited."""
        return cls(socket.socket(fileno=fd), kinds)

    def _pack(self, message: msgspec.Struct, fds: tuple[int, ...]) -> bytes:
        body = self._encoder.encode(message)
        assert len(body) <= MAX_MESSAGE_BYTES
        assert len(fds) <= MAX_DESCRIPTORS
        return _HEAD.pack(len(body), len(fds)) + body

    def _send_some(self, data: memoryview, fds: tuple[int, ...]) -> int:
        try:
            if fds:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                return self.socket.sendmsg([data], ancillary)
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            raise ChannelClosed from None

    def send(self, message: msgspec.Struct, *fds: int) -> None:
        """Sends and blocks until everything is written."""
        data = memoryview(self._pack(message, fds))
        while data:
            sent = self._send_some(data, fds)
            if sent:
                fds = ()
                data = data[sent:]
            else:
                wait_for(self.socket, select.POLLOUT)

    def _fill(self) -> bool:
        """Reads what is there. False if nothing was."""
        try:
            if self._takes_descriptors:
                data, fds, flags, _address = socket.recv_fds(self.socket, _READ_BYTES, MAX_DESCRIPTORS)
            else:
                data, fds, flags = self.socket.recv(_READ_BYTES), [], 0
        except BlockingIOError:
            return False
        except OSError:
            data, fds, flags = b"", [], 0
        self._descriptors.extend(fds)
        if flags & socket.MSG_CTRUNC:
            # Descriptors were lost: this process has too many. What comes behind cannot be understood.
            data = b""
        if not data:
            self._closed = True
        self._buffer += data
        return True

    def _next(self) -> tuple[Any, list[int]] | None:
        if len(self._buffer) < _HEAD.size:
            return None
        length, fd_count = _HEAD.unpack_from(self._buffer)
        if length > MAX_MESSAGE_BYTES or (fd_count and not self._takes_descriptors):
            raise ChannelCorrupt(f"a message of {length} bytes with {fd_count} descriptors")
        if len(self._buffer) < _HEAD.size + length or len(self._descriptors) < fd_count:
            return None
        try:
            message = self._decoder.decode(memoryview(self._buffer)[_HEAD.size : _HEAD.size + length].tobytes())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ChannelCorrupt(str(error)) from None
        del self._buffer[: _HEAD.size + length]
        return message, [self._descriptors.popleft() for _ in range(fd_count)]

    def poll(self) -> list[tuple[Any, list[int]]] | None:
        """All whole messages that are there, without waiting. None when the peer is gone."""
        while self._fill():
            if self._closed:
                break
        found = []
        while (item := self._next()) is not None:
            found.append(item)
        return None if self._closed and not found else found

    def receive(self) -> tuple[Any, list[int]] | None:
        """The next message; blocks. None when the peer is gone."""
        while True:
            item = self._next()
            if item is not None:
                return item
            if self._closed:
                return None
            if not self._fill():
                wait_for(self.socket, select.POLLIN)

    def close(self) -> None:
        """Closes this end."""
        self.socket.close()
