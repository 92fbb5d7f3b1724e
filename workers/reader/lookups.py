"""Rows of tables that this reader does not know, looked up by the keys of an index, as the actor has every index, or by
their places in the table.

The answer is a record of the ring, so the rows have an exact place in the commit order; from there on a partial index
follows the commits (`subscriptions.live_queries`). Indexes that nobody uses any more are kept for KEEP_S.

While joins run over partial indexes a commit may need rows that are not known. Then the reader *pauses* in front of it:
it asks for them, holds what the ring brings meanwhile, and takes the changes that it holds back from the rows in the
answer: so it has them as they are before the commit, and goes on. Requests of clients that must be executed at the head
of the ring wait for that. It takes one turn of the actor, and all that the held records need is asked for at once.

An index that was the cause of PAUSES_BEFORE_INDEX pauses is completed in the background: that takes a copy of the
table's refs and some CPU time, but then nobody asks or pauses any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final

import trio
from msgspec import Struct

from spacetimedb.hosts import mail
from spacetimedb.memory.ring import iter_records
from spacetimedb.sql.predicate import key_functions
from spacetimedb.store.commit_record import COMMIT, TableChange, changes
from spacetimedb.subscriptions.large_tables import LARGE_TABLE
from spacetimedb.workers.reader.large_answers import build_indexes
from spacetimedb.workers.reader.waiter import DatabaseGone

if TYPE_CHECKING:
    from spacetimedb.sql.catalog import TableRef
    from spacetimedb.subscriptions.live_queries import Keys
    from spacetimedb.workers.reader.database_link import DatabaseLink

KEEP_S: Final = 10.0
"""How long rows that were looked up are kept for others, and how long a refusal holds."""
PAUSES_BEFORE_INDEX: Final = 64
MAX_HELD_BYTES: Final = 16 << 20
"""Of the ring, while the reader pauses; then the clients whose joins are the cause are closed."""
_TABLES: Final = Layout("<H")


class _Asked(Struct):
    """A request that is not answered."""

    table: TableRef
    column: int
    keys: set[bytes]
    then: Callable[[], None] | None
    """None: the reader pauses for it."""
    rows: list[bytes] | None = None


class Page(Struct, frozen=True):
    """Rows of a table by their places in it; `count`: how many the table has."""

    rows: list[bytes]
    count: int


class RowLookups:
    """See the head of the module. ``counts``: rows of each table that was looked into, at this place of the ring."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link
        self._number = int.from_bytes(os.urandom(4), "little")
        """Of the last request. A reader that died may have answers under way for the same place."""
        self._asked: dict[int, _Asked] = {}
        self._pages: dict[int, Callable[[Page | None], None]] = {}
        """Pages that were asked for, with what to do then."""
        self._declined: dict[tuple[int, int], float] = {}
        self._kept: dict[tuple[int, int], float] = {}
        self.counts: dict[int, int] = {}
        self._held: list[bytes] = []
        """While the reader pauses: records that are not processed."""
        self._pauses: dict[tuple[int, int], int] = {}
        """How many each index was the cause of."""
        self._resumed: list[Callable[[], None]] = []

    # -- look-ups for new queries

    def can_look_up(self, table: TableRef, column: int) -> bool:
        """Whether the rows with a value in a column can be asked for, and should."""
        link, table_id = self._link, table.table_id
        if (column,) not in table.indexes or table.is_event or table.is_view or table.is_system:
            return False
        if (table_id, column) in self._declined or table_id not in link.catalog.stored_tables:
            return False
        known = link.tables.known.get(table_id)
        return known is None or len(known) >= LARGE_TABLE

    def knows(self, table_id: int) -> bool:
        """Whether all rows of the table are known, and ready to be asked for."""
        rows = self._link.tables.known.get(table_id)
        return rows is not None and rows.is_ready

    def ask(self, keys: Keys, then: Callable[[], None]) -> None:
        """Asks for rows; calls when they are there, or refused."""
        left = len(keys)

        def one_more() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for (_, column), (table, values) in keys.items():
            self._send(_Asked(table, column, values, one_more))
        self._link.post()

    def _send(self, asked: _Asked) -> None:
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._asked[number] = asked
        table_id = asked.table.table_id
        self._link.outgoing.append(
            mail.look_up(number, table_id, asked.column, asked.keys, whatever=asked.then is None)
        )

    def can_page(self, table_id: int) -> bool:
        """Whether rows by their places, or just the number of all, can be asked for, and should."""
        known = self._link.tables.known.get(table_id)
        return table_id in self._link.catalog.stored_tables and (known is None or len(known) >= LARGE_TABLE)

    def ask_page(self, table_id: int, offset: int, count: int, then: Callable[[Page | None], None]) -> int:
        """Asks for so many rows from the offset, in the table's order; calls at the place of the ring where they are
        these, with None if they were refused or the database is down. Gives the number of the request."""
        link = self._link
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._pages[number] = then
        link.outgoing.append(mail.page(number, table_id, count, offset))
        link.post()
        return number

    async def page(self, table_id: int, offset: int, count: int) -> Page | None:
        """So many rows from the offset, in the table's order, as they are now. None if all rows are better read here.

        Raises DatabaseGone. Whoever is cancelled leaves nothing behind.
        """
        if not self.can_page(table_id):
            return None
        came = trio.Event()
        pages: list[Page | None] = []

        def then(page: Page | None) -> None:
            pages.append(page)
            came.set()

        number = self.ask_page(table_id, offset, count, then)
        try:
            await came.wait()
        finally:
            self._pages.pop(number, None)
        if self._link.down:
            raise DatabaseGone
        return pages[0]

    def came(self, record: bytes) -> None:
        """A LOOKED_UP record at this place of the ring, perhaps another reader's."""
        _length, _kind, _zero, reader, number, _zero, count, block = mail.LOOKED_UP_RECORD.unpack(record)
        if reader != self._link.reader:
            return
        page = self._pages.pop(number, None)
        if page is not None:
            page(Page(self._rows(block), count) if block else None)
            return
        asked = self._asked.pop(number, None)
        if asked is None or asked.then is None:
            return
        place = asked.table.table_id, asked.column
        if block:
            self._enter(asked, self._rows(block))
            self.counts[place[0]] = count
        else:
            self._declined[place] = trio.current_time()
        asked.then()

    def _rows(self, block: int) -> list[bytes]:
        heap = self._link.heap
        return heap.rows(memoryview(heap.row(block)).cast("Q"))

    def _enter(self, asked: _Asked, rows: list[bytes]) -> None:
        if self._link.subscriptions.live.enter_rows(asked.table, asked.column, asked.keys, rows):
            self._kept[asked.table.table_id, asked.column] = trio.current_time()

    def follow(self, found: Iterable[TableChange]) -> None:
        """A commit."""
        counts = self.counts
        for change in found:
            if change.table_id in counts:
                counts[change.table_id] += change.inserts.row_count - change.deletes.row_count

    @property
    def is_used(self) -> bool:
        """Whether `forget` may have something to do later."""
        return bool(self._kept or self._declined)

    def forget_all(self) -> list[Callable[[], None]]:
        """Another program: lets go of all that is kept. Gives what to call once that program is in force everywhere:
        whoever waits for rows has to ask again."""
        waiting = [asked.then for asked in self._asked.values() if asked.then is not None]
        self._asked = {number: asked for number, asked in self._asked.items() if asked.then is None}
        self.forget(everything=True)
        return waiting

    def forget(self, everything: bool = False) -> None:
        """Lets go of what was kept long enough, or of everything that is kept."""
        now = trio.current_time()
        busy = {(asked.table.table_id, asked.column) for asked in self._asked.values()}
        for place, since in list(self._kept.items()):
            if everything or (now - since > KEEP_S and place not in busy):
                del self._kept[place]
                self._link.subscriptions.live.release_index(*place)
        for place, since in list(self._declined.items()):
            if now - since > KEEP_S:
                del self._declined[place]
        used = self._link.subscriptions.tables.keys()
        for table_id in [t for t in self.counts if t not in used]:
            del self.counts[table_id]
        for place in [place for place in self._pauses if place[0] not in used]:
            del self._pauses[place]

    # -- the pause

    @property
    def is_pausing(self) -> bool:
        """Whether the reader pauses in front of a commit."""
        return bool(self._held)

    def when_current(self, then: Callable[[], None]) -> None:
        """Calls when the reader has gone on."""
        self._resumed.append(then)

    def holes(self, data: bytes, at: int, tables: int) -> bool:
        """Whether the commit record at `at` needs rows that have to be asked for."""
        return bool(self._link.subscriptions.live.holes(changes(data, at, tables)))

    def pause(self, data: bytes) -> None:
        """Pauses in front of these records, of which the first needs rows."""
        live = self._link.subscriptions.live
        keys: Keys = {}
        for kind, records, at in self._records(data):
            if kind == mail.PROGRAM:
                break  # rows behind it are read with its types
            if kind == COMMIT:
                for place, (table, values) in live.holes(self._changes(records, at)).items():
                    keys.setdefault(place, (table, set()))[1].update(values)
        self._held = [data]
        for place, (table, values) in keys.items():
            self._send(_Asked(table, place[1], values, None))
            self._pauses[place] = pauses = self._pauses.get(place, 0) + 1
            if not pauses % PAUSES_BEFORE_INDEX:
                self._complete(table, place[1])
        self._link.post()

    def _complete(self, table: TableRef, column: int) -> None:
        """Makes an index complete in the background."""
        link = self._link

        def begin() -> None:
            if not link.down and table.table_id in link.tables.known:
                build_indexes(link, table, [column], lambda: None)

        link.tables.when_known(table.table_id, begin)

    def hold(self, data: bytes) -> bytes | None:
        """More records while the reader pauses. Gives all that it holds when it can go on, else None."""
        self._held.append(data)
        reader = self._link.reader
        for kind, at, _ in iter_records(data):
            if kind == mail.LOOKED_UP:
                _, _, _, slot, number, _, _, block = mail.LOOKED_UP_RECORD.unpack_from(data, at)
                asked = self._asked.get(number)
                if slot == reader and asked is not None and asked.then is None:
                    asked.rows = self._rows_before(asked, block, len(self._held) - 1, at)
        waiting = {number: asked for number, asked in self._asked.items() if asked.then is None}
        if any(asked.rows is None for asked in waiting.values()):
            if sum(map(len, self._held)) > MAX_HELD_BYTES:
                return self._give_up()
            return None
        for number, asked in waiting.items():
            entry = self._link.subscriptions.tables.get(asked.table.table_id)
            if entry is not None and asked.column in entry.indexes:
                self._enter(asked, asked.rows or [])
            del self._asked[number]
        held, self._held = self._held, []
        return b"".join(held)

    def _give_up(self) -> bytes:
        """The ring brings more than can be held: the clients whose joins pause the reader have to begin anew."""
        link = self._link
        for number in link.subscriptions.live.clients_of_partial_joins():
            client = link.clients.get(number) or link.v1.clients.get(number)
            if client is not None:
                link.lane.drop(client, "too_slow")
        self._asked = {number: asked for number, asked in self._asked.items() if asked.then is not None}
        held, self._held = self._held, []
        return b"".join(held)

    def _rows_before(self, asked: _Asked, block: int, chunk: int, at: int) -> list[bytes]:
        """The rows of an answer that stands in a chunk of the held records, as they are before all of these.

        A refusal needs nothing else: the table is gone, so the held records delete all rows that it had. Rows that come
        and go among them are never looked into, they may be of another program's types.
        """
        gone: dict[bytes, None] = {}
        new: set[bytes] = set()
        table_id = asked.table.table_id
        for data in (*self._held[:chunk], self._held[chunk][:at]):
            for kind, records, place in self._records(data):
                for change in self._changes(records, place) if kind == COMMIT else ():
                    if change.table_id == table_id:
                        deleted = change.deletes.split()
                        gone.update(dict.fromkeys(row for row in deleted if row not in new))
                        new.difference_update(deleted)
                        new.update(change.inserts.split())
        key = key_functions(asked.table.layout, asked.column)[0]
        rows = dict.fromkeys(row for row in (self._rows(block) if block else ()) if row not in new)
        rows.update(dict.fromkeys(row for row in gone if key(row) in asked.keys))
        return list(rows)

    def _records(self, data: bytes) -> Iterator[tuple[int, bytes, int]]:
        """(kind, records, place in them) of every record."""
        for kind, at, _ in iter_records(data):
            if kind == mail.SPILLED:
                yield from self._records(self._link.heap.row(mail.SPILLED_RECORD.unpack_from(data, at)[2]))
            else:
                yield kind, data, at

    def _changes(self, records: bytes, at: int) -> list[TableChange]:
        return changes(records, at, _TABLES.unpack_from(records, at + 6)[0])

    def go_on(self) -> None:
        """The reader has processed what it held, or the database is down: whoever waited goes on."""
        resumed, self._resumed = self._resumed, []
        for then in resumed:
            then()
        if self._link.down:
            pages, self._pages = self._pages, {}
            for page in pages.values():
                page(None)
