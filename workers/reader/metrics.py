"""Metrics of the server as Prometheus text, from the control blocks: whoever answers a scrape reads shared words, and
no other process is interrupted. Names and labels are SpacetimeDB's where it has the figure.

A scrape is made in pieces of about PIECE_S, between which the reader does all else: with many databases it takes
longer, but nobody waits longer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from spacetimedb.memory import control as words
from spacetimedb.memory.ring import LOG_KEEPER_SLOT, lags
from spacetimedb.subscriptions.costs import QueryCost
from spacetimedb.types.special import Identity
from spacetimedb.workers.reader.exposition import NAMES, BoardText, header, labels
from spacetimedb.workers.reader.process_metrics import (
    PROCESS_METRICS,
    ProcessFigures,
    helper_of,
    processes_of,
    servers_children,
    servers_processes,
)
from spacetimedb.workers.reader.query_costs import shown

if TYPE_CHECKING:
    from spacetimedb.workers.reader.database_link import DatabaseLink
    from spacetimedb.workers.reader.reader import Reader

PIECE_S: Final = 0.001

WORDS: Final[tuple[tuple[str, str, str, Callable[[memoryview], float]], ...]] = (
    (
        "spacetime_committed_transactions_total",
        "counter",
        "Logged transactions since the database was created.",
        lambda block: block[words.TRANSACTIONS],
    ),
    (
        "spacetime_durable_transactions_total",
        "counter",
        "Transactions that are on disk.",
        lambda block: block[words.DURABLE],
    ),
    (
        "spacetime_reducer_calls_total",
        "counter",
        "Reducer calls of clients since the actor started.",
        lambda block: block[words.REDUCER_CALLS],
    ),
    (
        "spacetime_reducer_errors_total",
        "counter",
        "Calls that ended in an error.",
        lambda block: block[words.REDUCER_ERRORS],
    ),
    (
        "spacetime_module_host_init_attempts_total",
        "counter",
        "How often the database was started.",
        lambda block: block[words.HOST_STARTS],
    ),
    (
        "spacetime_module_host_init_failures_total",
        "counter",
        "How often that failed.",
        lambda block: block[words.HOST_FAILURES],
    ),
    (
        "spacetime_commitlog_written_bytes_total",
        "counter",
        "Transactions' bytes written to the log since start.",
        lambda block: block[words.LOG_BYTES],
    ),
    (
        "spacetime_commitlog_syncs_total",
        "counter",
        "fdatasync calls of the log keeper.",
        lambda block: block[words.LOG_SYNCS],
    ),
    (
        "spacetime_commitlog_full",
        "gauge",
        "1 while there is no room for the log and calls are refused.",
        lambda block: block[words.LOG_FULL],
    ),
    (
        "spacetime_ring_stalls_total",
        "counter",
        "Times the actor waited for room in the ring.",
        lambda block: block[words.RING_STALLS],
    ),
    (
        "spacetime_mailbox_bytes",
        "gauge",
        "Bytes the actor found in its mailboxes when it last looked.",
        lambda block: block[words.MAILBOX_DEPTH],
    ),
    (
        "spacetime_reducer_busy_seconds_total",
        "counter",
        "Time spent in reducers of clients.",
        lambda block: block[words.REDUCER_MICROS] / 1e6,
    ),
)
"""Words of the control block: name, kind, help, value."""
READER_WORDS: Final = (
    ("spacetime_worker_connected_clients", "gauge", "WebSocket clients.", words.READER_CONNECTIONS),
    ("spacetime_subscription_sets", "gauge", "Live query sets.", words.READER_SUBSCRIPTIONS),
    ("spacetime_active_queries", "gauge", "Live queries, each at every reader that has it.", words.READER_QUERIES),
    ("spacetime_websocket_sent_messages_total", "counter", "Messages sent to clients.", words.READER_MESSAGES),
    ("spacetime_worker_ws_clients_aborted", "gauge", "Clients dropped for slowness.", words.READER_DROPPED),
)
"""Words of each reader, summed."""
QUERY_FIGURES: Final[tuple[tuple[str, str, str, Callable[[QueryCost], float]], ...]] = (
    (
        "spacetime_query_evaluations_total",
        "counter",
        "Transactions that concerned a live query, at each reader.",
        lambda cost: cost.evaluations,
    ),
    ("spacetime_query_rows_total", "counter", "Rows that came out of them.", lambda cost: cost.rows),
    (
        "spacetime_query_seconds_total",
        "counter",
        "Time spent on the query alone: conditions over all rows, joins.",
        lambda cost: cost.seconds,
    ),
    ("spacetime_query_subscribers", "gauge", "Clients that have a live query.", lambda cost: cost.subscribers),
)
INSTANCES: Final = "spacetime_module_instances"
LAG: Final = "spacetime_fan_out_lag_bytes"
MEMORY: Final = "spacetime_memory_region_bytes"
_HEADERS: Final = (
    {name: header(name, kind, help_text) for name, kind, help_text, *_ in (*WORDS, *READER_WORDS)}
    | NAMES
    | {name: header(name, kind, help_text) for name, kind, help_text, _ in QUERY_FIGURES}
    | {
        INSTANCES: header(INSTANCES, "gauge", "1 while the database serves."),
        LAG: header(LAG, "gauge", "Published by the actor and not yet processed."),
        MEMORY: header(MEMORY, "gauge", "Shared memory; of the heap what has ever been used."),
    }
    | PROCESS_METRICS
)
"""All metrics in the order of the answer, with what stands before their series."""

Lines = dict[str, list[str]]
"""Text by name of the metric."""


class Metrics:
    """The metrics as one reader tells them. It keeps texts of databases for the next scrape."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._boards: dict[DatabaseLink, BoardText] = {}

    async def text(
        self,
        databases: Collection[Identity] | None,
        queries: Collection[Identity] | None,
        names: Collection[str] | None = None,
    ) -> bytes:
        """The metrics `names` (None: all) of these databases, with the texts of queries of those; None: of all. What
        belongs to no database is there only with all."""
        lines: Lines = {name: [] for name in _HEADERS}
        piece = _Piece()
        links = list(self._reader.links.values())
        self._boards = {link: known for link, known in self._boards.items() if not link.down}
        for link in links:
            if link.down or not (databases is None or link.identity in databases):
                continue
            self._database(link, lines, queries is None or link.identity in queries)
            await piece.end()
        processes = ProcessFigures(lines)
        if databases is None:
            for pid, name in servers_processes(self._reader).items():
                processes.add(pid, name, "")
                await piece.end()
        for link in links:
            if link.down or not (databases is None or link.identity in databases):
                continue
            for pid, name in processes_of(link):
                processes.add(pid, name, link.identity.hex())
            await piece.end()
        for pid in servers_children():
            helper = None if pid in processes.known else helper_of(pid)
            if helper is not None and (databases is None or helper.database in databases):
                processes.add(pid, helper.name, helper.database.hex() if helper.database is not None else "")
            await piece.end()
        parts: list[bytes] = []
        for name, found in lines.items():
            if found and (names is None or name in names):
                parts.append("".join((_HEADERS[name], *found)).encode())
                await piece.end()
        return b"".join(parts)

    def _database(self, link: DatabaseLink, lines: Lines, shows_queries: bool) -> None:
        control, identity = link.control, link.identity.hex()
        mine = labels({"database_identity": identity})
        for name, _kind, _help, read in WORDS:
            lines[name].append(f"{name}{{{mine}}} {read(control.words)}\n")
        serves = int(control.words[words.ACTOR_STATE] == words.SERVING)
        lines[INSTANCES].append(f'{INSTANCES}{{{mine},module_type="Wasm"}} {serves}\n')
        sums = control.reader_sums()
        for name, _kind, _help, word in READER_WORDS:
            lines[name].append(f"{name}{{{mine}}} {sums[word]}\n")
        board = self._boards.get(link)
        if board is None:
            board = self._boards[link] = BoardText(control, identity)
        for name, text in board.texts().items():
            lines[name].append(text)
        if shows_queries:
            for cost in shown(control):
                text = f"{mine},{labels({'query': cost.text})}"
                for name, _kind, _help, figure in QUERY_FIGURES:
                    lines[name].append(f"{name}{{{text}}} {figure(cost)}\n")
        for slot, lag in lags(link.ring).items():
            consumer = "log_keeper" if slot == LOG_KEEPER_SLOT else f"reader_{slot - 1}"
            lines[LAG].append(f'{LAG}{{{mine},consumer="{consumer}"}} {lag}\n')
        for region, size in (("heap", control.words[words.HEAP_BYTES]), ("ring", link.ring.size)):
            lines[MEMORY].append(f'{MEMORY}{{{mine},region="{region}"}} {size}\n')


class _Piece:
    """Work that must not keep others waiting."""

    def __init__(self) -> None:
        self._until = perf_counter() + PIECE_S

    async def end(self) -> None:
        """Lets the others have their turn, if it is time."""
        if perf_counter() > self._until:
            await trio.lowlevel.checkpoint()
            self._until = perf_counter() + PIECE_S
