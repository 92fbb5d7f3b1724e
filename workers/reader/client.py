"""A WebSocket client as its reader sees it, and the lane that moves its bytes.

The lane is one trio task for all sockets of the process: it waits on a selector, reads every socket that has something,
splits frames, hands messages to the database's link, and writes pre-framed bytes without waiting. A socket that would
block keeps a backlog, written when the selector says so; a client whose backlog is too long is dropped.

No client has a task of its own. A connection ends with a Close from each side: `close` begins it, `_end` sees to the
rest, and a client that does not do its part in time is cut off by `reap`.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, TypeAlias

import trio

from spacetimedb.memory.ring import ReaderDropped, RingCorrupt
from spacetimedb.protocol import frames, v1, v2
from spacetimedb.types.special import ConnectionId, Identity
from spacetimedb.workers.reader.large_answers import Slices
from spacetimedb.workers.reader.link_figures import CAUSE_OF_CLOSE

if TYPE_CHECKING:
    from spacetimedb.subscriptions.costs import QueryCost
    from spacetimedb.workers.reader.database_link import DatabaseLink
    from spacetimedb.workers.reader.lookups import Page

READ_BYTES: Final = 256 << 10
SEND_BYTES: Final = 1 << 20
"""Bytes of a backlog that go out before other clients have their turn."""
MAX_BACKLOG_MESSAGES: Final = 16384
"""Messages that wait for a socket that does not take them; then the client is dropped."""
MAX_BACKLOG_BYTES: Final = 64 << 20
MAX_UNANSWERED: Final = 16384
"""Requests of one client that wait for execution; then it is closed with 1013."""
MAX_DEFERRED_BYTES: Final = 64 << 20
"""The same in bytes, for those that cannot be handed to the actor yet; one message of any length may wait."""
PING_EVERY_S: Final = 15.0
IDLE_LIMIT_S: Final = 30.0
SWEEP_S: Final = 5.0
CLOSE_HANDSHAKE_S: Final = 0.25
"""How long a client may take to answer our Close."""
CLOSE_BACKLOG_S: Final = 5.0
"""How long a client that is to be closed may take to read what was sent to it before."""
CLOSE_LOOK_S: Final = 0.05

CONNECTING, OPEN, CLOSING, GONE = range(4)


Message: TypeAlias = v2.ClientMessage | v1.ClientMessage
Parse: TypeAlias = Callable[[bytes, bool], Sequence[Message]]
"""(payload of a WebSocket message, whether it may hold several) -> messages; raises ClientDecodeError."""


def _refuse_text(_payload: bytes, several: bool) -> NoReturn:
    raise v2.ClientDecodeError(v2.TEXT_ON_V3 if several else v2.TEXT_ON_V2)


class Client:
    """State of one connection. Messages wait in `messages` until the link flushes the batch."""

    parse: ClassVar[staticmethod[[bytes, bool], Sequence[Message]]] = staticmethod(v2.parse_messages)
    parse_text: ClassVar[staticmethod[[bytes, bool], Sequence[Message]]] = staticmethod(_refuse_text)
    pack: ClassVar[staticmethod[[Sequence[bytes]], bytes]] = staticmethod(v2.pack_v2)
    """Server messages as WebSocket messages of one each."""
    is_text: ClassVar[bool] = False
    """It gets text."""
    first_kind: ClassVar[int] = 0
    """Kind of its messages with the first byte 0, for `Outbox.sent`."""

    __slots__ = (
        "allowance",
        "backlog",
        "backlog_bytes",
        "cause",
        "close_by",
        "confirmed",
        "connection_id",
        "deferred",
        "deferred_bytes",
        "elsewhere",
        "gathering",
        "has_closed",
        "held",
        "horizon",
        "identity",
        "is_owner",
        "last_received",
        "link",
        "looked_up",
        "messages",
        "number",
        "page",
        "pending_calls",
        "pinged_at",
        "several",
        "socket",
        "splitter",
        "state",
        "token",
        "waiting",
        "watched",
    )

    def __init__(
        self,
        sock: socket.socket,
        link: DatabaseLink,
        number: int,
        identity: Identity,
        connection_id: ConnectionId,
        token: str,
        several: bool,
        confirmed: bool,
    ) -> None:
        self.socket = sock
        self.link = link
        self.number = number
        self.identity = identity
        self.is_owner = identity == link.owner
        self.connection_id = connection_id
        self.token = token
        self.several = several
        """v3: several messages in a frame."""
        self.confirmed = confirmed
        self.splitter = frames.FrameSplitter()
        self.state = CONNECTING
        self.cause = ""
        """Why the connection ended, as metrics name it."""
        self.pending_calls = 0
        self.deferred: deque[Message] = deque()
        """Messages that wait for the answers of earlier calls, or for the connection to be accepted."""
        self.deferred_bytes = 0
        """Of the WebSocket messages since `deferred` was empty last."""
        self.looked_up = 0
        """How often rows were looked up for the message that is next."""
        self.waiting = False
        """The first deferred message waits for a table's refs."""
        self.page: tuple[int, int, int, Page | None] | None = None
        """The page that the query which is the first deferred message wants: table id, offset, count, and what came."""
        self.elsewhere: list[QueryCost] | None = None
        """What the other readers said about the query that the first deferred message asks to explain."""
        self.messages: list[bytes] = []
        self.gathering: deque[bytes] = deque()
        """Those of `messages` that only stand for one that is being gathered; nothing passes them."""
        self.horizon = 0
        """What must be durable before `messages` may be sent."""
        self.held: deque[tuple[int, bytes | memoryview]] = deque()
        self.backlog: deque[memoryview] = deque()
        self.backlog_bytes = 0
        self.allowance = 0
        """Bytes of large answers that the backlog may hold beyond its limit until it is empty."""
        self.watched = 0
        """Events that the lane's selector looks for."""
        self.last_received = 0.0
        self.pinged_at = 0.0
        self.has_closed = False
        """It sent a Close."""
        self.close_by = 0.0
        """When it will be cut off; of clients that are CLOSING."""


class Lane:
    """All WebSocket sockets of the reader."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._full: set[DatabaseLink] = set()
        """Databases that take no more requests for now: nothing is read from their clients."""
        self.clients: set[Client] = set()
        self.on_dropped: Callable[[], None] = lambda: None
        """Called when a database was found not to have waited for this reader, or to publish what cannot be read: its
        link is no good any more."""
        self.slices = Slices(lambda: self.on_dropped())
        self.active = trio.Event()
        """Set, and replaced, when something happened that figures for metrics show."""
        self.now = trio.current_time()
        self._arrived = trio.Event()
        """Set when there are clients to look after."""
        self._posting: set[DatabaseLink] = set()
        self._posts = trio.Event()
        self._closing: set[Client] = set()
        self._closes = trio.Event()
        """Set when one of them begins to close."""
        self.messages_sent = 0

    @property
    def tasks(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What must run for as long as there is a lane."""
        return self.run, self.slices.run, self.post_all, self.keep_alive, self.reap

    def add(self, client: Client, head: bytes = b"") -> None:
        """From now on the lane owns this socket. `head`: the answer to the handshake, to be sent first."""
        self.now = client.last_received = trio.current_time()
        self.clients.add(client)
        self._arrived.set()
        self._watch(client)
        self.send(client, head + frames.PING)
        client.pinged_at = self.now

    async def run(self) -> None:
        """Moves bytes until cancelled."""
        selector = self._selector
        fd = selector.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            self.now = trio.current_time()
            self.active.set()
            links = set()
            for key, events in selector.select(0):
                client: Client = key.data
                if events & selectors.EVENT_WRITE:
                    self._send_backlog(client)
                if events & selectors.EVENT_READ and client.state != GONE:
                    try:
                        self._read(client)
                    except (ReaderDropped, RingCorrupt):
                        self.on_dropped()
                        continue
                    links.add(client.link)
            for link in links:
                if link.outgoing:
                    link.post()
                if link.outbox.touched:
                    try:
                        link.outbox.flush()
                    except ReaderDropped:
                        self.on_dropped()
                if link.congested and not link.down:
                    self._full.add(link)
                    for client in link.all_clients():
                        self._watch(client)

    def post_soon(self, link: DatabaseLink) -> None:
        """Has a link post when all that is ready now has run: a crowd that comes or goes rings the actor once."""
        self._posting.add(link)
        self._posts.set()

    async def post_all(self) -> None:
        """Does what `post_soon` promises."""
        while True:
            await self._posts.wait()
            self._posts = trio.Event()
            while self._posting:
                self._posting.pop().post()

    def resume(self, link: DatabaseLink) -> None:
        """The database takes requests again."""
        if link in self._full:
            self._full.discard(link)
            for client in link.all_clients():
                client.last_received = self.now
                self._watch(client)

    def _watch(self, client: Client) -> None:
        """Has the selector tell what is to be done: something to read, or room for the backlog."""
        if client not in self.clients:
            return
        events = 0 if client.link in self._full else selectors.EVENT_READ
        if client.backlog:
            events |= selectors.EVENT_WRITE
        if events == client.watched:
            return
        if not events:
            self._selector.unregister(client.socket)
        elif client.watched:
            self._selector.modify(client.socket, events, client)
        else:
            self._selector.register(client.socket, events, client)
        client.watched = events

    def _read(self, client: Client) -> None:
        try:
            data = client.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.drop(client, "websocket_receive_connection_closed")
            return
        self.take(client, data)

    def take(self, client: Client, data: bytes) -> None:
        """Bytes that the client sent."""
        client.last_received = self.now
        violation = None
        try:
            found = client.splitter.feed(data)
        except frames.FrameError as error:
            violation = error
            found = error.frames
        for opcode, payload in found:
            if opcode == frames.BINARY:
                self._receive(client, payload, client.parse)
            elif opcode == frames.PONG_OPCODE:
                if client.pinged_at:
                    client.link.figures.pong.observe(int((self.now - client.pinged_at) * 1e6))
                client.pinged_at = 0.0
            elif opcode == frames.TEXT:
                self._receive(client, payload, client.parse_text)
            elif opcode == frames.CLOSE:
                self._closed(client, payload)
            elif client.state <= OPEN:
                self.send(client, frames.pong_frame(payload))
        if violation is not None:
            if violation.close_code is None:
                self.drop(client, "websocket_receive_protocol")
            else:
                self.close(client, violation.close_code, violation.text)

    def _receive(self, client: Client, payload: bytes, parse: Parse) -> None:
        if client.state > OPEN:
            return
        client.link.figures.received[client.is_text][len(payload)] += 1
        try:
            messages = parse(payload, client.several)
        except v2.ClientDecodeError as error:
            client.link.requests.receive(client, error.messages)
            self.close(client, error.close_code, error.text)
            return
        client.link.requests.receive(client, messages)
        client.deferred_bytes = client.deferred_bytes + len(payload) if client.deferred else 0
        if client.pending_calls + len(client.deferred) > MAX_UNANSWERED or client.deferred_bytes > MAX_DEFERRED_BYTES:
            client.deferred.clear()
            self.close(client, v2.TOO_MANY_REQUESTS_CLOSE, v2.TOO_MANY_REQUESTS)

    # -- sending

    def send(self, client: Client, data: bytes | memoryview) -> None:
        """Writes whole frames, or keeps them until the socket takes them. Never waits."""
        if client.backlog:
            self._keep(client, memoryview(data))
            return
        try:
            sent = client.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.drop(client, "websocket_send_error")
            return
        if sent < len(data):
            self._keep(client, memoryview(data)[sent:])
            self._watch(client)

    def _keep(self, client: Client, data: memoryview) -> None:
        client.backlog.append(data)
        client.backlog_bytes += len(data)
        if len(client.backlog) > MAX_BACKLOG_MESSAGES or (
            client.backlog_bytes > MAX_BACKLOG_BYTES + client.allowance and len(client.backlog) > 1
        ):
            client.link.outbox.dropped += 1
            self.drop(client, "outgoing_queue_full")

    def _send_backlog(self, client: Client) -> None:
        backlog = client.backlog
        left = SEND_BYTES
        while backlog:
            if left <= 0:
                return
            data = backlog[0]
            try:
                sent = client.socket.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.drop(client, "websocket_send_error")
                return
            client.backlog_bytes -= sent
            left -= sent
            if sent < len(data):
                backlog[0] = data[sent:]
                return
            backlog.popleft()
        client.allowance = 0
        self._watch(client)
        if client.state == CLOSING:
            self._end(client)

    # -- ends

    def close(self, client: Client, code: int, reason: str) -> None:
        """Begins a closing handshake from our side; later messages of the client are not executed."""
        if client.state < CLOSING:
            client.state = CLOSING
            client.cause = client.cause or CAUSE_OF_CLOSE.get(code, "client_message_error")
            client.link.outbox.flush_client(client)
            client.link.leave(client)
            self.send(client, frames.close_frame(code, reason))
            self._end(client)

    def _closed(self, client: Client, payload: bytes) -> None:
        """The client sent a Close; it is answered unless it is an answer itself."""
        client.has_closed = True
        if client.state < CLOSING:
            client.state = CLOSING
            client.cause = client.cause or "client_close"
            client.link.leave(client)
            self.send(client, frames.close_echo(payload))
        self._end(client)

    def _end(self, client: Client) -> None:
        """Ends a connection that is CLOSING: when all is sent and the client has closed, or when it takes too long."""
        if client.state == GONE:
            return
        if client.has_closed and not client.backlog:
            self.drop(client)
            return
        client.close_by = trio.current_time() + (CLOSE_BACKLOG_S if client.backlog else CLOSE_HANDSHAKE_S)
        self._closing.add(client)
        self._closes.set()

    async def reap(self) -> None:
        """Cuts off clients that do not close in time."""
        while True:
            if not self._closing:
                self._closes = trio.Event()
                await self._closes.wait()
            await trio.sleep(CLOSE_LOOK_S)
            now = trio.current_time()
            for client in [client for client in self._closing if client.close_by <= now]:
                self.drop(client)

    def drop(self, client: Client, cause: str = "unknown") -> None:
        """Cuts the connection. Calling it again does nothing."""
        if client.state == GONE:
            return
        client.cause = client.cause or cause
        client.state = GONE
        self._closing.discard(client)
        if client in self.clients:
            self.clients.discard(client)
            if client.watched:
                self._selector.unregister(client.socket)
                client.watched = 0
            client.socket.close()
        client.backlog.clear()
        client.messages.clear()
        client.gathering.clear()
        client.held.clear()
        client.link.leave(client)

    async def keep_alive(self) -> None:
        """Pings every client that answered the last ping, and drops those that have been silent for too long."""
        while True:
            if not self.clients:
                self._arrived = trio.Event()
                await self._arrived.wait()
            await trio.sleep(SWEEP_S)
            now = self.now = trio.current_time()
            for client in list(self.clients):
                if client.link in self._full:
                    continue
                silent_s = now - client.last_received
                if silent_s > IDLE_LIMIT_S:
                    self.drop(client, "idle_timeout")
                elif silent_s >= PING_EVERY_S - SWEEP_S and not client.pinged_at:
                    client.pinged_at = now
                    self.send(client, frames.PING)
