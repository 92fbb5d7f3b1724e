"""Recorded conversations with the reference server, played against this one.

Format: vectors/websocket/sessions/README.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S
from server_process import ServerProcess
from session_client import Ended, Refused, SessionClient, decode
from session_view import Names, actual_view, greeting, settle, without_texts

from spacetimedb.protocol import v2_client
from spacetimedb.protocol.v2_client import OneOffQueryResult, ReducerResult

SESSIONS = Path(__file__).parents[1] / "vectors" / "websocket" / "sessions"

# Sessions, or the rest of a session, that speak a protocol or use a feature this server does not have yet.
LATER: dict[str, str] = {}

NAMES = sorted(path.stem for path in SESSIONS.glob("*.json") if path.stem not in LATER)


@pytest.fixture(scope="module")
def probe(server: ServerProcess) -> Iterator[tuple[ServerProcess, str, SessionClient]]:
    """The probe module, and a connection of our own that stays open."""
    identity = server.publish(SESSIONS / "probe.py", "probe-sessions")
    watcher = SessionClient(server.base_url, identity, ["v2.bsatn.spacetimedb"], "compression=None")
    watcher.receive()
    yield server, identity, watcher
    watcher.close()


def prepare(watcher: SessionClient) -> None:
    """Wait until nobody else is connected, then empty the tables."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        watcher.send(v2_client.one_off_query(1, "SELECT * FROM online"))
        answer = watcher.receive()
        assert isinstance(answer, OneOffQueryResult)
        assert answer.tables is not None
        if len(answer.tables[0].rows.rows()) == 1:
            break
        assert time.monotonic() < deadline, "clients of an earlier session are still there"
        time.sleep(0.02)
    watcher.send(v2_client.call_reducer(2, "reset", b""))
    assert isinstance(watcher.receive(), ReducerResult)


class Player:
    """Plays the client side of one session."""

    def __init__(self, server: ServerProcess, database: str) -> None:
        self.server = server
        self.database = database
        self.clients: dict[str, SessionClient] = {}
        self.names = Names()
        self.fresh: set[str] = set()

    def connect(self, step: dict[str, Any]) -> None:
        query = self.names.fill(step["query"])
        headers = {name: self.names.fill(value) for name, value in step.get("headers", {}).items()}
        if "status" in step:
            with pytest.raises(Refused) as caught:
                SessionClient(self.server.base_url, self.database, step["protocols"], query, headers)
            assert caught.value.status == step["status"]
            if "body" in step:
                assert caught.value.body == step["body"]
            return
        client = SessionClient(self.server.base_url, self.database, step["protocols"], query, headers)
        assert client.protocol == step["protocol"]
        self.clients[step["connect"]] = client
        self.fresh.add(step["connect"])

    def send(self, step: dict[str, Any]) -> None:
        client = self.clients[step["send"]]
        if "text" in step:
            client.send_text(self.names.fill(step["text"]))
            return
        frame = self.names.fill(step["frame_template"]) if "frame_template" in step else step["frame"]
        client.send(bytes.fromhex(frame), pieces=step.get("pieces", 1))

    def receive(self, step: dict[str, Any]) -> None:
        name = step["receive"]
        client = self.clients[name]
        for index, expected in enumerate(step["messages"]):
            message = client.receive()
            first = greeting(message)
            if name in self.fresh and first is not None:
                self.names.learn(name, first)
                self.fresh.discard(name)
            actual, wanted = actual_view(message, self.names), settle(expected)
            if step.get("free_text"):
                actual, wanted = without_texts(actual), without_texts(wanted)
            assert actual == wanted, f"message {index} for {name}"

    def silence(self, step: dict[str, Any]) -> None:
        with pytest.raises(TimeoutError):
            self.clients[step["silence"]].receive(step["ms"] / 1000)

    def closed(self, step: dict[str, Any]) -> None:
        client = self.clients.pop(step["closed"])
        before, end = client.receive_all()
        assert end.code == step["code"]
        assert step.get("after_any") or not before, f"{before} before the end"

    def close(self, step: dict[str, Any]) -> None:
        self.clients.pop(step["close"]).close()

    def drop(self, step: dict[str, Any]) -> None:
        self.clients.pop(step["drop"]).drop()

    def ping(self, step: dict[str, Any]) -> None:
        self.clients[step["ping"]].ping(bytes.fromhex(step["payload"]))

    def http(self, step: dict[str, Any]) -> None:
        request = step["http"]
        path = request["path"].replace("{db}", self.database)
        self.server.request(request.get("method", "GET"), self.names.fill(path), request.get("body"))

    def sleep(self, step: dict[str, Any]) -> None:
        time.sleep(step["sleep"] / 1000)

    def finish(self) -> None:
        """Everybody must be silent now."""
        time.sleep(0.1)
        for name, client in self.clients.items():
            try:
                message = client.receive(0.01)
            except TimeoutError:
                continue
            raise AssertionError(f"unexpected message for {name}: {message}")

    def leave(self) -> None:
        for client in self.clients.values():
            client.close()


@pytest.mark.parametrize("name", NAMES)
def test_session(probe: tuple[ServerProcess, str, SessionClient], name: str) -> None:
    server, database, watcher = probe
    prepare(watcher)
    session = json.loads((SESSIONS / f"{name}.json").read_text())
    player = Player(server, database)
    try:
        for number, step in enumerate(session["steps"]):
            kind = next(iter(step))
            try:
                getattr(player, kind)(step)
            except (AssertionError, TimeoutError, Ended, Refused, pytest.fail.Exception) as error:
                raise AssertionError(f"step {number} {json.dumps(step)[:300]}: {error}") from error
        player.finish()
    finally:
        player.leave()


def test_every_session_is_played_or_listed() -> None:
    assert {path.stem for path in SESSIONS.glob("*.json")} == {*NAMES, *LATER}


@pytest.mark.parametrize("name", NAMES)
def test_the_recording_agrees_with_itself(name: str) -> None:
    """The recorded bytes, decoded and named by this harness, are the recorded view: the harness is right."""
    session = json.loads((SESSIONS / f"{name}.json").read_text())
    names = Names()
    learned: set[str] = set()
    protocols: dict[str, str] = {}
    for step in session["steps"]:
        kind = next(iter(step))
        if "protocol" in step:
            protocols[step["connect"]] = step["protocol"]
        if kind != "receive":
            continue
        protocol = protocols[step["receive"]]
        # In texts all tokens were made one.
        texts = [text.replace('"TOKEN"', f'"TOKEN {step["receive"]}"').encode() for text in step.get("texts", ())]
        frames = texts or map(bytes.fromhex, step["frames"])
        messages = [message for frame in frames for message in decode(protocol, frame)]
        for message, expected in zip(messages, step["messages"], strict=True):
            first = greeting(message)
            if first is not None and step["receive"] not in learned:
                names.learn(step["receive"], first)
                learned.add(step["receive"])
            assert actual_view(message, names) == settle(expected)
