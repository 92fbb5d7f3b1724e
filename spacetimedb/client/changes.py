"""Row changes as a stream: what `conn.changes(table)` iterates over.

A feed listens from the moment it is made and keeps what the reader has not taken yet, up to a limit. It ends when the
connection is over for good, or when its iterator is closed or forgotten.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import msgspec

from .cache import Table
from .core import Pending
from .errors import ChangesLost, ClientError
from .events import Event

if TYPE_CHECKING:
    from .blocking import Connection
    from .face import AsyncFace

R = TypeVar("R")

KEPT: Final = 10_000
"""Changes that may wait to be read, unless said otherwise."""

Overflow = Literal["error", "drop_oldest"]


class Insert(msgspec.Struct, Generic[R], frozen=True):
    """A row has come."""

    event: Event
    row: R


class Update(msgspec.Struct, Generic[R], frozen=True):
    """A row has changed under its primary key."""

    event: Event
    old: R
    row: R


class Delete(msgspec.Struct, Generic[R], frozen=True):
    """A row has gone."""

    event: Event
    row: R


Change = Insert[R] | Update[R] | Delete[R]


class Feed(Generic[R]):
    """What happens to the rows of one table from now on. `wake` is called when there is something new."""

    def __init__(self, table: Table[R], limit: int, overflow: Overflow) -> None:
        if limit < 1:
            raise ValueError("a stream of changes must be able to keep one")
        self.changes: deque[Change[R]] = deque()
        self.wake: Callable[[], object] | None = None
        self.is_over = False
        self._error: ClientError | None = None
        self._table = table
        self._limit = limit
        self._overflow = overflow
        self._removers: list[Callable[[], None]] = []
        this = weakref.ref(self, lambda _: _end(removers))  # an iterator that is forgotten costs nothing
        removers = self._removers

        def add(change: Change[R]) -> None:
            feed = this()
            if feed is not None:
                feed._add(change)

        removers.append(table.on_insert(lambda event, row: add(Insert(event, row))))
        removers.append(table.on_delete(lambda event, row: add(Delete(event, row))))
        if table.type.primary_key is not None:
            removers.append(table.on_update(lambda event, old, row: add(Update(event, old, row))))

    def _add(self, change: Change[R]) -> None:
        if len(self.changes) >= self._limit:
            if self._overflow == "error":
                self.end(ChangesLost(f"more than {self._limit} changes of {self._table.type.name} wait to be read"))
                return
            self.changes.popleft()
        self.changes.append(change)
        self._notify()

    def _notify(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def end(self, error: ClientError | None = None) -> None:
        """Nothing more will come; what has come is still to be read, then `error` is raised."""
        if not self.is_over:
            self.is_over, self._error = True, error
            _end(self._removers)
            self._notify()

    @property
    def is_ready(self) -> bool:
        """There is a change, or the end."""
        return bool(self.changes) or self.is_over

    def take(self) -> Change[R] | None:
        """The oldest change; None at the end, unless there is an error to raise."""
        if self.changes:
            return self.changes.popleft()
        if self._error is not None:
            raise self._error
        return None


def _end(removers: list[Callable[[], None]]) -> None:
    for remove in removers:
        remove()
    removers.clear()


class _Changes(Generic[R]):
    """As a context manager it stops listening at the end of the block."""

    def __init__(self, connection: Any, feed: Feed[R]) -> None:
        self._connection = connection
        self._feed = feed

    def close(self) -> None:
        """Stops listening; what waits is forgotten."""
        self._feed.changes.clear()
        self._feed.end()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChanges(_Changes[R]):
    """`async for change in conn.changes(table)`."""

    _connection: AsyncFace

    def __enter__(self) -> AsyncChanges[R]:
        return self

    def __aiter__(self) -> AsyncChanges[R]:
        return self

    async def __anext__(self) -> Change[R]:
        """The next change. Raises Disconnected if the connection was lost for good, ChangesLost."""
        feed = self._feed
        news: Pending[None] = Pending()
        if feed.is_ready:
            news.settle(None)
        else:
            feed.wake = lambda: news.settle(None)
        await self._connection._wait(news)
        change = feed.take()
        if change is None:
            raise StopAsyncIteration
        return change


class Changes(_Changes[R]):
    """`for change in conn.changes(table)`."""

    _connection: Connection

    def __enter__(self) -> Changes[R]:
        return self

    def __iter__(self) -> Changes[R]:
        return self

    def __next__(self) -> Change[R]:
        """Waits for the next change. Raises Disconnected if the connection was lost for good, ChangesLost."""
        feed = self._feed
        self._connection.wait_until(lambda: feed.is_ready)
        change = feed.take()
        if change is None:
            raise StopIteration
        return change
