"""The lane: sockets that take nothing, databases that take nothing."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Any

import pytest
import trio
import trio.testing

from spacetimedb.memory.figures import Board
from spacetimedb.memory.ring import ReaderDropped
from spacetimedb.protocol import v2_client
from spacetimedb.types.special import ConnectionId, Identity
from spacetimedb.workers.reader import client as lane_module
from spacetimedb.workers.reader.client import CLOSING, GONE, OPEN, Client, Lane
from spacetimedb.workers.reader.link_figures import LinkFigures
from spacetimedb.workers.reader.outbox import Outbox

OWNER = Identity(bytes(32))


class Requests:
    """Keeps the messages it gets."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def receive(self, _client: Client, messages: Iterable[Any]) -> None:
        self.received += messages


class Link:
    """A database that has nothing to say."""

    def __init__(self, lane: Lane) -> None:
        self.owner = OWNER
        self.congested = self.down = False
        self.outgoing: list[bytes] = []
        self.outbox = Outbox(lane, lambda: None, lambda: None)
        self.requests = Requests()
        self.clients: list[Client] = []
        self.figures = LinkFigures(Board.private())

    def all_clients(self) -> list[Client]:
        return self.clients

    def leave(self, client: Client) -> None:
        self.clients = [other for other in self.clients if other is not client]


def connected(lane: Lane, link: Link) -> tuple[Client, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    client = Client(ours, link, 1, OWNER, ConnectionId(bytes(16)), "", True, False)  # type: ignore[arg-type]
    client.state = OPEN
    link.clients.append(client)
    lane.add(client)
    return client, theirs


def frame(payload: bytes) -> bytes:
    assert len(payload) < 126
    return struct.pack("BB", 0x82, 0x80 | len(payload)) + bytes(4) + payload


async def until_idle() -> None:
    for _ in range(20):
        await trio.sleep(0.001)


async def test_a_full_database_stops_its_own_clients_only(nursery: trio.Nursery) -> None:
    lane = Lane()
    full, other = Link(lane), Link(lane)
    _, to_full = connected(lane, full)
    _, to_other = connected(lane, other)
    nursery.start_soon(lane.run)
    call = frame(v2_client.call_reducer(1, "x", b""))
    to_full.send(call)
    await until_idle()
    full.congested = True
    to_full.send(call)
    await until_idle()
    assert len(full.requests.received) == 2  # what came with the news is still read
    for _ in range(5):
        to_full.send(call)
        to_other.send(call)
        await until_idle()
    late, from_late = connected(lane, full)
    from_late.send(call)
    await until_idle()
    assert (len(full.requests.received), len(other.requests.received)) == (2, 5)
    full.congested = False
    lane.resume(full)  # type: ignore[arg-type]
    await until_idle()
    assert len(full.requests.received) == 8
    lane.drop(late)
    nursery.cancel_scope.cancel()


async def test_a_backlog_goes_out_while_the_database_is_full(nursery: trio.Nursery) -> None:
    lane = Lane()
    link = Link(lane)
    client, theirs = connected(lane, link)
    nursery.start_soon(lane.run)
    link.congested = True
    theirs.send(frame(v2_client.call_reducer(1, "x", b"")))
    await until_idle()
    data = bytes(1 << 20)
    lane.send(client, data)
    assert client.backlog
    got = 0
    while got < len(data) + 2:  # a Ping was sent first
        try:
            got += len(theirs.recv(1 << 16))
        except BlockingIOError:
            await trio.sleep(0.001)
    assert not client.backlog
    assert client.backlog_bytes == 0
    nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MAX_BACKLOG_BYTES", 1 << 20)
    lane = Lane()
    link = Link(lane)
    client, theirs = connected(lane, link)
    sent = 0
    while client.state != GONE:
        lane.send(client, bytes(100_000))
        sent += 1
        assert sent < 100
    assert client not in lane.clients
    assert client not in link.clients
    assert not client.backlog
    lane.send(client, b"x")
    theirs.close()


async def test_number_of_batches_in_a_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MAX_BACKLOG_MESSAGES", 10)
    lane = Lane()
    link = Link(lane)
    client, _theirs = connected(lane, link)
    lane.send(client, bytes(10 << 20))
    for _ in range(9):
        lane.send(client, b"x")
    assert client.state == OPEN
    lane.send(client, b"x")
    assert client.state == GONE


async def test_silence(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """A client that answers no Ping is cut off after IDLE_LIMIT_S, one that does is not."""
    lane = Lane()
    silent, _ = connected(lane, Link(lane))
    lively, theirs = connected(lane, Link(lane))
    nursery.start_soon(lane.keep_alive)
    await trio.sleep(lane_module.SWEEP_S / 2)  # look between two sweeps, not at the moment of one
    while trio.current_time() < 2 * lane_module.IDLE_LIMIT_S:
        await trio.sleep(lane_module.SWEEP_S)
        if trio.current_time() < lane_module.IDLE_LIMIT_S:
            assert silent.state == OPEN
        try:
            assert theirs.recv(100).endswith(b"\x89\x00")
        except BlockingIOError:
            continue
        lane.take(lively, b"\x8a\x80\0\0\0\0")
    assert (silent.state, silent.cause) == (GONE, "idle_timeout")
    assert lively.state == OPEN
    nursery.cancel_scope.cancel()


async def test_a_close_waits_for_the_backlog(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """What was sent before a Close still arrives; a client that does not read is cut off."""
    lane = Lane()
    reading, theirs = connected(lane, Link(lane))
    other, _unread = connected(lane, Link(lane))
    for client in (reading, other):
        lane.send(client, bytes(4 << 20))
        lane.close(client, 1011, "enough")
        assert client.backlog
    nursery.start_soon(lane.reap)
    got = b""
    while not got.endswith(b"\x88\x08\x03\xf3enough"):
        got += theirs.recv(1 << 20)
        lane._send_backlog(reading)
    assert len(got) == 2 + (4 << 20) + 10
    await trio.sleep(lane_module.CLOSE_HANDSHAKE_S + 2 * lane_module.CLOSE_LOOK_S)
    assert (reading.state, other.state) == (GONE, CLOSING)
    await trio.sleep(lane_module.CLOSE_BACKLOG_S)
    assert other.state == GONE
    nursery.cancel_scope.cancel()


async def test_what_may_be_wrong_is_not_sent_before_a_close() -> None:
    """A reader that was dropped closes its clients; what it read from the heap since then does not reach them."""
    lane = Lane()
    link = Link(lane)

    def check() -> None:
        raise ReaderDropped

    link.outbox = Outbox(lane, check, lambda: None)
    client, theirs = connected(lane, link)
    link.outbox.tell(client, b"wrong")
    with pytest.raises(ReaderDropped):
        link.outbox.flush()
    link.outbox.discard()
    lane.close(client, 1011, "")
    assert theirs.recv(100) == b"\x89\x00\x88\x02\x03\xf3"
    lane.drop(client)
    theirs.close()
