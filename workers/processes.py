"""The processes of one database and what the supervisor does when one of them ends.

A database is an actor, a log keeper and four shared regions. The regions live as long as the actor: when it dies, the
log keeper first writes everything that was published, then a new actor recovers from the log into fresh regions. A
log keeper that dies is started again on the same regions and goes on at its place in the ring. While the log cannot be
written, the actor refuses calls, and what it has committed waits in the ring: nothing is confirmed that is not kept.
An actor that runs a call which does not end, or that sends what is no message, is killed.
"""

from __future__ import annotations

import math
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
from spacetimedb.schema.definition import ModuleDef, with_durability
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate
from spacetimedb.workers.channel import ChannelClosed, ChannelCorrupt
from spacetimedb.workers.child import STOP_S, Child, start_child
from spacetimedb.workers.death import SHORT_LIFE_S, Death, History, explain
from spacetimedb.workers.heartbeat import Heartbeats
from spacetimedb.workers.last_words import STACK_SIGNAL, Culprit, LastWords
from spacetimedb.workers.messages import (
    HEAP_BYTES,
    MAILBOX_BYTES,
    RING_BYTES,
    ActorAttachReader,
    ActorFailed,
    ActorOutbound,
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
from spacetimedb.workers.outbound_link import OutboundLink
from spacetimedb.workers.reader_link import ReaderLink
from spacetimedb.workers.sandbox import Confinement

if TYPE_CHECKING:
    from spacetimedb.workers.snapshots import Snapshots

SLOW_BACKOFF_S: Final = 1.0
"""A wait before the next start that is said, and that requests are told of instead of waiting too."""
STACK_S: Final = 0.3
"""How long a stuck process may take to write its stacks."""
SERVING_S: Final = 60.0
"""How long an update waits for a database that is being started."""
LOOK_AGAIN_S: Final = 0.2
"""Between two looks whether it cannot be started at all."""
NO_ANSWER: Final = "the database process sent what is no answer"
NO_ROOM: Final = "the server's disk is full: there is no room for the database's log"
FULL_DURABLE_S: Final = 2.0
FIRST_DURABLE_S: Final = 20.0
"""So long may the log take for what a database does when it starts; only so short while the disk is full."""
LOG_RETRY_S: Final = 0.5
MAX_LOG_RETRY_S: Final = 30.0
"""Between two attempts to open a log that could not be written: it doubles from the one to the other."""
SUPERVISOR_READER: Final = 255
"""The supervisor's place among the readers that hear of durable offsets."""


class DatabaseFailed(Exception):
    """The database could not be started or updated; the text is for clients, too."""


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
        heartbeats: Heartbeats | None = None,
        confinement: Confinement = Confinement(is_wanted=False),
        may_send_http: bool = True,
        keep_program: Callable[[bytes, bytes], None] = lambda program, program_hash: None,
    ) -> None:
        self.snapshots = snapshots
        self._heartbeats = heartbeats or Heartbeats()
        self._confinement = confinement
        self._may_send_http = may_send_http
        self._keep_program = keep_program
        self._distrusts_log = False
        """The last log keeper failed to write or sync: what it left on disk is unknown."""
        self._history = History()
        self._libraries: set[str] = set()
        self._last_words: LastWords | None = None
        self._outbound: OutboundLink | None = None
        self._stuck = False
        """The actor was killed because a call did not end."""
        self._culprit: Culprit | None = None
        self._serves = trio.Event()
        """Set, and replaced, when an actor begins to serve."""
        self.identity = identity
        self.owner = owner
        self.directory = directory
        self.in_memory = in_memory
        self.ready: ActorReady | None = None
        self.definition: ModuleDef
        """Of the program that runs, while `ready` is set."""
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
                if self.ready.recovered_program is not None:
                    self.program, self.program_hash = self.ready.recovered_program, self.ready.program_hash
                    self._keep_program(self.program, self.program_hash)
            except BaseException as error:
                with trio.CancelScope(shield=True):
                    await self._end_at_once()
                if isinstance(error, OSError):
                    raise DatabaseFailed(f"the system cannot start it: {error.strerror}") from None
                raise
            finally:
                self._starting = False
            self.problem = None
            event, self._serves = self._serves, trio.Event()
            event.set()
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
        actor = self._actor = await start_child(
            "database process", "spacetimedb.workers.transaction_actor", FromActor, is_trusted=False
        )
        keeper = await self._start_keeper()
        last_words = self._last_words = LastWords()
        setup = ActorSetup(
            self.identity,
            self.owner,
            create,
            program,
            program_hash,
            self.log_directory,
            self._confinement,
            self._may_send_http,
            sorted(self._libraries),
            self._history.notes,
            self._history.is_careful,
        )
        fds = [control.fd, ring.fd, heap.fd, *self._actor_bell.fds, *self._keeper_bell.fds, last_words.fd]
        if self._may_send_http:
            self._outbound = OutboundLink(self._confinement.memory_bytes, self._say)
            fds.append(self._outbound.theirs.fileno())
        self._stuck, self._culprit = False, None
        self._heartbeats.watch(actor.pid, self._control, lambda: self._end_stuck(actor, last_words))
        try:
            await actor.channel.send_async(setup, *fds)
            if self._outbound is not None:
                self._outbound.theirs.close()
            received = await actor.channel.receive_async()
        except (ChannelClosed, ChannelCorrupt):
            received = None
        if received is None:
            with trio.move_on_after(STOP_S):
                await actor.process.wait()
            death = self._death()
            self._history.add(death, 0.0)
            raise DatabaseFailed(f"{death.text} while the database started")
        message = received[0]
        if not isinstance(message, ActorReady):
            raise DatabaseFailed(message.text if isinstance(message, ActorFailed) else NO_ANSWER)
        self.definition = self._definition(message)
        self._history.notes = []
        await self._until_durable(message.next_offset, actor, keeper)
        return message

    @staticmethod
    def _definition(ready: ActorReady) -> ModuleDef:
        """Module code runs where this was made: readers must be able to take it."""
        try:
            return with_durability(validate(decode_raw(ready.definition)), ready.not_durable)
        except Exception:
            raise DatabaseFailed("the database process announced a definition that is none") from None

    async def _end_stuck(self, actor: Child, last_words: LastWords) -> None:
        """Kills an actor that runs a call which does not end, and finds out which."""
        if actor is not self._actor or actor.process.returncode is not None:
            return
        self._stuck = True
        last_words.clear()
        actor.process.send_signal(STACK_SIGNAL)
        with trio.move_on_after(STACK_S):
            # When the actor is gone what it left behind is closed.
            while actor is self._actor and actor.process.returncode is None:
                self._culprit = last_words.culprit()
                if self._culprit is not None:
                    break
                await trio.sleep(STACK_S / 30)
        actor.process.kill()

    def _death(self) -> Death:
        """Why the actor ended."""
        assert self._actor is not None
        text = self._last_words.text() if self._last_words is not None else ""
        culprit = self._culprit
        if culprit is None and self._last_words is not None:
            culprit = self._last_words.culprit()
        return explain(self._actor.process.returncode, self._stuck, culprit, text)

    async def _start_keeper(self) -> Child:
        keeper = self._keeper = await start_child("log keeper", "spacetimedb.workers.log_keeper", FromLogKeeper)
        fds = [*(r.fd for r in self._regions), *self._keeper_bell.fds, *self._actor_bell.fds]
        try:
            await keeper.channel.send_async(
                LogKeeperSetup(self.log_directory, self.module_log_directory, self._distrusts_log), *fds
            )
            received = await keeper.channel.receive_async()
        except ChannelClosed:
            received = None
        message = received[0] if received else LogKeeperFailed("the log keeper ended while it started")
        if not isinstance(message, LogKeeperReady):
            self._say(message.text)  # with paths, which are nothing for clients
            raise DatabaseFailed(NO_ROOM if message.is_full else "the commit log cannot be opened")
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
            for seconds in (FULL_DURABLE_S, FIRST_DURABLE_S):
                with trio.move_on_after(seconds) as scope:
                    await self.wait_durable(count)
                if not scope.cancelled_caught or self._control.words[words.LOG_FULL]:
                    break
            nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            is_full = self._control.words[words.LOG_FULL]
            raise DatabaseFailed(
                NO_ROOM if is_full else f"what the database begins with was not on disk within {FIRST_DURABLE_S:.0f} s"
            )
        if failed:
            if self._control.words[words.LOG_FAILED]:
                raise DatabaseFailed("the commit log cannot be written")
            assert self._actor is not None
            is_actors = self._actor.process.returncode is not None
            raise DatabaseFailed(self._death().text if is_actors else f"the {failed[0]} ended")

    async def until_serving(self) -> bool:
        """Waits for a database that is being started. False if it does not serve soon."""
        with trio.move_on_after(SERVING_S):
            while self.ready is None and self.problem is None and not self.stopping:
                with trio.move_on_after(LOOK_AGAIN_S):
                    await self._serves.wait()
        return self.ready is not None

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
        if self._starting:
            return  # it attaches all readers when it serves
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

    async def supervise(self, down: Callable[[str], Awaitable[None]], slow_reader: Callable[[int], None]) -> None:
        """Keeps the database running until `stop`. `down` tells the readers that it serves no longer, and why if the
        module is the cause."""
        history = self._history
        while not self.stopping:
            started = trio.current_time()
            await self._until_actor_ends(slow_reader)
            async with self._changing:
                if self.stopping:
                    break
                death = self._death()
                history.add(death, trio.current_time() - started)
                self._say(f"{death.detail}; recovering")
                self.ready = None
                await self._stop_keeper()  # readers still see what was published become durable
                await down("" if death.is_ours else death.text)
                self._release()
            while not self.stopping:
                if history.backoff_s >= SLOW_BACKOFF_S:
                    self.problem = f"{self.problem or death.text}; next start in {history.backoff_s:.1f} s"
                    self._say(self.problem)
                await trio.sleep(history.backoff_s)
                try:
                    await self.start(self.in_memory, *self._last_program)
                    break
                except DatabaseFailed as error:
                    if not self.stopping:
                        self.problem = str(error)
                        self._say(f"cannot start: {error}")
                    history.delay()

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
                try:
                    await hear()
                except ChannelCorrupt as error:
                    self._say(f"the database process sent what is no message ({error}); it is replaced")
                    actor.process.kill()

            async def renew(descriptor: int) -> None:
                await actor.channel.send_async(ActorOutbound(), descriptor)
                self._actor_bell.ring()

            async def hear() -> None:
                while (received := await actor.channel.receive_async()) is not None:
                    match received[0]:
                        case SlowReader(reader):
                            slow_reader(reader)
                        case RowCounts() as counts if self.snapshots is not None:
                            self.snapshots.announced(counts)
                        case ActorReady() | ActorFailed() as answer:
                            self._answer_update(answer)

            async def keep_log() -> None:
                started = -SHORT_LIFE_S
                wait_s = LOG_RETRY_S
                while True:
                    keeper = self._keeper
                    assert keeper is not None
                    await keeper.process.wait()
                    failed = self._control.words[words.LOG_FAILED] != 0
                    if failed and not self.stopping:
                        wait_s = min(2 * wait_s, MAX_LOG_RETRY_S) if self._distrusts_log else LOG_RETRY_S
                        if not self._distrusts_log:
                            self._say("the commit log cannot be written; calls are refused until it can")
                        self._distrusts_log = True
                        await trio.sleep(wait_s)
                    elif trio.current_time() - started < SHORT_LIFE_S:
                        self._say("the log keeper ended again at once; the database process is replaced")
                        actor.process.kill()  # what is in the ring cannot be logged
                        return
                    started = trio.current_time()
                    # Shielded: a log keeper that is half started must not go on beside the next one.
                    with trio.CancelScope(shield=True):
                        async with self._changing:
                            if self.stopping or actor.process.returncode is not None:
                                return
                            if not await self._replace_keeper(keeper) and not failed:
                                actor.process.kill()
                                return

            async def ask(message: Any) -> None:
                await actor.channel.send_async(message)
                self._actor_bell.ring()

            if self.snapshots is not None:
                nursery.start_soon(self.snapshots.watch, ask, self._control)
            nursery.start_soon(listen)
            nursery.start_soon(keep_log)
            if self._outbound is not None:
                nursery.start_soon(self._outbound.run, renew)
            await actor.process.wait()
            self._heartbeats.forget(actor.pid)
            self._answer_update(ActorFailed(f"{self._death().text} during the update"))
            nursery.cancel_scope.cancel()

    def _answer_update(self, answer: ActorReady | ActorFailed) -> None:
        """Only the first answer counts, and only when there was a question."""
        if self._update_reply is not None:
            try:
                self._update_reply.send_nowait(answer)
            except trio.WouldBlock:
                pass

    async def _replace_keeper(self, dead: Child) -> bool:
        """False if the log cannot be kept."""
        dead.channel.close()
        if not self._distrusts_log:
            self._say("the log keeper ended; starting it again")
        try:
            keeper = await self._start_keeper()
            for reader in self._readers():
                if reader.number in self._mailboxes:
                    await keeper.channel.send_async(LogAttachReader(reader.number), *reader.bell.fds)
        except (ChannelClosed, DatabaseFailed, OSError) as error:
            self._say(f"the log keeper cannot be started: {error}")
            return False
        if self._distrusts_log:
            self._say("the commit log can be written again; calls are accepted")
            self._distrusts_log = False
        self._keeper_bell.ring()
        self._actor_bell.ring()
        return True

    async def update(
        self,
        program: bytes,
        program_hash: bytes,
        break_clients: bool,
        libraries: Iterable[str] = (),
        durable_within_s: float = math.inf,
    ) -> bool:
        """Runs another program, which may change tables; the old one goes on if it fails (DatabaseFailed).

        `libraries`: those beside Python's own that it imports. A process that has not loaded them yet cannot any more:
        it is replaced first. False if the update, which is in force, was not durable within that time.
        """
        if self._actor is None or self.ready is None:
            raise DatabaseFailed("the database is not running")
        if not set(libraries) <= {*self.ready.libraries, *self._libraries}:
            self._libraries.update(libraries)
            await self._start_again()
        actor = self._actor
        send, receive = trio.open_memory_channel[ActorReady | ActorFailed](1)
        self._update_reply = send
        try:
            await actor.channel.send_async(UpdateProgram(program, program_hash, break_clients))
            self._actor_bell.ring()
            answer = await receive.receive()
        except ChannelClosed:
            answer = ActorFailed("the database process ended during the update")
        finally:
            self._update_reply = None
        if isinstance(answer, ActorFailed):
            raise DatabaseFailed(answer.text)
        try:
            definition = self._definition(answer)
        except DatabaseFailed:
            actor.process.kill()  # whatever it runs now, nobody knows what its tables are
            raise
        if actor is not self._actor or self.ready is None:
            raise DatabaseFailed("the database process ended during the update")
        self._history.forget()
        self.ready, self.definition = answer, definition
        self.program, self.program_hash = program, program_hash
        for reader in self._readers():
            try:
                await reader.send(self.up(is_update=True))
            except ChannelClosed:
                pass  # the next reader hears of it when it is attached
        with trio.move_on_after(durable_within_s) as scope:
            await self.wait_durable(answer.next_offset)
        return not scope.cancelled_caught

    def replace_process(self) -> None:
        """Kills the actor: it publishes what no reader understands."""
        if self._actor is not None and self.ready is not None and self._actor.process.returncode is None:
            self._say("the database process published what cannot be read; it is replaced")
            self._actor.process.kill()

    async def _start_again(self) -> None:
        """Another actor in place of the one that runs; its clients have to connect again."""
        served, actor = self._serves, self._actor
        assert actor is not None
        try:
            await actor.channel.send_async(Stop())
        except ChannelClosed:
            pass
        self._actor_bell.ring()
        with trio.move_on_after(SERVING_S):
            await served.wait()
            await self.until_serving()
        if self._actor is None or self.ready is None:
            raise DatabaseFailed("the database could not be started again")

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
            self._heartbeats.forget(self._actor.pid)
            self._actor.channel.close()
        if self._last_words is not None:
            self._last_words.close()
            self._last_words = None
        if self._outbound is not None:
            self._outbound.close()
            self._outbound = None
        self._actor = None
        for region in (*self._regions, *self._mailboxes.values()):
            region.close()
        self._regions.clear()
        self._mailboxes.clear()
        for bell in self._bells:
            trio.lowlevel.notify_closing(bell.fd)
            bell.close()
        self._bells.clear()
