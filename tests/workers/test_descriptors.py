"""Descriptors above 1023, as a supervisor of many databases hands them on."""

from __future__ import annotations

import fcntl
import resource
import select
import socket

import pytest

from spacetimedb.workers.descriptors import raise_descriptor_limit, wait_for


@pytest.fixture
def limits() -> object:
    raise_descriptor_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard
    return None


def test_high_descriptors_can_be_waited_for(limits: object) -> None:
    left, right = socket.socketpair()
    with left, right, socket.socket(fileno=fcntl.fcntl(left.fileno(), fcntl.F_DUPFD, 1500)) as high:
        assert high.fileno() >= 1500
        assert not wait_for(high, select.POLLIN, 0)
        assert wait_for(high, select.POLLOUT, 0)
        right.send(b"x")
        assert wait_for(high, select.POLLIN)
