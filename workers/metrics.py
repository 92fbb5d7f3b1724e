"""Metrics of the server as Prometheus text, from the control blocks and this reader's own state.

A scrape reads shared words; only for what queries cost all readers are asked (`query_costs`). Names and labels are
SpacetimeDB's where it has the figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from spacetimedb.hosts.figures import ELAPSED, FAILED
from spacetimedb.memory import control as words
from spacetimedb.memory.figures import HISTOGRAM, Family
from spacetimedb.memory.ring import LOG_KEEPER_SLOT, lags
from spacetimedb.subscriptions.costs import QueryCost
from spacetimedb.workers.metric_families import FAMILIES
from spacetimedb.workers.process_metrics import process_metrics

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
        for name, kind, help_text, word in WORDS:
            yield _family(name, kind, help_text, [(link, link.control.words[word]) for link in links])
        yield _family(
            "spacetime_reducer_busy_seconds",
            "counter",
            "Time spent in reducers of clients.",
            [(link, link.control.words[words.REDUCER_MICROS] / 1e6) for link in links],
        )
        for name, kind, help_text, reader_word in READER_WORDS:
            yield _family(name, kind, help_text, [(link, _sum_of_readers(link, reader_word)) for link in links])
        yield from _boards(links)
        yield from _queries(self._costs)
        yield _lags(links)
        yield _memory(links)
        yield from process_metrics(self._reader)


WORDS: Final = (
    (
        "spacetime_committed_transactions",
        "counter",
        "Logged transactions since the database was created.",
        words.TRANSACTIONS,
    ),
    ("spacetime_durable_transactions", "counter", "Transactions that are on disk.", words.DURABLE),
    ("spacetime_reducer_calls", "counter", "Reducer calls of clients since the actor started.", words.REDUCER_CALLS),
    ("spacetime_reducer_errors", "counter", "Calls that ended in an error.", words.REDUCER_ERRORS),
    (
        "spacetime_commitlog_written_bytes",
        "counter",
        "Transactions' bytes written to the log since start.",
        words.LOG_BYTES,
    ),
    ("spacetime_commitlog_syncs", "counter", "fdatasync calls of the log keeper.", words.LOG_SYNCS),
    (
        "spacetime_commitlog_full",
        "gauge",
        "1 while there is no room for the log and calls are refused.",
        words.LOG_FULL,
    ),
    ("spacetime_ring_stalls", "counter", "Times the actor waited for room in the ring.", words.RING_STALLS),
    (
        "spacetime_worker_instance_operation_queue_length",
        "gauge",
        "Bytes the actor found in its mailboxes when it last looked.",
        words.MAILBOX_DEPTH,
    ),
)
"""Words of the control block: name, kind, help, word."""
READER_WORDS: Final = (
    ("spacetime_worker_connected_clients", "gauge", "WebSocket clients.", words.READER_CONNECTIONS),
    ("spacetime_subscription_sets", "gauge", "Live query sets.", words.READER_SUBSCRIPTIONS),
    ("spacetime_websocket_requests", "counter", "Reducer calls over WebSocket.", words.READER_CALLS),
    ("spacetime_websocket_sent_messages", "counter", "Messages sent to clients.", words.READER_MESSAGES),
    ("spacetime_websocket_sent_bytes", "counter", "Bytes of messages sent to clients.", words.READER_BYTES),
    ("spacetime_worker_ws_clients_aborted", "counter", "Clients dropped for slowness.", words.READER_DROPPED),
)
"""Words of each reader, summed."""


def _boards(links: list[DatabaseLink]) -> Iterator[Metric]:
    """What the processes counted on their boards; the same figure of several readers is added up."""
    sums: dict[str, dict[tuple[str, ...], list[int]]] = {name: {} for name in FAMILIES}
    for link in links:
        identity = link.identity.hex()
        for name, labels, values in link.control.figures():
            if name in sums:
                known = sums[name].setdefault((identity, *labels), [0] * len(values))
                for i, value in enumerate(values):
                    known[i] += value
    for name, found in sums.items():
        yield _board_family(FAMILIES[name], found)
    yield _transactions(sums[ELAPSED.name], sums[FAILED.name])


def _board_family(family: Family, found: dict[tuple[str, ...], list[int]]) -> Metric:
    name = family.name
    metric = Metric(name.removesuffix("_total"), family.help, family.kind_name)
    label_names = ("database_identity", *family.labels)
    bounds = [format(bound * family.scale, ".10g") for bound in family.bounds]
    for values_of_labels, values in found.items():
        labels = dict(zip(label_names, values_of_labels, strict=True))
        if family.kind != HISTOGRAM:
            metric.add_sample(name, labels, values[0] * family.scale)
            continue
        total = 0
        for bound, count in zip((*bounds, "+Inf"), values[1:], strict=True):
            total += count
            metric.add_sample(name + "_bucket", {**labels, "le": bound}, total)
        metric.add_sample(name + "_count", labels, total)
        metric.add_sample(name + "_sum", labels, values[0] * family.scale)
    return metric


def _transactions(elapsed: dict[tuple[str, ...], list[int]], failed: dict[tuple[str, ...], list[int]]) -> Metric:
    """Counted by the histogram of their durations, and by the failures."""
    metric = Metric("spacetime_num_txns", "Transactions since the actor started.", "counter")
    name = "spacetime_num_txns_total"
    for (identity, kind, function), values in elapsed.items():
        labels = {"database_identity": identity, "txn_type": kind, "reducer": function, "committed": "true"}
        metric.add_sample(name, labels, sum(values[1:]))
    not_committed: dict[tuple[str, str], int] = {}
    for (identity, function, _outcome), values in failed.items():
        not_committed[identity, function] = not_committed.get((identity, function), 0) + values[0]
    for (identity, function), count in not_committed.items():
        labels = {"database_identity": identity, "txn_type": "Reducer", "reducer": function, "committed": "false"}
        metric.add_sample(name, labels, count)
    return metric


def _lags(links: list[DatabaseLink]) -> Metric:
    metric = Metric("spacetime_fan_out_lag_bytes", "Published by the actor and not yet processed.", "gauge")
    for link in links:
        if link.down:
            continue
        for slot, lag in lags(link.ring).items():
            consumer = "log_keeper" if slot == LOG_KEEPER_SLOT else f"reader_{slot - 1}"
            metric.add_sample(metric.name, {"database_identity": link.identity.hex(), "consumer": consumer}, lag)
    return metric


def _memory(links: list[DatabaseLink]) -> Metric:
    metric = Metric("spacetime_memory_region_bytes", "Shared memory; of the heap what has ever been used.", "gauge")
    for link in links:
        identity = link.identity.hex()
        for region, size in (("heap", link.control.words[words.HEAP_BYTES]), ("ring", link.ring.size)):
            metric.add_sample(metric.name, {"database_identity": identity, "region": region}, size)
    return metric


def _family(name: str, kind: str, help_text: str, values: Sequence[tuple[DatabaseLink, float]]) -> Metric:
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
