"""Requests over HTTP that wait for the actor's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from spacetimedb.hosts import mail
from spacetimedb.hosts.mail import Outcome

if TYPE_CHECKING:
    from spacetimedb.types.special import Identity
    from spacetimedb.workers.reader.database_link import DatabaseLink


class DatabaseGone(Exception):
    """The database stopped while the request waited."""


class LogUnwritable(Exception):
    """The commit log cannot be written: what was waited for does not become durable."""


class Waiter:
    """A request over HTTP: set once with the outcome that ended it."""

    __slots__ = ("body", "done", "duration_us", "event", "horizon", "number", "outcome", "refused")

    def __init__(self, number: int) -> None:
        self.number = number
        self.event = trio.Event()
        self.done = False
        self.outcome: Outcome | None = None
        """None: committed."""
        self.body = b""
        self.duration_us = 0
        self.horizon = 0
        self.refused = False

    def finish(self, outcome: Outcome | None, body: bytes, duration_us: int, horizon: int) -> None:
        """Sets the outcome and wakes the request."""
        if not self.done:
            self.done = True
            self.outcome, self.body, self.duration_us, self.horizon = outcome, body, duration_us, horizon
            self.event.set()


async def request(
    link: DatabaseLink,
    identity: Identity,
    connection_id: bytes,
    claims: str,
    requests: list[bytes],
    waiter: Waiter,
    stays: bool = False,
) -> None:
    """Connects, sends the requests, disconnects; returns when one is answered. Raises DatabaseGone.

    `stays`: it disconnects when the answer has come, not as soon as the requests have been taken up.
    """
    connect = bytes(identity) + connection_id + claims.encode()
    link.outgoing.append(mail.request(mail.CONNECT, 0, waiter.number, 0, connect))
    link.outgoing += requests
    leave = mail.request(mail.DISCONNECT, 0, waiter.number, 0, b"")
    if not stays:
        link.outgoing.append(leave)
    link.post()
    try:
        with trio.CancelScope(shield=True):
            await waiter.event.wait()
    finally:
        link.waiters.pop(waiter.number, None)
    if stays and not link.down:
        link.outgoing.append(leave)
        link.post()
    if not waiter.done:
        raise DatabaseGone
