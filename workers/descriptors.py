"""Waiting for descriptors, and having enough of them."""

from __future__ import annotations

import resource
import select
import socket


def wait_for(file: socket.socket | int, events: int, seconds: float | None = None) -> bool:
    """Waits until a descriptor is ready for `select.POLLIN` or `select.POLLOUT`; False if it was not in time.

    Unlike `select.select` it takes descriptors above 1023: a supervisor of sixty databases has those.
    """
    poller = select.poll()
    poller.register(file, events)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


def raise_descriptor_limit() -> None:
    """Every client is a descriptor, every database some twenty: as many as the system lets us have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass
