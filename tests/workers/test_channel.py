"""Control channels: messages in pieces, descriptors, peers that go away."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest
import trio

from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.messages import DetachReader, LogKeeperFailed, Reply, Stop, UpdateProgram
from spacetimedb.workers.task_channel import TaskChannel

KINDS = DetachReader | Stop | UpdateProgram | Reply | LogKeeperFailed


@pytest.fixture
def ends() -> Iterator[tuple[TaskChannel, TaskChannel]]:
    ours, theirs = TaskChannel.pair()
    one, other = TaskChannel(ours, KINDS), TaskChannel(theirs, KINDS)
    yield one, other
    one.close()
    other.close()


def test_messages_come_whole_and_in_order(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    assert other.poll() == []
    for number in range(3):
        one.send(DetachReader(number))
    assert other.poll() == [(DetachReader(n), []) for n in range(3)]
    assert other.poll() == []


def test_byte_by_byte(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    message = Reply(7, "ok", 200, b"x" * 300)
    for byte in one._pack(message, ()) * 2:
        assert other.poll() in ([], [(message, [])])
        one.socket.send(bytes((byte,)))
    assert other.poll() == [(message, [])]


def test_a_message_larger_than_any_buffer(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    message = UpdateProgram(os.urandom(20 << 20), b"hash", False)
    sender = threading.Thread(target=one.send, args=(message,))
    sender.start()
    assert other.receive() == (message, [])
    sender.join()


def test_descriptors_come_with_their_message(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    pipes = [os.pipe() for _ in range(40)]
    one.send(Stop())
    one.send(DetachReader(1), *(read for read, _write in pipes[:20]))
    one.send(UpdateProgram(bytes(100_000), b"", False))
    one.send(DetachReader(2), *(read for read, _write in pipes[20:]))
    found = other.poll()
    assert found is not None
    assert [type(message) for message, _fds in found] == [Stop, DetachReader, UpdateProgram, DetachReader]
    assert [len(fds) for _message, fds in found] == [0, 20, 0, 20]
    for (_read, write), fd in zip(pipes, found[1][1] + found[3][1], strict=True):
        os.write(write, b"%d" % write)
        assert os.read(fd, 10) == b"%d" % write
        os.close(fd)
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


def test_lost_descriptors_end_the_channel(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.send(DetachReader(1), *(one.socket.fileno(),) * 8)
    lowest_free = os.dup(one.socket.fileno())
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 2, hard))
    try:
        assert other.poll() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_peer_goes_away(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    one.send(DetachReader(1))
    one.socket.send(one._pack(DetachReader(2), ())[:-1])
    one.close()
    assert other.poll() == [(DetachReader(1), [])]
    assert other.poll() is None
    assert other.receive() is None
    with pytest.raises(ChannelClosed):
        other.send(Stop())


async def test_several_tasks_send(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    messages = [LogKeeperFailed(str(number) * 20_000) for number in range(20)]
    found = []
    async with trio.open_nursery() as nursery:
        for message in messages:
            nursery.start_soon(one.send_async, message)
        for _ in messages:
            received = await other.receive_async()
            assert received is not None
            found.append(received[0])
    assert sorted(found, key=repr) == sorted(messages, key=repr)


async def test_receiving_can_be_cancelled(ends: tuple[TaskChannel, TaskChannel]) -> None:
    one, other = ends
    with trio.move_on_after(0.01):
        await other.receive_async()
    await one.send_async(Stop())
    assert await other.receive_async() == (Stop(), [])
    one.close()
    assert await other.receive_async() is None
