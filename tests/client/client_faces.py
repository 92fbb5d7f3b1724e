"""One scenario, three faces: an async function that takes a `Session` runs on trio, asyncio, or blocking calls."""

from __future__ import annotations

import asyncio as std_asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import trio as std_trio
from patience import PATIENCE_S

from spacetimedb.client import asyncio, blocking, trio

LOOK = 0.005
FACES = ("trio", "asyncio", "blocking", "ticking")

Scenario = Callable[["Session"], Coroutine[Any, Any, None]]


class Session:
    """What a scenario has: `connect` with the arguments of the face's own, and `until` to wait for a condition."""

    def __init__(self, face: str, url: str, database: str) -> None:
        self.face, self.url, self.database = face, url, database
        self._ticking: list[blocking.Connection] = []

    @asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[Any]:
        options = {"url": self.url, "database": self.database, **options}
        if self.face == "trio":
            async with trio.connect(**options) as connection:
                yield connection
        elif self.face == "asyncio":
            async with asyncio.connect(**options) as loop_connection:
                yield loop_connection
        else:
            with blocking.connect(**options, thread=self.face == "blocking") as plain:
                if self.face == "ticking":
                    self._ticking.append(plain)
                try:
                    yield Awaited(plain)
                finally:
                    if plain in self._ticking:
                        self._ticking.remove(plain)

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Returns when the condition holds; AssertionError if that takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited too long for {what or condition}"
            if self.face == "trio":
                await std_trio.sleep(LOOK)
            elif self.face == "asyncio":
                await std_asyncio.sleep(LOOK)
            else:
                for connection in list(self._ticking):
                    connection.tick()
                time.sleep(LOOK)


class Awaited:
    """A blocking connection whose waiting methods can be awaited."""

    WAITING = ("call", "procedure", "query", "subscribe", "unsubscribe", "wait_closed")

    def __init__(self, connection: blocking.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in self.WAITING:
            return found

        async def waiting(*args: Any, **kwargs: Any) -> Any:
            return found(*args, **kwargs)

        return waiting

    async def aclose(self) -> None:
        self._connection.close()


def run(face: str, url: str, database: str, scenario: Scenario) -> None:
    """Runs a scenario on one face."""
    session = Session(face, url, database)
    if face == "trio":
        std_trio.run(_limited, scenario, session)
    elif face == "asyncio":
        std_asyncio.run(std_asyncio.wait_for(scenario(session), 3 * PATIENCE_S))
    else:
        coroutine: Awaitable[None] = scenario(session)
        try:
            coroutine.__await__().send(None)  # nothing in it suspends
        except StopIteration:
            return
        raise AssertionError("a blocking face suspended")


async def _limited(scenario: Scenario, session: Session) -> None:
    with std_trio.fail_after(3 * PATIENCE_S):
        await scenario(session)
