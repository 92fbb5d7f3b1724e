"""The schedule tables of one database, and which of their rows are due when.

Follows committed changes: a row is queued when its insert or update commits, and leaves the queue when it is deleted.
Running what is due is the database's.

A clock that is set forward makes rows due, each once. Set back, it takes the intervals with it, which so are late once
by an interval at most; rows with a time of their own wait for that time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from spacetimedb.hosts.schedule_table import ScheduleTable
from spacetimedb.hosts.scheduler import Job, Scheduler, next_tick_us
from spacetimedb.store.commit_record import TableDelta
from spacetimedb.types.special import Interval


class Schedules:
    """`clock` gives microseconds since the epoch."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.tables: dict[int, ScheduleTable] = {}
        self._clock = clock
        self._seen_us = 0
        """When the clock was last looked at."""
        self._queue = Scheduler()

    def clear(self) -> None:
        """Forgets all tables and rows."""
        self.tables.clear()
        self._queue.clear()

    def add(self, table_id: int, table: ScheduleTable, rows: Iterable[Any]) -> None:
        """Follows a table and queues the rows it has: intervals count from now."""
        self.tables[table_id] = table
        for row in rows:
            self._arm(table_id, table.key(row), table.at(row))

    def next_due_us(self) -> int | None:
        """When the next row is due (microseconds), or None."""
        self._now_us()
        return self._queue.next_due_us()

    def pop_due(self) -> Job | None:
        """Takes the earliest row that is due out of the queue."""
        return self._queue.pop_due(self._now_us())

    def _now_us(self) -> int:
        now = self._clock()
        if now < self._seen_us:
            self._queue.shift(now - self._seen_us)
        self._seen_us = now
        return now

    def arm_next(self, job: Job, table: ScheduleTable) -> bool:
        """After a run: queues the next one of an interval. True if a one-shot row is left, to be deleted."""
        if self._queue.is_armed(job.table_id, job.key):
            return False  # the run set a new time
        row = table.find(job.key)
        if row is None:
            return False
        at = table.at(row)
        if not isinstance(at, Interval):
            return True
        interval = abs(int(at.value))
        now = self._now_us()
        self._queue.arm(job.table_id, job.key, next_tick_us(min(job.due_us, now), interval, now), interval)
        return False

    def follow(self, deltas: list[TableDelta]) -> None:
        """After a commit. A row whose time did not change stays where it is in the queue. O(changed rows)."""
        for delta in deltas:
            table = self.tables.get(delta.table_id)
            if table is None:
                continue
            old = {table.key(row): table.at(row) for row in map(table.decode, delta.deletes)}
            for row in map(table.decode, delta.inserts):
                key = table.key(row)
                if old.pop(key, None) != table.at(row):
                    self._arm(delta.table_id, key, table.at(row))
            for key in old:
                self._queue.disarm(delta.table_id, key)

    def _arm(self, table_id: int, key: Hashable, at: Any) -> None:
        """An interval counts from this moment."""
        if isinstance(at, Interval):
            interval = abs(int(at.value))
            self._queue.arm(table_id, key, self._clock() + interval, interval)
        else:
            self._queue.arm(table_id, key, int(at.value), 0)
