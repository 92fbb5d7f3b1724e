"""What the three faces have in common: the parts of a connection that do not wait, and the back-off of reconnects."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, Protocol, TypeVar, overload
from weakref import WeakSet

import msgspec

from spacetimedb.module.query import Query, quoted
from spacetimedb.types.special import ConnectionId, Identity, Timestamp

from .address import Address
from .cache import UNLOCKED, Database
from .changes import KEPT, AsyncChanges, Feed, Overflow
from .core import Core, Pending, State, Subscription
from .errors import ClientError, ConnectError, SubscriptionError
from .schema import Schema

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

SILENCE_SECONDS = 60.0
"""A server sends something (a Ping at least) every 15 s; after so long a silence the connection counts as lost."""
CLOSE_SECONDS = 1.0
"""How long the server may take to answer a Close."""
READ_BYTES = 65536


class ReducerFunction(Protocol[P]):
    """A reducer of a module: `function(ctx, ...)`."""

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> None: ...


class ProcedureFunction(Protocol[P, R_co]):
    """A procedure of a module."""

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


Queryable = str | Query[Any] | type[Any] | Callable[[Any], Any]
"""SQL text, a query expression (`Item.level > 3`), or a table or view as a whole (`Item`)."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds between attempts to connect again: `first`, twice as long each time, at most `longest`; `jitter` makes
    each so much shorter or longer by chance (0.5: by half)."""

    first: float = 0.5
    longest: float = 30.0
    jitter: float = 0.5

    def delay(self, attempt: int) -> float:
        """Before attempt 0, 1, 2..."""
        base = min(self.longest, self.first * 2.0 ** min(attempt, 30))
        return base * random.uniform(1 - self.jitter, 1 + self.jitter)


def connect_error(error: BaseException, address: Address) -> BaseException:
    """What a failure to connect is raised as: ConnectError, unless it has nothing to do with the network."""
    if isinstance(error, OSError):
        return address.unreachable(error)
    if isinstance(error, ClientError):
        return address.refusal(str(error), getattr(error, "status", None))
    return error


def may_come_back(error: ClientError) -> bool:
    """Whether it makes sense to connect again: not if the server refuses the token or the request as such."""
    return not (isinstance(error, ConnectError) and error.status in (400, 401, 403))


class Face:
    """A connection without the parts that wait."""

    __slots__ = ("_disconnected", "_feeds", "_reconnected", "core")

    def __init__(self, address: Address, schema: Schema, lock: AbstractContextManager[object] = UNLOCKED) -> None:
        self.core = Core(address, schema, lock)
        self._disconnected: list[Callable[[ClientError | None], object]] = []
        self._reconnected: list[Callable[[], object]] = []
        self._feeds: WeakSet[Feed[Any]] | None = None

    @property
    def reducers(self) -> Functions:
        """Reducers by name: `conn.reducers.write("Hello")`."""
        return Functions(self, "reducer")

    @property
    def procedures(self) -> Functions:
        """Procedures by name."""
        return Functions(self, "procedure")

    @property
    def db(self) -> Database:
        """The rows of all subscriptions; also what was there last, when the connection is lost."""
        return self.core.db

    @property
    def schema(self) -> Schema:
        return self.core.schema

    @property
    def identity(self) -> Identity:
        return self.core.identity

    @property
    def connection_id(self) -> ConnectionId:
        return self.core.connection_id

    @property
    def token(self) -> str | None:
        """The token to come back with as the same identity."""
        return self.core.token

    @property
    def state(self) -> State:
        return self.core.state

    @property
    def is_active(self) -> bool:
        """There is a connection now."""
        return self.core.state == "open"

    def on_disconnect(self, callback: Callable[[ClientError | None], object]) -> None:
        """`callback(error)` when a connection has ended; error None if this side closed it."""
        self._disconnected.append(callback)

    def on_reconnect(self, callback: Callable[[], object]) -> None:
        """`callback()` when a lost connection is there again."""
        self._reconnected.append(callback)

    @overload
    def call_nowait(self, reducer: ReducerFunction[P], /, *args: P.args, **kwargs: P.kwargs) -> Pending[Timestamp]: ...
    @overload
    def call_nowait(self, reducer: str, /, *args: Any, **kwargs: Any) -> Pending[Timestamp]: ...
    def call_nowait(self, reducer: Any, /, *args: Any, **kwargs: Any) -> Pending[Timestamp]:
        """Calls a reducer without waiting, also from callbacks. Set `.then` of the result to hear of the outcome."""
        core = self.core
        pending = core.call(core.schema.function("reducer", reducer), args, kwargs)
        self._flush()
        return pending

    def subscribe_nowait(
        self,
        *queries: Queryable,
        on_applied: Callable[[], object] | None = None,
        on_error: Callable[[SubscriptionError], object] | None = None,
    ) -> Subscription:
        """Subscribes without waiting; all queries together are one subscription."""
        subscription = self.core.subscribe(self._sql(queries), on_applied, on_error)
        self._flush()
        return subscription

    def unsubscribe_nowait(self, subscription: Subscription) -> Pending[None]:
        """Ends a subscription without waiting."""
        pending = self.core.unsubscribe(subscription)
        self._flush()
        return pending

    def _feed(self, table: Any, limit: int, overflow: Overflow) -> Feed[Any]:
        feed: Feed[Any] = Feed(self.db[table], limit, overflow)
        if self._feeds is None:
            self._feeds = WeakSet()
        self._feeds.add(feed)
        return feed

    def _over(self, error: ClientError | None) -> None:
        """The connection is over for good: so are streams of changes."""
        for feed in list(self._feeds or ()):
            feed.end(error)

    def _sql(self, queries: tuple[Queryable, ...]) -> list[str]:
        return [self._text(query) for query in queries]

    def _text(self, query: Queryable) -> str:
        if isinstance(query, str):
            return query
        if isinstance(query, Query):
            return query.sql
        return f"SELECT * FROM {quoted(self.core.schema.table(query).name)}"

    def _flush(self) -> None:
        """Sends what waits in the core."""
        raise NotImplementedError

    def _tell_disconnected(self, error: ClientError | None) -> None:
        for callback in self._disconnected:
            callback(error)

    def _tell_reconnected(self) -> None:
        for callback in self._reconnected:
            callback()


class AsyncFace(Face):
    """What trio's and asyncio's connection have in common."""

    __slots__ = ()

    async def _wait(self, pending: Pending[Any]) -> None:
        """Until there is an answer. Cancelled, it stops waiting; the call goes on."""
        raise NotImplementedError

    @overload
    async def call(self, reducer: ReducerFunction[P], /, *args: P.args, **kwargs: P.kwargs) -> Timestamp: ...
    @overload
    async def call(self, reducer: str, /, *args: Any, **kwargs: Any) -> Timestamp: ...
    async def call(self, reducer: Any, /, *args: Any, **kwargs: Any) -> Timestamp:
        """Calls a reducer and waits for its end; returns the time at which it ran.

        Raises ReducerError (its own text), InternalError, Disconnected; TypeError or ValueError for bad arguments.
        """
        core = self.core
        pending: Pending[Timestamp] = core.call(core.schema.function("reducer", reducer), args, kwargs)
        self._flush()
        await self._wait(pending)
        return pending.result()

    @overload
    async def procedure(self, procedure: ProcedureFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def procedure(self, procedure: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def procedure(self, procedure: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a procedure and returns its value. Raises InternalError, Disconnected, TypeError, ValueError."""
        core = self.core
        pending = core.call(core.schema.function("procedure", procedure), args, kwargs)
        self._flush()
        await self._wait(pending)
        return pending.result()

    @overload
    async def query(self, query: Query[R]) -> list[R]: ...
    @overload
    async def query(self, query: type[R]) -> list[R]: ...
    @overload
    async def query(self, query: str) -> list[Any]: ...
    async def query(self, query: Any) -> list[Any]:
        """Rows as of now, without a subscription. Raises QueryError, Disconnected."""
        pending = self.core.query(self._text(query))
        self._flush()
        await self._wait(pending)
        return pending.result()

    async def subscribe(self, *queries: Queryable) -> Subscription:
        """Subscribes and waits until the rows are there. Raises SubscriptionError, Disconnected."""
        subscription = self.subscribe_nowait(*queries)
        await self._wait(subscription.applied)
        subscription.applied.result()
        return subscription

    @overload
    def changes(self, table: type[R], *, limit: int = KEPT, overflow: Overflow = "error") -> AsyncChanges[R]: ...
    @overload
    def changes(
        self, table: str | Callable[[Any], Any], *, limit: int = KEPT, overflow: Overflow = "error"
    ) -> AsyncChanges[Any]: ...
    def changes(self, table: Any, *, limit: int = KEPT, overflow: Overflow = "error") -> AsyncChanges[Any]:
        """`async for change in conn.changes(Note)`: Insert, Update and Delete objects from now on.

        `limit` of them wait for a slow reader; beyond that the stream ends with ChangesLost, or forgets the oldest.
        """
        return AsyncChanges(self, self._feed(table, limit, overflow))

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription and waits until its rows are gone."""
        await self._wait(self.unsubscribe_nowait(subscription))


class Functions:
    """`conn.reducers` and `conn.procedures`: functions by name, for use without types."""

    __slots__ = ("_face", "_kind")

    def __init__(self, face: Any, kind: str) -> None:
        self._face = face
        self._kind = kind

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        face = self._face
        call = face.call if self._kind == "reducer" else face.procedure

        def function(*args: Any, **kwargs: Any) -> Any:
            return call(name, *args, **kwargs)

        return function
