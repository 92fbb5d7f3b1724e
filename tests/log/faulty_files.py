"""A file system in memory that can fail at its nth operation, write short, and lose what was not synced.

Entries of directories and contents of files are kept twice: as they are now, and as they would be found after the power
failed. A file's content becomes durable with `sync_data`, an entry with `sync_directory`. `after_power_failure` makes
the image that a reboot would find: of the writes that were not synced a random subset of 512-byte sectors, of the
changed entries a random subset.
"""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

SECTOR = 512


class Content:
    """A file: what it holds now, what is durable of it, and the unsynced changes since then."""

    def __init__(self, durable: bytes = b"") -> None:
        self.now = bytearray(durable)
        self.durable = durable
        self.pending: list[tuple[int, bytes] | int] = []
        """(position, data) of a write, or the size of a truncate."""

    def survivor(self, rng: Random) -> Content:
        image = bytearray(self.durable)
        for change in self.pending:
            if isinstance(change, int):
                if rng.random() < 0.5:
                    image[change:] = bytes(max(change - len(image), 0))
                continue
            at, data = change
            if rng.random() < 0.3 and at + len(data) > len(image):  # the size is changed, the data is not written
                image += bytes(at + len(data) - len(image))
            start = at
            while start < at + len(data):
                end = min((start // SECTOR + 1) * SECTOR, at + len(data))
                if rng.random() < 0.5:
                    image += bytes(max(end - len(image), 0))
                    image[start:end] = data[start - at : end - at]
                start = end
        return Content(bytes(image))


class PowerFailure(BaseException):
    """The machine stops here."""


class MemoryFiles:
    """Implements `FileSystem`. `fail_at`: number of the operation that fails, counted from 1; `failure` says how."""

    def __init__(self) -> None:
        self.entries: dict[Path, Content] = {}
        self.durable_entries: dict[Path, Content] = {}
        self.open_files: dict[int, Content] = {}
        self.locked: dict[int, Path] = {}
        self.operations = 0
        self.fail_at = 0
        self.failure: str = "EIO"
        self.next_fd = 3
        self.room: int | None = None
        """Bytes that all files together may have; None: any number."""

    def operation(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            if self.failure == "power":
                raise PowerFailure
            if self.failure in ("EIO", "ENOSPC"):
                raise OSError(getattr(errno, self.failure), self.failure)

    def after_kill(self) -> MemoryFiles:
        """What a new process finds after this one was killed."""
        image = MemoryFiles()
        image.entries = dict(self.entries)
        image.durable_entries = dict(self.durable_entries)
        return image

    def after_power_failure(self, rng: Random) -> MemoryFiles:
        """What is found after a reboot."""
        image = MemoryFiles()
        survivors: dict[int, Content] = {}
        for path in sorted({*self.entries, *self.durable_entries}):
            old, new = self.durable_entries.get(path), self.entries.get(path)
            content = old if old is new or rng.random() < 0.5 else new
            if content is not None:
                survivor = survivors.setdefault(id(content), content.survivor(rng))
                image.entries[path] = survivor
        image.durable_entries = dict(image.entries)
        return image

    def list(self, directory: Path) -> list[str]:
        return [path.name for path in self.entries if path.parent == directory]

    def make_directory(self, directory: Path) -> None:
        self.operation()

    def read(self, path: Path) -> bytes:
        if path not in self.entries:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return bytes(self.entries[path].now)

    def open(self, path: Path) -> int:
        self.operation()
        self.next_fd += 1
        self.open_files[self.next_fd] = self.entries.setdefault(path, Content())
        return self.next_fd

    def write(self, fd: int, at: int, data: bytes) -> int:
        content = self.open_files[fd]
        try:
            self.operation()
        except PowerFailure:
            self._write(content, at, data)
            raise
        if self.operations == self.fail_at:
            if self.failure == "short":
                data = data[: max(1, len(data) // 2)]
            elif self.failure == "short then ENOSPC":
                data = data[: max(1, len(data) // 2)]
                self.fail_at += 1
                self.failure = "ENOSPC"
        data = self._fitting(content, at, data)
        self._write(content, at, data)
        return len(data)

    def _fitting(self, content: Content, at: int, data: bytes) -> bytes:
        """As much of a write as there is room for. Raises OSError if that is nothing."""
        if self.room is None:
            return data
        left = self.room - sum(len(one.now) for one in {id(c): c for c in self.entries.values()}.values())
        fits = max(len(content.now) - at, 0) + max(left, 0)
        if data and not fits:
            raise OSError(errno.ENOSPC, "no room")
        return data[:fits]

    def _write(self, content: Content, at: int, data: bytes) -> None:
        content.now += bytes(max(at - len(content.now), 0))
        content.now[at : at + len(data)] = data
        content.pending.append((at, data))

    def truncate(self, fd: int, size: int) -> None:
        self.operation()
        content = self.open_files[fd]
        content.now[size:] = bytes(max(size - len(content.now), 0))
        content.pending.append(size)

    def allocate(self, path: Path, size: int) -> None:
        self.operation()
        content = self.entries.setdefault(path, Content())
        data = self._fitting(content, 0, bytes(size))
        self._write(content, 0, data)
        if len(data) < size:
            raise OSError(errno.ENOSPC, "no room")

    def sync_data(self, fd: int) -> None:
        self.operation()
        content = self.open_files[fd]
        content.durable = bytes(content.now)
        content.pending.clear()

    def sync_directory(self, directory: Path) -> None:
        self.operation()
        for path in {*self.entries, *self.durable_entries}:
            if path.parent == directory:
                if path in self.entries:
                    self.durable_entries[path] = self.entries[path]
                else:
                    del self.durable_entries[path]

    def rename(self, source: Path, target: Path) -> None:
        self.operation()
        self.entries[target] = self.entries.pop(source)

    def remove(self, path: Path) -> None:
        self.operation()
        if path not in self.entries:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        del self.entries[path]

    def lock(self, path: Path) -> int:
        if path in self.locked.values():
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        fd = self.open(path)
        self.locked[fd] = path
        return fd

    def close(self, fd: int) -> None:
        del self.open_files[fd]
        self.locked.pop(fd, None)
