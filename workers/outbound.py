"""HTTP requests of procedures leave the server from a process of their own: the one that runs a module has no sockets.

The supervisor holds one end of a socket pair per database and starts the process when something is in it. It ends after
IDLE_S without work, and is started again when there is more.

    frame := u32 length (little-endian), MessagePack of Ask (towards the process) or Answer (back)

Both sides may have many requests under way; `id` tells which answer is whose.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from _thread import allocate_lock
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from struct import Struct as Layout
from typing import Any, Final

import msgspec

from spacetimedb.module.errors import HttpError
from spacetimedb.module.http import HttpResponse
from spacetimedb.workers.descriptors import wait_for
from spacetimedb.workers.sandbox import limit_memory

IDLE_S: Final = 60.0
MAX_REQUESTS: Final = 64
"""Under way at the same time in one process; more than a database has threads for procedures."""
MAX_FRAME_BYTES: Final = 128 << 20
STACK_BYTES: Final = 1 << 20
PATIENCE_S: Final = 10.0
"""How much longer than its timeout an answer is waited for: looking up a name is not covered by it."""
MAX_TIMEOUT_S: Final = 180.0
DISABLED: Final = "module outbound HTTP requests are disabled"
LOST: Final = "the process that sends HTTP requests ended; the request may have been sent"
_LENGTH: Final = Layout("<I")
_READ_BYTES: Final = 1 << 18


class Ask(msgspec.Struct, array_like=True):
    """One request, as `outbound_http.exchange` takes it."""

    id: int
    method: str
    url: str
    body: bytes
    headers: tuple[tuple[str, str], ...]
    timeout: float


class Answer(msgspec.Struct, array_like=True):
    """What became of it: `problem` is the text of an HttpError, or None."""

    id: int
    problem: str | None
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


_encode: Final = msgspec.msgpack.Encoder().encode


def _frame(message: Ask | Answer) -> bytes:
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


def _write(fd: int, data: bytes) -> None:
    """All of it. The descriptor may be non-blocking."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            wait_for(fd, select.POLLOUT)


class _Frames:
    """Cuts frames out of what is read from a descriptor."""

    def __init__(self, fd: int, kind: type[Any]) -> None:
        self._fd = fd
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._buffer = bytearray()

    @property
    def is_between(self) -> bool:
        """Whether no frame is half read."""
        return not self._buffer

    def read(self) -> Iterator[Any]:
        """Whole frames of one read; waits for it. Raises EOFError at the end, ValueError for what is no frame."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise EOFError
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            if len(buffer) < 4 + length:
                return
            message = self._decode(memoryview(buffer)[4 : 4 + length].tobytes())
            del buffer[: 4 + length]
            yield message


class OutboundClient:
    """The module's side: `exchange` sends a request from any thread and waits for its answer.

    `use` names the descriptor to send over; None at first, and then nothing is sent.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._next_id = 0
        self._waiting: dict[int, SimpleQueue[Answer]] = {}
        self._lock = allocate_lock()
        self._reads = False

    def use(self, fd: int) -> None:
        """From now on over this descriptor, which is ours."""
        self._fd, self._reads = fd, False

    def exchange(
        self, method: str, url: str, body: bytes, headers: tuple[tuple[str, str], ...], timeout: float
    ) -> HttpResponse:
        """As `outbound_http.exchange`. Raises HttpError."""
        fd = self._fd
        if fd is None:
            raise HttpError(DISABLED)
        queue: SimpleQueue[Answer] = SimpleQueue()
        with self._lock:
            self._next_id += 1
            number = self._next_id
            self._waiting[number] = queue
            if not self._reads:
                self._reads = True
                threading.Thread(target=self._read, args=(fd,), daemon=True, name="outbound").start()
            try:
                _write(fd, _frame(Ask(number, method, url, body, headers, timeout)))
            except OSError:
                queue.put(Answer(number, LOST))
        try:
            answer = queue.get(timeout=min(max(timeout, 0.0), MAX_TIMEOUT_S) + PATIENCE_S)
        except Empty:
            answer = Answer(number, f"error sending request: no answer within {timeout:g} s")
        finally:
            self._waiting.pop(number, None)
        if answer.problem is not None:
            raise HttpError(answer.problem)
        return HttpResponse(answer.status, answer.headers, answer.body)

    def _read(self, fd: int) -> None:
        frames = _Frames(fd, Answer)
        while True:
            try:
                for answer in frames.read():
                    queue = self._waiting.get(answer.id)
                    if queue is not None:
                        queue.put(answer)
            except (EOFError, ValueError):
                break
        for number, queue in list(self._waiting.items()):
            queue.put(Answer(number, LOST))


# -- the process


def _serve(fd: int, networks: Sequence[str]) -> None:
    from spacetimedb.hosts.outbound_http import allowing, exchange

    allows = allowing(networks)
    frames = _Frames(fd, Ask)
    writing = threading.Lock()
    room = threading.Semaphore(MAX_REQUESTS)
    under_way: set[int] = set()

    def run(ask: Ask) -> None:
        try:
            try:
                got = exchange(ask.method, ask.url, ask.body, ask.headers, ask.timeout, allows)
                answer = Answer(ask.id, None, got.status, got.headers, got.body)
            except HttpError as error:
                answer = Answer(ask.id, str(error))
            except Exception as error:
                answer = Answer(ask.id, f"error sending request: {type(error).__name__}")
            try:
                with writing:
                    _write(fd, _frame(answer))
            except OSError:
                os._exit(0)  # nobody is there any more
        finally:
            under_way.discard(ask.id)
            room.release()

    while True:
        ready = wait_for(fd, select.POLLIN, IDLE_S)
        if not ready:
            if not under_way and frames.is_between:
                return
            continue
        for ask in frames.read():
            room.acquire()
            under_way.add(ask.id)
            threading.Thread(target=run, args=(ask,), daemon=True).start()


def main() -> None:
    """Entry of the process; the arguments are the number of its end of the socket pair, the identity of its database,
    the bytes of memory that it may have, and networks that it may reach besides public addresses."""
    threading.stack_size(STACK_BYTES)
    limit_memory(int(sys.argv[3]))
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        try:
            _serve(sock.fileno(), sys.argv[4:])
        except EOFError:
            pass


if __name__ == "__main__":
    main()
