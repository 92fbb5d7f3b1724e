"""Long work of a reader in short pieces: rows of new subscriptions to large tables, their indexes, their bytes.

A client whose SubscribeApplied is being gathered keeps a placeholder for it among its messages; what comes later waits
behind it. Everything else of the reader goes on meanwhile, at most SLICE_S later than otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from spacetimedb.protocol import v2
from spacetimedb.protocol.frames import BINARY, CONTINUATION, MAX_FRAME_PAYLOAD, server_frame
from spacetimedb.sql.execute import SelectResult, execute_select
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.sql.shaping import Shaper
from spacetimedb.subscriptions.large_rows import LARGE_TABLE, LargeRows
from spacetimedb.workers.waiter import DatabaseGone

if TYPE_CHECKING:
    from spacetimedb.sql.catalog import TableRef
    from spacetimedb.workers.client import Client
    from spacetimedb.workers.database_link import DatabaseLink

SLICE_S: Final = 0.003
UNCOMPRESSED: Final = b"\0"
PLACEHOLDER_BYTES: Final = 2
"""Enough for an object of its own: Python shares shorter ones."""


class Slices:
    """Jobs, one after the other. A job does a little when called and returns whether there is more to do.

    There is at most one job per client that waits for it, and one per table.
    """

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], bool]] = deque()
        self._more = trio.Event()

    def add(self, job: Callable[[], bool]) -> None:
        """Runs the job when those before it are done."""
        self._jobs.append(job)
        self._more.set()

    async def run(self) -> None:
        """The task that does the work."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._jobs:
                until = perf_counter() + SLICE_S
                while perf_counter() < until:
                    if not self._jobs[0]():
                        self._jobs.popleft()
                        break
                await trio.lowlevel.checkpoint()


def answer_later(
    link: DatabaseLink, client: Client, request_id: int, set_id: int, parts: Sequence[bytes | LargeRows]
) -> None:
    """Answers a Subscribe once all its rows are gathered."""
    placeholder = bytes(PLACEHOLDER_BYTES)
    head = v2.subscribe_applied_head(request_id, set_id, len(parts))
    client.messages.append(placeholder)
    client.gathering.append(placeholder)
    horizon = link.position_horizon
    larges = [part for part in parts if isinstance(part, LargeRows)]

    def job() -> bool:
        if client.number not in link.clients:
            for large in larges:
                large.leave()
            link.forget_unused_tables()
            return False
        if any(large.step() for large in larges):
            return True
        message = [UNCOMPRESSED + head]
        for part in parts:
            message += part.parts if isinstance(part, LargeRows) else [part]
        for large in larges:
            large.leave()
        link.forget_unused_tables()
        link.check_attached()
        link.outbox.flush_client(client)
        client.gathering.popleft()
        del client.messages[0]
        link.outbox.send_parts(client, list(frame_parts(message)), horizon)
        link.outbox.touched.add(client)
        link.outbox.flush()
        return False

    link.lane.slices.add(job)


def frame_parts(body: Sequence[bytes]) -> Iterator[bytes | memoryview]:
    """One binary message of a server whose body comes in parts, as frames in parts: nothing is copied."""
    total = sum(map(len, body))
    done = room = 0
    for part in body:
        left = memoryview(part)
        while left:
            if not room:
                room = min(MAX_FRAME_PAYLOAD, total - done)
                yield server_frame(room, CONTINUATION if done else BINARY, done + room == total)
            piece = left[:room]
            yield piece
            room -= len(piece)
            done += len(piece)
            left = left[len(piece) :]


def enter_rows(link: DatabaseLink, table_id: int, then: Callable[[], None]) -> None:
    """Makes a table's rows ready to be asked for, then calls."""

    def job() -> bool:
        rows = link.known_rows.get(table_id)
        if rows is not None and not rows.is_ready:
            rows.enter_some()
            return True
        then()
        link.post()
        link.outbox.flush()
        return False

    link.lane.slices.add(job)


def build_indexes(link: DatabaseLink, table: TableRef, columns: Sequence[int], then: Callable[[], None]) -> None:
    """Builds indexes of a large table, then calls. They stay for as long as somebody waits for others."""
    table_id = table.table_id
    waiting = link.building.get(table_id)
    if waiting is not None:
        # Whoever goes on then and lacks others asks again.
        waiting.append(then)
        return
    link.building[table_id] = [then]
    snapshot = link.known_rows[table_id].snapshot(keeps=False)
    filling = link.subscriptions.begin_indexes(table, columns, snapshot)

    def job() -> bool:
        if not link.down and filling.step():
            return True
        snapshot.close()
        link.built[table_id] = link.built.get(table_id, 0) + 1
        for go_on in link.building.pop(table_id):
            go_on()
        link.forget_unused_tables()
        link.outbox.flush()
        return False

    link.lane.slices.add(job)


async def indexes_built(link: DatabaseLink, table: TableRef, columns: Sequence[int]) -> None:
    """Builds indexes of a large table."""
    done = trio.Event()
    build_indexes(link, table, columns, done.set)
    await done.wait()


async def select(link: DatabaseLink, plan: SelectPlan) -> SelectResult:
    """Runs a plan on the rows of this moment. A scan of a large table is done in pieces, others have turns in between.

    Raises SqlError, DatabaseGone.
    """
    if not _is_large_scan(link, plan):
        return execute_select(plan, link)
    shaping = plan.shaping
    skipped = 0
    if shaping is not None and shaping.outputs is None and not shaping.order:
        # Rows in no order: those before the offset need not be kept.
        skipped = shaping.offset
        plan = msgspec.structs.replace(plan, shaping=None)
    shaper = None if plan.shaping is None else Shaper(plan)
    rows: list[bytes] = []
    snapshot = link.snapshot(plan.table.table_id)
    try:
        until = perf_counter() + SLICE_S
        for batch in snapshot.batches():
            found = plan.select(batch)
            if shaper is not None:
                shaper.add(plan, [(row,) for row in found])
            else:
                rows += found[skipped:] if skipped < len(found) else ()
                skipped = max(skipped - len(found), 0)
                if plan.limit is not None and len(rows) >= plan.limit:
                    break
            if perf_counter() > until:
                await trio.lowlevel.checkpoint()
                if link.down:
                    raise DatabaseGone
                until = perf_counter() + SLICE_S
    finally:
        snapshot.close()
    return execute_select(plan, _Picked(rows)) if shaper is None else SelectResult(plan.columns, shaper.result())


def _is_large_scan(link: DatabaseLink, plan: SelectPlan) -> bool:
    """Whether the plan looks at all rows of one large table, to give more than their number."""
    table = plan.table
    if not plan.is_single or plan.others or table.is_event or link.row_count(table.table_id) < LARGE_TABLE:
        return False
    if plan.filter is None and plan.shaping is None and plan.returned is None and plan.picked is None:
        return False
    equalities = plan.equalities()
    return not any(link.find(table.table_id, column, value.key) is not None for column, value in equalities.items())


class _Picked:
    """The rows of one table that a plan picks."""

    def __init__(self, rows: list[bytes]) -> None:
        self._rows = rows

    def rows(self, table_id: int) -> list[bytes]:
        """All of them."""
        return self._rows

    def row_count(self, table_id: int) -> int:
        """How many there are."""
        return len(self._rows)

    def find(self, table_id: int, column: int, key: bytes) -> None:
        """There are no indexes to look into."""
