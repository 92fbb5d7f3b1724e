"""What the actor measures of its database: families and the board they are on.

What happens in every transaction is noted in Python objects; `refresh` brings it to the board, a few times a second.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from spacetimedb.memory.figures import COUNTER, DB, GAUGE, HISTOGRAM, Board, Counter, Family, Histogram
from spacetimedb.schema.system_tables import FIRST_USER_ID, ST_CLIENT_ID

if TYPE_CHECKING:
    from spacetimedb.store.store import Store
    from spacetimedb.store.table import Table

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
_QUEUE: Final = (0, 1, 2, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 1000)
_REQUESTS: Final = (1, 2, 5, 10, 25, 50, 100, 200, 300, 500, 1000, 2000)

ELAPSED: Final = Family(
    "spacetime_txn_elapsed_time_sec",
    HISTOGRAM,
    "Duration of committed transactions, from the call to the end of the commit.",
    ("txn_type", "reducer"),
    1e-6,
    _TRANSACTION_US,
    DB,
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
    DB,
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
    DB,
)
TABLE_ROWS: Final = Family(
    "spacetime_num_table_rows", GAUGE, "Committed rows.", ("table_id", "table_name"), database=DB
)
TABLE_BYTES: Final = Family(
    "spacetime_table_size_bytes",
    GAUGE,
    "Bytes of the rows as BSATN; estimated from a sample where rows differ in length.",
    ("table_id", "table_name"),
    database=DB,
)
_OF_CHANGES: Final = ("txn_type", "reducer_or_query", "table_id", "table_name")
INSERTED: Final = Family(
    "spacetime_num_rows_inserted_total", COUNTER, "Rows inserted by transactions.", _OF_CHANGES, database=DB
)
DELETED: Final = Family(
    "spacetime_num_rows_deleted_total", COUNTER, "Rows deleted by transactions.", _OF_CHANGES, database=DB
)
INDEX_INSERTED: Final = Family(
    "spacetime_num_index_rows_inserted_total",
    COUNTER,
    "Entries of indexes for rows inserted.",
    _OF_CHANGES,
    database=DB,
)
INDEX_DELETED: Final = Family(
    "spacetime_num_index_rows_deleted_total", COUNTER, "Entries of indexes for rows deleted.", _OF_CHANGES, database=DB
)
WRITTEN: Final = Family(
    "spacetime_num_bytes_written_total",
    COUNTER,
    "Bytes of inserted rows as BSATN; estimated from those of the table where rows differ in length.",
    ("txn_type",),
    database=DB,
)
QUEUE: Final = Family("spacetime_worker_instance_operation_queue_length", GAUGE, "Requests that wait for the actor.")
QUEUES: Final = Family(
    "spacetime_worker_instance_operation_queue_length_histogram",
    HISTOGRAM,
    "Requests that waited when the actor took some.",
    (),
    1,
    _QUEUE,
)
VIEW_CALLS: Final = Family("view_calls", COUNTER, "How often a view has run.", ("view",), database=DB)
VIEW_CALL_TIME: Final = Family(
    "view_call_time_usec", COUNTER, "Time in the function of the view.", ("view",), database=DB
)
VIEW_TOTAL_TIME: Final = Family(
    "view_total_time_usec", COUNTER, "The same, with making rows of what it gave.", ("view",), database=DB
)
VIEWS_TRIGGERED: Final = Family(
    "view_calls_triggered_by_reducer",
    COUNTER,
    "Runs of views because of what a reducer has changed.",
    ("reducer",),
    database=DB,
)
_PROCEDURE: Final = "spacetime_procedure_"
HTTP_SENT: Final = Family(
    f"{_PROCEDURE}http_request_size_bytes", COUNTER, "Bodies of HTTP requests of procedures.", database=DB
)
HTTP_RECEIVED: Final = Family(
    f"{_PROCEDURE}http_response_size_bytes", COUNTER, "Bodies of the answers to them.", database=DB
)
HTTP_REQUESTS: Final = Family(f"{_PROCEDURE}num_http_requests", COUNTER, "HTTP requests of procedures.", database=DB)
HTTP_ANSWERED: Final = Family(
    f"{_PROCEDURE}num_successful_http_requests", COUNTER, "Those that were answered, with whatever status.", database=DB
)
HTTP_FAILED: Final = Family(f"{_PROCEDURE}num_failed_http_requests", COUNTER, "Those that were not.", database=DB)
REPLAY_TIME: Final = Family(
    "spacetime_replay_total_time_seconds",
    GAUGE,
    "How long the actor took to recover the database when it started.",
    scale=1e-6,
    database=DB,
)
REPLAYED: Final = Family(
    "spacetime_replay_commitlog_num_commits",
    GAUGE,
    "Transactions that came from the log, not from a snapshot, then.",
    database=DB,
)
FAMILIES: Final = (
    *(REPLAY_TIME, REPLAYED),
    *(HTTP_SENT, HTTP_RECEIVED, HTTP_REQUESTS, HTTP_ANSWERED, HTTP_FAILED),
    *(ELAPSED, FAILED, UNDONE, WAIT, BATCH, DELAY, QUEUE, QUEUES, TABLE_ROWS, TABLE_BYTES),
    *(INSERTED, DELETED, INDEX_INSERTED, INDEX_DELETED, WRITTEN),
    *(VIEW_CALLS, VIEW_CALL_TIME, VIEW_TOTAL_TIME, VIEWS_TRIGGERED),
)

SAMPLE_ROWS: Final = 64
REDUCER, PROCEDURE, SQL, INTERNAL = "Reducer", "Procedure", "Sql", "Internal"
"""Kinds of transactions."""

Changes = defaultdict[int, list[int]]
"""Rows inserted and deleted since the last refresh, by table."""


class DatabaseFigures:
    """The figures of one database; `store` is what they are about."""

    def __init__(self, board: Board, store: Store) -> None:
        self._board = board
        self._store = store
        self.wait = board.histogram(WAIT, "")
        self.batch = board.histogram(BATCH)
        self.queue = board.counter(QUEUE)
        self.queues = board.histogram(QUEUES)
        self.found = 0
        """Requests that have been found waiting since `show_queue`."""
        self.sql = board.histogram(ELAPSED, SQL, "")
        self.views: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        """Runs of views since the last refresh: how many, nanoseconds in the function, and in all."""
        self.http_begun: list[int] = []
        """Lengths of bodies of HTTP requests, since the last refresh; threads add to it."""
        self.http_answered: list[int] = []
        """Lengths of bodies of their answers."""
        self.http_failed: list[int] = []
        """Those that got no answer."""
        self._changed: dict[tuple[str, str], Changes] = {}
        self._reducers: dict[str, Histogram] = {}
        self._tables: dict[int, tuple[str, Counter, Counter]] = {}
        self._is_shown = False

    def changes(self, kind: str, function: str = "") -> Changes:
        """Where the rows are counted that the transactions of this kind, and of this function, change."""
        found = self._changed.get((kind, function))
        if found is None:
            found = self._changed[kind, function] = defaultdict(lambda: [0, 0])
        return found

    def reducer(self, name: str) -> Histogram:
        """Where the durations of a reducer's committed calls go, in microseconds; `refresh` settles it."""
        found = self._reducers.get(name)
        if found is None:
            found = self._reducers[name] = self._board.histogram(ELAPSED, REDUCER, name)
        return found

    def procedure(self, name: str) -> Histogram:
        """The same of a procedure's transactions."""
        return self._board.histogram(ELAPSED, PROCEDURE, name)

    def failed(self, function: str, outcome: str) -> None:
        """A call changed nothing."""
        self._board.counter(FAILED, function, outcome).add()

    def undone(self, function: str, outcome: str, duration_us: int) -> None:
        """How long it took until a call changed nothing."""
        self._board.histogram(UNDONE, function, outcome).observe(duration_us)

    def delayed(self, function: str, delay_us: int) -> None:
        """A scheduled call starts so long after its time."""
        self._board.histogram(DELAY, function).observe(max(delay_us, 0))

    def triggered(self, reducer: str, views: int) -> None:
        """What a reducer has changed makes so many views run."""
        self._board.counter(VIEWS_TRIGGERED, reducer).add(views)

    def recovered(self, transactions: int, seconds: float) -> None:
        """The database was recovered, with so many transactions from the log."""
        self._board.counter(REPLAYED).set(transactions)
        self._board.counter(REPLAY_TIME).set(int(seconds * 1e6))

    def show_queue(self) -> None:
        """A round of requests has been run."""
        if self.found:
            self.queue.set(self.found)
            self.queues.observe(self.found)
            self.found = 0

    def look_again(self) -> None:
        """There is something new, or there are other tables now."""
        self._is_shown = False

    @property
    def is_current(self) -> bool:
        """Whether what `refresh` brings to the board is there."""
        return self._is_shown

    def refresh(self) -> None:
        """Brings durations, runs of views, and the figures of the module's tables and of `st_client`, to the board.
        O(tables, and those that each function has changed)."""
        for elapsed in self._reducers.values():
            elapsed.settle()
        tables = {n: table for n, table in self._store.tables.items() if n >= FIRST_USER_ID or n == ST_CLIENT_ID}
        for table_id in self._tables.keys() - tables.keys():
            _name, rows, size = self._tables.pop(table_id)
            rows.set(0)
            size.set(0)
        changed = set[int]().union(*self._changed.values())
        for table_id, table in tables.items():
            found = self._tables.get(table_id)
            if found is None or found[0] != table.name:
                labels = (str(table_id), table.name)
                board = self._board
                found = self._tables[table_id] = (
                    table.name,
                    board.counter(TABLE_ROWS, *labels),
                    board.counter(TABLE_BYTES, *labels),
                )
            elif table_id not in changed:
                continue
            _name, rows, size = found
            rows.set(table.row_count)
            size.set(table.estimated_bytes(SAMPLE_ROWS))
        for (kind, function), changes in self._changed.items():
            for table_id, (inserted, deleted) in changes.items():
                if table_id in tables:
                    self._count_changes(kind, function, tables[table_id], inserted, deleted)
            changes.clear()
        for view, (calls, called_ns, total_ns) in self.views.items():
            self._board.counter(VIEW_CALLS, view).add(calls)
            self._board.counter(VIEW_CALL_TIME, view).add(called_ns // 1000)
            self._board.counter(VIEW_TOTAL_TIME, view).add(total_ns // 1000)
        self.views.clear()
        self._show_http()
        self._is_shown = True

    def _show_http(self) -> None:
        if not self.http_begun and not self.http_answered and not self.http_failed:
            return
        board = self._board
        begun, answered, failed = map(_taken, (self.http_begun, self.http_answered, self.http_failed))
        board.counter(HTTP_SENT).add(sum(begun))
        board.counter(HTTP_RECEIVED).add(sum(answered))
        board.counter(HTTP_REQUESTS).add(len(begun))
        board.counter(HTTP_ANSWERED).add(len(answered))
        board.counter(HTTP_FAILED).add(len(failed))

    def _count_changes(self, kind: str, function: str, table: Table, inserted: int, deleted: int) -> None:
        board, labels, indexes = self._board, (kind, function, str(table.table_id), table.name), table.index_count
        for count, family, index_family in (
            (inserted, INSERTED, INDEX_INSERTED),
            (deleted, DELETED, INDEX_DELETED),
        ):
            board.counter(family, *labels).add(count)
            if indexes:
                board.counter(index_family, *labels).add(count * indexes)
        row_bytes = table.row_length or table.estimated_bytes(SAMPLE_ROWS) / max(table.row_count, 1)
        board.counter(WRITTEN, kind).add(int(inserted * row_bytes))


def _taken(values: list[int]) -> list[int]:
    """What is in a list, which is emptied; threads may append to it meanwhile."""
    taken = values[: len(values)]
    del values[: len(taken)]
    return taken
