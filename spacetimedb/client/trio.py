"""The client for trio.

    async with connect("ws://127.0.0.1:3000", "notes", module=notes) as conn:
        await conn.subscribe(notes.Note)
        conn.db[notes.Note].on_insert(lambda event, note: print(note.text))
        await conn.call(notes.write, "Hello")

Everything belongs to one trio thread. One task reads for all connections (`trio_wire.py`); sending does not wait.
Callbacks run there and must not block. An exception of a callback ends the connection, cancels the block of the
`async with` and comes out of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack

import trio

from .address import Address
from .core import Pending
from .definition import schema_from_json
from .driven import DrivenFace, Retry
from .errors import Disconnected
from .face import Backoff
from .options import Asked, ConnectOptions, Plan
from .schema import Schema
from .trio_wire import open_wire

__all__ = ["ConnectOptions", "Connection", "connect", "fetch_schema"]


async def fetch_schema(url: str, database: str, *, token: str | None = None) -> Schema:
    """The schema that the server gives for a database; share it among connections. ConnectError."""
    return schema_from_json(await _definition(Address.parse(url, database, token=token)))


async def _definition(address: Address) -> bytes:
    return await trio.to_thread.run_sync(address.fetch_definition)


@asynccontextmanager
async def connect(url: str, database: str, **options: Unpack[ConnectOptions]) -> AsyncIterator[Connection]:
    """A connection to a database, open while the block runs. See `ConnectOptions`. Raises ConnectError."""
    plan = Plan.of(url, database, options)
    connection = Connection(plan, Asked(await _definition(plan.address)) if plan.schema is None else None)
    await connection._open()
    try:
        with connection._block:
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
    """A connection of one trio thread; made by `connect`."""

    __slots__ = ("_block",)

    def __init__(self, plan: Plan, asked: Asked | None = None) -> None:
        super().__init__(plan, asked, trio.Event())
        self._block = trio.CancelScope()

    # -- inside

    async def _wait(self, pending: Pending[Any]) -> None:
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

    async def _connect(self, opened: Pending[None]) -> None:
        with trio.move_on_after(self.core.address.timeout):
            self._begin(await open_wire(self))
            await self._wait(opened)
            opened.result()
            return
        raise TimeoutError

    async def _in_thread(self, address: Address) -> bytes:
        return await _definition(address)

    async def _sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def _wait_closed_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds, shield=True):
            await self._closed.wait()

    def _start_retry(self, backoff: Backoff) -> Retry:
        scope = trio.CancelScope()

        async def retry() -> None:
            with scope:
                await self._come_back(backoff)

        trio.lowlevel.spawn_system_task(retry)
        return scope

    def _interrupt(self) -> None:
        self._block.cancel()
