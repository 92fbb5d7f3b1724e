"""One bot: a connection of the trio client that measures what it does.

Latency of a call counts from the call, or, for the first call of a task in an open loop, from the moment at which the
task was due. Update age is the time from the start of the reducer, on the server's clock, to the arrival of the row
here: from the row's own time column, or for the bot's own calls from the answer. Both clocks must be in step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from ..client.cache import Database
from ..client.core import Subscription
from ..client.errors import ClientError, Disconnected
from ..client.face import Queryable
from ..client.schema import Schema, TableType, key_slicer
from ..client.trio import Connection
from ..client.updates import Changes
from ..types.shapes import Scalar, Wrapped
from ..types.special import Identity, Timestamp
from .figures import Figures

TIME_COLUMN: Final = "at"
MAX_CLOCK_STEP_S: Final = 3600.0
"""A time column whose value is so far from now does not hold the time of the transaction."""

Age = Callable[[bytes], int]
"""The microseconds since 1970 in a row's time column."""


class Clocks:
    """Which column of which table holds the time of the transaction that wrote the row.

    `columns`: by table name, as the user said; other tables: a column `at` of type Timestamp or i64, else the only
    Timestamp. Tables without one are in `readers` with None.
    """

    def __init__(self, schema: Schema, columns: dict[str, str]) -> None:
        for table, column in columns.items():
            schema.table(table).column(column)
        self.readers: dict[bytes, tuple[str, Age | None]] = {}
        for table_type in schema.by_wire_name.values():
            self.readers[table_type.wire_name] = table_type.name, _reader(table_type, columns.get(table_type.name))


def _reader(table: TableType, named: str | None) -> Age | None:
    times = [
        position
        for position, field in enumerate(table.shape.fields)
        if isinstance(field.shape, Wrapped) and field.shape.cls is Timestamp
    ]
    position: int | None = None
    if named is not None:
        position = table.column(named)
    elif TIME_COLUMN in table.columns:
        position = table.columns[TIME_COLUMN]
        if position not in times and table.shape.fields[position].shape != Scalar("i64"):
            position = None
    elif len(times) == 1:
        position = times[0]
    if position is None:
        return None
    cut = key_slicer(table.shape, position)
    return lambda row: int.from_bytes(cut(row), "little", signed=True)


class Bot:
    """What a scenario's functions get. `random` depends on seed and number alone; `state` is the scenario's own.

    `is_dismissed`: fewer bots are wanted; what this one was waiting for does not count.
    """

    __slots__ = ("_clocks", "_due", "_figures", "connection", "is_dismissed", "number", "random", "state", "token")

    def __init__(self, number: int, seed: str, figures: Figures, clocks: Clocks) -> None:
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.state: dict[str, Any] = {}
        self.token: str | None = None
        self.is_dismissed = False
        self._figures, self._clocks = figures, clocks
        self._due: float | None = None
        self.connection: Connection

    @property
    def db(self) -> Database:
        """The rows that the bot is subscribed to."""
        return self.connection.db

    @property
    def schema(self) -> Schema:
        return self.connection.schema

    @property
    def identity(self) -> Identity:
        return self.connection.identity

    async def call(self, reducer: Any, /, *args: Any, **kwargs: Any) -> Timestamp:
        """Calls a reducer, waits, and measures. Raises what the client raises; refusals are counted by their text."""
        ran: Timestamp = await self._measured("reducer", reducer, args, kwargs)
        return ran

    async def procedure(self, procedure: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a procedure, waits for its value, and measures."""
        return await self._measured("procedure", procedure, args, kwargs)

    async def _measured(self, kind: Any, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        connection, figures = self.connection, self._figures
        function = connection.schema.function(kind, key)
        due, self._due = self._due, None
        begun = time.perf_counter() if due is None else due
        pending = connection.core.call(function, args, kwargs)
        figures.sent += 1
        connection._flush()
        try:
            await connection._wait(pending)
        finally:
            if not pending.done and self.is_dismissed:
                figures.sent -= 1
            elif not pending.done or isinstance(pending.error, Disconnected):
                figures.lost += 1
            else:
                figures.calls.record(function.name, time.perf_counter() - begun)
                if pending.error is not None:
                    figures.failed += 1
        return pending.result()

    async def query(self, query: Any) -> list[Any]:
        """Rows as of now."""
        rows: list[Any] = await self.connection.query(query)
        return rows

    async def subscribe(self, *queries: Queryable) -> Subscription:
        """Subscribes and waits for the rows."""
        return await self.connection.subscribe(*queries)

    async def think(self, seconds: float, at_most: float | None = None) -> None:
        """Pauses; with two times, for one between them."""
        await trio.sleep(seconds if at_most is None else self.random.uniform(seconds, at_most))

    # -- for the crowd

    def attach(self, connection: Connection) -> None:
        """The bot plays over this connection from now on."""
        self.connection = connection
        self.token = connection.token
        connection.core.observer = self._observe

    def due_at(self, due: float | None) -> None:
        """When the task that begins now was due (perf_counter); None: now."""
        self._due = due

    def _observe(self, changes: Changes, ran: int | None) -> None:
        """Rows of a transaction have come; `ran`: when its reducer started, if it was called from here."""
        figures, readers = self._figures, self._clocks.readers
        now = time.time()
        for wire_name, (inserts, deletes) in changes.items():
            figures.rows += len(inserts) + len(deletes)
            known = readers.get(wire_name)
            if known is None:
                continue
            name, read = known
            if read is not None:
                if inserts:
                    for written, count in _counted(read, inserts):
                        age = now - written / 1e6
                        if -MAX_CLOCK_STEP_S < age < MAX_CLOCK_STEP_S:
                            figures.ages.record(name, age, count)
            elif ran is not None:
                figures.ages.record(name, now - ran / 1e6, len(inserts) + len(deletes))


def _counted(read: Age, rows: list[bytes]) -> list[tuple[int, int]]:
    """Times with how many rows have them: mostly one for all."""
    first = read(rows[0])
    if len(rows) == 1 or all(read(row) == first for row in rows):
        return [(first, len(rows))]
    return [(read(row), 1) for row in rows]


def error_text(error: BaseException) -> str:
    """How an error is counted."""
    return str(error) if isinstance(error, ClientError) else f"{type(error).__name__}: {error}"
