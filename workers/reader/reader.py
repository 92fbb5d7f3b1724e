"""A reader worker: accepts connections, speaks HTTP and WebSocket, evaluates subscriptions, fans out.

Tasks: one accepts, one listens to the supervisor, one moves WebSocket bytes (`client.Lane`), one waits for the bell
that the actors and log keepers ring and pumps the databases' rings, one pings, one cuts off; and one for each
connection, until it has become a WebSocket.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import trio

from spacetimedb.auth.issuers import IssuerKeys
from spacetimedb.auth.keys import KeyPair
from spacetimedb.auth.tokens import Tokens
from spacetimedb.http.api import Api
from spacetimedb.memory import control as words
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.ring import ReaderDropped
from spacetimedb.types.special import Identity
from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.descriptors import raise_descriptor_limit
from spacetimedb.workers.messages import (
    BELL_FDS,
    DatabaseDown,
    DatabaseUp,
    Directory,
    Ping,
    Pong,
    ReaderSetup,
    Reply,
    Request,
    Stop,
    ToReader,
)
from spacetimedb.workers.reader.client import Lane
from spacetimedb.workers.reader.database_link import DatabaseLink
from spacetimedb.workers.reader.http.backend import ControlRefused, ReaderBackend
from spacetimedb.workers.reader.http.fetch import fetch_url
from spacetimedb.workers.reader.http.http_server import serve_connection
from spacetimedb.workers.task_channel import TaskChannel

DRAIN_S: Final = 1.0
"""After a Stop, how long clients may take to close, and requests to be answered."""
ACCEPT_RETRY_S: Final = 0.05
YOUNG_OBJECTS: Final = 20_000
"""New containers between two looks of the collector: messages make many and leave no cycles."""
COUNT_S: Final = 1.0
"""How long figures for metrics may lag behind."""
RESERVED_DESCRIPTORS: Final = 256
"""Left for databases and files; all others may be connections, and who comes then waits in the system's queue."""


class Reader:
    """The process's state: links to databases, the directory, the lane."""

    def __init__(self, channel: TaskChannel, setup: ReaderSetup, fds: list[int]) -> None:
        self.number = setup.reader
        self.setup = setup
        self.lane = Lane()
        self.lane.on_dropped = lambda: self._bell.ring()
        self.links: dict[Identity, DatabaseLink] = {}
        self.directory = Directory([], [])
        self.names: dict[str, Identity] = {}
        self.changed = trio.Event()
        """Set, and replaced, when a database comes up or the directory changes."""
        self.http_connections = 0
        self.requests_running = 0
        self._channel = channel
        self._socket = trio.socket.from_stdlib_socket(socket.socket(fileno=fds[0]))
        self._bell = Doorbell.attach(*fds[1 : 1 + BELL_FDS])
        self._waiting: dict[int, tuple[trio.Event, list[Reply]]] = {}
        self._next_request = 0
        self._stopping = trio.Event()
        keys = KeyPair(setup.private_key, setup.public_key)
        self.api = Api(ReaderBackend(self), Tokens(keys, IssuerKeys(fetch_url)), setup.publishers)

    async def link_for(self, identity: Identity, wait_s: float = 0.0) -> DatabaseLink | None:
        """The link of a database; waits for one that is being started. None if there is none then."""
        with trio.move_on_after(wait_s):
            while identity not in self.links:
                await self.changed.wait()
        return self.links.get(identity)

    # -- the supervisor

    async def ask(self, method: str, **arguments: Any) -> Any:
        """A request to the control plane. Raises ControlRefused."""
        self._next_request += 1
        request_id = self._next_request
        event, replies = trio.Event(), list[Reply]()
        self._waiting[request_id] = event, replies
        try:
            await self._channel.send_async(Request(request_id, method, arguments))
            await event.wait()
        finally:
            del self._waiting[request_id]
        reply = replies[0]
        if reply.kind != "ok":
            raise ControlRefused(reply.kind, reply.status, reply.body.decode())
        return msgspec.msgpack.decode(reply.body)

    def _notify(self) -> None:
        event, self.changed = self.changed, trio.Event()
        event.set()

    async def _listen(self) -> None:
        while (received := await self._channel.receive_async()) is not None:
            message, fds = received
            match message:
                case DatabaseUp():
                    await self._database_up(message, fds)
                case DatabaseDown(identity, _deleted, reason):
                    self._database_down(Identity(identity), reason)
                case Directory():
                    self.directory = message
                    self.names = {name: Identity(identity) for name, identity in message.names}
                case Reply(request_id):
                    waiting = self._waiting.get(request_id)
                    if waiting is not None:
                        waiting[1].append(message)
                        waiting[0].set()
                case Ping():
                    await self._channel.send_async(Pong())
                case Stop():
                    break
            self._notify()
        for request_id, (event, replies) in self._waiting.items():
            replies.append(Reply(request_id, "error", 503, b"the server is stopping"))
            event.set()
        self._stopping.set()

    async def _database_up(self, up: DatabaseUp, fds: list[int]) -> None:
        identity = Identity(up.identity)
        if up.is_update:
            link = self.links.get(identity)
            if link is not None:
                try:
                    link.update(up)
                except Exception:
                    traceback.print_exc()
                    await self._distrust(link)
            return
        self._database_down(identity)
        try:
            self.links[identity] = DatabaseLink(self.lane, self.number, up, fds)
        except Exception:
            traceback.print_exc()
            await self._replace_process(identity)
        self._bell.ring()

    def _database_down(self, identity: Identity, reason: str = "") -> None:
        link = self.links.pop(identity, None)
        if link is None:
            return
        try:
            link.pump()  # the last that was published
            if link.outbox.touched:
                link.outbox.flush()
        except ReaderDropped:
            link.outbox.discard()
        except Exception:
            traceback.print_exc()
            link.outbox.discard()
        link.go_down(reason)

    # -- the rings

    async def _distrust(self, link: DatabaseLink) -> None:
        """What this database publishes cannot be understood: its module may have had a hand in it. Others go on."""
        self._database_down(link.identity, "the database published what cannot be read")
        self._notify()
        await self._replace_process(link.identity)

    async def _replace_process(self, identity: Identity) -> None:
        await self._channel.send_async(Request(0, "replace_process", {"identity": bytes(identity)}))

    async def _attach_again(self, link: DatabaseLink) -> None:
        """The database did not wait for this reader, which has missed something: its clients here begin anew."""
        self._database_down(link.identity)
        self._notify()
        arguments = {"identity": bytes(link.identity), "reader": self.number}
        await self._channel.send_async(Request(0, "attach_again", arguments))

    async def _pump(self) -> None:
        """Waits for the bell and processes what the databases published."""
        bell = self._bell
        while True:
            while True:
                for link in list(self.links.values()):
                    try:
                        link.pump()
                        if link.outgoing:
                            link.post()
                        if link.outbox.touched:
                            link.outbox.flush()
                        link.figures.sent(link.catalog.reducer_names)
                    except ReaderDropped:
                        await self._attach_again(link)
                    except Exception:
                        traceback.print_exc()
                        await self._distrust(link)
                if all(link.prepare_sleep() for link in self.links.values()):
                    break
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.wait_readable(bell.fd)
            bell.clear()
            self.lane.active.set()
            for link in self.links.values():
                link.awake()

    # -- the port

    async def _accept(self, nursery: trio.Nursery) -> None:
        most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS, RESERVED_DESCRIPTORS)
        while True:
            while self.http_connections + len(self.lane.clients) >= most:
                await trio.sleep(ACCEPT_RETRY_S)
            try:
                sock, _address = await self._socket.accept()
            except OSError as error:
                # Out of descriptors or memory, or the client is gone already: go on a little later.
                print(f"accept: {error}", file=sys.stderr)
                await trio.sleep(ACCEPT_RETRY_S)
                continue
            nursery.start_soon(serve_connection, self, trio.SocketStream(sock))

    async def _count(self) -> None:
        """A second after something happened: forgets unused tables, shows this reader's figures for metrics."""
        while True:
            await self.lane.active.wait()
            await trio.sleep(COUNT_S)
            self.lane.active = trio.Event()
            for link in self.links.values():
                link.tables.forget_unused()
                link.costs.expire()
                self._show_figures(link)
                if not link.costs.show() or link.tables.has_unused:
                    self.lane.active.set()  # look again: costs are shown later, tables are kept for a while

    def _show_figures(self, link: DatabaseLink) -> None:
        link.figures.show(link)
        block = link.control
        first = block.reader_word(self.number, 0)
        for word, value in (
            (words.READER_PID, os.getpid()),
            (words.READER_CONNECTIONS, len(link.clients) + len(link.v1.clients)),
            (words.READER_SUBSCRIPTIONS, link.figures.sets),
            (words.READER_QUERIES, link.subscriptions.query_count),
            (words.READER_MESSAGES, link.figures.messages_sent),
            (words.READER_DROPPED, link.outbox.dropped),
        ):
            block.words[first + word] = value

    async def run(self) -> None:
        """Serves until told to stop, or until the supervisor is gone."""
        async with trio.open_nursery() as nursery:
            lane = self.lane
            for task in (self._listen, self._pump, *lane.tasks, self._count):
                nursery.start_soon(_or_die, task)
            async with trio.open_nursery() as accepting:
                accepting.start_soon(self._accept, nursery)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
            self._socket.close()  # a new server may take the port at once
            for identity in list(self.links):
                self._database_down(identity)
            with trio.move_on_after(DRAIN_S):
                while self.lane.clients or self.requests_running:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def _or_die(task: Callable[[], Awaitable[None]]) -> None:
    """Runs one of the reader's own tasks. If it fails nothing here can be trusted: the supervisor starts a new
    reader."""
    try:
        await task()
    except ChannelClosed:
        raise
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    """Entry of the process; the argument is the number of the inherited channel descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise_descriptor_limit()
    channel = TaskChannel.from_fd(int(sys.argv[1]), ToReader)
    first = channel.receive()
    if first is None:
        return
    setup, fds = first
    assert isinstance(setup, ReaderSetup)

    async def run() -> None:
        reader = Reader(channel, setup, fds)
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)
        try:
            await reader.run()
        except ChannelClosed:
            pass

    trio.run(run)
