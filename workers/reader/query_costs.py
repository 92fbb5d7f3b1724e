"""What live queries cost at all readers of a database.

The most expensive ones stand on a notice of each reader in the control block, renewed while something happens: whoever
answers a scrape reads them there (`shown`), and nobody is interrupted. A renewal looks at all live queries (1 us each);
it is done once a second, of more than RENEWED_PER_S queries less often.

About one text a reader asks the others, through the actor and the commit ring:

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
from spacetimedb.memory import control as words
from spacetimedb.subscriptions.costs import QueryCost, added_up, most_expensive

if TYPE_CHECKING:
    from spacetimedb.memory.control import ControlBlock
    from spacetimedb.workers.reader.database_link import DatabaseLink

PATIENCE_S: Final = 0.5
RENEWED_PER_S: Final = 1000
SHOWN_QUERIES: Final = 10
"""The most expensive queries of a database that are told without being named."""


class Question(msgspec.Struct, tag=True):
    """Asks for the live queries of a text, as its callers may know them."""

    text: str
    is_owner: bool


class Answer(msgspec.Struct, tag=True):
    """`asker`: slot of the reader that asked."""

    asker: int
    costs: list[QueryCost]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Question | Answer).decode
_decode_costs: Final = msgspec.msgpack.Decoder(list[QueryCost]).decode


def shown(control: ControlBlock) -> list[QueryCost]:
    """The SHOWN_QUERIES queries that cost all readers most, those of one text as one; a second old."""
    costs: list[QueryCost] = []
    for slot in range(words.READER_SLOTS):
        if control.reader(slot, words.READER_PID) and (content := control.reader_notice(slot).get()):
            try:
                costs += _decode_costs(content)
            except msgspec.MsgspecError:
                continue  # its module may have written over it
    return most_expensive(added_up(costs), SHOWN_QUERIES)


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
        self._notice = link.control.reader_notice(link.reader)
        self._is_showing = False
        self._due = 0.0
        """When the notice may be renewed."""

    def ask(self, text: str, is_owner: bool, then: Callable[[list[QueryCost]], None]) -> None:
        """Calls `then` with what the other readers have; once, soon."""
        link = self._link
        if link.down:
            then([])
            return
        number = self._last = self._last % 0xFFFFFFFF + 1
        self._asked[number] = _Asked(then)
        self._relay(number, Question(text, is_owner))

    async def elsewhere(self, text: str, is_owner: bool = True) -> list[QueryCost]:
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

    def show(self) -> bool:
        """Renews the notice, in short pieces beside other work. False: too early, this is to be called again."""
        link = self._link
        now = trio.current_time()
        if self._is_showing or now < self._due:
            return False
        self._is_showing = True
        self._due = now + link.subscriptions.query_count / RENEWED_PER_S
        steps = link.subscriptions.most_expensive(SHOWN_QUERIES)

        def step() -> bool:
            if link.down:
                return False
            try:
                next(steps)
            except StopIteration as end:
                self._notice.put(msgspec.msgpack.encode(end.value))
                self._is_showing = False
                return False
            return True

        link.lane.slices.add(link, step)
        return True

    def follow(self, record: bytes) -> None:
        """A RELAYED record of the ring."""
        _length, _kind, padding, sender, readers, number = mail.RELAYED_HEAD.unpack_from(record)
        link = self._link
        match _decode(record[mail.RELAYED_HEAD.size : len(record) - padding]):
            case Question(text, is_owner) if sender != link.reader:
                self._relay(number, Answer(sender, link.subscriptions.costs_of(text, is_owner)))
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
