"""The queue of scheduled calls of one database.

A row of a schedule table is armed when its insert or update commits and disarmed when its deletion commits. The queue
holds (table, key) pairs only: the row is read again when it is due, so the function sees its current content.

Interval rows keep phase while the server runs: the next time is the first multiple of the interval, counted from the
time that was intended before, that lies in the future; missed ticks are skipped, never replayed.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

MAX_DELAY_US: Final = ((1 << 36) - 1) * 1000
"""A schedule must be due within 2^36 - 1 milliseconds (about 2.18 years)."""


class Job(NamedTuple):
    """A row that is due: when it should run (microseconds), its table and key; `interval_us` 0 for one-shot rows."""

    due_us: int
    ticket: int
    table_id: int
    key: Hashable
    interval_us: int


class Scheduler:
    """Armed rows by due time. All operations are O(log n); disarmed entries leave the heap when they come up."""

    def __init__(self) -> None:
        self._heap: list[Job] = []
        self._armed: dict[tuple[int, Hashable], int] = {}
        self._tickets = 0

    def arm(self, table_id: int, key: Hashable, due_us: int, interval_us: int) -> None:
        """(Re-)arms a row; an earlier arming of it is forgotten."""
        self._tickets += 1
        self._armed[table_id, key] = self._tickets
        heappush(self._heap, Job(due_us, self._tickets, table_id, key, interval_us))

    def disarm(self, table_id: int, key: Hashable) -> None:
        """Forgets a row; does nothing if it is not armed."""
        self._armed.pop((table_id, key), None)

    def is_armed(self, table_id: int, key: Hashable) -> bool:
        """Whether the row waits for a call."""
        return (table_id, key) in self._armed

    def next_due_us(self) -> int | None:
        """When the next call is due, or None."""
        heap = self._heap
        while heap and self._armed.get((heap[0].table_id, heap[0].key)) != heap[0].ticket:
            heappop(heap)
        return heap[0].due_us if heap else None

    def pop_due(self, now_us: int) -> Job | None:
        """Takes the earliest job that is due at `now_us`; it is disarmed."""
        due = self.next_due_us()
        if due is None or due > now_us:
            return None
        job = heappop(self._heap)
        del self._armed[job.table_id, job.key]
        return job

    def shift(self, by_us: int) -> None:
        """The clock was set: intervals are due so much later. O(n)."""
        self._heap = [job._replace(due_us=job.due_us + by_us) if job.interval_us else job for job in self._heap]
        heapify(self._heap)

    def clear(self) -> None:
        """Forgets everything."""
        self._heap.clear()
        self._armed.clear()

    def __len__(self) -> int:
        return len(self._armed)


def next_tick_us(intended_us: int, interval_us: int, now_us: int) -> int:
    """The first time after `now_us` that is a multiple of the interval away from `intended_us`."""
    behind = max(0, now_us - intended_us)
    return intended_us + (behind // interval_us + 1) * interval_us
