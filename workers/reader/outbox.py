"""Messages on their way to clients: what is queued in a batch, and what waits until it is durable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from spacetimedb.protocol import v2
from spacetimedb.workers.reader.client import Client, Lane

MAX_KINDS: Final = 256
UPDATE: Final = 4
"""Kind of a TransactionUpdate of v2."""
MAX_HELD: Final = 16384
"""Batches of messages that wait until they are durable; a client with more is dropped."""


class Outbox:
    """Of one reader for one database. `check_attached` raises if what was read from the heap may be wrong; `expect_log`
    is called when messages wait until more is durable."""

    def __init__(self, lane: Lane, check_attached: Callable[[], None], expect_log: Callable[[], object]) -> None:
        self._lane = lane
        self._check_attached = check_attached
        self._expect_log = expect_log
        self.durable = 0
        """So many transactions are durable, as far as this reader knows."""
        self.touched: set[Client] = set()
        """Clients with unsent messages."""
        self.holding: set[Client] = set()
        """Clients with messages that wait until they are durable."""
        self._frames: dict[int, bytes] = {}
        """Framed form of messages that several clients get, by id of the message; for one batch."""
        self.shared: list[bytes] = []
        """Those messages: as long as they are here, no other gets their id."""
        self.sent: tuple[defaultdict[int, int], ...] = tuple(defaultdict(int) for _ in range(MAX_KINDS))
        """How many WebSocket messages of each size, by their kind: `Client.first_kind` and the first byte."""
        self.more_messages = 0
        """Messages that shared a WebSocket message with others."""
        self.dropped = 0
        """Clients that did not take their messages in time."""

    def tell(self, client: Client, message: bytes, horizon: int = 0) -> None:
        """Queues a message that says nothing of transactions later than `horizon`."""
        client.messages.append(message)
        if horizon > client.horizon:
            client.horizon = horizon
        self.touched.add(client)

    def flush(self) -> None:
        """Frames and sends the messages of all touched clients; unconfirmed or durable ones at once, the rest later."""
        # What was read from the heap is only right if the actor had to keep it for this reader.
        self._check_attached()
        touched, frames, durable, send = self.touched, self._frames, self.durable, self._lane.send
        updates = self.sent[UPDATE]
        while touched:
            client = touched.pop()
            messages = client.messages
            if len(messages) == 1 and not client.gathering and not client.held:
                # The many clients that get the same update: framed once, nothing else to decide.
                data = frames.get(id(messages[0]))
                if data is not None and (client.horizon <= durable or not client.confirmed):
                    client.messages = []
                    updates[len(data)] += 1
                    send(client, data)
                    continue
            self.flush_client(client)
        self._frames.clear()
        self.shared.clear()
        if self.holding:
            self._expect_log()

    def discard(self) -> None:
        """What was read from the heap may be wrong: nobody gets what is not sent yet."""
        while self.touched:
            client = self.touched.pop()
            client.messages.clear()
            client.gathering.clear()

    def flush_client(self, client: Client) -> None:
        """Frames and sends the messages of one client."""
        messages = client.messages
        waiting: list[bytes] = []
        if client.gathering:
            at = next(i for i, message in enumerate(messages) if message is client.gathering[0])
            messages, waiting = messages[:at], messages[at:]
        if not messages:
            return
        self.more_messages += len(messages) - 1
        if len(messages) == 1:
            message = messages[0]
            data = self._frames.get(id(message))
            if data is None:
                data = client.pack(messages)
                if message[0] == 4:
                    # Shared by several clients; `shared` keeps it alive, so its id stays its own during this batch.
                    self._frames[id(message)] = data
        elif client.several:
            data = v2.pack_v3(messages)
        else:
            data = client.pack(messages)
        client.messages = waiting
        self.sent[client.first_kind + messages[0][0]][len(data)] += 1
        if client.confirmed and (client.held or client.horizon > self.durable):
            client.held.append((client.horizon, data))
            self.holding.add(client)
            if len(client.held) > MAX_HELD:
                self._lane.drop(client, "outgoing_queue_full")
        else:
            self._lane.send(client, data)

    def send_parts(self, client: Client, parts: list[bytes | memoryview], horizon: int, kind: int) -> None:
        """Sends one large message that is framed already."""
        size = sum(map(len, parts))
        self.sent[kind][size] += 1
        client.allowance += size
        if client.confirmed and (client.held or horizon > self.durable):
            client.held.extend((horizon, part) for part in parts)
            self.holding.add(client)
        else:
            for part in parts:
                self._lane.send(client, part)

    def release(self, durable: int) -> None:
        """So many transactions are durable: sends what waited for them, in order."""
        self.durable = durable
        for client in list(self.holding):
            held = client.held
            parts = []
            while held and held[0][0] <= durable:
                parts.append(held.popleft()[1])
            if client.allowance:
                for part in parts:
                    self._lane.send(client, part)
            elif parts:
                self._lane.send(client, parts[0] if len(parts) == 1 else b"".join(parts))
            if not held:
                self.holding.discard(client)
        if self.holding:
            self._expect_log()

    def forget(self, client: Client) -> None:
        """The client gets nothing more."""
        self.touched.discard(client)
        self.holding.discard(client)
