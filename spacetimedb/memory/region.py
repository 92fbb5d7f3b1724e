"""Shared memory regions and the memory barrier that the rings stand on.

A region is one mapping: a `memfd` where the system has it, an unlinked temporary file elsewhere. Processes get it by
file descriptor (`pass_fds`), so it vanishes with its last process, also after SIGKILL. Pages are zero and take no
memory until they are touched: a region of 64 GiB costs nothing at first.

Two views of the same memory:

* `Region.bytes`: the `mmap` object. Slice assignment is one memcpy, a slice is one `bytes` copy.
* `Region.words`: a memoryview cast to native `Q`. The mapping is page-aligned, so item i is an aligned 64-bit word and
  CPython's load and store of it compile to one `mov`: another process sees the old value or the new one, never a mix.
* `Region.halves`: the same, native `I`, for 32-bit words.

Ordering. On x86-64 stores become visible in program order and loads are done in program order, so "write the data, then
store the head" and "load the head, then read the data" need no barrier. One pair is not kept in order: a store followed
by a load of something else, and both sides of a sleep protocol do just that (consumer: raise the asleep flag, then look
at the head once more; producer: store the head, then look at the flag). Without a full barrier on both sides each may
miss the other's store, and the consumer sleeps beside waiting work. Python has no fence instruction, but taking and
releasing a lock does two atomic read-modify-write operations, each of which is a full barrier on x86-64: `fence()`.

Other machines: there the lock's operations only promise acquire and release. A store before "acquire, release, acquire,
release" cannot sink below the first release, a load after it cannot rise above the second acquire, and a release
followed by an acquire stays in order (ARMv8, POWER with its sync), so `fence()` does two rounds. Publishing a head and
reading behind one need a barrier there too; the rings call `publish_fence()`, which does nothing on x86-64.
"""

from __future__ import annotations

import mmap
import os
import platform
import sys
import tempfile
import threading

STRONGLY_ORDERED = platform.machine().lower() in ("x86_64", "amd64")
"""True where stores are seen in program order (x86-64)."""

_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_lock = threading.Lock()


if STRONGLY_ORDERED:

    def fence() -> None:
        """Full memory barrier: every store before it is visible to others before any load after it is done."""
        with _lock:
            pass

    def publish_fence() -> None:
        """Orders data before the word that publishes it (and, for the reader, the word before the data)."""

else:

    def fence() -> None:
        """Full memory barrier: every store before it is visible to others before any load after it is done."""
        with _lock:
            pass
        with _lock:
            pass

    publish_fence = fence


def _new_lock() -> None:
    """A child forked while another thread of the parent was inside `fence` must not inherit a taken lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


class Region:
    """One shared (or, for tests, private) zero-filled mapping of `size` bytes.

    `fd` is the descriptor to hand to other processes, -1 for a private region.
    """

    __slots__ = ("bytes", "fd", "halves", "shared", "size", "words")

    def __init__(self, mapping: mmap.mmap, fd: int, shared: bool) -> None:
        self.bytes = mapping
        self.fd = fd
        self.shared = shared
        self.size = len(mapping)
        self.words: memoryview[int] = memoryview(mapping).cast("Q")
        self.halves: memoryview[int] = memoryview(mapping).cast("I")

    @classmethod
    def create(cls, size: int, name: str) -> Region:
        """A new shared region; `size` in bytes is rounded up to whole pages, `name` shows up in /proc only."""
        size = _whole_pages(size)
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
        else:
            fd, path = tempfile.mkstemp(prefix=f"{name}-")
            os.unlink(path)
        try:
            os.ftruncate(fd, size)
            return cls(_map(fd, size), fd, True)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int) -> Region:
        """The region behind an inherited descriptor."""
        return cls(_map(fd, os.lseek(fd, 0, os.SEEK_END)), fd, True)

    @classmethod
    def private(cls, size: int) -> Region:
        """Memory of this process alone: for tests and for hosts that run inside one process."""
        size = _whole_pages(size)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        return cls(mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE), -1, False)

    def discard(self, start: int, length: int) -> bool:
        """Gives the pages of a page-aligned range back to the system; they read as zeros from then on.

        False where the system cannot do that; the range keeps its memory and its content then.
        """
        option = getattr(mmap, "MADV_REMOVE", None) if self.shared else getattr(mmap, "MADV_DONTNEED", None)
        if option is None:
            return False
        try:
            self.bytes.madvise(option, start, length)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Unmaps the region and closes its descriptor; where others hold views it is unmapped with the last one."""
        self.words.release()
        self.halves.release()
        try:
            self.bytes.close()
        except BufferError:
            pass
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _whole_pages(size: int) -> int:
    if size <= 0:
        raise ValueError(f"a region needs a positive size, not {size}")
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _map(fd: int, size: int) -> mmap.mmap:
    flags = mmap.MAP_SHARED | (_MAP_NORESERVE if sys.platform == "linux" else 0)
    return mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
