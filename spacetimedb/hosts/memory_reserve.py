"""Memory that is kept back for the host, so that it can undo and answer when a call has used up all there is.

The reserve counts against the process's limit but is never touched, so it costs no memory.
"""

from __future__ import annotations

import mmap
from typing import Final

RESERVE_BYTES: Final = 64 << 20


def _memory(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class MemoryReserve:
    """Not held until `take`. `size` in bytes."""

    def __init__(self, size: int = RESERVE_BYTES) -> None:
        self._size = size
        self._held: mmap.mmap | None = None
        self.is_missing = False
        """It was given up and not taken again."""

    def take(self, spare: int = 0) -> bool:
        """Holds the reserve. False if there is no memory for it and `spare` bytes more."""
        try:
            if spare:
                _memory(spare).close()
            if self._held is None:
                self._held = _memory(self._size)
        except (OSError, MemoryError):
            return False
        self.is_missing = False
        return True

    def give_up(self) -> None:
        """Something failed for want of memory: what is kept back may be used. Does nothing if it is not held."""
        if self._held is not None:
            self._held.close()
            self._held = None
            self.is_missing = True
