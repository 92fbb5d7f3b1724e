"""Looks after the heartbeats of all actors: whoever's stands still, or says that a call cannot be stopped, is reported.

An actor counts its heartbeat up every few milliseconds while it works, and sets it to 0 when it sleeps. It stands still
when a C function does not return.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from spacetimedb.memory.control import ACTOR_HEARTBEAT, DEFIANT, ControlBlock

LOOK_S: Final = 0.5
STILL_LOOKS: Final = 8
"""So many looks in a row that saw the same heartbeat: four seconds."""


class _Watched:
    def __init__(self, control: ControlBlock, stuck: Callable[[], Awaitable[None]]) -> None:
        self.control = control
        self.stuck = stuck
        self.seen = 0
        self.looks = 0

    def is_stuck(self) -> bool:
        now = self.control.words[ACTOR_HEARTBEAT]
        self.looks = self.looks + 1 if now and now == self.seen else 0
        self.seen = now
        return now == DEFIANT or self.looks >= STILL_LOOKS


class Heartbeats:
    """All that are watched. `run` looks, for as long as the server lives."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._some = trio.Event()

    def watch(self, pid: int, control: ControlBlock, stuck: Callable[[], Awaitable[None]]) -> None:
        """From now on; `stuck` is called once at most."""
        self._watched[pid] = _Watched(control, stuck)
        self._some.set()

    def forget(self, pid: int) -> None:
        """The process has ended, or its control block is about to go."""
        self._watched.pop(pid, None)

    async def run(self) -> None:
        """Never ends."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._some.wait()
                for pid, watched in list(self._watched.items()):
                    if watched.is_stuck():
                        self.forget(pid)
                        nursery.start_soon(watched.stuck)
                if not self._watched:
                    self._some = trio.Event()
                await trio.sleep(LOOK_S)
