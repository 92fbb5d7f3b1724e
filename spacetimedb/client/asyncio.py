"""The client for asyncio.

    async with connect("ws://127.0.0.1:3000", "notes", module=notes) as conn:
        await conn.subscribe(notes.Note)
        conn.db[notes.Note].on_insert(lambda event, note: print(note.text))
        await conn.call(notes.write, "Hello")

Everything belongs to one event loop. The loop hands what arrives to the core at once, there is no task that reads.
Callbacks run there and must not block. An exception of a callback ends the connection; `wait_closed` and the end of
the `async with` raise it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack

from .address import Address
from .core import Pending
from .definition import schema_from_json
from .driven import DrivenFace, Retry
from .errors import Disconnected
from .face import SILENCE_SECONDS, Backoff
from .options import Asked, ConnectOptions, Plan
from .schema import Schema

__all__ = ["ConnectOptions", "Connection", "connect", "fetch_schema"]


async def fetch_schema(url: str, database: str, *, token: str | None = None) -> Schema:
    """The schema that the server gives for a database; share it among connections. ConnectError."""
    return schema_from_json(await _definition(Address.parse(url, database, token=token)))


async def _definition(address: Address) -> bytes:
    return await asyncio.to_thread(address.fetch_definition)


@asynccontextmanager
async def connect(url: str, database: str, **options: Unpack[ConnectOptions]) -> AsyncIterator[Connection]:
    """A connection to a database, open while the block runs. See `ConnectOptions`. Raises ConnectError."""
    plan = Plan.of(url, database, options)
    connection = Connection(plan, Asked(await _definition(plan.address)) if plan.schema is None else None)
    await connection._open()
    try:
        yield connection
        await connection.aclose()
    except Disconnected:
        if connection._failure is None:
            raise
    finally:
        connection._abort()
    if connection._failure is not None:
        raise connection._failure


class Connection(DrivenFace):
    """A connection of one event loop; made by `connect`."""

    __slots__ = ("_heard",)

    def __init__(self, plan: Plan, asked: Asked | None = None) -> None:
        super().__init__(plan, asked, asyncio.Event())
        self._heard = 0.0

    # -- inside

    async def _wait(self, pending: Pending[Any]) -> None:
        if pending.done:
            return
        future = asyncio.get_running_loop().create_future()
        pending.wake = lambda: None if future.done() else future.set_result(None)
        try:
            await future
        finally:
            pending.wake = None

    async def _connect(self, opened: Pending[None]) -> None:
        address = self.core.address
        tls = address.tls()
        async with asyncio.timeout(address.timeout):
            await asyncio.get_running_loop().create_connection(
                lambda: _Wire(self),
                address.host,
                address.port,
                ssl=tls,
                server_hostname=address.host if tls else None,
            )
            await self._wait(opened)
            opened.result()
        self._watch()

    async def _in_thread(self, address: Address) -> bytes:
        return await _definition(address)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _wait_closed_for(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            pass

    def _start_retry(self, backoff: Backoff) -> Retry:
        return asyncio.get_running_loop().create_task(self._come_back(backoff))

    def _watch(self) -> None:
        """Looks now and then whether the server has gone silent."""
        wire, loop = self._wire, asyncio.get_running_loop()
        if wire is None:
            return
        silent = loop.time() - self._heard
        if silent >= SILENCE_SECONDS:
            self._ended(wire, Disconnected(f"the server was silent for {SILENCE_SECONDS:g} s"))
        else:
            loop.call_later(SILENCE_SECONDS - silent, lambda: self._watch() if wire is self._wire else None)


class _Wire(asyncio.Protocol):
    """One connection to the network."""

    _transport: asyncio.Transport

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._time = asyncio.get_running_loop().time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connection._begin(self)

    def data_received(self, data: bytes) -> None:
        self._connection._heard = self._time()
        self._connection._received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        connection = self._connection
        if connection._wire is self:
            connection._ended(self, connection.core.end_of_stream())

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()
