"""Independent implementations of WebSocket, trio-websocket and wsproto, talk to the server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import trio
from server_process import ServerProcess
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
)

from spacetimedb.protocol import v2_client

PROTOCOL = "v2.bsatn.spacetimedb"
PATIENCE_S = 60.0
SIZES = (125, 126, 65535, 65536)


class Peer:
    """A blocking socket with wsproto on it, after the handshake and the greeting."""

    def __init__(self, server: ServerProcess, database: str) -> None:
        address = urlsplit(server.ws_url)
        assert address.hostname is not None
        assert address.port is not None
        self.socket = socket.create_connection((address.hostname, address.port), PATIENCE_S)
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        self._request = 0
        self.send(
            Request(address.netloc, f"/v1/database/{database}/subscribe?compression=None", subprotocols=[PROTOCOL])
        )
        accepted = self.event()
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == PROTOCOL
        assert self.event() == Ping(payload=b"")
        self.send(Pong(payload=b""))
        assert isinstance(self.message(), v2_client.InitialConnection)

    def send(self, event: Event) -> None:
        self.socket.sendall(self.ws.send(event))

    def event(self) -> Event:
        """The next event; CloseConnection(1006) at the end of the stream."""
        while True:
            for event in self._events:
                return event
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            self.ws.receive_data(data or None)
            self._events = self.ws.events()

    def message(self) -> v2_client.ServerMessage:
        data = b""
        while True:
            event = self.event()
            assert isinstance(event, BytesMessage), event
            data += event.data
            if event.message_finished:
                (message,) = v2_client.decode_frame(data)
                return message

    def query(self, size: int) -> bytes:
        """A one-off query of so many bytes."""
        self._request += 1
        text = "SELECT * FROM item WHERE id = 1"
        padding = size - len(v2_client.one_off_query(self._request, text))
        return v2_client.one_off_query(self._request, text + " " * padding)

    def expect_answer(self) -> None:
        answer = self.message()
        assert isinstance(answer, v2_client.OneOffQueryResult), answer
        assert answer.request_id == self._request


@contextmanager
def peer(server: ServerProcess, database: str) -> Iterator[Peer]:
    found = Peer(server, database)
    try:
        yield found
    finally:
        found.socket.close()


async def received(ws: WebSocketConnection) -> bytes:
    message = await ws.get_message()
    assert isinstance(message, bytes)
    return message


async def test_trio_websocket_pings_and_closes(server: ServerProcess, probe_database: str) -> None:
    url = f"{server.ws_url}/v1/database/{probe_database}/subscribe"
    with trio.fail_after(PATIENCE_S):
        async with open_websocket_url(url, subprotocols=[PROTOCOL]) as ws:
            assert ws.subprotocol == PROTOCOL
            assert len(v2_client.decode_frame(await received(ws))) == 1
            for payload in (b"", b"x" * 125):
                await ws.ping(payload)  # returns with the Pong
            await ws.send_message(v2_client.one_off_query(7, "SELECT * FROM item WHERE id = 1"))
            (answer,) = v2_client.decode_frame(await received(ws))
            assert isinstance(answer, v2_client.OneOffQueryResult)
            await ws.aclose(1001, "going away")  # returns with the answer
            assert ws.closed is not None
            assert (ws.closed.code, ws.closed.reason) == (1001, "going away")


async def test_trio_websocket_is_closed_by_the_server(server: ServerProcess, probe_database: str) -> None:
    url = f"{server.ws_url}/v1/database/{probe_database}/subscribe"
    with trio.fail_after(PATIENCE_S):
        async with open_websocket_url(url, subprotocols=[PROTOCOL]) as ws:
            await ws.get_message()
            await ws.send_message(b"\xff")
            with pytest.raises(ConnectionClosed) as closed:
                await ws.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1011


def test_sizes_that_change_the_length_field(server: ServerProcess, probe_database: str) -> None:
    with peer(server, probe_database) as one:
        for size in SIZES:
            one.send(BytesMessage(data=one.query(size)))
            one.expect_answer()


def test_fragments_with_control_frames_between(server: ServerProcess, probe_database: str) -> None:
    with peer(server, probe_database) as one:
        message = one.query(300)
        one.send(BytesMessage(data=message[:1], message_finished=False))
        one.send(Ping(payload=b"between"))
        assert one.event() == Pong(payload=b"between")
        one.send(BytesMessage(data=b"", message_finished=False))
        one.send(BytesMessage(data=message[1:200], message_finished=False))
        one.send(BytesMessage(data=message[200:], message_finished=True))
        one.expect_answer()


def test_a_read_for_every_byte(server: ServerProcess, probe_database: str) -> None:
    with peer(server, probe_database) as one:
        one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = one.ws.send(BytesMessage(data=one.query(126)))
        for at in range(len(data)):
            one.socket.sendall(data[at : at + 1])
        one.expect_answer()


@pytest.mark.parametrize("code", [1000, 1001, 4000])
def test_a_close_is_answered_and_the_stream_ends(server: ServerProcess, probe_database: str, code: int) -> None:
    with peer(server, probe_database) as one:
        one.send(CloseConnection(code, "done ✓"))
        answer = one.event()
        assert isinstance(answer, CloseConnection)
        assert (answer.code, answer.reason) == (code, "done ✓")
        assert one.socket.recv(1) == b""


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\xc2\x80\0\0\0\0", id="reserved bit"),
        pytest.param(b"\x83\x80\0\0\0\0", id="reserved opcode"),
        pytest.param(b"\x81\x82\0\0\0\0\xff\xff", id="text that is no UTF-8"),
        pytest.param(b"\x82\x04abcd", id="not masked"),
        pytest.param(b"\x09\x80\0\0\0\0", id="a Ping in fragments"),
        pytest.param(b"\x80\x80\0\0\0\0", id="a continuation of nothing"),
        pytest.param(b"\x88\x81\0\0\0\0\x03", id="a Close with half a code"),
    ],
)
def test_broken_rules_end_the_connection(server: ServerProcess, probe_database: str, frame: bytes) -> None:
    with peer(server, probe_database) as one:
        one.socket.sendall(frame)
        try:
            assert one.socket.recv(1) == b""
        except ConnectionResetError:
            pass


def test_a_server_that_waits_for_an_answer_to_its_close(server: ServerProcess, probe_database: str) -> None:
    """It cuts the connection a moment later, also if the client says nothing more."""
    with peer(server, probe_database) as one:
        one.send(BytesMessage(data=b"\xff"))
        closed = one.event()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1011
        assert one.socket.recv(1) == b""
