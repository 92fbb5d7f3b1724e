"""The supervisor: owns the control store, the listening socket and all other processes.

It starts a database for every row of the control store, readers for the port, and starts again what dies. Readers
send it
requests about names and programs over their channels (`control_plane.ControlPlane`). SIGINT and SIGTERM drain: no new
connections, clients closed, accepted calls run and made durable, every process ended.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Final

import trio

import spacetimedb
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.descriptors import raise_descriptor_limit
from spacetimedb.workers.messages import (
    MAX_READERS,
    DatabaseDown,
    DatabaseRecord,
    Directory,
    FromReader,
    Ping,
    ReaderSetup,
    Reply,
    Request,
    Stop,
)
from spacetimedb.workers.options import ServerOptions
from spacetimedb.workers.sandbox import Confinement, describe
from spacetimedb.workers.supervisor.child import Child, start_child
from spacetimedb.workers.supervisor.control_plane import ControlPlane
from spacetimedb.workers.supervisor.control_store import ControlStore, DatabaseRow
from spacetimedb.workers.supervisor.data_directory import data_directory
from spacetimedb.workers.supervisor.errors import DatabaseFailed, ServerError
from spacetimedb.workers.supervisor.heartbeat import Heartbeats
from spacetimedb.workers.supervisor.listening import listening_socket
from spacetimedb.workers.supervisor.processes import DatabaseProcesses
from spacetimedb.workers.supervisor.reader_link import ReaderLink
from spacetimedb.workers.supervisor.snapshots import Snapshots

READER_BACKOFF_S: Final = 0.2
ROOM_S: Final = 20.0
"""A database that takes longer to open no longer keeps the next one waiting."""
READER_ANSWER_S: Final = 5.0
"""A reader that is asked whether it is stuck and has not answered for so long is."""


class Supervisor:
    """State of the supervisor process. `run` is its life."""

    def __init__(self, options: ServerOptions, directory: Path) -> None:
        self.options = options
        self.directory = directory
        self.store = ControlStore.open(None if options.in_memory else directory / "control.sqlite")
        self.databases: dict[bytes, DatabaseProcesses] = {}
        self.readers: dict[int, tuple[Child, ReaderLink]] = {}
        self.control = ControlPlane(self)
        self.heartbeats = Heartbeats()
        self.confinement = Confinement(options.is_confined, options.memory_bytes)
        self._nursery: trio.Nursery
        self._socket = listening_socket(options.listen_host, options.listen_port)
        self._stopping = False
        self._keys = self._load_keys()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._socket.getsockname()[1]
        return port

    def say(self, text: str) -> None:
        """One line for whoever started the server."""
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody reads it any more

    def _load_keys(self) -> tuple[bytes, bytes]:
        from spacetimedb.auth.keys import KeyPair, key_paths

        directory = self.options.jwt_key_dir or self.directory
        directory.mkdir(parents=True, exist_ok=True)
        pair = KeyPair.load_or_create(*key_paths(None, None, None, None, directory))
        return pair.private_pem, pair.public_pem

    # -- readers

    def reader_links(self) -> list[ReaderLink]:
        """The readers that live."""
        return [link for _child, link in self.readers.values()]

    async def tell_readers(self, message: DatabaseDown | Directory) -> None:
        """Sends to every reader; one that is dying is skipped."""
        for child, link in list(self.readers.values()):
            try:
                await child.channel.send_async(message)
            except ChannelClosed:
                pass
            link.bell.ring()

    async def tell_directory(self) -> None:
        """Sends all names and databases to all readers."""
        await self.tell_readers(self.directory_message())

    def directory_message(self) -> Directory:
        """All names and databases."""
        store = self.store
        records = [
            DatabaseRecord(row.identity, row.owner, row.initial_program, store.is_locked(row.identity))
            for row in store.databases()
        ]
        return Directory(store.all_names(), records)

    async def _keep_reader(self, number: int, attached: trio.Event) -> None:
        """Runs reader `number`, again and again, until the server stops. `attached` is set when it first serves."""
        while not self._stopping:
            bell = Doorbell.create()
            try:
                child = await start_child("reader", "spacetimedb.workers.reader", FromReader)
            except OSError as error:
                self.say(f"reader {number} cannot be started: {error.strerror}")
                bell.close()
                await trio.sleep(READER_BACKOFF_S)
                continue
            link = ReaderLink(number, bell, child.channel.send_async)
            demo = Path(spacetimedb.__file__).parent / "demo"
            demo_directory = str(demo) if demo.is_dir() else None
            try:
                options = self.options
                setup = ReaderSetup(number, *self._keys, demo_directory, options.dashboard, options.publishers)
                await child.channel.send_async(setup, self._socket.fileno(), *bell.fds)
                await child.channel.send_async(self.directory_message())
                self.readers[number] = child, link
                async with trio.open_nursery() as attaching:
                    # In a task for each: a database that keeps others waiting holds up no reader. They wait for the end
                    # of `detach_reader` for the reader before, which was begun earlier.
                    for database in list(self.databases.values()):
                        attaching.start_soon(database.attach_reader, link)
                    attached.set()
                    while (received := await child.channel.receive_async()) is not None:
                        if isinstance(received[0], Request):
                            self._nursery.start_soon(self._serve, child, received[0])
                        elif link.answered is not None:
                            link.answered.set()
                    link.is_alive = False
            except* ChannelClosed:
                pass
            self.readers.pop(number, None)
            link.is_alive = False
            if child.process.returncode is None:
                child.process.kill()
            for database in list(self.databases.values()):
                self._nursery.start_soon(database.detach_reader, number)
            await child.process.wait()
            child.channel.close()
            bell.close()
            if not self._stopping:
                self.say(f"reader {number} ended; starting it again")
                await trio.sleep(READER_BACKOFF_S)

    async def _serve(self, child: Child, request: Request) -> None:
        reply: Reply = await self.control.answer(request)
        try:
            if request.method == "sync":
                await child.channel.send_async(self.directory_message())
            await child.channel.send_async(reply)
        except ChannelClosed:
            pass

    def doubt_reader(self, number: int) -> None:
        """A database process says that this reader does not keep up. It may run a module that lies: only a reader that
        does not answer is replaced."""
        found = self.readers.get(number)
        if found is not None and found[1].answered is None:
            found[1].answered = trio.Event()
            self._nursery.start_soon(self._ask_reader, *found)

    async def _ask_reader(self, child: Child, link: ReaderLink) -> None:
        assert link.answered is not None
        with trio.move_on_after(READER_ANSWER_S) as waiting:
            try:
                await child.channel.send_async(Ping())
                await link.answered.wait()
            except ChannelClosed:
                pass
        if waiting.cancelled_caught:
            self.say(f"reader {link.number} held up a database and does not answer; replacing it")
            child.process.kill()
        link.answered = None

    async def attach_again(self, identity: bytes, number: int) -> None:
        """A reader was dropped by a database."""
        await trio.sleep(READER_BACKOFF_S)  # a module may do this again and again
        database, found = self.databases.get(identity), self.readers.get(number)
        if database is not None and found is not None:
            await database.detach_reader(number)
            await database.attach_reader(found[1])

    # -- databases

    def new_database(self, identity: bytes, owner: bytes, replica: int) -> DatabaseProcesses:
        """The processes of a database, not started."""
        directory = self.directory / "replicas" / str(replica)

        def say(text: str) -> None:
            self.say(f"database {identity[::-1].hex()[:16]}: {text}")

        def keep_program(program: bytes, program_hash: bytes) -> None:
            try:
                self.store.set_program(identity, program, program_hash)
            except sqlite3.OperationalError as error:
                say(f"the control store cannot be written: {error}")  # the log knows, too

        in_memory = self.options.in_memory
        snapshots = None if in_memory else Snapshots(identity, directory / "clog", self.options.snapshots, say)
        return DatabaseProcesses(
            identity,
            owner,
            directory,
            in_memory,
            self.reader_links,
            say,
            snapshots,
            self.heartbeats,
            self.confinement,
            self.options.rules,
            keep_program,
        )

    def adopt(self, database: DatabaseProcesses) -> None:
        """A started database is kept running from now on."""
        self.databases[database.identity] = database

        async def down(reason: str) -> None:
            await self.tell_readers(DatabaseDown(database.identity, False, reason))

        self._nursery.start_soon(database.supervise, down, self.doubt_reader)

    async def _start_known_databases(self) -> None:
        """As many at a time as there are cores, in order of creation; who asks for one meanwhile waits for it."""
        room = trio.Semaphore(max(2, os.cpu_count() or 2))

        async def open_one(row: DatabaseRow, database: DatabaseProcesses) -> None:
            opened = trio.Event()
            self._nursery.start_soon(give_room, opened)
            await self._open(row, database)
            opened.set()

        async def give_room(opened: trio.Event) -> None:
            with trio.move_on_after(ROOM_S):
                await opened.wait()
            room.release()

        waiting = []
        for row in self.store.databases():
            database = self.new_database(row.identity, row.owner, row.replica)
            database.initial_program = row.initial_program
            database.program, database.program_hash = row.program, row.program_hash
            self.databases[row.identity] = database
            waiting.append((row, database))
        async with trio.open_nursery() as nursery:
            for row, database in waiting:
                await room.acquire()
                nursery.start_soon(open_one, row, database)

    async def _open(self, row: DatabaseRow, database: DatabaseProcesses) -> None:
        if self._stopping or self.databases.get(row.identity) is not database:
            return
        try:
            await database.start(False, row.program, row.program_hash)
        except DatabaseFailed as error:
            if self.databases.get(row.identity) is database:
                del self.databases[row.identity]
                self.say(f"database {row.identity[::-1].hex()[:16]} cannot be opened: {error}")
                self.control.broken[row.identity] = str(error)
            return
        self.adopt(database)

    # -- life

    async def run(self) -> None:
        """Serves until a signal asks to stop."""
        count = self.options.readers or max(1, (os.cpu_count() or 2) - 1)
        count = min(count, MAX_READERS)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._begin, count)
                async for _signal in signals:
                    break
                self._stopping = True
                await self._stop()
                self._nursery.cancel_scope.cancel()
        self._socket.close()
        self.store.close()

    async def _begin(self, reader_count: int) -> None:
        """Starts the readers, says that the server listens, and opens the databases meanwhile."""
        self._nursery.start_soon(self.heartbeats.run)
        self._nursery.start_soon(self.control.loaders.run)
        self._nursery.start_soon(self._start_known_databases)
        attached = [trio.Event() for _ in range(reader_count)]
        for number, event in enumerate(attached):
            self._nursery.start_soon(self._keep_reader, number, event)
        for event in attached:
            await event.wait()
        host = self.options.listen_host
        shown = f"[{host}]" if ":" in host else host
        print(f"spacetime is listening on http://{shown}:{self.port}", flush=True)
        print(describe(self.confinement), flush=True)

    async def _stop(self) -> None:
        self._socket.close()
        children = list(self.readers.values())
        for child, link in children:
            try:
                await child.channel.send_async(Stop())
            except ChannelClosed:
                pass
            link.bell.ring()
        for child, _link in children:
            await child.stop()

        async def stop(database: DatabaseProcesses) -> None:
            for number in range(MAX_READERS):
                await database.detach_reader(number)  # its clients are disconnected before it ends
            await database.stop()

        async with trio.open_nursery() as nursery:
            for database in list(self.databases.values()):
                nursery.start_soon(stop, database)


def serve(options: ServerOptions) -> int:
    """Runs a server until it is told to stop. Returns the exit status; problems are printed."""

    raise_descriptor_limit()

    async def main() -> None:
        async with data_directory(options) as directory:
            await Supervisor(options, directory).run()

    try:
        trio.run(main)
    except (ServerError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0
