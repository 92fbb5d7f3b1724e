"""What the processes of one database share: three regions, three bells, and a mailbox for every reader.

They are made for an actor and go with it: the next one recovers from the log into fresh ones.
"""

from __future__ import annotations

from typing import Final

import trio

from spacetimedb.memory import control as words
from spacetimedb.memory import ring as commit_ring
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.mailbox import format_mailbox
from spacetimedb.memory.region import Region

RING_BYTES: Final = 64 << 20
MAILBOX_BYTES: Final = 16 << 20
HEAP_BYTES: Final = 64 << 30
"""Address space of a database's row heap; memory is taken as rows come."""


class SharedParts:
    """Regions, bells and mailboxes; OSError if the system has no room. `control` shows the control block."""

    def __init__(self, name: str) -> None:
        self._regions: list[Region] = []
        self._bells: list[Doorbell] = []
        self.mailboxes: dict[int, Region] = {}
        """By number of the reader."""
        self.is_closed = False
        try:
            for part, size in (("control", words.SIZE), ("ring", RING_BYTES), ("heap", HEAP_BYTES)):
                self._regions.append(Region.create(size, f"spacetimedb-{part}-{name}"))
            for _ in range(3):
                self._bells.append(Doorbell.create())
        except BaseException:
            self.close()
            raise
        control, self._ring, _heap = self._regions
        self.control = ControlBlock.create(control)
        self.actor_bell, self.keeper_bell, self.durable_bell = self._bells
        commit_ring.format_ring(self._ring)
        commit_ring.activate(self._ring, commit_ring.LOG_KEEPER_SLOT)

    @property
    def fds(self) -> list[int]:
        """Descriptors of control block, commit ring and row heap."""
        return [region.fd for region in self._regions]

    def add_mailbox(self, reader: int) -> int:
        """An empty mailbox for a reader; its descriptor. OSError if the system has no room."""
        mailbox = Region.create(MAILBOX_BYTES, "spacetimedb-mailbox")
        format_mailbox(mailbox)
        self.mailboxes[reader] = mailbox
        return mailbox.fd

    def ignore_reader(self, reader: int) -> None:
        """The ring no longer waits for this reader."""
        commit_ring.deactivate(self._ring, reader + 1)

    def close(self) -> None:
        """Gives everything back; whoever waits for a bell is told."""
        self.is_closed = True
        for region in (*self._regions, *self.mailboxes.values()):
            region.close()
        self.mailboxes.clear()
        for bell in self._bells:
            trio.lowlevel.notify_closing(bell.fd)
            bell.close()
