"""The processes of one database and what the supervisor does when one of them ends.

A database is an actor, a log keeper and four shared regions. The regions live as long as the actor: when it dies, the
log keeper first writes everything that was published, then a new actor recovers from the log into fresh regions. A
log keeper that dies is started again on the same regions and goes on at its place in the ring. An actor whose log
cannot be written is stopped too: nothing is accepted that could not be kept.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from spacetimedb.memory import control as words
from spacetimedb.memory import ring as commit_ring
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.mailbox import format_mailbox
from spacetimedb.memory.region import Region
from spacetimedb.workers.channel import Channel, ChannelClosed
from spacetimedb.workers.messages import (
    HEAP_BYTES,
    MAILBOX_BYTES,
    RING_BYTES,
    ActorAttachReader,
    ActorFailed,
    ActorReady,
    ActorSetup,
    DatabaseUp,
    DetachReader,
    FromActor,
    FromLogKeeper,
    LogAttachReader,
    LogKeeperFailed,
    LogKeeperReady,
    LogKeeperSetup,
    RowCounts,
    SlowReader,
    Stop,
    UpdateProgram,
)

if TYPE_CHECKING:
    from spacetimedb.workers.snapshots import Snapshots

STOP_S: Final = 10.0
"""A process that was told to stop and has not after this time is killed."""
MAX_BACKOFF_S: Final = 5.0
SUPERVISOR_READER: Final = 255
"""The supervisor's place among the readers that hear of durable offsets."""


class DatabaseFailed(Exception):
    """The database could not be started or updated; the text is for clients, too."""


class Child:
    """A child process and our end of its channel."""

    def __init__(self, name: str, process: trio.Process, channel: Channel) -> None:
        self.name = name
        self.process = process
        self.channel = channel

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def stop(self, message: Any = None) -> None:
        """Sends Stop, waits for the end, kills what does not end in time."""
        with trio.CancelScope(shield=True):
            try:
                if message is not None:
                    await self.channel.send_async(message)
            except ChannelClosed:
                pass
            with trio.move_on_after(STOP_S):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            self.channel.close()


async def start_child(name: str, module: str, kinds: Any) -> Child:
    """Starts `python -m module` with a channel. Raises OSError where the system has no room for it."""
    ours, theirs = Channel.pair()
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    try:
        with theirs:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
    except BaseException:
        ours.close()
        raise
    return Child(name, process, Channel(ours, kinds))


class ReaderLink:
    """What a database needs to know of a reader: its number, its bell, and how to tell it something.

    `is_alive` is False from the moment its process is known to have ended: it must not be attached any more.
    """

    def __init__(self, number: int, bell: Doorbell, send: Callable[..., Awaitable[None]]) -> None:
        self.number = number
        self.bell = bell
        self.send = send
        self.is_alive = True


class DatabaseProcesses:
    """Actor, log keeper and regions of one database, and their life. `readers` gives the readers that live now.

    `_changing` is held while processes start or end and while readers come or go: each of these sees the others done
    or not begun. `problem` says why the database does not serve when it should.
    """

    def __init__(
        self,
        identity: bytes,
        owner: bytes,
        directory: Path,
        in_memory: bool,
        readers: Callable[[], Iterable[ReaderLink]],
        say: Callable[[str], None],
        snapshots: Snapshots | None = None,
    ) -> None:
        self.snapshots = snapshots
        self.identity = identity
        self.owner = owner
        self.directory = directory
        self.in_memory = in_memory
        self.ready: ActorReady | None = None
        self.initial_program = b""
        self.stopping = False
        self.problem: str | None = None
        self._changing = trio.Lock()
        self._starting = False
        self._readers = readers
        self._say = say
        self._control: ControlBlock
        self._regions: list[Region] = []
        self._actor: Child | None = None
        self._keeper: Child | None = None
        self._bells: list[Doorbell] = []
        self._actor_bell: Doorbell
        self._keeper_bell: Doorbell
        self._durable_bell: Doorbell
        self._mailboxes: dict[int, Region] = {}
        self._update_reply: trio.MemorySendChannel[ActorReady | ActorFailed] | None = None

    @property
    def log_directory(self) -> str | None:
        """Where the commit log is; None for a database in memory."""
        return None if self.in_memory else str(self.directory / "clog")

    @property
    def module_log_directory(self) -> str:
        """Where the module log is."""
        return str(self.directory / "module_logs")

    def pids(self) -> list[int]:
        """Process ids of the actor and the log keeper, as far as they run."""
        return [child.pid for child in (self._actor, self._keeper) if child is not None]

    @property
    def serving(self) -> bool:
        """Whether readers may send requests."""
        return self.ready is not None

    # -- start

    async def start(self, create: bool, program: bytes, program_hash: bytes, announce: bool = True) -> None:
        """Starts actor and log keeper and waits until the database serves and its creation is durable.

        `announce`: the readers hear of it.

        Raises DatabaseFailed with the actor's text; then nothing runs.
        """
        async with self._changing:
            if self.stopping:
                raise DatabaseFailed("the database is being stopped")
            self._starting = True
            try:
                self.ready = await self._start(create, program, program_hash)
            except BaseException as error:
                with trio.CancelScope(shield=True):
                    await self._end_at_once()
                if isinstance(error, OSError):
                    raise DatabaseFailed(f"the system cannot start it: {error.strerror}") from None
                raise
            finally:
                self._starting = False
            self.problem = None
            if announce:
                for reader in self._readers():
                    await self._attach(reader)

    async def _start(self, create: bool, program: bytes, program_hash: bytes) -> ActorReady:
        """The log keeper is first: once it has opened the log nobody else writes to it, so what the actor recovers
        is what the log keeper goes on from."""
        self.directory.mkdir(parents=True, exist_ok=True)
        name = self.identity[::-1].hex()[:12]
        for part, size in (("control", words.SIZE), ("ring", RING_BYTES), ("heap", HEAP_BYTES)):
            self._regions.append(Region.create(size, f"spacetimedb-{part}-{name}"))
        control, ring, heap = self._regions
        self._control = ControlBlock.create(control)
        commit_ring.format_ring(ring)
        commit_ring.activate(ring, commit_ring.LOG_KEEPER_SLOT)
        for _ in range(3):
            self._bells.append(Doorbell.create())
        self._actor_bell, self._keeper_bell, self._durable_bell = self._bells
        actor = self._actor = await start_child("database process", "spacetimedb.workers.transaction_actor", FromActor)
        keeper = await self._start_keeper()
        setup = ActorSetup(self.identity, self.owner, create, program, program_hash, self.log_directory)
        fds = [control.fd, ring.fd, heap.fd, *self._actor_bell.fds, *self._keeper_bell.fds]
        try:
            await actor.channel.send_async(setup, *fds)
            received = await actor.channel.receive_async()
        except ChannelClosed:
            received = None
        message = received[0] if received else ActorFailed("the database process ended while it started")
        if not isinstance(message, ActorReady):
            raise DatabaseFailed(message.text)
        await self._until_durable(message.next_offset, actor, keeper)
        return message

    async def _start_keeper(self) -> Child:
        keeper = self._keeper = await start_child("log keeper", "spacetimedb.workers.log_keeper", FromLogKeeper)
        fds = [*(r.fd for r in self._regions), *self._keeper_bell.fds, *self._actor_bell.fds]
        try:
            await keeper.channel.send_async(LogKeeperSetup(self.log_directory, self.module_log_directory), *fds)
            received = await keeper.channel.receive_async()
        except ChannelClosed:
            received = None
        message = received[0] if received else LogKeeperFailed("the log keeper ended while it started")
        if not isinstance(message, LogKeeperReady):
            self._say(message.text)  # with paths, which are nothing for clients
            raise DatabaseFailed("the commit log cannot be opened")
        try:
            await keeper.channel.send_async(LogAttachReader(SUPERVISOR_READER), *self._durable_bell.fds)
        except ChannelClosed:
            raise DatabaseFailed("the log keeper ended while it started") from None
        self._keeper_bell.ring()
        return keeper

    async def _until_durable(self, count: int, *children: Child) -> None:
        """As `wait_durable`, while nobody replaces a child that ends (DatabaseFailed)."""
        failed: list[str] = []
        async with trio.open_nursery() as nursery:

            async def watch(child: Child) -> None:
                await child.process.wait()
                failed.append(child.name)
                nursery.cancel_scope.cancel()

            for child in children:
                nursery.start_soon(watch, child)
            await self.wait_durable(count)
            nursery.cancel_scope.cancel()
        if failed:
            what = (
                "the commit log cannot be written"
                if self._control.words[words.LOG_FAILED]
                else f"the {failed[0]} ended"
            )
            raise DatabaseFailed(what)

    async def wait_durable(self, count: int) -> None:
        """Waits until so many transactions are durable. DatabaseFailed if the database ends before."""
        bell = self._durable_bell
        while self._actor is not None and bell is self._durable_bell:
            if self._control.words[words.DURABLE] >= count:
                return
            try:
                await trio.lowlevel.wait_readable(bell.fd)
            except trio.ClosedResourceError:
                break
            bell.clear()
        raise DatabaseFailed("the database process ended before this was durable")

    async def attach_reader(self, reader: ReaderLink) -> None:
        """Connects a reader to this database, unless it is: a mailbox of its own, the regions, the bells."""
        async with self._changing:
            await self._attach(reader)

    async def _attach(self, reader: ReaderLink) -> None:
        if self.ready is None or self._actor is None or self._keeper is None:
            return
        if not reader.is_alive or reader.number in self._mailboxes:
            return
        try:
            mailbox = Region.create(MAILBOX_BYTES, "spacetimedb-mailbox")
            format_mailbox(mailbox)
            self._mailboxes[reader.number] = mailbox
            await self._actor.channel.send_async(ActorAttachReader(reader.number), mailbox.fd, *reader.bell.fds)
            await self._keeper.channel.send_async(LogAttachReader(reader.number), *reader.bell.fds)
            self._actor_bell.ring()
            self._keeper_bell.ring()
            fds = [*(r.fd for r in self._regions), mailbox.fd, *self._actor_bell.fds]
            await reader.send(self.up(is_update=False), *fds)
        except ChannelClosed:
            pass  # whoever died is noticed where it is waited for
        except OSError as error:
            self._say(f"reader {reader.number} cannot be attached: {error.strerror}")

    async def detach_reader(self, number: int) -> None:
        """A reader process ended: its clients are gone."""
        if number not in self._mailboxes:
            return
        # At once: the actor may be waiting for it.
        commit_ring.deactivate(self._regions[1], number + 1)
        async with self._changing:
            mailbox = self._mailboxes.pop(number, None)
            if mailbox is None:
                return
            for child, bell in ((self._actor, self._actor_bell), (self._keeper, self._keeper_bell)):
                if child is not None:
                    try:
                        await child.channel.send_async(DetachReader(number))
                        bell.ring()
                    except ChannelClosed:
                        pass
            mailbox.close()

    def up(self, is_update: bool) -> DatabaseUp:
        """The announcement to readers."""
        ready = self.ready
        assert ready is not None
        return DatabaseUp(
            self.identity,
            self.owner,
            ready.definition,
            ready.table_ids,
            self.initial_program,
            self.module_log_directory,
            ready.generation,
            is_update,
        )

    # -- life

    async def supervise(self, down: Callable[[], Awaitable[None]], slow_reader: Callable[[int], None]) -> None:
        """Keeps the database running until `stop`. `down` tells the readers that it serves no longer."""
        backoff_s = 0.1
        while not self.stopping:
            started = trio.current_time()
            await self._until_actor_ends(slow_reader)
            async with self._changing:
                if self.stopping:
                    break
                self._say("the database process ended; recovering")
                self.ready = None
                await down()
                await self._stop_keeper()
                self._release()
            while not self.stopping:
                if trio.current_time() - started < 2:
                    await trio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                else:
                    backoff_s = 0.1
                try:
                    await self.start(self.in_memory, *self._last_program)
                    break
                except DatabaseFailed as error:
                    if not self.stopping:
                        self.problem = str(error)
                        self._say(f"cannot start: {error}")
                    started = trio.current_time()

    @property
    def _last_program(self) -> tuple[bytes, bytes]:
        return self.program, self.program_hash

    program: bytes = b""
    program_hash: bytes = b""

    async def _until_actor_ends(self, slow_reader: Callable[[int], None]) -> None:
        actor = self._actor
        assert actor is not None
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while (received := await actor.channel.receive_async()) is not None:
                    match received[0]:
                        case SlowReader(reader):
                            slow_reader(reader)
                        case RowCounts() as counts if self.snapshots is not None:
                            self.snapshots.announced(counts)
                        case ActorReady() | ActorFailed() as answer if self._update_reply is not None:
                            await self._update_reply.send(answer)

            async def keep_log() -> None:
                while True:
                    keeper = self._keeper
                    assert keeper is not None
                    await keeper.process.wait()
                    # Shielded: a log keeper that is half started must not go on beside the next one.
                    with trio.CancelScope(shield=True):
                        async with self._changing:
                            if self.stopping or actor.process.returncode is not None:
                                return
                            if not await self._replace_keeper(keeper):
                                actor.process.kill()
                                return

            async def ask(message: Any) -> None:
                await actor.channel.send_async(message)
                self._actor_bell.ring()

            if self.snapshots is not None:
                nursery.start_soon(self.snapshots.watch, ask, self._control)
            nursery.start_soon(listen)
            nursery.start_soon(keep_log)
            await actor.process.wait()
            if self._update_reply is not None:
                await self._update_reply.send(ActorFailed("the database process ended during the update"))
            nursery.cancel_scope.cancel()

    async def _replace_keeper(self, dead: Child) -> bool:
        """False if the log cannot be kept."""
        dead.channel.close()
        if self._control.words[words.LOG_FAILED]:
            self._say("the commit log cannot be written; the database stops accepting calls and restarts")
            return False
        self._say("the log keeper ended; starting it again")
        try:
            keeper = await self._start_keeper()
            for reader in self._readers():
                if reader.number in self._mailboxes:
                    await keeper.channel.send_async(LogAttachReader(reader.number), *reader.bell.fds)
        except (ChannelClosed, DatabaseFailed, OSError) as error:
            self._say(f"the log keeper cannot be started: {error}")
            return False
        self._keeper_bell.ring()
        return True

    async def update(self, program: bytes, program_hash: bytes, break_clients: bool) -> None:
        """Runs another program, which may change tables; the old one goes on if it fails (DatabaseFailed)."""
        if self._actor is None or self.ready is None:
            raise DatabaseFailed("the database is not running")
        send, receive = trio.open_memory_channel[ActorReady | ActorFailed](1)
        self._update_reply = send
        try:
            await self._actor.channel.send_async(UpdateProgram(program, program_hash, break_clients))
            self._actor_bell.ring()
            answer = await receive.receive()
        except ChannelClosed:
            answer = ActorFailed("the database process ended during the update")
        finally:
            self._update_reply = None
        if isinstance(answer, ActorFailed):
            raise DatabaseFailed(answer.text)
        self.ready = answer
        self.program, self.program_hash = program, program_hash
        for reader in self._readers():
            await reader.send(self.up(is_update=True))
        await self.wait_durable(answer.next_offset)

    async def stop(self, down: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends both processes; everything that was accepted is on disk afterwards. `down` tells the readers first."""
        self.stopping = True
        if self._starting:
            for child in (self._actor, self._keeper):
                if child is not None:
                    child.process.kill()  # nothing was accepted yet
        async with self._changing:
            self.ready = None
            if down is not None:
                await down()
            if self._actor is not None:
                try:
                    await self._actor.channel.send_async(Stop())
                except ChannelClosed:
                    pass
                self._actor_bell.ring()
                await self._actor.stop()
            await self._stop_keeper()
            self._release()

    async def _end_at_once(self) -> None:
        """After a start that failed: nothing is left."""
        if self._actor is not None:
            if self._actor.process.returncode is None:
                self._actor.process.kill()
            await self._actor.stop()
        await self._stop_keeper()
        self._release()

    async def _stop_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            try:
                await keeper.channel.send_async(Stop())
            except ChannelClosed:
                pass
            self._keeper_bell.ring()
            await keeper.stop()

    def _release(self) -> None:
        if self._actor is not None:
            self._actor.channel.close()
        self._actor = None
        for region in (*self._regions, *self._mailboxes.values()):
            region.close()
        self._regions.clear()
        self._mailboxes.clear()
        for bell in self._bells:
            trio.lowlevel.notify_closing(bell.fd)
            bell.close()
        self._bells.clear()


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises OSError with a text that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        hint = "; stop what listens there or choose another --listen-addr" if error.errno == errno.EADDRINUSE else ""
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from None
    sock.listen(4096)
    sock.setblocking(False)
    return sock
