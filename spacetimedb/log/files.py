"""The file operations of the log, behind one small interface that tests replace to make them fail.

Descriptors are plain integers, positions are explicit, nothing is buffered: a short write is visible to the caller.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol


class FileSystem(Protocol):
    """What the log needs of a file system. Every method may raise OSError."""

    def list(self, directory: Path) -> list[str]:
        """Names in a directory, in no order."""
        ...

    def make_directory(self, directory: Path) -> None:
        """Creates the directory and its parents where they are missing, so that they survive a crash."""
        ...

    def read(self, path: Path) -> bytes:
        """The whole file."""
        ...

    def open(self, path: Path) -> int:
        """A descriptor for reading and writing; the file is created empty if it is missing."""
        ...

    def write(self, fd: int, at: int, data: bytes) -> int:
        """Writes at a byte position and returns how many bytes were written, at least one."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Sets the file's length."""
        ...

    def allocate(self, path: Path, size: int) -> None:
        """Makes the file have this length and all the room for it."""
        ...

    def sync_data(self, fd: int) -> None:
        """fdatasync: the content and the length survive a crash."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """fsync of the directory: new and renamed entries survive a crash."""
        ...

    def rename(self, source: Path, target: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def lock(self, path: Path) -> int:
        """Locks the file exclusively until the descriptor is closed; BlockingIOError if somebody else has it."""
        ...

    def close(self, fd: int) -> None: ...


class OperatingSystem:
    """The real file system."""

    def list(self, directory: Path) -> list[str]:
        return os.listdir(directory)

    def make_directory(self, directory: Path) -> None:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            self.sync_directory(path.parent)

    def read(self, path: Path) -> bytes:
        with open(path, "rb", buffering=0) as file:
            return file.readall()

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, fd: int, at: int, data: bytes) -> int:
        return os.pwrite(fd, data, at)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def allocate(self, path: Path, size: int) -> None:
        fd = self.open(path)
        try:
            try:
                os.posix_fallocate(fd, 0, size)
            except AttributeError:  # not every system has it
                write_all(self, fd, 0, bytes(size))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                write_all(self, fd, 0, bytes(size))  # nor every file system
        finally:
            os.close(fd)

    def sync_data(self, fd: int) -> None:
        os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)

    def sync_directory(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def lock(self, path: Path) -> int:
        fd = self.open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)


OPERATING_SYSTEM = OperatingSystem()


def write_all(files: FileSystem, fd: int, at: int, data: bytes) -> None:
    """Writes all of `data`, going on after short writes."""
    done = files.write(fd, at, data)
    while done < len(data):
        done += files.write(fd, at + done, data[done:])
