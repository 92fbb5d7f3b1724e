"""The processes of one database and what the supervisor does when one of them ends.

A database is an actor (`actor_process`), a log keeper (`log_keeping`) and the parts that they share (`shared_parts`),
which live as long as the actor: when it dies, the log keeper first writes everything that was published, then a new
actor recovers from the log into fresh ones.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from spacetimedb.hosts.mail import GENERATIONS
from spacetimedb.memory import control as words
from spacetimedb.schema.definition import ModuleDef, with_durability
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate
from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.messages import (
    ActorAttachReader,
    ActorReady,
    ActorSetup,
    DatabaseUp,
    DetachReader,
    RowCounts,
    Stop,
    UpdateProgram,
)
from spacetimedb.workers.options import ModuleRules
from spacetimedb.workers.sandbox import Confinement
from spacetimedb.workers.supervisor.actor_process import ActorEnded, ActorProcess
from spacetimedb.workers.supervisor.child import Child
from spacetimedb.workers.supervisor.death import History
from spacetimedb.workers.supervisor.errors import DatabaseFailed
from spacetimedb.workers.supervisor.heartbeat import Heartbeats
from spacetimedb.workers.supervisor.log_keeping import NO_ROOM, LogKeeping
from spacetimedb.workers.supervisor.reader_link import ReaderLink
from spacetimedb.workers.supervisor.shared_parts import SharedParts

if TYPE_CHECKING:
    from spacetimedb.workers.supervisor.snapshots import Snapshots

SLOW_BACKOFF_S: Final = 1.0
"""A wait before the next start that is said, and that requests are told of instead of waiting too."""
SERVING_S: Final = 60.0
"""How long an update waits for a database that is being started."""
LOOK_AGAIN_S: Final = 0.2
"""Between two looks whether it cannot be started at all."""
NO_DEFINITION: Final = "the database process announced a definition that is none"
MAX_TABLE_ID: Final = 1 << 32
FULL_DURABLE_S: Final = 2.0
FIRST_DURABLE_S: Final = 20.0
"""So long may the log take for what a database does when it starts; only so short while the disk is full."""


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
        rules: ModuleRules = ModuleRules(),
        keep_program: Callable[[bytes, bytes], None] = lambda program, program_hash: None,
    ) -> None:
        self.snapshots = snapshots
        self._heartbeats = heartbeats or Heartbeats()
        self._confinement = confinement
        self._rules = rules
        self._keep_program = keep_program
        self._history = History()
        self._libraries: set[str] = set()
        self._starts = self._failed_starts = 0
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
        self.program = b""
        self.program_hash = b""
        self.stopping = False
        self.problem: str | None = None
        self._changing = trio.Lock()
        self._starting = False
        self._readers = readers
        self._say = say
        self._actor: ActorProcess | None = None
        self._shared: SharedParts | None = None
        self._log = LogKeeping(self.log_directory, self.module_log_directory, say)

    @property
    def log_directory(self) -> str | None:
        """Where the commit log is; None for a database in memory."""
        return None if self.in_memory else str(self.directory / "clog")

    @property
    def module_log_directory(self) -> str:
        """Where the module log is."""
        return str(self.directory / "module_logs")

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
            self._starts += 1
            try:
                self.ready = await self._start(create, program, program_hash)
                if self.ready.recovered_program is not None:
                    self.program, self.program_hash = self.ready.recovered_program, self.ready.program_hash
                    self._keep_program(self.program, self.program_hash)
            except BaseException as error:
                self._failed_starts += 1
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
        database = self.identity[::-1].hex()
        shared = self._shared = SharedParts(database[:12])
        shared.control.words[words.HOST_STARTS] = self._starts
        shared.control.words[words.HOST_FAILURES] = self._failed_starts
        actor = self._actor = await ActorProcess.start(
            database, shared, self._confinement.memory_bytes, self._rules.http_reach, self._say
        )
        keeper = await self._log.start(shared)
        setup = ActorSetup(
            self.identity,
            self.owner,
            create,
            program,
            program_hash,
            self.log_directory,
            self._confinement,
            self._rules.http_reach is not None,
            sorted(self._libraries),
            self._history.notes,
            self._history.is_careful,
            self._rules.checks_determinism,
        )
        try:
            ready = await actor.set_up(setup, self._heartbeats)
        except ActorEnded:
            self._history.add(actor.death(), 0.0)
            raise
        self.definition = self._definition(ready)
        self._history.notes = []
        await self._until_durable(ready.next_offset, shared, actor, keeper)
        return ready

    @staticmethod
    def _definition(ready: ActorReady) -> ModuleDef:
        """Module code runs where this was made: readers must be able to take it."""
        try:
            definition = with_durability(validate(decode_raw(ready.definition)), ready.not_durable)
            ids = [ready.table_ids[table.name] for table in definition.all_tables]
        except Exception:
            ids = [-1]
        if len(set(ids)) < len(ids) or any(number not in range(MAX_TABLE_ID) for number in ids):
            raise DatabaseFailed(NO_DEFINITION)
        if ready.generation not in range(GENERATIONS):
            raise DatabaseFailed(NO_DEFINITION)
        return definition

    async def _until_durable(self, count: int, shared: SharedParts, actor: ActorProcess, keeper: Child) -> None:
        """Waits until what a new actor begins with is durable, while nobody replaces a process that ends. Raises
        DatabaseFailed."""
        failed: list[str] = []
        control = shared.control.words
        async with trio.open_nursery() as nursery:

            async def watch(child: Child) -> None:
                await child.process.wait()
                failed.append(child.name)
                nursery.cancel_scope.cancel()

            for child in (actor.child, keeper):
                nursery.start_soon(watch, child)
            for seconds in (FULL_DURABLE_S, FIRST_DURABLE_S):
                with trio.move_on_after(seconds) as scope:
                    await self._log.wait_durable(count)
                if not scope.cancelled_caught or control[words.LOG_FULL]:
                    break
            nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise DatabaseFailed(
                NO_ROOM
                if control[words.LOG_FULL]
                else f"what the database begins with was not on disk within {FIRST_DURABLE_S:.0f} s"
            )
        if failed:
            if control[words.LOG_FAILED]:
                raise DatabaseFailed("the commit log cannot be written")
            raise DatabaseFailed(f"the {failed[0]} ended" if actor.is_running else actor.death().text)

    async def until_serving(self) -> bool:
        """Waits for a database that is being started. False if it does not serve soon."""
        with trio.move_on_after(SERVING_S):
            while self.ready is None and self.problem is None and not self.stopping:
                with trio.move_on_after(LOOK_AGAIN_S):
                    await self._serves.wait()
        return self.ready is not None

    async def attach_reader(self, reader: ReaderLink) -> None:
        """Connects a reader to this database, unless it is: a mailbox of its own, the regions, the bells."""
        if self._starting:
            return  # it attaches all readers when it serves
        async with self._changing:
            await self._attach(reader)

    async def _attach(self, reader: ReaderLink) -> None:
        actor, shared = self._actor, self._shared
        if self.ready is None or actor is None or shared is None:
            return
        if not reader.is_alive or reader.number in shared.mailboxes:
            return
        try:
            mailbox = shared.add_mailbox(reader.number)
            await actor.tell(ActorAttachReader(reader.number), mailbox, *reader.bell.fds)
            await self._log.attach(reader)
            await reader.send(self.up(is_update=False), *shared.fds, mailbox, *shared.actor_bell.fds)
        except ChannelClosed:
            pass  # whoever died is noticed where it is waited for
        except OSError as error:
            self._say(f"reader {reader.number} cannot be attached: {error.strerror}")

    async def detach_reader(self, number: int) -> None:
        """A reader process ended: its clients are gone."""
        if self._shared is None or number not in self._shared.mailboxes:
            return
        self._shared.ignore_reader(number)  # at once: the actor may be waiting for it
        async with self._changing:
            shared = self._shared
            mailbox = None if shared is None else shared.mailboxes.pop(number, None)
            if mailbox is None:
                return
            if self._actor is not None:
                try:
                    await self._actor.tell(DetachReader(number))
                except ChannelClosed:
                    pass
            await self._log.detach(number)
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
            actor, shared = self._actor, self._shared
            assert actor is not None
            assert shared is not None
            await self._until_actor_ends(actor, shared, slow_reader)
            async with self._changing:
                if self.stopping:
                    break
                death = actor.death()
                history.add(death, trio.current_time() - started)
                self._say(f"{death.detail}; recovering")
                self.ready = None
                await self._log.stop()  # readers still see what was published become durable
                await down("" if death.is_ours else death.text)
                self._release()
            while not self.stopping:
                if history.backoff_s >= SLOW_BACKOFF_S:
                    self.problem = f"{self.problem or death.text}; next start in {history.backoff_s:.1f} s"
                    self._say(self.problem)
                await trio.sleep(history.backoff_s)
                try:
                    await self.start(self.in_memory, self.program, self.program_hash)
                    break
                except DatabaseFailed as error:
                    if not self.stopping:
                        self.problem = str(error)
                        self._say(f"cannot start: {error}")
                    history.delay()

    async def _until_actor_ends(
        self, actor: ActorProcess, shared: SharedParts, slow_reader: Callable[[int], None]
    ) -> None:
        snapshots = self.snapshots

        def row_counts(counts: RowCounts) -> bool:
            return snapshots is not None and snapshots.announced(counts)

        def attached() -> list[ReaderLink]:
            return [reader for reader in self._readers() if reader.number in shared.mailboxes]

        async with trio.open_nursery() as nursery:
            if snapshots is not None:
                nursery.start_soon(snapshots.watch, actor.tell, shared.control)
            nursery.start_soon(actor.hear, slow_reader, row_counts)
            nursery.start_soon(self._log.keep, actor.child.process, self._changing, lambda: self.stopping, attached)
            nursery.start_soon(actor.run_outbound)
            await actor.child.process.wait()
            self._heartbeats.forget(actor.child.pid)
            actor.ended()
            nursery.cancel_scope.cancel()

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
            await self._start_again(self._actor)
        actor = self._actor
        ready = await actor.update(UpdateProgram(program, program_hash, break_clients))
        try:
            definition = self._definition(ready)
        except DatabaseFailed:
            actor.kill()  # whatever it runs now, nobody knows what its tables are
            raise
        if actor is not self._actor or self.ready is None:
            raise DatabaseFailed("the database process ended during the update")
        self._history.forget()
        self.ready, self.definition = ready, definition
        self.program, self.program_hash = program, program_hash
        for reader in self._readers():
            try:
                await reader.send(self.up(is_update=True))
            except ChannelClosed:
                pass  # the next reader hears of it when it is attached
        with trio.move_on_after(durable_within_s) as scope:
            await self._log.wait_durable(ready.next_offset)
        return not scope.cancelled_caught

    def replace_process(self) -> None:
        """Kills the actor: it publishes what no reader understands."""
        if self._actor is not None and self.ready is not None and self._actor.is_running:
            self._say("the database process published what cannot be read; it is replaced")
            self._actor.kill()

    async def _start_again(self, actor: ActorProcess) -> None:
        """Another actor in place of the one that runs; its clients have to connect again."""
        served = self._serves
        try:
            await actor.tell(Stop())
        except ChannelClosed:
            pass
        with trio.move_on_after(SERVING_S):
            await served.wait()
            await self.until_serving()
        if self._actor is None or self.ready is None:
            raise DatabaseFailed("the database could not be started again")

    async def stop(self, down: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends both processes; everything that was accepted is on disk afterwards. `down` tells the readers first."""
        self.stopping = True
        if self._starting:  # nothing was accepted yet
            if self._actor is not None:
                self._actor.kill()
            if self._log.child is not None:
                self._log.child.process.kill()
        async with self._changing:
            self.ready = None
            if down is not None:
                await down()
            if self._actor is not None:
                await self._actor.stop()
            await self._log.stop()
            self._release()

    async def _end_at_once(self) -> None:
        """After a start that failed: nothing is left."""
        if self._actor is not None:
            self._actor.kill()
            await self._actor.stop()
        await self._log.stop()
        self._release()

    def _release(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            actor.close(self._heartbeats)
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()
