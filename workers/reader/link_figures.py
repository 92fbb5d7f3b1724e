"""What a reader counts of one database, on its board in the control block."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from spacetimedb.hosts import mail
from spacetimedb.memory.figures import Board, Family
from spacetimedb.protocol import v2
from spacetimedb.store.commit_record import NO_REDUCER
from spacetimedb.workers import metric_families as families

if TYPE_CHECKING:
    from spacetimedb.workers.reader.database_link import DatabaseLink

CAUSE_OF_CLOSE = {
    v2.MODULE_EXITED_CLOSE: "module_exited",
    v2.TOO_MANY_REQUESTS_CLOSE: "incoming_queue_full",
}
"""Cause of an end by the close code that the server sent; any other is the client's message."""
MODULE_REFUSED: Final = "module_refused"
"""Why a connection ended that the module's hook did not let in."""
_WORKLOADS: Final = (
    *("Internal", "Subscribe", "Unsubscribe", "Subscribe", "Update", "Sql", "Reducer", "Procedure", *8 * ("Update",)),
    *("Subscribe", "Update", "Update", "Internal", "Sql", "Subscribe", "Unsubscribe", "Subscribe", "Subscribe"),
    *("Unsubscribe", "Procedure"),
)
"""Of messages, by kind (`Outbox.sent`): those of v2, from 16 on those of v1. Text does not tell, and is `Update`."""


class LinkFigures:
    """One per link. `show` brings to the board what is counted elsewhere, a second after something happened."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.spawned = board.counter(families.SPAWNED)
        self.http_sent = board.counter(families.HTTP_SENT)
        self.pong = board.histogram(families.PONG)
        self.sets = 0
        """Live query sets, when it was shown last."""
        self.messages_sent = 0
        """Messages to clients, when it was shown last."""
        self._web_socket_messages_sent = 0
        self._age = board.histogram(families.UPDATE_AGE)
        self._compile = board.histogram(families.COMPILE, "Subscribe")
        self._sent_size = board.histogram(families.SENT_SIZE)
        self.received = defaultdict[int, int](int), defaultdict[int, int](int)
        """How many messages of each size have come over a binary and over a text protocol, since `show`."""
        self.oldest_us = 0
        """Timestamp of the first reducer call that was processed since `sent`; 0: none."""
        self.oldest_reducer = NO_REDUCER
        """Its reducer."""
        self.asked = 0, 0
        """Connection and request of the call whose round trip is measured, one at a time; connection 0: none."""
        self._asked_at = 0
        self._asked_reducer = NO_REDUCER
        self._is_answered = False
        self._shown: dict[tuple[str, ...], int] = {}

    def ask(self, record: bytes) -> None:
        """The first request of a batch goes to the actor: if it is a call, its round trip is measured."""
        _length, kind, _flags, reducer, connection, request_id = mail.REQUEST_HEAD.unpack_from(record)
        if kind == mail.CALL:
            self.asked = connection, request_id
            self._asked_at, self._asked_reducer = time.perf_counter_ns(), reducer

    def answered(self, reducer: int) -> None:
        """The answer to it goes out now; `reducer` if it was committed."""
        self.asked, self._is_answered = (0, 0), True
        if reducer != NO_REDUCER:
            self._asked_reducer = reducer

    def sent(self, reducers: Sequence[str]) -> None:
        """All that was processed has been handed to the sockets. `reducers`: names by id."""
        if self.oldest_us:
            age = max(time.time_ns() // 1000 - self.oldest_us, 0)
            self._age.observe(age)
            self.oldest_us = 0
            if self.oldest_reducer < len(reducers):
                self._board.histogram(families.CALL_AND_QUERIES, reducers[self.oldest_reducer]).observe(age)
        if self._is_answered:
            self._is_answered = False
            if self._asked_reducer < len(reducers):
                took = (time.perf_counter_ns() - self._asked_at) // 1000
                self._board.histogram(families.ROUND_TRIP, "Reducer", reducers[self._asked_reducer]).observe(took)

    def ended(self, cause: str) -> None:
        """A client's connection ended."""
        if cause == MODULE_REFUSED:
            self._board.counter(families.REJECTED, "client_connected_rejected").add()
            return
        self._board.counter(families.ENDED, cause).add()
        if cause in families.ENDED_BY:
            self._board.counter(families.ENDED_BY[cause]).add()

    def compiled(self, duration_ns: int) -> None:
        """The queries of a Subscribe are compiled."""
        self._compile.observe(duration_ns // 1000)

    def show(self, link: DatabaseLink) -> None:
        """O(clients, different sizes of messages)."""
        self._show_messages(link)
        self._show_subscriptions(link)
        clients = link.all_clients()
        for family, value in (
            (families.LEGACY, sum(client.has_legacy for client in link.v1.clients.values())),
            (families.SEND_QUEUE, sum(len(client.held) for client in link.outbox.holding)),
            (families.INCOMING, sum(len(client.deferred) for client in clients)),
            (families.OUTGOING, sum(len(client.backlog) for client in clients)),
        ):
            self._board.counter(family).set(value)

    def _show_messages(self, link: DatabaseLink) -> None:
        board, outbox = self._board, link.outbox
        for protocol, sizes in zip(("binary", "text"), self.received, strict=True):
            if sizes:
                board.counter(families.REQUESTS, protocol).add(sum(sizes.values()))
                thousandths = {1000 * size: count for size, count in sizes.items()}
                board.histogram(families.REQUEST_SIZE, protocol).observe_all(thousandths)
                sizes.clear()
        sent = Counter[str]()
        for kind, sizes in enumerate(outbox.sent):
            if sizes:
                workload = _WORKLOADS[kind] if kind < len(_WORKLOADS) else "Update"
                sent[workload] += sum(size * count for size, count in sizes.items())
                self._web_socket_messages_sent += sum(sizes.values())
                self._sent_size.observe_all(sizes)
                sizes.clear()
        for workload, size in sent.items():
            board.counter(families.SENT_BYTES, workload).add(size)
        self.messages_sent = self._web_socket_messages_sent + outbox.more_messages

    def _show_subscriptions(self, link: DatabaseLink) -> None:
        counts = link.subscriptions.counts
        self._count(families.SUBSCRIBED, counts.registered)
        self._count(families.NEW_QUERIES, counts.started)
        self._count(families.EVALUATED, counts.registered, "Subscribe")
        self._count(families.EVALUATED, counts.ended, "Unsubscribe")
        self._count(families.DELTAS_EVALUATED, counts.evaluated)
        self._count(families.DELTAS_MATCHED, counts.matched)
        for scan, count in counts.scans.items():
            self._count(families.SCANS, count, *scan)
        clients, self.sets, queries = link.subscriptions.live_counts()
        self._board.counter(families.SUBSCRIBERS).set(clients)
        self._board.counter(families.SUBSCRIPTIONS).set(queries)

    def _count(self, family: Family, total: int, *labels: str) -> None:
        """Brings a counter to the board that has counted so much since the link began."""
        key = (family.name, *labels)
        grown = total - self._shown.get(key, 0)
        if grown:
            self._board.counter(family, *labels).add(grown)
            self._shown[key] = total
