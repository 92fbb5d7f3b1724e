"""The client for trio.

    async with connect("ws://127.0.0.1:3000", "notes", module=notes) as conn:
        await conn.subscribe(notes.Note)
        conn.db[notes.Note].on_insert(lambda event, note: print(note.text))
        await conn.call(notes.write, "Hello")

Everything belongs to one trio thread. One task per connection reads; sending does not wait unless the socket is full.
Callbacks run in the reading task between two reads and must not block. An exception of a callback ends the connection
and comes out of the `async with`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import trio

from spacetimedb.module import Module

from .address import CONNECT_SECONDS, Address
from .core import Pending
from .definition import schema_from_json
from .errors import ClientError, ConnectError, Disconnected
from .face import (
    CLOSE_SECONDS,
    SILENCE_SECONDS,
    AsyncFace,
    Backoff,
    may_come_back,
)
from .schema import Schema, schema_of
from .trio_link import Link

__all__ = ["Connection", "connect", "fetch_schema"]


async def fetch_schema(url: str, database: str, *, token: str | None = None) -> Schema:
    """The schema that the server gives for a database; share it among connections. ConnectError."""
    address = Address.parse(url, database, token=token)
    return schema_from_json(await trio.to_thread.run_sync(address.fetch_definition))


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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection._run, nursery)
            yield connection
            await connection.aclose()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # the nursery is our own affair: what was raised inside comes out as it was
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        connection._drop(Disconnected("the connection was closed"))


class Connection(AsyncFace):
    """A connection of one trio task tree; made by `connect`."""

    __slots__ = ("_backoff", "_closed", "_error", "_is_closing", "_link")

    def __init__(self, address: Address, schema: Schema, backoff: Backoff | None) -> None:
        super().__init__(address, schema)
        self._backoff = backoff
        self._link: Link | None = None
        self._is_closing = False
        self._closed = trio.Event()
        self._error: ClientError | None = None

    async def _wait(self, pending: Pending[Any]) -> None:
        await wait(pending)

    async def wait_closed(self) -> None:
        """Until the connection is over for good: returns if this side closed it, raises the ClientError otherwise."""
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Closes the connection in order; calls that were sent are executed. Does not wait for their answers."""
        self._is_closing = True
        if self._link is None:
            self._closed.set()
            return
        self.core.close()
        self._flush()
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._closed.wait()

    # -- inside

    async def _open(self) -> None:
        """Connects and waits for the greeting. ConnectError."""
        core = self.core
        try:
            with trio.fail_after(core.address.timeout):
                self._link = link = await Link.open(core.address)
                core.open()
                await link.send_all(core.data_to_send())
                while core.state != "open":
                    data = await link.receive()
                    if not data:
                        raise core.end_of_stream()
                    core.receive_data(data)
                self._flush()
        except BaseException as error:
            self._drop(error if isinstance(error, ClientError) else ConnectError(str(error)))
            if isinstance(error, trio.TooSlowError):
                raise ConnectError(f"no answer from {core.address} within {self.core.address.timeout:g} s") from None
            if isinstance(error, OSError):
                raise ConnectError(f"no connection to {core.address}: {error}") from None
            if isinstance(error, ClientError):
                raise ConnectError(str(error), getattr(error, "status", None)) from None
            raise

    async def _run(self, nursery: trio.Nursery) -> None:
        """The reading task: until the connection is over for good."""
        while True:
            assert self._link is not None
            self._link.nursery = nursery
            ended = await self._pump(self._link)
            error = None if self._is_closing else ended
            self._drop(ended)
            self._tell_disconnected(error)
            if error is None or not may_come_back(error) or not await self._come_back():
                break
            self._tell_reconnected()
        self._error = self._error or error
        self.core.abandon(self._error or ended)
        self._closed.set()

    async def _pump(self, link: Link) -> ClientError:
        """Reads until the connection ends; returns why."""
        core = self.core
        receive, receive_data = link.receive, core.receive_data
        with trio.CancelScope(deadline=trio.current_time() + SILENCE_SECONDS) as silence:
            try:
                while True:
                    data = await receive()
                    if not data:
                        return core.end_of_stream()
                    now = trio.current_time()
                    if silence.deadline - now < SILENCE_SECONDS - 5:
                        silence.deadline = now + SILENCE_SECONDS
                    receive_data(data)
                    self._flush()
                    if core.is_close_finished:
                        return Disconnected("the connection was closed")
            except ClientError as error:
                self._flush()
                return error
        return Disconnected(f"the server was silent for {SILENCE_SECONDS:g} s")

    async def _come_back(self) -> bool:
        """Connects again, as often as it takes. False if the server does not want us any more."""
        attempt = 0
        while self._backoff is not None and not self._is_closing:
            with trio.move_on_after(self._backoff.delay(attempt)):
                await self._closed.wait()
            attempt += 1
            if self._is_closing:
                break
            try:
                await self._open()
            except ConnectError as error:
                if not may_come_back(error):
                    self._error = error
                    break
            else:
                return True
        return False

    def _drop(self, error: ClientError) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self.core.lost(error)

    def _flush(self) -> None:
        link = self._link
        if link is not None:
            data = self.core.data_to_send()
            if data:
                link.send(data)


async def wait(pending: Pending[Any]) -> None:
    """Until there is an answer. Cancelled, it stops waiting; the call goes on."""
    if pending.done:
        await trio.lowlevel.checkpoint()
        return
    task = trio.lowlevel.current_task()

    def wake() -> None:
        pending.wake = None
        trio.lowlevel.reschedule(task)

    def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
        pending.wake = None
        return trio.lowlevel.Abort.SUCCEEDED

    pending.wake = wake
    await trio.lowlevel.wait_task_rescheduled(abort)
