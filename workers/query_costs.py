"""What live queries cost at all readers of a database: each asks the others, through the actor and the commit ring.

    asking     RELAY with a `Question`; every reader finds it in the ring, also the one that asks
    answering  RELAY with an `Answer`; readers that did not ask throw it away

The answer is complete when as many readers as there were have answered, or after PATIENCE_S: one that is busy or just
died is left out. It costs nothing while nobody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from spacetimedb.hosts import mail
from spacetimedb.memory.ring import LOG_KEEPER_SLOT, lags
from spacetimedb.subscriptions.costs import QueryCost, added_up, most_expensive

if TYPE_CHECKING:
    from spacetimedb.workers.database_link import DatabaseLink

PATIENCE_S: Final = 0.5
SHOWN_QUERIES: Final = 10
"""The most expensive queries of a database that are told without being named."""


class Question(msgspec.Struct, tag=True):
    """Asks for the live queries of a text, as its callers may know them; `text` None: for the most expensive ones."""

    text: str | None
    is_owner: bool


class Answer(msgspec.Struct, tag=True):
    """`asker`: slot of the reader that asked."""

    asker: int
    costs: list[QueryCost]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Question | Answer).decode


class _Asked:
    """A question under way, and what is done with the answers of the others."""

    def __init__(self, then: Callable[[list[QueryCost]], None]) -> None:
        self.then = then
        self.costs: list[QueryCost] = []
        self.missing: int | None = None
        """Readers that have not answered; None: not known yet."""
        self.deadline = trio.current_time() + PATIENCE_S


class QueryCosts:
    """Of one link."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link
        self._asked: dict[int, _Asked] = {}
        self._last = 0

    def ask(self, text: str | None, is_owner: bool, then: Callable[[list[QueryCost]], None]) -> None:
        """Calls `then` with what the other readers have; once, soon."""
        link = self._link
        if link.down:
            then([])
            return
        number = self._last = self._last % 0xFFFFFFFF + 1
        self._asked[number] = _Asked(then)
        self._relay(number, Question(text, is_owner))

    async def elsewhere(self, text: str | None, is_owner: bool = True) -> list[QueryCost]:
        """The same, to wait for."""
        found: list[QueryCost] = []
        done = trio.Event()

        def then(costs: list[QueryCost]) -> None:
            found.extend(costs)
            done.set()

        self.ask(text, is_owner, then)
        with trio.move_on_after(PATIENCE_S):
            await done.wait()
        return found

    async def most_expensive(self) -> list[QueryCost]:
        """The SHOWN_QUERIES queries that cost all readers most, those of one text as one."""
        others = await self.elsewhere(None) if self._has_others() else []
        own = self._link.subscriptions.most_expensive(SHOWN_QUERIES)
        return most_expensive(added_up([*own, *others]), SHOWN_QUERIES)

    def _has_others(self) -> bool:
        """Whether there are other readers."""
        return bool(lags(self._link.ring).keys() - {LOG_KEEPER_SLOT, self._link.reader + 1})

    def follow(self, record: bytes) -> None:
        """A RELAYED record of the ring."""
        _length, _kind, padding, sender, readers, number = mail.RELAYED_HEAD.unpack_from(record)
        link = self._link
        match _decode(record[mail.RELAYED_HEAD.size : len(record) - padding]):
            case Question(text, is_owner) if sender != link.reader:
                subscriptions = link.subscriptions
                costs = (
                    subscriptions.most_expensive(SHOWN_QUERIES)
                    if text is None
                    else subscriptions.costs_of(text, is_owner)
                )
                self._relay(number, Answer(sender, costs))
            case Question() if number in self._asked:
                self._asked[number].missing = readers - 1
                if readers == 1:
                    self._finish(number)
            case Answer(asker, costs) if asker == link.reader and number in self._asked:
                asked = self._asked[number]
                asked.costs += costs
                assert asked.missing is not None
                asked.missing -= 1
                if not asked.missing:
                    self._finish(number)

    def expire(self, is_down: bool = False) -> None:
        """Goes on without those that have not answered in time, or ever will. To be called now and then."""
        now = trio.current_time()
        for number in [n for n, asked in self._asked.items() if is_down or asked.deadline < now]:
            self._finish(number)

    def _finish(self, number: int) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.then(asked.costs)

    def _relay(self, number: int, message: Question | Answer) -> None:
        self._link.outgoing.append(mail.request(mail.RELAY, 0, 0, number, _encode(message)))
        self._link.post()
