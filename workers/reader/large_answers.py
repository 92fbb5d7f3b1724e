"""Long work of a reader in short pieces: rows of large tables for new subscriptions and queries, indexes, bytes.

A client whose answer is being gathered keeps a placeholder for it among its messages; what comes later waits
behind it. Everything else of the reader goes on meanwhile, at most SLICE_S later than otherwise.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from spacetimedb.memory.ring import ReaderDropped
from spacetimedb.protocol.frames import BINARY, CONTINUATION, MAX_FRAME_PAYLOAD, TEXT, server_frame
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import SelectResult, execute_select, select_steps
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.sql.shaping import Shaper
from spacetimedb.subscriptions.large_rows import ROWS_PER_PART, LargeRows
from spacetimedb.subscriptions.large_tables import LARGE_TABLE
from spacetimedb.subscriptions.one_off import OneOff
from spacetimedb.subscriptions.wire import row_list_head, string
from spacetimedb.workers.reader.waiter import DatabaseGone

if TYPE_CHECKING:
    from spacetimedb.sql.catalog import TableRef
    from spacetimedb.workers.reader.client import Client
    from spacetimedb.workers.reader.database_link import DatabaseLink

SLICE_S: Final = 0.003
JOINED_ROWS: Final = 2048
"""Rows of the tables of a join from which on it is done in pieces."""
MAX_PAGE_ROWS: Final = 1000
"""Rows of a large table up to which the actor is asked for them."""
_MAX_OFFSET: Final = 1 << 62
UNCOMPRESSED: Final = b"\0"
PLACEHOLDER_BYTES: Final = 2
"""Enough for an object of its own: Python shares shorter ones."""


class Slices:
    """Jobs, one after the other. A job does a little when called and returns whether there is more to do.

    There is at most one job per client that waits for it, and one per table. `on_dropped` is called when a database has
    not waited for this reader.
    """

    def __init__(self, on_dropped: Callable[[], None]) -> None:
        self._on_dropped = on_dropped
        self._jobs: deque[tuple[DatabaseLink, Callable[[], bool]]] = deque()
        self._more = trio.Event()

    def add(self, link: DatabaseLink, job: Callable[[], bool]) -> None:
        """Runs the job when those before it are done. If it fails the database is not trusted any more."""
        self._jobs.append((link, job))
        self._more.set()

    async def run(self) -> None:
        """The task that does the work."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._jobs:
                until = perf_counter() + SLICE_S
                while perf_counter() < until:
                    link, job = self._jobs[0]
                    try:
                        has_more = job()
                    except Exception as error:
                        has_more = False
                        if not isinstance(error, ReaderDropped):
                            link.distrust(error)
                        self._on_dropped()
                    if not has_more:
                        self._jobs.popleft()
                        break
                await trio.lowlevel.checkpoint()


Part = bytes | LargeRows


def answer_later(
    link: DatabaseLink,
    client: Client,
    larges: Sequence[LargeRows],
    steps: Iterator[None],
    message: Callable[[], Sequence[bytes]],
) -> None:
    """Answers a request once its rows are gathered and then the steps are done, with what `message` gives: the parts
    of a server message. What the client gets later waits behind it."""
    placeholder = bytes(PLACEHOLDER_BYTES)
    client.messages.append(placeholder)
    client.gathering.append(placeholder)
    horizon = link.position_horizon

    def leave() -> None:
        steps_end = getattr(steps, "close", None)
        if steps_end is not None:
            steps_end()
        for large in larges:
            large.leave()
        link.tables.forget_unused()

    def job() -> bool:
        if link.down or not link.has_client(client):
            leave()
            return False
        if any(large.step() for large in larges) or next(steps, steps) is not steps:
            return True
        parts = message()
        leave()
        link.check_attached()
        link.outbox.flush_client(client)
        if not link.has_client(client):  # its connection is lost
            return False
        client.gathering.popleft()
        del client.messages[0]
        opcode = TEXT if client.is_text else BINARY
        body = parts if client.is_text else [UNCOMPRESSED, *parts]
        link.outbox.send_parts(client, list(frame_parts(body, opcode)), horizon, client.first_kind + parts[0][0])
        if link.has_client(client):
            link.outbox.touched.add(client)
        link.outbox.flush()
        return False

    link.lane.slices.add(link, job)


def bytes_of(parts: Iterable[Part]) -> list[bytes]:
    """SingleTableRows, gathered by now, one behind the other."""
    return [piece for part in parts for piece in (part.parts if isinstance(part, LargeRows) else (part,))]


def frame_parts(body: Sequence[bytes], opcode: int = BINARY) -> Iterator[bytes | memoryview]:
    """One message of a server whose body comes in parts, as frames in parts: nothing is copied."""
    total = sum(map(len, body))
    done = room = 0
    for part in body:
        left = memoryview(part)
        while left:
            if not room:
                room = min(MAX_FRAME_PAYLOAD, total - done)
                yield server_frame(room, CONTINUATION if done else opcode, done + room == total)
            piece = left[:room]
            yield piece
            room -= len(piece)
            done += len(piece)
            left = left[len(piece) :]


def enter_rows(link: DatabaseLink, table_id: int, then: Callable[[], None]) -> None:
    """Makes a table's rows ready to be asked for, then calls."""

    def job() -> bool:
        rows = link.tables.known.get(table_id)
        if rows is not None and not rows.is_ready:
            rows.enter_some()
            return True
        then()
        link.post()
        link.outbox.flush()
        return False

    link.lane.slices.add(link, job)


def build_indexes(link: DatabaseLink, table: TableRef, columns: Sequence[int], then: Callable[[], None]) -> None:
    """Builds indexes of a large table, then calls. They stay for as long as somebody waits for others."""
    table_id = table.table_id
    waiting = link.tables.building.get(table_id)
    if waiting is not None:
        # Whoever goes on then and lacks others asks again.
        waiting.append(then)
        return
    link.tables.building[table_id] = [then]
    snapshot = link.tables.known[table_id].snapshot(keeps=False)
    filling = link.subscriptions.live.begin_indexes(table, columns, snapshot)

    def job() -> bool:
        if not link.down and filling.step():
            return True
        snapshot.close()
        link.tables.built[table_id] = link.tables.built.get(table_id, 0) + 1
        for go_on in link.tables.building.pop(table_id):
            go_on()
        link.tables.forget_unused()
        link.outbox.flush()
        return False

    link.lane.slices.add(link, job)


async def indexes_built(link: DatabaseLink, table: TableRef, columns: Sequence[int]) -> None:
    """Builds indexes of a large table."""
    done = trio.Event()
    build_indexes(link, table, columns, done.set)
    await done.wait()


def page_of(plan: SelectPlan) -> tuple[int, int] | None:
    """(offset, count) if a plan wants just some rows of one table, or just their number; None for any other."""
    shaping = plan.shaping
    if not plan.is_single or plan.others or plan.where is not None or plan.table.is_event:
        return None
    if plan.returned is None and plan.picked is None and shaping is None:
        return 0, 0
    if plan.limit is None or plan.limit > MAX_PAGE_ROWS:
        return None
    if shaping is None:
        return 0, plan.limit
    return (min(shaping.offset, _MAX_OFFSET), plan.limit) if shaping.outputs is None and not shaping.order else None


def result_of_page(plan: SelectPlan, rows: list[bytes], count: int) -> SelectResult:
    """The result of a plan that `page_of` knows, of its rows and the number of all."""
    if plan.returned is None and plan.picked is None:
        return SelectResult(plan.columns, [count.to_bytes(8, "little")])
    plain = msgspec.structs.replace(plan, shaping=None)
    return execute_select(plain, _Gathered({plan.table.table_id: rows}))


async def select(link: DatabaseLink, plan: SelectPlan) -> SelectResult:
    """Runs a plan on the rows of this moment. What takes long is done in pieces, others have turns in between.

    Raises SqlError, DatabaseGone.
    """
    if _is_large_scan(link, plan):
        steps = _scan(link, plan)
    elif _is_large_join(link, plan):
        steps = _join(link, plan)
    else:
        return execute_select(plan, link.tables)
    try:
        while True:
            until = perf_counter() + SLICE_S
            while perf_counter() < until:
                next(steps)
            await trio.lowlevel.checkpoint()
            if link.down:
                raise DatabaseGone
    except StopIteration as end:
        result: SelectResult = end.value
        return result
    finally:
        steps.close()


def _scan(link: DatabaseLink, plan: SelectPlan) -> Generator[None, None, SelectResult]:
    """Runs a plan over one large table as it is now, a few thousand rows at a time. Raises SqlError."""
    shaping = plan.shaping
    skipped = 0
    if shaping is not None and shaping.outputs is None and not shaping.order:
        # Rows in no order: those before the offset need not be kept.
        skipped = shaping.offset
        plan = msgspec.structs.replace(plan, shaping=None)
    shaper = None if plan.shaping is None else Shaper(plan)
    rows: list[bytes] = []
    snapshot = link.tables.snapshot(plan.table.table_id)
    try:
        for batch in snapshot.batches():
            found = plan.select(batch)
            if shaper is not None:
                yield from shaper.add(plan, [(row,) for row in found])
            else:
                rows += found[skipped:] if skipped < len(found) else ()
                skipped = max(skipped - len(found), 0)
                if plan.limit is not None and len(rows) >= plan.limit:
                    break
            yield
    finally:
        snapshot.close()
    if shaper is not None:
        return SelectResult(plan.columns, (yield from shaper.result()))
    return (yield from select_steps(plan, _Gathered({plan.table.table_id: rows})))


def _join(link: DatabaseLink, plan: SelectPlan) -> Generator[None, None, SelectResult]:
    """Runs a plan over several tables as they are now, some thousand rows at a time. Raises SqlError."""
    snapshots = {table_id: link.tables.snapshot(table_id) for table_id in plan.stored_tables}
    tables: dict[int, list[bytes]] = {}
    try:
        for table_id, snapshot in snapshots.items():
            rows = tables[table_id] = []
            for batch in snapshot.batches():
                rows += batch
                yield
    finally:
        for snapshot in snapshots.values():
            snapshot.close()
    return (yield from select_steps(plan, _Gathered(tables)))


class LargeOneOff:
    """The answer to a one-off query that takes long. When `larges` are gathered and `steps` done, `parts` gives its
    SingleTableRows or raises SqlError."""

    def __init__(self, link: DatabaseLink, plan: SelectPlan) -> None:
        self.larges: list[LargeRows] = []
        self.steps: Iterator[None] = iter(())
        self._rows: list[bytes] = []
        """The row list in parts."""
        self._error: SqlError | None = None
        self._name = string(plan.table.name)
        if not _is_large_scan(link, plan):
            self.steps = self._run(_join(link, plan))
        elif plan.returned is not None and plan.shaping is None and plan.limit is None:
            table = plan.table
            snapshot = link.tables.snapshot(table.table_id)
            select = None if plan.filter is None else plan.select
            large = LargeRows(self._name, snapshot, select, table.layout.row_size)
            large.users += 1
            self.larges.append(large)
        else:
            self.steps = self._run(_scan(link, plan))

        next(self.steps, None)  # takes its snapshots now

    def _run(self, scan: Generator[None, None, SelectResult]) -> Iterator[None]:
        try:
            result = yield from scan
        except SqlError as error:
            self._error = error
            return
        rows = result.rows
        parts: list[bytes] = []
        lengths = array("I")
        for at in range(0, len(rows), ROWS_PER_PART):
            piece = rows[at : at + ROWS_PER_PART]
            parts.append(b"".join(piece))
            lengths.extend(map(len, piece))
            yield
        self._rows = [row_list_head(sum(map(len, parts)), len(rows), lengths), *parts]

    def parts(self) -> list[Part]:
        """See the class."""
        if self._error is not None:
            raise self._error
        return list(self.larges) or [self._name, *self._rows]


def large_one_off(link: DatabaseLink, query: OneOff) -> LargeOneOff | None:
    """The answer to a one-off query if it takes long; None if it is better given at once."""
    if query.answer is not None or query.explained is not None:
        return None
    if not (_is_large_scan(link, query.plan) or _is_large_join(link, query.plan)):
        return None
    return LargeOneOff(link, query.plan)


def _is_large_scan(link: DatabaseLink, plan: SelectPlan) -> bool:
    """Whether the plan looks at all rows of one large table, to give more than their number."""
    table = plan.table
    if not plan.is_single or plan.others or table.is_event or link.tables.row_count(table.table_id) < LARGE_TABLE:
        return False
    if plan.filter is None and plan.shaping is None and plan.returned is None and plan.picked is None:
        return False
    equalities = plan.equalities()
    find = link.tables.find
    return not any(find(table.table_id, column, value.key) is not None for column, value in equalities.items())


def _is_large_join(link: DatabaseLink, plan: SelectPlan) -> bool:
    """Whether the plan joins tables, or has several fragments, and looks at many rows for that."""
    rows = 0
    for fragment in plan.fragments:
        if fragment.is_single:
            if not plan.others:
                return False
            table_id = fragment.table.table_id
            equalities = fragment.equalities()
            if any(link.tables.find(table_id, column, value.key) is not None for column, value in equalities.items()):
                continue
        rows += sum(link.tables.row_count(r.table.table_id) for r in fragment.relvars if not r.table.is_event)
    return rows >= JOINED_ROWS


class _Gathered:
    """Rows of tables, by id."""

    def __init__(self, tables: dict[int, list[bytes]]) -> None:
        self._tables = tables

    def rows(self, table_id: int) -> list[bytes]:
        """All of them."""
        return self._tables[table_id]

    def row_count(self, table_id: int) -> int:
        """How many there are."""
        return len(self._tables[table_id])

    def find(self, table_id: int, column: int, key: bytes) -> None:
        """There are no indexes to look into."""
