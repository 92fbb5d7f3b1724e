"""The same steps with the official client and with ours: the same events in the same order, on every face."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_faces import FACES, Session, run
from server_process import ServerProcess

from spacetimedb.client import InternalError, ReducerError, SubscriptionError

NPM = Path(__file__).resolve().parent.parent / "npm"
SECONDS = 180

STEPS: list[list[Any]] = [
    ["call", "add_item", {"name": "@ a", "level": 1}],
    ["subscribe", "all", ["SELECT * FROM item WHERE name = '@ a' OR name = '@ b' OR name = '@ c'"]],
    ["call", "add_item", {"name": "@ b", "level": 2}],
    ["call", "set_level", {"name": "@ a", "level": 3}],
    ["call", "set_level", {"name": "@ a", "level": 3}],
    ["subscribe", "twice", ["SELECT * FROM item WHERE name = '@ b'", "SELECT * FROM item WHERE name = '@ b'"]],
    ["subscribe", "low", ["SELECT * FROM item WHERE level < 10 AND name = '@ c'"]],
    ["call", "add_item", {"name": "@ c", "level": 5}],
    ["call", "set_level", {"name": "@ c", "level": 15}],
    ["call", "set_level", {"name": "@ b", "level": 8}],
    ["unsubscribe", "all"],
    ["call", "set_level", {"name": "@ c", "level": 7}],
    ["call", "set_level", {"name": "@ a", "level": 9}],
    ["call", "set_level", {"name": "@ b", "level": 9}],
    ["unsubscribe", "twice"],
    ["subscribe", "bad", ["SELECT * FROM nothing"]],
    ["call", "fail", {"text": "refused"}],
    ["call", "crash", {}],
    ["subscribe", "shouts", ["SELECT * FROM shout"]],
    ["call", "shout", {"text": "loud"}],
    ["call", "remove_item", {"name": "@ c"}],
    ["unsubscribe", "low"],
    ["call", "remove_item", {"name": "@ a"}],
    ["call", "remove_item", {"name": "@ b"}],
]


def steps_for(who: str) -> list[list[Any]]:
    """Everyone with rows of their own."""
    steps: list[list[Any]] = json.loads(json.dumps(STEPS).replace("@", who))
    return steps


def comparable(who: str, events: list[Any]) -> list[Any]:
    """Events without the player's name; rows of one message in one order, since the server's order means nothing."""
    found: list[Any] = json.loads(json.dumps(events).replace(f"{who} ", "@ "))
    runs = itertools.groupby(found, key=lambda event: (event[0], event[1], *event[3:]))
    return [event for _, run_ in runs for event in sorted(run_)]


@pytest.fixture(scope="module")
def expected(server: ServerProcess, npm_database: str) -> list[Any]:
    """What the official client saw."""
    command = ["node", "sequence.mjs", server.ws_url, npm_database, json.dumps(steps_for("npm"))]
    done = subprocess.run(command, cwd=NPM, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return comparable("npm", json.loads(done.stdout))


def cells(table: str, row: Any) -> list[Any]:
    names = {"item": ("name", "level"), "shout": ("text",), "beat": ("id", "count")}
    return [getattr(row, name) for name in names[table]]


def listen(conn: Any, events: list[Any]) -> None:
    for name in ("item", "shout", "beat"):
        cache = conn.db[name]

        def insert(event: Any, row: Any, name: str = name, cache: Any = cache) -> None:
            events.append(["insert", name, cells(name, row), type(event).__name__, cache.count()])

        def delete(event: Any, row: Any, name: str = name, cache: Any = cache) -> None:
            events.append(["delete", name, cells(name, row), type(event).__name__, cache.count()])

        def update(event: Any, old: Any, row: Any, name: str = name, cache: Any = cache) -> None:
            both = cells(name, old) + cells(name, row)
            events.append(["update", name, both, type(event).__name__, cache.count()])

        cache.on_insert(insert)
        cache.on_delete(delete)
        if name != "shout":
            cache.on_update(update)


async def play(
    session: Session, conn: Any, events: list[Any], handles: dict[str, Any], kind: str, name: str, what: list[Any]
) -> None:
    """One step."""
    if kind == "subscribe":
        handle = handles[name] = conn.subscribe_nowait(
            *what[0],
            on_applied=lambda: events.append(["applied", name]),
            on_error=lambda error: events.append(["refused", name]),
        )
        await session.until(lambda: handle.applied.done)
        events.append(["subscribed", name])
    elif kind == "unsubscribe":
        pending = conn.unsubscribe_nowait(handles[name])
        pending.then = lambda _: events.append(["ended", name])
        await session.until(lambda: pending.done)
    else:
        try:
            await conn.call(name, **what[0])
        except ReducerError as error:
            events.append(["failed", name, "SenderError", str(error)])
        except InternalError as error:
            events.append(["failed", name, "InternalError", str(error)])
        else:
            events.append(["returned", name])


@pytest.mark.parametrize("face", FACES)
def test_same_events_as_the_official_client(
    server: ServerProcess, npm_database: str, expected: list[Any], face: str
) -> None:
    events: list[Any] = []

    async def scenario(session: Session) -> None:
        handles: dict[str, Any] = {}
        async with session.connect() as conn:
            listen(conn, events)
            for kind, name, *what in steps_for(face):
                await play(session, conn, events, handles, kind, name, what)
            assert isinstance(handles["bad"].error, SubscriptionError)

    run(face, server.ws_url, npm_database, scenario)
    assert comparable(face, events) == expected
    assert len(expected) > len(STEPS)
