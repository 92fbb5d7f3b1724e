"""Metrics of the server as Prometheus text, from the control blocks and this reader's own state.

A scrape reads shared words; only for what queries cost all readers are asked (`query_costs`). Names and labels are
SpacetimeDB's where it has the figure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from spacetimedb.memory import control as words
from spacetimedb.subscriptions.costs import QueryCost

if TYPE_CHECKING:
    from spacetimedb.workers.database_link import DatabaseLink
    from spacetimedb.workers.reader import Reader

Costs = list[tuple["DatabaseLink", QueryCost]]


async def metrics_text(reader: Reader) -> bytes:
    """All metrics at this moment."""
    costs: Costs = []

    async def ask(link: DatabaseLink) -> None:
        costs.extend((link, cost) for cost in await link.costs.most_expensive())

    async with trio.open_nursery() as nursery:
        for link in reader.links.values():
            nursery.start_soon(ask, link)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(reader, costs))
    return generate_latest(registry)


class _Collector:
    def __init__(self, reader: Reader, costs: Costs) -> None:
        self._reader = reader
        self._costs = costs

    def collect(self) -> Iterator[Metric]:
        """One metric family after the other."""
        links = list(self._reader.links.values())
        for name, kind, help_text, word in (
            (
                "spacetime_num_txns",
                "counter",
                "Logged transactions since the database was created.",
                words.TRANSACTIONS,
            ),
            (
                "spacetime_reducer_calls",
                "counter",
                "Reducer calls of clients since the actor started.",
                words.REDUCER_CALLS,
            ),
            ("spacetime_reducer_errors", "counter", "Calls that ended in an error.", words.REDUCER_ERRORS),
            ("spacetime_message_log_size_bytes", "gauge", "Bytes written to the commit log.", words.LOG_BYTES),
            ("spacetime_commitlog_syncs", "counter", "fdatasync calls of the log keeper.", words.LOG_SYNCS),
            ("spacetime_ring_stalls", "counter", "Times the actor waited for room in the ring.", words.RING_STALLS),
            ("spacetime_worker_instance_operation_queue_length", "gauge", "Bytes in mailboxes.", words.MAILBOX_DEPTH),
            ("spacetime_heap_bytes", "gauge", "High-water mark of the row heap.", words.HEAP_BYTES),
        ):
            yield _family(name, kind, help_text, [(link, link.control.words[word]) for link in links])
        seconds = Metric("spacetime_reducer_duration_seconds", "Time spent in reducers.", "summary")
        for link in links:
            labels = {"database_identity": link.identity.hex()}
            block = link.control.words
            seconds.add_sample("spacetime_reducer_duration_seconds_count", labels, block[words.REDUCER_CALLS])
            seconds.add_sample("spacetime_reducer_duration_seconds_sum", labels, block[words.REDUCER_MICROS] / 1e6)
        yield seconds
        durable = [(link, link.control.words[words.DURABLE]) for link in links]
        yield _family("spacetime_durable_transactions", "gauge", "Transactions that are on disk.", durable)
        for name, kind, help_text, reader_word in (
            ("spacetime_worker_connected_clients", "gauge", "WebSocket clients.", words.READER_CONNECTIONS),
            ("spacetime_subscription_sets", "gauge", "Live query sets.", words.READER_SUBSCRIPTIONS),
            ("spacetime_websocket_requests", "counter", "Reducer calls over WebSocket.", words.READER_CALLS),
            ("spacetime_websocket_sent_messages", "counter", "Messages sent to clients.", words.READER_MESSAGES),
            ("spacetime_websocket_sent_bytes", "counter", "Bytes sent to clients.", words.READER_BYTES),
            ("spacetime_worker_ws_clients_aborted", "counter", "Clients dropped for slowness.", words.READER_DROPPED),
        ):
            yield _family(name, kind, help_text, [(link, _sum_of_readers(link, reader_word)) for link in links])
        yield from _queries(self._costs)
        lag = [(link, link.fan_out_lag_bytes) for link in links]
        yield _family("spacetime_fan_out_lag_bytes", "gauge", "Published and not yet sent by this reader.", lag)
        memory = Metric("process_resident_memory_bytes", "Resident memory of this reader.", "gauge")
        memory.add_sample("process_resident_memory_bytes", {"pid": str(os.getpid())}, _resident_bytes())
        yield memory


def _family(name: str, kind: str, help_text: str, values: list[tuple[DatabaseLink, int]]) -> Metric:
    metric = Metric(name, help_text, kind)
    sample = name + "_total" if kind == "counter" else name
    for link, value in values:
        metric.add_sample(sample, {"database_identity": link.identity.hex()}, value)
    return metric


def _queries(costs: Costs) -> Iterator[Metric]:
    """The queries of each database that cost all readers most."""
    for name, help_text, figure in (
        ("spacetime_query_evaluations", "Transactions that concerned a live query, at each reader.", "evaluations"),
        ("spacetime_query_rows", "Rows that came out of them.", "rows"),
        ("spacetime_query_seconds", "Time spent on the query alone: conditions over all rows, joins.", "seconds"),
    ):
        metric = Metric(name, help_text, "counter")
        for link, cost in costs:
            labels = {"database_identity": link.identity.hex(), "query": cost.text}
            metric.add_sample(name + "_total", labels, getattr(cost, figure))
        yield metric
    metric = Metric("spacetime_query_subscribers", "Clients that have a live query.", "gauge")
    for link, cost in costs:
        labels = {"database_identity": link.identity.hex(), "query": cost.text}
        metric.add_sample("spacetime_query_subscribers", labels, cost.subscribers)
    yield metric


def _sum_of_readers(link: DatabaseLink, word: int) -> int:
    return sum(link.control.reader(slot, word) for slot in range(words.READER_SLOTS))


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
