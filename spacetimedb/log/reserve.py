"""The reserve: a file that only takes up room, so that there is some when the disk is full.

When the commit log finds no room, what was committed but is not durable yet has nowhere to go, and whoever waits for it
waits for good. Then the reserve is given up: those transactions, and the disconnects that follow, get its room, while
new calls are refused. When there is room again the reserve is taken again first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spacetimedb.log.commit_log import is_no_room
from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem

RESERVE_BYTES: Final = 4 << 20
NAME: Final = "log.reserve"


class Reserve:
    """The reserve in a log's directory. `is_held`: the room is taken."""

    def __init__(self, directory: Path, files: FileSystem = OPERATING_SYSTEM, size: int = RESERVE_BYTES) -> None:
        self.is_held = False
        self._path = directory / NAME
        self._files = files
        self._size = size

    def take(self) -> bool:
        """Takes the room if there is some; whether it is held. Raises OSError for other reasons than room."""
        if not self.is_held:
            try:
                self._files.allocate(self._path, self._size)
            except OSError as error:
                if not is_no_room(error):
                    raise
                self._remove()  # half of it is of no use
            else:
                self.is_held = True
        return self.is_held

    def give_up(self) -> bool:
        """Gives the room to whoever needs it; whether there was any to give."""
        was_held, self.is_held = self.is_held, False
        if was_held:
            self._remove()
        return was_held

    def _remove(self) -> None:
        try:
            self._files.remove(self._path)
        except FileNotFoundError:
            pass
