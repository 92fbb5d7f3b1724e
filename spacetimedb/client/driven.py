"""What trio's and asyncio's connection have in common: the network drives them, no task of theirs waits for it.

A `Wire` is one connection to the network; it belongs to a face. It tells `_received` what came and `_ended` when
nothing more will come. Whatever callbacks raise ends the connection and is kept in `_failure` for those who wait.
"""

from __future__ import annotations

from typing import Any, Protocol

from .address import Address
from .core import Pending
from .errors import ClientError, ConnectError, Disconnected
from .face import CLOSE_SECONDS, AsyncFace, Backoff, connect_error, may_come_back
from .options import Asked, Plan


class Wire(Protocol):
    """One connection to the network."""

    def send(self, data: bytes) -> None:
        """Sends without waiting, in order. What does not arrive is noticed by the reading side."""

    def close(self) -> None:
        """At once, without ceremony. Nothing is told after it."""


class Ended(Protocol):
    """An event of trio or asyncio."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    async def wait(self) -> Any: ...


class Retry(Protocol):
    """A task that connects again."""

    def cancel(self) -> Any: ...


class DrivenFace(AsyncFace):
    """A connection of one event loop."""

    __slots__ = (
        "_asked",
        "_backoff",
        "_closed",
        "_error",
        "_failure",
        "_is_closing",
        "_opened",
        "_retry",
        "_store",
        "_wire",
    )

    def __init__(self, plan: Plan, asked: Asked | None, closed: Ended) -> None:
        schema = plan.schema if asked is None else asked.schema
        assert schema is not None
        super().__init__(plan.address, schema)
        self._asked = asked
        self._backoff = plan.backoff
        self._store = plan.store
        self._closed = closed
        self._wire: Wire | None = None
        self._opened: Pending[None] | None = None
        self._retry: Retry | None = None
        self._error: ClientError | None = None
        self._failure: BaseException | None = None
        self._is_closing = False

    # -- what a face does

    async def _connect(self, opened: Pending[None]) -> None:
        """Makes a wire, begins on it, waits for `opened`. OSError, TimeoutError (after the address's), ClientError."""
        raise NotImplementedError

    async def _in_thread(self, address: Address) -> bytes:
        """Fetches the database's definition without stopping the loop. ConnectError."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def _wait_closed_for(self, seconds: float) -> None:
        """Until the connection is over, or so many seconds."""
        raise NotImplementedError

    def _start_retry(self, backoff: Backoff) -> Retry:
        """Has `_come_back` run."""
        raise NotImplementedError

    def _interrupt(self) -> None:
        """A callback has raised: the block of `connect` may end now."""

    # -- for everybody

    async def wait_closed(self) -> None:
        """Until the connection is over for good: returns if this side closed it, raises the ClientError otherwise, or
        what a callback raised."""
        await self._closed.wait()
        if self._failure is not None:
            raise self._failure
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Closes the connection in order; calls that were sent are executed. Does not wait for their answers."""
        self._is_closing = True
        if self._wire is not None:
            self.core.close()
            self._flush()
            await self._wait_closed_for(CLOSE_SECONDS)
        self._abort()

    # -- inside

    async def _open(self) -> None:
        """Connects and waits for the greeting. ConnectError."""
        self._opened = opened = Pending[None]()
        try:
            await self._connect(opened)
        except BaseException as error:
            self._opened = None
            if self._wire is not None:
                self._drop(self._wire, error if isinstance(error, ClientError) else ConnectError(str(error)))
            raise connect_error(error, self.core.address) from None
        self._opened = None
        if self._store is not None and self.token is not None and self._store.load() != self.token:
            self._store.save(self.token)

    def _begin(self, wire: Wire) -> None:
        self._wire = wire
        self.core.open()
        self._flush()

    def _received(self, wire: Wire, data: bytes) -> None:
        """What came over a wire."""
        if wire is not self._wire:
            return
        core = self.core
        try:
            core.receive_data(data)
            outgoing = core.data_to_send()
            if outgoing:
                wire.send(outgoing)
        except ClientError as error:
            self._flush()
            self._ended(wire, error)
            return
        except BaseException as failure:
            self._fail(failure)
            return
        opened = self._opened
        if opened is not None and core.state == "open":
            opened.settle(None)
        if core.is_close_finished:
            self._ended(wire, Disconnected("the connection was closed"))

    def _drop(self, wire: Wire, error: ClientError) -> None:
        self._wire = None
        wire.close()
        self.core.lost(error)

    def _ended(self, wire: Wire, error: ClientError) -> None:
        """The end of one connection, told once."""
        if wire is not self._wire:
            return
        self._drop(wire, error)
        if self._opened is not None:
            self._opened.settle(None, error)
            return
        shown = None if self._is_closing else error
        try:
            self._tell_disconnected(shown)
        except BaseException as failure:
            self._fail(failure)
            return
        if shown is not None and self._backoff is not None and may_come_back(error):
            self._retry = self._start_retry(self._backoff)
        else:
            self._finish(shown)

    def _fail(self, failure: BaseException) -> None:
        """A callback has raised."""
        self._failure = self._failure or failure
        self._is_closing = True
        if self._wire is not None:
            self._ended(self._wire, Disconnected(f"a callback raised {failure!r}"))
        else:
            self._finish(None)

    def _finish(self, error: ClientError | None) -> None:
        if self._closed.is_set():
            return
        self._error = error
        self._over(error)
        self.core.abandon(error or Disconnected("the connection was closed"))
        self._closed.set()
        if self._failure is not None:
            self._interrupt()

    async def _come_back(self, backoff: Backoff) -> None:
        """Connects again, as often as it takes, or until the server does not want us any more."""
        attempt = 0
        while True:
            await self._sleep(backoff.delay(attempt))
            attempt += 1
            try:
                if self._asked is not None and self._asked.renew(await self._in_thread(self.core.address)):
                    self.core.adopt(self._asked.schema)
                await self._open()
            except ClientError as error:
                if not may_come_back(error):
                    self._finish(error)
                    return
            else:
                break
        try:
            self._tell_reconnected()
        except BaseException as failure:
            self._fail(failure)

    def _abort(self) -> None:
        """The end without ceremony."""
        self._is_closing = True
        if self._retry is not None:
            self._retry.cancel()
        if self._wire is not None:
            self._ended(self._wire, Disconnected("the connection was closed"))
        self._finish(None)

    def _flush(self) -> None:
        if self._wire is not None:
            data = self.core.data_to_send()
            if data:
                self._wire.send(data)
