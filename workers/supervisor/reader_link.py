"""What a database needs to know of a reader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from spacetimedb.memory.doorbell import Doorbell


class ReaderLink:
    """A reader's number, its bell, and how to tell it something.

    `is_alive` is False from the moment its process is known to have ended: it must not be attached any more. `answered`
    is there while it is asked whether it is stuck, and set when it is not.
    """

    def __init__(self, number: int, bell: Doorbell, send: Callable[..., Awaitable[None]]) -> None:
        self.number = number
        self.bell = bell
        self.send = send
        self.is_alive = True
        self.answered: trio.Event | None = None
