"""What a reader counts of one database, on its board in the control block."""

from __future__ import annotations

import time

from spacetimedb.memory.figures import Board
from spacetimedb.protocol import v2
from spacetimedb.workers import metric_families as families

CAUSE_OF_CLOSE = {
    v2.MODULE_EXITED_CLOSE: "module_exited",
    v2.TOO_MANY_REQUESTS_CLOSE: "incoming_queue_full",
}
"""Cause of an end by the close code that the server sent; any other is the client's message."""


class LinkFigures:
    """One per link."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.spawned = board.counter(families.SPAWNED)
        self.http_sent = board.counter(families.HTTP_SENT)
        self.subscribed = board.counter(families.SUBSCRIBED)
        self._age = board.histogram(families.UPDATE_AGE)
        self._compile = board.histogram(families.COMPILE, "Subscribe")
        self.received = [0, 0]
        """Messages of clients with a binary and with a text protocol, since `show_received`."""
        self.oldest_us = 0
        """Timestamp of the first reducer call that was processed since `sent`; 0: none."""

    def sent(self) -> None:
        """All that was processed has been handed to the sockets."""
        if self.oldest_us:
            self._age.observe(max(time.time_ns() // 1000 - self.oldest_us, 0))
            self.oldest_us = 0

    def show_received(self) -> None:
        """Brings `received` to the board, a second after something came."""
        for is_text, protocol in enumerate(("binary", "text")):
            if count := self.received[is_text]:
                self._board.counter(families.REQUESTS, protocol).add(count)
                self.received[is_text] = 0

    def ended(self, cause: str) -> None:
        """A client's connection ended."""
        self._board.counter(families.ENDED, cause).add()
        if cause in families.ENDED_BY:
            self._board.counter(families.ENDED_BY[cause]).add()

    def rejected(self) -> None:
        """The module's hook refused a client."""
        self._board.counter(families.REJECTED, "client_connected_rejected").add()

    def compiled(self, queries: int, duration_ns: int) -> None:
        """A Subscribe with so many queries."""
        self.subscribed.add(queries)
        self._compile.observe(duration_ns // 1000)
