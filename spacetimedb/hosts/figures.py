"""What the actor measures of its database: families and the board they are on.

What happens in every transaction is noted in Python objects; `refresh` brings it to the board, a few times a second.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from spacetimedb.memory.figures import COUNTER, GAUGE, HISTOGRAM, Board, Counter, Family, Histogram
from spacetimedb.schema.system_tables import FIRST_USER_ID, ST_CLIENT_ID

if TYPE_CHECKING:
    from spacetimedb.store.store import Store

_TRANSACTION_US: Final = (10, 50, 100, 500, 1000, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10**7)
_WAIT_US: Final = (100, 500, 1000, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10**7)
_DELAY_US: Final = (
    1000,
    5000,
    10_000,
    50_000,
    100_000,
    500_000,
    10**6,
    5 * 10**6,
    10**7,
    3 * 10**7,
    6 * 10**7,
    3 * 10**8,
)
_REQUESTS: Final = (1, 2, 5, 10, 25, 50, 100, 200, 300, 500, 1000, 2000)

ELAPSED: Final = Family(
    "spacetime_txn_elapsed_time_sec",
    HISTOGRAM,
    "Duration of committed transactions, from the call to the end of the commit.",
    ("txn_type", "reducer"),
    1e-6,
    _TRANSACTION_US,
)
FAILED: Final = Family(
    "spacetime_reducer_failures_total",
    COUNTER,
    "Calls that ended in an error and changed nothing; outcome: error (the module's), internal, out_of_energy (ran too "
    "long).",
    ("reducer", "outcome"),
)
UNDONE: Final = Family(
    "spacetime_reducer_failure_seconds",
    HISTOGRAM,
    "Duration of calls that ended in an error.",
    ("reducer", "outcome"),
    1e-6,
    _TRANSACTION_US,
)
WAIT: Final = Family(
    "spacetime_reducer_wait_time_sec",
    HISTOGRAM,
    "How long the oldest request of a batch waited in its mailbox.",
    ("reducer",),
    1e-6,
    _WAIT_US,
)
BATCH: Final = Family(
    "spacetime_actor_batch_requests", HISTOGRAM, "Requests that were published together.", (), 1, _REQUESTS
)
DELAY: Final = Family(
    "spacetime_scheduled_function_delay_seconds",
    HISTOGRAM,
    "Start of a scheduled call, after the time it was due.",
    ("function",),
    1e-6,
    _DELAY_US,
)
TABLE_ROWS: Final = Family("spacetime_num_table_rows", GAUGE, "Committed rows.", ("table_id", "table_name"))
TABLE_BYTES: Final = Family(
    "spacetime_table_size_bytes",
    GAUGE,
    "Bytes of the rows as BSATN; estimated from a sample where rows differ in length.",
    ("table_id", "table_name"),
)
INSERTED: Final = Family(
    "spacetime_num_rows_inserted_total", COUNTER, "Rows inserted by transactions.", ("table_id", "table_name")
)
DELETED: Final = Family(
    "spacetime_num_rows_deleted_total", COUNTER, "Rows deleted by transactions.", ("table_id", "table_name")
)
FAMILIES: Final = (ELAPSED, FAILED, UNDONE, WAIT, BATCH, DELAY, TABLE_ROWS, TABLE_BYTES, INSERTED, DELETED)

SAMPLE_ROWS: Final = 64


class DatabaseFigures:
    """The figures of one database; `store` is what they are about."""

    def __init__(self, board: Board, store: Store) -> None:
        self._board = board
        self._store = store
        self.wait = board.histogram(WAIT, "")
        self.batch = board.histogram(BATCH)
        self.sql = board.histogram(ELAPSED, "Sql", "")
        self.changed: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        """Rows inserted and deleted since the last refresh, by table."""
        self._reducers: dict[str, Histogram] = {}
        self._tables: dict[int, tuple[str, Counter, Counter, Counter, Counter]] = {}
        self._is_shown = False

    def reducer(self, name: str) -> Histogram:
        """Where the durations of a reducer's committed calls go, in microseconds; `refresh` settles it."""
        found = self._reducers.get(name)
        if found is None:
            found = self._reducers[name] = self._board.histogram(ELAPSED, "Reducer", name)
        return found

    def procedure(self, name: str) -> Histogram:
        """The same of a procedure's transactions."""
        return self._board.histogram(ELAPSED, "Procedure", name)

    def failed(self, function: str, outcome: str) -> None:
        """A call changed nothing."""
        self._board.counter(FAILED, function, outcome).add()

    def undone(self, function: str, outcome: str, duration_us: int) -> None:
        """How long it took until a call changed nothing."""
        self._board.histogram(UNDONE, function, outcome).observe(duration_us)

    def delayed(self, function: str, delay_us: int) -> None:
        """A scheduled call starts so long after its time."""
        self._board.histogram(DELAY, function).observe(max(delay_us, 0))

    def look_again(self) -> None:
        """There is something new, or there are other tables now."""
        self._is_shown = False

    @property
    def is_current(self) -> bool:
        """Whether what `refresh` brings to the board is there."""
        return self._is_shown

    def refresh(self) -> None:
        """Brings durations, and the figures of the module's tables and of `st_client`, to the board. O(tables)."""
        for elapsed in self._reducers.values():
            elapsed.settle()
        tables = {n: table for n, table in self._store.tables.items() if n >= FIRST_USER_ID or n == ST_CLIENT_ID}
        for table_id in self._tables.keys() - tables.keys():
            _name, rows, size, _inserted, _deleted = self._tables.pop(table_id)
            rows.set(0)
            size.set(0)
        for table_id, table in tables.items():
            found = self._tables.get(table_id)
            if found is None or found[0] != table.name:
                labels = (str(table_id), table.name)
                board = self._board
                found = self._tables[table_id] = (
                    table.name,
                    board.counter(TABLE_ROWS, *labels),
                    board.counter(TABLE_BYTES, *labels),
                    board.counter(INSERTED, *labels),
                    board.counter(DELETED, *labels),
                )
            elif table_id not in self.changed:
                continue
            _name, rows, size, inserted, deleted = found
            counts = self.changed.pop(table_id, None)
            if counts is not None:
                inserted.add(counts[0])
                deleted.add(counts[1])
            rows.set(table.row_count)
            size.set(table.estimated_bytes(SAMPLE_ROWS))
        self.changed.clear()
        self._is_shown = True
