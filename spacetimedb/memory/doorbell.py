"""Doorbells: how one process wakes another that sleeps in poll().

A doorbell is an eventfd (Linux) or a non-blocking pipe. Ringing it any number of times before the sleeper looks counts
once. It carries no information: whoever wakes looks at all its rings. It is made before the processes start and handed
on by descriptor; every process may keep both ends, so ringing a dead process' bell neither blocks nor fails.

The sleeper's order is: `clear()`, then drain, then `prepare_sleep()` of every ring, then poll. Clearing after draining
could swallow the ring of a record that came in between.

A producer that is killed between publishing and ringing leaves its consumer asleep beside a waiting record: whoever
notices the death of a process rings the bells of all that read from it.
"""

from __future__ import annotations

import os
import select

_HAS_EVENTFD = hasattr(os, "eventfd")


class Doorbell:
    """`fd` becomes readable when rung; `fds` are the descriptors to hand to another process for `attach`."""

    __slots__ = ("_event", "_write_fd", "fd")

    def __init__(self, fd: int, write_fd: int) -> None:
        self.fd = fd
        self._write_fd = write_fd
        self._event = fd == write_fd

    @classmethod
    def create(cls) -> Doorbell:
        if _HAS_EVENTFD:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return cls(fd, fd)
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        return cls(read_fd, write_fd)

    @classmethod
    def attach(cls, fd: int, write_fd: int | None = None) -> Doorbell:
        """From the inherited descriptors `fds` (one for an eventfd, two for a pipe)."""
        return cls(fd, fd if write_fd is None else write_fd)

    @property
    def fds(self) -> tuple[int, ...]:
        return (self.fd,) if self._event else (self.fd, self._write_fd)

    def ring(self) -> None:
        """Wakes the sleeper, or makes its next sleep end at once. About 0.5 us."""
        try:
            if self._event:
                os.eventfd_write(self.fd, 1)
            else:
                os.write(self._write_fd, b"!")
        except BlockingIOError:
            pass  # it has been rung more often than it can count: it is readable, which is all that matters

    def clear(self) -> bool:
        """Forgets all rings so far; True if there was one."""
        try:
            if self._event:
                os.eventfd_read(self.fd)
            else:
                while len(os.read(self.fd, 4096)) == 4096:
                    pass
        except BlockingIOError:
            return False
        return True

    def wait(self, seconds: float | None) -> bool:
        """Sleeps until rung or until `seconds` have passed (None: no limit), then clears; True if rung."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000.0)
        return self.clear()

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
