"""What functions of a module are handed: the context of a call, and `ctx.db`.

The host builds contexts; it stands behind them as a `Database` (or `ProcedureHost`), which answers what is only
sometimes asked. Everything a context can compute late it computes late: a call that uses neither random numbers nor
claims pays for neither.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from spacetimedb.types.special import ConnectionId, Identity, TimeDuration, Timestamp, Uuid

from .http import HttpClient

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

UUID_COUNTER_LIMIT = 1 << 31  # UUIDs of version 7 that one call can order; then the counter starts again


class Database(Protocol):
    """What the host offers to a context of a transaction."""

    @property
    def identity(self) -> Identity:
        """The database's own identity."""

    @property
    def logger(self) -> logging.Logger:
        """Where module log lines go."""

    @property
    def view_db(self) -> Db:
        """Handles that only read the tables of the transaction that runs."""

    def claims(self, connection_id: ConnectionId) -> str | None:
        """The JSON text of the claims a connection came with."""


class ProcedureHost(Protocol):
    """What the host offers to the context of a procedure or HTTP handler."""

    @property
    def identity(self) -> Identity: ...

    @property
    def logger(self) -> logging.Logger: ...

    def claims(self, connection_id: ConnectionId) -> str | None: ...

    def transaction(self, ctx: Waiting[Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs `function(tx, *args, **kwargs)` as a transaction of its own and returns or raises what it does."""

    def sleep(self, until: Timestamp) -> Timestamp:
        """Waits; returns the time then. Raises WouldBlock inside a transaction."""

    @property
    def http(self) -> HttpClient:
        """Makes HTTP requests. They raise WouldBlock inside a transaction."""


class Db(dict[Any, Any]):
    """Table handles by row class, or by what `add_table` returned; `db.player` is the same handle by accessor name."""

    def bind(self, key: object, accessor: str, handle: object) -> None:
        """Adds a table. `accessor` is its source name."""
        self[key] = handle
        setattr(self, accessor, handle)

    def __missing__(self, key: object) -> Any:
        name = getattr(key, "__name__", repr(key))
        raise KeyError(f"{name} is no table of this module: decorate the class with @m.table()")

    if TYPE_CHECKING:
        # For a checker the handle of a table is the row class itself: its markers then read as indexes.
        def __getitem__(self, table: type[R]) -> type[R]: ...

    def insert(self, row: R) -> R:
        """Inserts into the table of the row's own class."""
        handle: Any = dict.__getitem__(self, type(row)) if type(row) in self else self.__missing__(type(row))
        inserted: R = handle.insert(row)
        return inserted


if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    D = TypeVarWithDefault("D", bound=Db, default=Db)
else:
    D = TypeVar("D")
"""Type of `ctx.db`: what knows the tables by name, as in `ReducerContext[Tables]`; for checkers only."""


class Jwt(msgspec.Struct, frozen=True):
    """Claims of the token a caller identified with."""

    subject: str
    issuer: str
    audience: list[str]
    identity: Identity
    raw_payload: str

    @classmethod
    def parse(cls, payload: str, identity: Identity) -> Jwt:
        """From the token's JSON payload. `identity` is the one derived from issuer and subject."""
        claims: dict[str, Any] = json.loads(payload)
        audience = claims.get("aud") or []
        return cls(
            subject=str(claims.get("sub", "")),
            issuer=str(claims.get("iss", "")),
            audience=[audience] if isinstance(audience, str) else [str(a) for a in audience],
            identity=identity,
            raw_payload=payload,
        )


class Auth(msgspec.Struct, frozen=True):
    """Who is behind the call. `is_internal`: the database itself, no connection."""

    is_internal: bool
    jwt: Jwt | None


class _Chance:
    """Random numbers and UUIDs of a call; equal timestamps give equal numbers, so they are no secrets."""

    if TYPE_CHECKING:  # fields of the structs that mix this in
        timestamp: Timestamp
        _rng: random.Random | None
        _uuids: int
    else:
        __slots__ = ()

    @property
    def rng(self) -> random.Random:
        """One generator per call, seeded with the call's timestamp."""
        made = self._rng
        if made is None:
            made = self._rng = random.Random(int(self.timestamp))
        return made

    def uuid4(self) -> Uuid:
        return Uuid.v4(self.rng.randbytes(16))

    def uuid7(self) -> Uuid:
        """Ordered by time; strictly rising within a call."""
        counter = self._uuids
        self._uuids = (counter + 1) % UUID_COUNTER_LIMIT
        return Uuid.v7(self.timestamp, counter, self.rng.randbytes(4))


def _auth(connection_id: ConnectionId | None, sender: Identity, host: Database | ProcedureHost) -> Auth:
    if connection_id is None:
        return Auth(is_internal=True, jwt=None)
    payload = host.claims(connection_id)
    return Auth(is_internal=False, jwt=None if payload is None else Jwt.parse(payload, sender))


class ReducerContext(_Chance, msgspec.Struct, Generic[D], gc=False):
    """A reducer's call, or the transaction of a procedure.

    `sender` is who called: for scheduled calls the database, in `init` the owner, in a handler's transaction zero.
    `connection_id` is None for scheduled calls and in `init`. `timestamp` does not change during the call.
    """

    sender: Identity
    connection_id: ConnectionId | None
    timestamp: Timestamp
    db: D
    _database: Database
    _rng: random.Random | None = None
    _uuids: int = 0

    @property
    def identity(self) -> Identity:
        """The database's identity."""
        return self._database.identity

    @property
    def log(self) -> logging.Logger:
        return self._database.logger

    @property
    def auth(self) -> Auth:
        """Looked up when asked for, so keep it when you need it twice."""
        return _auth(self.connection_id, self.sender, self._database)

    def as_view(self) -> ViewContext[D]:
        """A context to call view functions with, as the caller of this reducer."""
        view_db: Any = self._database.view_db
        return ViewContext(view_db, self._database, self.sender)


class AnonymousViewContext(msgspec.Struct, Generic[D], gc=False):
    """A view's run; the result is shared by everybody. `db` can only be read."""

    db: D
    _database: Database

    @property
    def identity(self) -> Identity:
        """The database's identity."""
        return self._database.identity

    @property
    def log(self) -> logging.Logger:
        return self._database.logger


class ViewContext(AnonymousViewContext[D], gc=False):
    """A view's run for one caller."""

    sender: Identity


class Waiting(_Chance, msgspec.Struct, Generic[D], gc=False):
    """What procedures and HTTP handlers have in common: they may wait, and open transactions."""

    sender: Identity
    connection_id: ConnectionId | None
    timestamp: Timestamp
    _host: ProcedureHost
    _rng: random.Random | None = None
    _uuids: int = 0

    @property
    def identity(self) -> Identity:
        """The database's identity."""
        return self._host.identity

    @property
    def log(self) -> logging.Logger:
        return self._host.logger

    @property
    def http(self) -> HttpClient:
        return self._host.http

    @overload
    def with_tx(self, function: Callable[[ReducerContext[D]], T], /) -> T: ...
    @overload
    def with_tx(
        self, function: Callable[Concatenate[ReducerContext[D], P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    def with_tx(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs the function as one transaction: commit when it returns, nothing when it raises (which goes on).

        It must not wait, and must not keep the context it is given.
        """
        return self._host.transaction(self, function, args, kwargs)

    def sleep(self, seconds: float) -> None:
        """Waits while others go on, and moves `timestamp` on. Raises WouldBlock inside a transaction."""
        self.timestamp = self._host.sleep(self.timestamp + TimeDuration.seconds(seconds))


class ProcedureContext(Waiting[D], gc=False):
    """A procedure's call."""

    @property
    def auth(self) -> Auth:
        """Looked up when asked for."""
        return _auth(self.connection_id, self.sender, self._host)


class HttpContext(Waiting[D], gc=False):
    """An HTTP request to a handler. Nobody is checked: `sender` is zero and there is no connection."""
