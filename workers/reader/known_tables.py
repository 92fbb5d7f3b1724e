"""The tables whose rows a reader knows: which these are, how others are asked for, and when rows are let go.

The first one who reads a whole table has the actor copy its refs (REFS in `hosts.mail`). The copy is announced in the
ring, so it has an exact place in the commit order; what is committed while a large one is made (REFS_BEGUN) is kept and
added to it. From then on the rows follow the commits, until nobody has read them for KEEP_S.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final

import trio

from spacetimedb.hosts import mail
from spacetimedb.memory.ring import ReaderDropped, RingCorrupt
from spacetimedb.store.commit_record import TableChange
from spacetimedb.workers.reader.large_answers import enter_rows
from spacetimedb.workers.reader.live_rows import LiveRows
from spacetimedb.workers.reader.waiter import DatabaseGone

if TYPE_CHECKING:
    from spacetimedb.subscriptions.large_rows import Snapshot
    from spacetimedb.workers.reader.client import Client
    from spacetimedb.workers.reader.database_link import DatabaseLink

KEEP_S: Final = 10.0
"""How long rows and indexes of a table are kept after their last use."""
_U32: Final = Layout("<I")


class KnownTables:
    """See the head of the module. A `sql.execute.RowSource`: the rows at this place of the ring."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link
        self.known: dict[int, LiveRows] = {}
        """By table id, kept current."""
        self._asked: dict[int, list[Callable[[], None]]] = {}
        """Tables whose refs the actor was asked for, with what to do then."""
        self.coming: dict[int, tuple[int, list[TableChange]]] = {}
        """Tables whose refs are being copied: number of the copy, and what has changed since it began."""
        self.building: dict[int, list[Callable[[], None]]] = {}
        """Tables of which indexes are being built, with what to do then."""
        self.built: dict[int, int] = {}
        """Table id to how often indexes were built that are kept for a while though nobody subscribes."""
        self._used: dict[int, float] = {}
        """When a table's rows were asked for last, by table id."""

    # -- rows

    def rows(self, table_id: int) -> list[bytes]:
        """All rows of a table."""
        return self.known[table_id].rows()

    def snapshot(self, table_id: int) -> Snapshot:
        """All rows of a table, to be read later."""
        return self.known[table_id].snapshot()

    def find(self, table_id: int, column: int, key: bytes) -> Collection[bytes] | None:
        """The rows with a value in a column, if there is an index of it."""
        return self._link.subscriptions.find(table_id, column, key)

    def row_count(self, table_id: int) -> int:
        """Number of rows of a table."""
        rows = self.known.get(table_id)
        return len(rows) if rows is not None else self._link.lookups.counts[table_id]

    # -- asking for tables

    def have(self, client: Client, table_ids: Iterable[int]) -> bool:
        """Whether all tables are known; if not, they are asked for and the client goes on when they come."""
        missing = [t for t in table_ids if not self._has(t)]
        if missing:
            client.waiting = True
            self._ask(missing[0], lambda: self._link.requests.run_deferred(client))
        return not missing

    def when_known(self, table_id: int, then: Callable[[], None]) -> None:
        """Calls as soon as all rows of a table are known."""
        if self._has(table_id):
            then()
        else:
            self._ask(table_id, then)

    async def wait_for(self, table_ids: Iterable[int]) -> None:
        """Waits until all tables are known; they are as long as nothing else runs (no await in between). Raises
        DatabaseGone."""
        link, wanted = self._link, list(table_ids)
        while True:
            if link.down:
                raise DatabaseGone
            try:
                link.pump()
            except (ReaderDropped, RingCorrupt):
                link.lane.on_dropped()
                raise DatabaseGone from None
            if link.lookups.is_pausing:
                event = trio.Event()
                link.lookups.when_current(event.set)
                await event.wait()
                continue
            missing = [t for t in wanted if not self._has(t)]
            if not missing:
                return
            event = trio.Event()
            self._ask(missing[0], event.set)
            await event.wait()

    def _has(self, table_id: int) -> bool:
        self._used[table_id] = trio.current_time()
        rows = self.known.get(table_id)
        return rows is not None and rows.is_ready

    def _ask(self, table_id: int, then: Callable[[], None]) -> None:
        waiting = self._asked.get(table_id)
        if waiting is not None:
            waiting.append(then)
            return
        self._asked[table_id] = [then]
        if table_id in self.known:
            enter_rows(self._link, table_id, lambda: self._came(table_id))
            return
        self._link.outgoing.append(mail.request(mail.REFS, 0, 0, 0, _U32.pack(table_id)))
        self._link.post()

    # -- what the ring brings

    def concern(self, table_ids: Iterable[int]) -> bool:
        """Whether the rows of one of these tables are known, or coming."""
        known, coming = self.known, self.coming
        return any(t in known or t in coming for t in table_ids)

    def follow(self, found: Iterable[TableChange]) -> None:
        """A commit."""
        known, coming = self.known, self.coming
        for change in found:
            rows = known.get(change.table_id)
            if rows is not None and change.deletes is not change.inserts:
                rows.change(change)
            elif change.table_id in coming:
                coming[change.table_id][1].append(change)

    def refs_begun(self, record: bytes) -> None:
        """The actor begins a copy of a table's refs, perhaps for another reader."""
        _length, _kind, table_id, number, _ref = mail.REFS_READY_RECORD.unpack(record)
        if table_id in self._asked and table_id not in self.known and table_id not in self.coming:
            self.coming[table_id] = number, []

    def refs_came(self, record: bytes) -> None:
        """A copy of a table's refs, perhaps for another reader."""
        _length, _kind, table_id, number, block = mail.REFS_READY_RECORD.unpack(record)
        begun, since = self.coming.get(table_id, (0, []))
        if table_id not in self._asked or table_id in self.known or number not in (0, begun):
            return
        self.coming.pop(table_id, None)
        link = self._link
        fixed = table_id in link.catalog.fixed_size_tables
        rows = self.known[table_id] = LiveRows(link.heap, link.heap.row(block), fixed)
        for change in since if number else ():
            rows.change(change)
        if rows.is_ready:
            self._came(table_id)
        else:
            enter_rows(link, table_id, lambda: self._came(table_id))

    def _came(self, table_id: int) -> None:
        for then in self._asked.pop(table_id, ()):
            then()

    def give_up(self) -> None:
        """The database is down: everybody who waits goes on."""
        for waiting in self._asked.values():
            for then in waiting:
                then()

    # -- letting go

    @property
    def has_unused(self) -> bool:
        """Whether rows are kept that no subscription reads."""
        link = self._link
        return bool(self.built or link.lookups.is_used or self.known.keys() - link.subscriptions.tables.keys())

    def forget_unused(self) -> None:
        """Lets go of all rows, and gives back all instances of views, that nobody here reads any more."""
        link = self._link
        now = trio.current_time()
        if self.built and not self.building and not self._asked:
            for table_id in [t for t in self.built if now - self._used.get(t, 0.0) > KEEP_S]:
                for _ in range(self.built.pop(table_id)):
                    link.subscriptions.live.end_indexes(table_id)
        link.lookups.forget()
        for table_id in self.known.keys() - link.subscriptions.tables.keys():
            # Views go at once, tables are often asked for again.
            is_kept = table_id in link.catalog.stored_tables and now - self._used.get(table_id, 0.0) <= KEEP_S
            is_kept |= self.known[table_id].is_being_read
            if not is_kept and table_id not in self._asked and link.views.release(table_id):
                del self.known[table_id]
                self._used.pop(table_id, None)
        if link.outgoing and not link.down:
            link.post()
