"""How far a database's log is written, as one reader knows it, and the ring it asks for when it waits for more.

The log keeper rings only readers that wait. A reader that does raises its word in the control block and looks once more
(`expect`); the log keeper, after each batch, publishes how far it is, then lowers the words that are raised and rings
(see `ring` for the same protocol and its fences). It may lower a word that was raised a moment ago for what it has not
written yet: so whoever was rung raises it again before it sleeps, for as long as somebody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from spacetimedb.memory import control as words
from spacetimedb.workers.reader.waiter import DatabaseGone, LogUnwritable

if TYPE_CHECKING:
    from spacetimedb.workers.reader.database_link import DatabaseLink

LOG_LOOK_S: Final = 1.0
"""Between two looks whether the log can be written, of a request that waits for it."""


class LogWatch:
    """Of one link."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link
        self._words = link.control.words
        self._position = 0
        """Place in the ring up to which all is written, at the last look."""
        self.moved = trio.Event()
        """Set, and replaced, when more is written."""
        self._waiting = 0
        """Tasks that wait."""

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting or self._link.outbox.holding)

    def look(self) -> int:
        """Sends what waited for what is durable now; how many transactions are."""
        position, durable = self._words[words.LOG_RING_POSITION], self._words[words.DURABLE]
        outbox = self._link.outbox
        if position != self._position or durable != outbox.durable:
            self._position = position
            event, self.moved = self.moved, trio.Event()
            event.set()
            if durable != outbox.durable:
                outbox.release(durable)
        return durable

    def expect(self) -> bool:
        """Somebody waits: has the bell rung when more is written. If it is already it looks, and returns False."""
        if self._link.down:
            return True
        self._link.control.expect_log(self._link.reader)
        if self._words[words.LOG_RING_POSITION] == self._position:
            return True
        self.look()
        return False

    async def wait_durable(self, horizon: int) -> None:
        """Waits until so many transactions are durable. Raises DatabaseGone, LogUnwritable."""
        link = self._link
        while link.outbox.durable < horizon:
            if link.down:
                raise DatabaseGone
            if self._words[words.LOG_FAILED]:
                raise LogUnwritable
            with trio.move_on_after(LOG_LOOK_S):
                await self._move()

    async def wait_written(self) -> None:
        """Waits until every log line that is in the ring now is written."""
        link = self._link
        if link.down:
            return
        goal = self._words[words.RING_POSITION]
        while not link.down and self._words[words.LOG_RING_POSITION] < goal:
            await self._move()

    async def _move(self) -> None:
        moved = self.moved
        self._waiting += 1
        try:
            self.expect()
            await moved.wait()
        finally:
            self._waiting -= 1
