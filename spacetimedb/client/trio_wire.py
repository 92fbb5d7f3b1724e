"""The trio face's ways to the network.

All plain sockets of a trio run share a `Lane`: one system task waits on a selector, reads every socket that has
something and hands the bytes on, so that a message costs no task switch and an idle connection costs no task. Sending
is a plain call: what the socket takes at once costs one system call, the rest waits in a buffer for the selector.

TLS, and systems whose selector is no descriptor (Windows), have a task of their own for each connection (`StreamWire`).
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from .address import Address
from .errors import Disconnected
from .face import READ_BYTES, SILENCE_SECONDS

if TYPE_CHECKING:
    from .driven import DrivenFace, Wire

MAX_UNSENT: Final = 64 * 1024 * 1024
"""Bytes that may wait for the network; a request beyond is refused with Disconnected."""
AT_ONCE: Final = 64
"""Sockets that are read before other tasks have their turn."""
SWEEP_SECONDS: Final = 5.0


async def open_wire(owner: DrivenFace) -> Wire:
    """Connects to the owner's address. OSError if nobody answers."""
    address = owner.core.address
    tls = address.tls()
    lane = Lane.current() if tls is None else None
    if lane is not None:
        return LaneWire(lane, owner, await _socket(address))
    stream = await open_stream(address)
    tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return StreamWire(owner, stream, tcp.socket.close)


async def open_stream(address: Address) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connects. OSError if nobody answers."""
    tcp = await trio.open_tcp_stream(address.host, address.port)
    tls = address.tls()
    if tls is None:
        return tcp
    return trio.SSLStream(tcp, tls, server_hostname=address.host, https_compatible=True)


async def _socket(address: Address) -> socket.socket:
    """A connected socket that does not block."""
    try:
        socket.inet_pton(socket.AF_INET, address.host)
    except OSError:
        tcp = await trio.open_tcp_stream(address.host, address.port)
        connected = socket.socket(fileno=tcp.socket.detach())
    else:  # nothing to look up, nothing to choose from
        connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            connected.connect((address.host, address.port))
        except BlockingIOError:
            try:
                await trio.lowlevel.wait_writable(connected)
                failed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failed:
                    raise OSError(failed, os.strerror(failed)) from None
            except BaseException:
                connected.close()
                raise
        except BaseException:
            connected.close()
            raise
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Lane:
    """The sockets of one trio run."""

    _here: Final[trio.lowlevel.RunVar[Lane | None]] = trio.lowlevel.RunVar("spacetimedb lane")

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.wires: set[LaneWire] = set()
        self.now = trio.current_time()
        self._arrived = trio.Event()

    @classmethod
    def current(cls) -> Lane | None:
        """The lane of this trio run; None where there cannot be one."""
        try:
            return cls._here.get()
        except LookupError:
            lane = cls()
            if not hasattr(lane.selector, "fileno"):
                cls._here.set(None)
                return None
            cls._here.set(lane)
            trio.lowlevel.spawn_system_task(lane._run)
            trio.lowlevel.spawn_system_task(lane._sweep)
            return lane

    def add(self, wire: LaneWire) -> None:
        """Reads this socket from now on."""
        wire.heard = self.now = trio.current_time()
        self.wires.add(wire)
        self._arrived.set()
        self.selector.register(wire.socket, selectors.EVENT_READ, wire)

    async def _run(self) -> None:
        selector = self.selector
        descriptor: int = selector.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(descriptor)
                self.now = trio.current_time()
                ready = selector.select(0)
                for start in range(0, len(ready), AT_ONCE):
                    if start:
                        await trio.lowlevel.checkpoint()
                    for key, events in ready[start : start + AT_ONCE]:
                        wire: LaneWire = key.data
                        if events & selectors.EVENT_WRITE:
                            wire.send_rest()
                        if events & selectors.EVENT_READ:
                            wire.read()
        finally:
            selector.close()

    async def _sweep(self) -> None:
        """Looks now and then whether a server has gone silent."""
        while True:
            if not self.wires:
                self._arrived = trio.Event()
                await self._arrived.wait()
            await trio.sleep(SWEEP_SECONDS)
            now = trio.current_time()
            for wire in [wire for wire in self.wires if now - wire.heard >= SILENCE_SECONDS]:
                wire.owner._ended(wire, _silence())


class LaneWire:
    """One socket of a lane."""

    __slots__ = ("_lane", "_unsent", "heard", "owner", "socket")

    def __init__(self, lane: Lane, owner: DrivenFace, connected: socket.socket) -> None:
        self._lane = lane
        self._unsent: bytearray | None = None
        self.owner = owner
        self.socket = connected
        self.heard = 0.0
        lane.add(self)

    def read(self) -> None:
        """The selector says that there is something, or that the stream has ended. It may be closed already."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.heard = self._lane.now
            self.owner._received(self, data)
        elif self in self._lane.wires:
            self.owner._ended(self, self.owner.core.end_of_stream())

    def send(self, data: bytes) -> None:
        """See `Wire`. Disconnected if too much waits already."""
        if self._unsent is not None:
            if len(self._unsent) + len(data) > MAX_UNSENT:
                raise Disconnected(f"more than {MAX_UNSENT} bytes wait to be sent")
            self._unsent += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reading side notices
        if sent < len(data):
            self._unsent = bytearray(data[sent:])
            self._lane.selector.modify(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def send_rest(self) -> None:
        """The selector says that there is room."""
        if self._unsent is None:
            return
        try:
            del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self._unsent = None
            if self in self._lane.wires:
                self._lane.selector.modify(self.socket, selectors.EVENT_READ, self)

    def close(self) -> None:
        """See `Wire`."""
        if self in self._lane.wires:
            self._lane.wires.discard(self)
            self._lane.selector.unregister(self.socket)
            self.socket.close()


class StreamWire:
    """A connection with a reading task of its own, and a writing one for as long as something is to be sent."""

    def __init__(self, owner: DrivenFace, stream: trio.abc.Stream, cut: Callable[[], object]) -> None:
        self._owner = owner
        self._stream = stream
        self._cut = cut
        self._unsent: bytearray | None = None
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._read)

    async def _read(self) -> None:
        owner = self._owner
        with self._scope:
            while True:
                data = b""
                with trio.move_on_after(SILENCE_SECONDS) as silence:
                    try:
                        data = bytes(await self._stream.receive_some(READ_BYTES))
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass
                if silence.cancelled_caught:
                    owner._ended(self, _silence())
                    return
                if not data:
                    if owner._wire is self:
                        owner._ended(self, owner.core.end_of_stream())
                    return
                owner._received(self, data)

    def send(self, data: bytes) -> None:
        """See `Wire`. Disconnected if too much waits already."""
        if self._unsent is None:
            self._unsent = bytearray(data)
            trio.lowlevel.spawn_system_task(self._send_all)
        elif len(self._unsent) + len(data) > MAX_UNSENT:
            raise Disconnected(f"more than {MAX_UNSENT} bytes wait to be sent")
        else:
            self._unsent += data

    async def _send_all(self) -> None:
        while self._unsent:
            data, self._unsent = bytes(self._unsent), bytearray()
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
        self._unsent = None

    def close(self) -> None:
        """See `Wire`."""
        self._scope.cancel()
        self._cut()


def _silence() -> Disconnected:
    return Disconnected(f"the server was silent for {SILENCE_SECONDS:g} s")
