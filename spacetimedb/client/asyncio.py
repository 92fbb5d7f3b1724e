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
from types import ModuleType
from typing import Any

from spacetimedb.module import Module

from .address import CONNECT_SECONDS, Address
from .core import Pending
from .definition import schema_from_json
from .errors import ClientError, ConnectError, Disconnected
from .face import CLOSE_SECONDS, SILENCE_SECONDS, AsyncFace, Backoff, may_come_back
from .schema import Schema, schema_of

__all__ = ["Connection", "connect", "fetch_schema"]


async def fetch_schema(url: str, database: str, *, token: str | None = None) -> Schema:
    """The schema that the server gives for a database; share it among connections. ConnectError."""
    address = Address.parse(url, database, token=token)
    return schema_from_json(await asyncio.to_thread(address.fetch_definition))


@asynccontextmanager
async def connect(
    url: str,
    database: str,
    *,
    module: Module | ModuleType | Schema | None = None,
    token: str | None = None,
    confirmed: bool | None = None,
    light: bool = False,
    reconnect: Backoff | None = None,
    timeout: float = CONNECT_SECONDS,
) -> AsyncIterator[Connection]:
    """A connection to a database, open while the block runs.

    `module`: the module itself, its generated form, or a Schema; None: the server is asked. `token`: None makes a new
    identity. `confirmed` False: changes are shown before they are safe on disk. `reconnect`: None leaves a lost
    connection lost. `timeout`: seconds until the server must have greeted. Raises ConnectError.
    """
    address = Address.parse(url, database, token=token, confirmed=confirmed, light=light, timeout=timeout)
    schema = await fetch_schema(url, database, token=token) if module is None else schema_of(module)
    connection = Connection(address, schema, reconnect)
    await connection._open()
    try:
        yield connection
        await connection.aclose()
        if connection._failure is not None:
            raise connection._failure
    finally:
        connection._abort()


class Connection(AsyncFace):
    """A connection of one event loop; made by `connect`."""

    __slots__ = ("_backoff", "_closed", "_error", "_failure", "_heard", "_is_closing", "_opened", "_retry", "_wire")

    def __init__(self, address: Address, schema: Schema, backoff: Backoff | None) -> None:
        super().__init__(address, schema)
        self._backoff = backoff
        self._wire: _Wire | None = None
        self._closed = asyncio.Event()
        self._error: ClientError | None = None
        self._failure: Exception | None = None
        self._is_closing = False
        self._heard = 0.0
        self._opened: asyncio.Future[None] | None = None
        self._retry: asyncio.Task[None] | None = None

    async def _wait(self, pending: Pending[Any]) -> None:
        if pending.done:
            return
        future = asyncio.get_running_loop().create_future()
        pending.wake = lambda: None if future.done() else future.set_result(None)
        try:
            await future
        finally:
            pending.wake = None

    async def wait_closed(self) -> None:
        """Until the connection is over for good: returns if this side closed it, raises the ClientError otherwise, or
        what a callback raised."""
        await self._closed.wait()
        failure, self._failure = self._failure, None
        if failure is not None or self._error is not None:
            raise failure or self._error  # type: ignore[misc]  # one of them is there

    async def aclose(self) -> None:
        """Closes the connection in order; calls that were sent are executed. Does not wait for their answers."""
        self._is_closing = True
        if self._wire is None:
            self._abort()
            return
        self.core.close()
        self._flush()
        try:
            await asyncio.wait_for(self._closed.wait(), CLOSE_SECONDS)
        except TimeoutError:
            self._abort()

    # -- inside

    async def _open(self) -> None:
        """Connects and waits for the greeting. ConnectError."""
        address = self.core.address
        loop = asyncio.get_running_loop()
        self._opened = loop.create_future()
        try:
            async with asyncio.timeout(address.timeout):
                tls = address.tls()
                await loop.create_connection(
                    lambda: _Wire(self),
                    address.host,
                    address.port,
                    ssl=tls,
                    server_hostname=address.host if tls else None,
                )
                await self._opened
        except BaseException as error:
            self._opened = None
            if self._wire is not None:
                self._ended(self._wire, error if isinstance(error, ClientError) else ConnectError(str(error)))
            if isinstance(error, TimeoutError):
                raise ConnectError(f"no answer from {address} within {self.core.address.timeout:g} s") from None
            if isinstance(error, OSError):
                raise ConnectError(f"no connection to {address}: {error}") from None
            if isinstance(error, ClientError):
                raise ConnectError(str(error), getattr(error, "status", None)) from None
            raise
        self._opened = None
        self._watch()

    def _begin(self, wire: _Wire) -> None:
        self._wire = wire
        self.core.open()
        self._flush()

    def _received(self, wire: _Wire, data: bytes) -> None:
        if wire is not self._wire:
            return
        core = self.core
        self._heard = asyncio.get_running_loop().time()
        try:
            core.receive_data(data)
        except ClientError as error:
            self._flush()
            self._ended(wire, error)
            return
        except Exception as failure:  # of a callback: it ends the connection and is raised where that is waited for
            self._failure = self._failure or failure
            self._is_closing = True
            self._ended(wire, Disconnected(f"a callback raised {failure!r}"))
            return
        self._flush()
        if self._opened is not None and core.state == "open" and not self._opened.done():
            self._opened.set_result(None)
        if core.is_close_finished:
            self._ended(wire, Disconnected("the connection was closed"))

    def _ended(self, wire: _Wire, error: ClientError) -> None:
        """The end of one connection, told once."""
        if wire is not self._wire:
            return
        self._wire = None
        wire.transport.close()
        self.core.lost(error)
        if self._opened is not None:
            if not self._opened.done():
                self._opened.set_exception(error)
            return
        shown = None if self._is_closing else error
        self._tell_disconnected(shown)
        if shown is not None and self._backoff is not None and may_come_back(error):
            self._retry = asyncio.get_running_loop().create_task(self._come_back(self._backoff))
        else:
            self._finish(shown)

    def _finish(self, error: ClientError | None) -> None:
        self._error = error
        self.core.abandon(error or Disconnected("the connection was closed"))
        self._closed.set()

    async def _come_back(self, backoff: Backoff) -> None:
        """Connects again, as often as it takes, or until the server does not want us any more."""
        attempt = 0
        while True:
            await asyncio.sleep(backoff.delay(attempt))
            attempt += 1
            try:
                await self._open()
            except ConnectError as error:
                if not may_come_back(error):
                    self._finish(error)
                    return
            else:
                self._tell_reconnected()
                return

    def _watch(self) -> None:
        """Looks now and then whether the server has gone silent."""
        wire, loop = self._wire, asyncio.get_running_loop()
        if wire is None:
            return
        silent = loop.time() - self._heard
        if silent >= SILENCE_SECONDS:
            self._ended(wire, Disconnected(f"the server was silent for {SILENCE_SECONDS:g} s"))
        else:
            loop.call_later(SILENCE_SECONDS - silent, self._still, wire)

    def _still(self, wire: _Wire) -> None:
        if wire is self._wire:
            self._watch()

    def _abort(self) -> None:
        """The end without ceremony."""
        self._is_closing = True
        if self._retry is not None:
            self._retry.cancel()
        if self._wire is not None:
            self._ended(self._wire, Disconnected("the connection was closed"))
        elif not self._closed.is_set():
            self._finish(None)

    def _flush(self) -> None:
        if self._wire is not None:
            data = self.core.data_to_send()
            if data:
                self._wire.transport.write(data)


class _Wire(asyncio.Protocol):
    """One connection to the network."""

    transport: asyncio.Transport

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connection._begin(self)

    def data_received(self, data: bytes) -> None:
        self._connection._received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        connection = self._connection
        if connection._wire is self:
            connection._ended(self, connection.core.end_of_stream())
