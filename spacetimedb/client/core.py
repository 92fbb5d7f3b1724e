"""The protocol of one client, without I/O: bytes in, callbacks and answers out, bytes to be sent.

A face (trio, asyncio, blocking) owns the sockets. It calls `open()`, moves bytes (`receive_data`, `data_to_send`), and
says when the stream ended (`end_of_stream`, then `lost`). After `lost` it may `open()` again: subscriptions that are
alive are made anew, and what had changed meanwhile is told as an event `Reconnected`.

One message is one change: all tables first, then callbacks, in the order of the official clients:

    SubscribeApplied, UnsubscribeApplied   the subscription's callback, then rows
    TransactionUpdate                      rows
    ReducerResult                          rows, then the answer

An exception of a callback comes out of `receive_data`; the connection is then of no more use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Generic, Literal, TypeVar

from spacetimedb.protocol import v2_client as wire
from spacetimedb.protocol.client_socket import (
    ClientSocket,
    HandshakeRefused,
    SocketError,
    client_frame,
)
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.special import ConnectionId, Identity, Timestamp

from . import updates
from .address import Address
from .cache import UNLOCKED, Database, Happened, Table
from .errors import (
    ClientError,
    ConnectError,
    Disconnected,
    InternalError,
    ProtocolError,
    QueryError,
    ReducerError,
    SubscriptionError,
)
from .events import RECONNECTED, TRANSACTION, Event, Reducer, SubscribeApplied, UnsubscribeApplied
from .schema import FunctionType, Schema

T = TypeVar("T")

MAX_FRAME: Final = 256 * 1024
"""Bytes of messages put into one v3 frame; a longer message goes alone."""
OUTDATED: Final = "often the client knows another version of the module: fetch or generate its schema again"

State = Literal["closed", "connecting", "open"]


class Pending(Generic[T]):
    """An answer that is awaited. `wake` belongs to the face, `then` to the user; both run once, when it is done."""

    __slots__ = ("arguments", "done", "error", "function", "then", "value", "wake")

    def __init__(self, function: FunctionType | None = None, arguments: tuple[Any, ...] = ()) -> None:
        self.function = function
        self.arguments = arguments
        self.done = False
        self.value: T | None = None
        self.error: ClientError | None = None
        self.wake: Callable[[], object] | None = None
        self.then: Callable[[Pending[T]], object] | None = None

    def result(self) -> T:
        """The value, or raises the error. RuntimeError while there is no answer."""
        if not self.done:
            raise RuntimeError("there is no answer yet")
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # a done Pending without error has one

    def settle(self, value: T | None, error: ClientError | None = None) -> None:
        if self.done:
            return
        self.value, self.error, self.done = value, error, True
        if self.wake is not None:
            self.wake()
        if self.then is not None:
            self.then(self)


class Subscription:
    """One query set. `state`: pending, applied, ended (also by `unsubscribe`), or failed with `error`."""

    __slots__ = ("_core", "applied", "ended", "error", "on_applied", "on_error", "queries", "query_set_id", "state")

    def __init__(self, core: Core, query_set_id: int, queries: tuple[str, ...]) -> None:
        self._core = core
        self.query_set_id = query_set_id
        self.queries = queries
        self.state: Literal["pending", "applied", "ended", "failed"] = "pending"
        self.error: SubscriptionError | None = None
        self.on_applied: Callable[[], object] | None = None
        self.on_error: Callable[[SubscriptionError], object] | None = None
        self.applied: Pending[None] = Pending()
        self.ended: Pending[None] | None = None

    @property
    def is_active(self) -> bool:
        """Applied, and `unsubscribe` not called."""
        return self.state == "applied" and self.ended is None

    @property
    def is_ended(self) -> bool:
        return self.state in ("ended", "failed")

    def __repr__(self) -> str:
        return f"<subscription {self.state}: {'; '.join(self.queries)}>"


class _Resync:
    """A cache in the making after a reconnect. `waiting`: query sets that have not been answered yet."""

    __slots__ = ("applied", "db", "waiting")

    def __init__(self, schema: Schema, waiting: set[int]) -> None:
        self.db = Database(schema)
        self.waiting = waiting
        self.applied: list[Subscription] = []


class Core:
    """One client. `state` is `open` between the server's greeting and the end of the connection.

    `observer(changes, timestamp)` is told of every transaction before it is applied; `timestamp` (microseconds) is that
    of the reducer for calls of this connection.
    """

    __slots__ = (
        "_adopted",
        "_calls",
        "_closing",
        "_numbers",
        "_outbox",
        "_procedures",
        "_queries",
        "_resync",
        "_several",
        "_socket",
        "_subscriptions",
        "_why_lost",
        "address",
        "connection_id",
        "db",
        "identity",
        "observer",
        "schema",
        "state",
        "token",
    )

    def __init__(self, address: Address, schema: Schema, lock: AbstractContextManager[object] = UNLOCKED) -> None:
        self.address = address
        self.schema = schema
        self.db = Database(schema, lock)
        self.state: State = "closed"
        self._why_lost = ""
        self.identity = Identity.ZERO
        self.connection_id = ConnectionId.ZERO
        self.token = address.token
        self.observer: Callable[[updates.Changes, int | None], object] | None = None
        self._socket: ClientSocket | None = None
        self._several = False  # v3: one frame may hold several messages
        self._closing = False
        self._outbox: list[bytes] = []
        self._numbers = itertools.count(1)
        self._calls: dict[int, Pending[Timestamp]] = {}
        self._procedures: dict[int, Pending[Any]] = {}
        self._queries: dict[int, Pending[list[Any]]] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._resync: _Resync | None = None
        self._adopted = False

    # -- the connection

    def open(self) -> None:
        """Begins a connection: `data_to_send` has the handshake then."""
        self._socket = self.address.socket(self.token)
        self._outbox.clear()
        self._closing = False
        self._why_lost = ""
        self.state = "connecting"

    def receive_data(self, data: bytes) -> None:
        """What the socket gave. Raises ConnectError (the handshake was refused), Disconnected (the server closed),
        ProtocolError, and what callbacks raise."""
        socket = self._socket
        assert socket is not None
        try:
            payloads = socket.receive(data)
        except HandshakeRefused as refused:
            raise ConnectError(str(refused), refused.status) from None
        except SocketError as error:
            raise self._unusable(error) from None
        for payload in payloads:
            try:
                messages = updates.read_frame(payload)
            except wire.ServerDecodeError as error:
                raise ProtocolError(f"{error}; {OUTDATED}") from None
            try:
                for message in messages:
                    self._handlers[type(message)](self, message)
            except DecodeError as error:
                raise ProtocolError(f"a row cannot be decoded: {error}; {OUTDATED}") from None
        if socket.close_code is not None and not self._closing:
            reason = socket.close_reason or f"code {socket.close_code}"
            raise Disconnected(f"the server closed the connection: {reason}")

    def data_to_send(self) -> bytes:
        """Everything that waits to be sent, b"" if nothing does."""
        socket = self._socket
        if socket is None:
            return b""
        outbox = self._outbox
        if outbox:
            if len(outbox) == 1:
                data = client_frame(outbox[0])
            elif self._several:
                data = b"".join(map(client_frame, _packed(outbox)))
            else:
                data = b"".join(map(client_frame, outbox))
            outbox.clear()
            if not socket.outgoing:
                return data
            socket.outgoing += data
        data, socket.outgoing = socket.outgoing, b""
        return data

    def end_of_stream(self) -> ClientError:
        """The server sent its last byte; what that means."""
        socket = self._socket
        assert socket is not None
        try:
            socket.end_of_stream()
        except HandshakeRefused as refused:
            return ConnectError(str(refused), refused.status)
        except SocketError as error:
            return self._unusable(error)
        if self.state == "connecting":
            return ConnectError("the server ended the connection without a greeting: it may have refused this client")
        return Disconnected("the connection was lost")

    def close(self) -> None:
        """Begins an orderly end: a Close waits to be sent."""
        if self._socket is not None and not self._closing:
            self._closing = True
            if self.state == "open":
                self._socket.outgoing = self.data_to_send()
                self._socket.close()

    @property
    def is_close_finished(self) -> bool:
        """The server has answered (or sent) a Close."""
        return self._socket is not None and self._socket.close_code is not None

    def lost(self, error: ClientError) -> None:
        """The connection is over: whoever waits for an answer gets Disconnected."""
        self.state = "closed"
        self._why_lost = str(error)
        self._socket = None
        self._resync = None
        self._outbox.clear()
        text = str(error) if isinstance(error, Disconnected) else f"the connection ended: {error}"
        waiting: list[Pending[Any]] = [*self._calls.values(), *self._procedures.values(), *self._queries.values()]
        self._calls.clear()
        self._procedures.clear()
        self._queries.clear()
        for pending in waiting:
            pending.settle(None, Disconnected(text))
        for subscription in list(self._subscriptions.values()):
            if subscription.ended is not None:
                self._end(subscription)

    def adopt(self, schema: Schema) -> None:
        """Another version of the module, to be called between `lost` and `open`. The rows that are there stay as they
        are until the subscriptions have been answered."""
        self.schema = schema
        self._adopted = True
        self.db.follow(schema)

    def abandon(self, error: ClientError) -> None:
        """After `lost`, if there will be no other connection: nobody waits for subscriptions any more either."""
        for subscription in self._subscriptions.values():
            subscription.applied.settle(None, Disconnected(str(error)))
        self._subscriptions.clear()

    def _unusable(self, error: SocketError) -> ClientError:
        return ConnectError(str(error)) if self.state == "connecting" else ProtocolError(str(error))

    # -- requests

    def _check_open(self) -> None:
        if self.state != "open" or self._closing:
            why = f": {self._why_lost}" if self._why_lost else ""
            raise Disconnected(f"there is no connection{why}")

    def call(self, function: FunctionType, positional: tuple[Any, ...], named: dict[str, Any]) -> Pending[Any]:
        """Calls a reducer (answer: the Timestamp at which it ran) or procedure (answer: its value). Disconnected,
        TypeError and ValueError (bad arguments) are raised at once."""
        self._check_open()
        arguments = function.bind(positional, named)
        encoded = function.encode(arguments)
        number = next(self._numbers) & 0xFFFFFFFF
        pending: Pending[Any] = Pending(function, arguments)
        if function.kind == "reducer":
            self._calls[number] = pending
        else:
            self._procedures[number] = pending
        self._outbox.append(wire.call_encoded(function.kind == "procedure", number, function.wire_name, encoded))
        return pending

    def query(self, text: str) -> Pending[list[Any]]:
        """A one-off query; answer: the rows."""
        self._check_open()
        number = next(self._numbers) & 0xFFFFFFFF
        pending: Pending[list[Any]] = Pending()
        self._queries[number] = pending
        self._outbox.append(wire.one_off_query(number, text))
        return pending

    def subscribe(
        self,
        queries: Sequence[str],
        on_applied: Callable[[], object] | None = None,
        on_error: Callable[[SubscriptionError], object] | None = None,
    ) -> Subscription:
        """A new query set. Without a connection it waits for the next one. ValueError for no queries at all."""
        if not queries:
            raise ValueError("a subscription needs at least one query")
        number = next(self._numbers) & 0xFFFFFFFF
        subscription = Subscription(self, number, tuple(queries))
        subscription.on_applied, subscription.on_error = on_applied, on_error
        self._subscriptions[number] = subscription
        if self.state == "open":
            self._outbox.append(wire.subscribe(number, number, subscription.queries))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> Pending[None]:
        """Ends a subscription; done when its rows are gone. Once more is no error."""
        if subscription.ended is None:
            subscription.ended = Pending()
            if subscription.is_ended:
                subscription.ended.settle(None)
            elif self.state == "open":
                number = next(self._numbers) & 0xFFFFFFFF
                self._outbox.append(wire.unsubscribe(number, subscription.query_set_id))
            else:
                self._end(subscription)
        return subscription.ended

    def _end(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.query_set_id, None)
        subscription.state = "ended"
        subscription.applied.settle(None, SubscriptionError("the subscription was ended before it was applied"))
        if subscription.ended is not None:
            subscription.ended.settle(None)

    # -- answers

    def _greeting(self, message: updates.Greeting) -> None:
        self.identity = Identity(message.identity)
        self.connection_id = ConnectionId(message.connection_id)
        if self.token is None:
            self.token = message.token
        assert self._socket is not None
        self._several = (self._socket.subprotocol or "").startswith("v3")
        self.state = "open"
        if self._subscriptions or self._adopted:
            self._resync = _Resync(self.schema, set(self._subscriptions))
            for number, subscription in self._subscriptions.items():
                self._outbox.append(wire.subscribe(number, number, subscription.queries))
            self._finish_resync()

    def _applied(self, message: updates.Applied) -> None:
        happened = self._apply(message.changes)
        subscription = self._subscriptions.get(message.query_set_id)
        if subscription is None:
            self._tell(TRANSACTION, happened)
            return
        if message.is_end:
            self._end(subscription)
            self._tell(UnsubscribeApplied(subscription), happened)
        elif self._resync is not None and subscription.query_set_id in self._resync.waiting:
            self._resync.applied.append(subscription)
            self._answered(subscription.query_set_id)
        else:
            self._was_applied(subscription)
            self._tell(SubscribeApplied(subscription), happened)

    def _was_applied(self, subscription: Subscription) -> None:
        if subscription.state == "pending":
            subscription.state = "applied"
            subscription.applied.settle(None)
            if subscription.on_applied is not None:
                subscription.on_applied()

    def _refused(self, message: updates.Refused) -> None:
        subscription = self._subscriptions.pop(message.query_set_id, None)
        if subscription is None:
            return
        subscription.state = "failed"
        subscription.error = error = SubscriptionError(message.error)
        subscription.applied.settle(None, error)
        if subscription.ended is not None:
            subscription.ended.settle(None)
        if subscription.on_error is not None:
            subscription.on_error(error)
        self._answered(message.query_set_id)

    def _answered(self, query_set_id: int) -> None:
        """After a reconnect: when the last query set is answered, the new rows take the place of the old ones."""
        if self._resync is not None:
            self._resync.waiting.discard(query_set_id)
            self._finish_resync()

    def _finish_resync(self) -> None:
        resync = self._resync
        if resync is None or resync.waiting:
            return
        self._resync = None
        self._adopted = False
        names = {table.type.wire_name for table in (*self.db.known(), *resync.db.known())}
        told = []
        for name in names:
            type_ = self.schema.by_wire_name.get(name)
            table = self.db.of_name(name) if type_ is None else self.db.of_type(type_)
            before = table.type
            other = Table[Any](before) if type_ is None else resync.db.of_type(type_)
            told.append((table, table.become(other), before))
        for subscription in resync.applied:
            self._was_applied(subscription)
        for table, happened, before in told:
            table.tell(RECONNECTED, happened, before)

    def _update(self, message: updates.Update) -> None:
        if self.observer is not None:
            self.observer(message.changes, None)
        self._tell(TRANSACTION, self._apply(message.changes))

    def _reducer_answer(self, message: updates.ReducerAnswer) -> None:
        pending = self._calls.get(message.request_id)
        if message.changes:
            if self.observer is not None:
                self.observer(message.changes, message.timestamp)
            happened = self._apply(message.changes)
            if happened:
                event: Event = TRANSACTION
                if pending is not None and pending.function is not None:
                    event = Reducer(pending.function.name, pending.arguments, Timestamp(message.timestamp))
                self._tell(event, happened)
        if pending is None:
            return
        del self._calls[message.request_id]  # only now: if a callback raises, whoever waits must still hear of the end
        if message.outcome == updates.ERROR:
            pending.settle(None, ReducerError(message.error))
        elif message.outcome == updates.INTERNAL:
            pending.settle(None, InternalError(message.error))
        else:
            pending.settle(Timestamp(message.timestamp))

    def _procedure_answer(self, message: updates.ProcedureAnswer) -> None:
        pending = self._procedures.pop(message.request_id, None)
        if pending is None:
            return
        if message.error is not None:
            pending.settle(None, InternalError(message.error))
            return
        decode = pending.function.returns if pending.function is not None else None
        pending.settle(None if decode is None else decode(message.value))

    def _query_answer(self, message: updates.QueryAnswer) -> None:
        pending = self._queries.pop(message.request_id, None)
        if pending is None:
            return
        if message.error is not None:
            pending.settle(None, QueryError(message.error))
            return
        rows: list[Any] = []
        for name, (found, _) in message.changes.items():
            table = self.schema.by_wire_name.get(name)
            if table is None:
                pending.settle(None, QueryError(f"the answer has rows of the unknown table {name.decode()}"))
                return
            rows += map(table.decode, found)
        pending.settle(rows)

    _handlers: Final[dict[type, Callable[[Any, Any], None]]] = {
        updates.Greeting: _greeting,
        updates.Applied: _applied,
        updates.Refused: _refused,
        updates.Update: _update,
        updates.ReducerAnswer: _reducer_answer,
        updates.ProcedureAnswer: _procedure_answer,
        updates.QueryAnswer: _query_answer,
    }

    # -- rows

    def _apply(self, changes: updates.Changes) -> list[tuple[Table[Any], Happened]]:
        """Applies what a message says of all tables; what there is to tell."""
        told: list[tuple[Table[Any], Happened]] = []
        resync = self._resync
        for name, (inserts, deletes) in changes.items():
            type_ = self.schema.by_wire_name.get(name)
            if type_ is None:
                continue  # a table that this client does not know: made by a later version of the module
            db = self.db if resync is None or type_.is_event else resync.db
            table = db.of_type(type_)
            happened = table.apply(inserts, deletes)
            if happened:
                told.append((table, happened))
        return told

    def _tell(self, event: Event, told: list[tuple[Table[Any], Happened]]) -> None:
        for table, happened in told:
            if happened:
                table.tell(event, happened)


def _packed(messages: list[bytes]) -> list[bytes]:
    """The messages joined into payloads of at most MAX_FRAME bytes; a longer one stays alone."""
    payloads: list[bytes] = []
    batch: list[bytes] = []
    size = 0
    for message in messages:
        if batch and size + len(message) > MAX_FRAME:
            payloads.append(b"".join(batch))
            batch, size = [], 0
        batch.append(message)
        size += len(message)
    payloads.append(b"".join(batch))
    return payloads
