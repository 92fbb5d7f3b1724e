"""Clients and a clock for a `TestHost`: what the fixtures `client`, `identity` and `clock` give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from spacetimedb.hosts.delta import Delta
from spacetimedb.module import ProcedureContext, ReducerContext, ViewContext
from spacetimedb.testing.host import TestHost
from spacetimedb.testing.subscribers import Subscription
from spacetimedb.types.special import Identity, Timestamp

P = ParamSpec("P")
R = TypeVar("R")

IdentityFactory = Callable[[str], Identity]
"""`identity("ann")`: the same identity for the same name, in every test."""


class Client:
    """Somebody who is connected to the database under test. Using it after `disconnect` connects nobody: calls then
    go as over HTTP."""

    def __init__(self, db: TestHost, name: str, claims: Mapping[str, object] | None = None) -> None:
        self.db = db
        self.name = name
        self.identity = db.identity(name)
        self.connect(claims)

    def connect(self, claims: Mapping[str, object] | None = None) -> Delta:
        """Comes back after `disconnect` or a restart. Raises what the module's hook raises."""
        return self.db.connect(self.identity, claims)

    def disconnect(self) -> Delta:
        """Goes; what the hook raises is in `db.failures`."""
        return self.db.disconnect(self.identity)

    def call(
        self, reducer: Callable[Concatenate[ReducerContext[Any], P], None], *args: P.args, **kwargs: P.kwargs
    ) -> Delta:
        """Calls a reducer and returns what it changed; raises what it raises."""
        return self.db.call(self.identity, reducer, *args, **kwargs)

    def procedure(
        self, procedure: Callable[Concatenate[ProcedureContext[Any], P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Calls a procedure and returns what it returns."""
        return self.db.procedure(self.identity, procedure, *args, **kwargs)

    def subscribe(self, *queries: str) -> Subscription:
        """A live cache of the queries' rows, as this client is allowed to see them."""
        return self.db.subscribe(self.identity, *queries)

    def view(self, view: Callable[[ViewContext[Any]], R]) -> R:
        """What a view shows this client."""
        return self.db.view(view, self.identity)

    def __repr__(self) -> str:
        return f"Client({self.name!r})"


ClientFactory = Callable[..., Client]
"""`client("ann")` or `client("ann", claims={...})`: a new connection of that name's identity."""


class Clock:
    """The virtual time of the database under test; it stands still unless moved."""

    def __init__(self, db: TestHost) -> None:
        self._db = db

    @property
    def now(self) -> Timestamp:
        """The time."""
        return self._db.now

    def advance(self, seconds: float) -> list[Delta]:
        """Lets so much time pass. Runs every schedule that becomes due; returns what each run changed."""
        return self._db.advance(seconds)

    def fire(self) -> list[Delta]:
        """Goes on to the next scheduled run, whenever that is, and runs what is due then.

        Raises LookupError if nothing is scheduled.
        """
        due = self._db.next_due
        if due is None:
            raise LookupError("nothing is scheduled: no schedule table has a row")
        return self._db.advance(max(int(due) - int(self.now), 0) / 1e6)
