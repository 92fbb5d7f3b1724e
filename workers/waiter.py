"""A request over HTTP that waits for the actor's answer."""

from __future__ import annotations

import trio

from spacetimedb.hosts.mail import Outcome


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
