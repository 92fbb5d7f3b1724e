"""The log keeper of one database as the supervisor sees it: it is started again whenever it ends.

The next one goes on at its place in the ring, on the same shared parts. While the log cannot be written, none runs: the
actor refuses calls, and what it has committed waits in the ring. Where a log keeper ends again at once for another
reason what is in the ring cannot be logged, and the actor is killed: its successor begins with what is on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from spacetimedb.memory import control as words
from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.messages import (
    DetachReader,
    FromLogKeeper,
    LogAttachReader,
    LogKeeperFailed,
    LogKeeperReady,
    LogKeeperSetup,
    Stop,
)
from spacetimedb.workers.supervisor.child import Child, start_child
from spacetimedb.workers.supervisor.death import SHORT_LIFE_S
from spacetimedb.workers.supervisor.errors import DatabaseFailed
from spacetimedb.workers.supervisor.reader_link import ReaderLink
from spacetimedb.workers.supervisor.shared_parts import SharedParts

NO_ROOM: Final = "the server's disk is full: there is no room for the database's log"
RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 30.0
"""Between two attempts to open a log that could not be written: it doubles from the one to the other."""
ENDED_EARLY: Final = "the log keeper ended while it started"
SUPERVISOR_READER: Final = words.SUPERVISOR_SLOT
"""The supervisor's place among the readers that hear of durable offsets."""


class _Crashed(DatabaseFailed):
    """It is not the log that is in the way: what the processes share cannot be read."""


class LogKeeping:
    """The log keepers of one database, one after the other. `log_directory` None: nothing is written.

    `child` is the one that runs. `say` takes lines for whoever runs the server.
    """

    def __init__(self, log_directory: str | None, module_log_directory: str, say: Callable[[str], None]) -> None:
        self.child: Child | None = None
        self._shared: SharedParts
        self._log_directory = log_directory
        self._module_log_directory = module_log_directory
        self._say = say
        self._distrusts_log = False
        """The last log keeper failed to write or sync: what it left on disk is unknown."""

    async def start(self, shared: SharedParts) -> Child:
        """Starts a log keeper on these parts and waits until it has opened the log. Raises DatabaseFailed, OSError."""
        self._shared = shared
        child = self.child = await start_child("log keeper", "spacetimedb.workers.log_keeper", FromLogKeeper)
        setup = LogKeeperSetup(self._log_directory, self._module_log_directory, self._distrusts_log)
        try:
            await child.channel.send_async(setup, *shared.fds, *shared.keeper_bell.fds, *shared.actor_bell.fds)
            received = await child.channel.receive_async()
        except ChannelClosed:
            received = None
        if received is None:
            raise _Crashed(ENDED_EARLY)
        message = received[0]
        if not isinstance(message, LogKeeperReady):
            assert isinstance(message, LogKeeperFailed)
            self._say(message.text)  # with paths, which are nothing for clients
            raise DatabaseFailed(NO_ROOM if message.is_full else "the commit log cannot be opened")
        try:
            await child.channel.send_async(LogAttachReader(SUPERVISOR_READER), *shared.durable_bell.fds)
        except ChannelClosed:
            raise _Crashed(ENDED_EARLY) from None
        shared.keeper_bell.ring()
        return child

    async def attach(self, reader: ReaderLink) -> None:
        """This reader hears of durable offsets from now on. Raises ChannelClosed."""
        if self.child is not None:
            await self.child.channel.send_async(LogAttachReader(reader.number), *reader.bell.fds)
            self._shared.keeper_bell.ring()

    async def detach(self, number: int) -> None:
        """This reader is gone."""
        if self.child is not None:
            try:
                await self.child.channel.send_async(DetachReader(number))
            except ChannelClosed:
                return  # whoever waits for the process notices
            self._shared.keeper_bell.ring()

    async def stop(self) -> None:
        """Ends it; what is in the ring is on disk afterwards."""
        child, self.child = self.child, None
        if child is not None:
            try:
                await child.channel.send_async(Stop())
            except ChannelClosed:
                pass
            self._shared.keeper_bell.ring()
            await child.stop()

    async def wait_durable(self, count: int) -> None:
        """Waits until so many transactions are durable. DatabaseFailed if the database ends before."""
        shared = self._shared
        bell = shared.durable_bell
        while not shared.is_closed:
            shared.control.expect_log(SUPERVISOR_READER)
            if shared.control.words[words.DURABLE] >= count:
                return
            try:
                await trio.lowlevel.wait_readable(bell.fd)
            except trio.ClosedResourceError:
                break
            bell.clear()
        raise DatabaseFailed("the database process ended before this was durable")

    async def keep(
        self,
        actor: trio.Process,
        changing: trio.Lock,
        is_stopping: Callable[[], bool],
        attached: Callable[[], Iterable[ReaderLink]],
    ) -> None:
        """Starts it again and again, until the database stops or the actor is gone. `changing` is held meanwhile;
        `attached` gives the readers that are to hear of durable offsets."""
        started = -SHORT_LIFE_S
        wait_s = RETRY_S
        while True:
            child = self.child
            assert child is not None
            await child.process.wait()
            failed = self._shared.control.words[words.LOG_FAILED] != 0
            if failed and not is_stopping():
                wait_s = min(2 * wait_s, MAX_RETRY_S) if self._distrusts_log else RETRY_S
                if not self._distrusts_log:
                    self._say("the commit log cannot be written; calls are refused until it can")
                self._distrusts_log = True
                await trio.sleep(wait_s)
            elif trio.current_time() - started < SHORT_LIFE_S:
                self._say("the log keeper ended again at once; the database process is replaced")
                actor.kill()
                return
            started = trio.current_time()
            # Shielded: a log keeper that is half started must not go on beside the next one.
            with trio.CancelScope(shield=True):
                async with changing:
                    if is_stopping() or actor.returncode is not None:
                        return
                    if not await self._replace(child, attached(), failed):
                        actor.kill()
                        return

    async def _replace(self, dead: Child, attached: Iterable[ReaderLink], failed: bool) -> bool:
        """False if the log cannot be kept. `failed`: the last one could not write it, which may go on for a while."""
        dead.channel.close()
        if not self._distrusts_log:
            self._say("the log keeper ended; starting it again")
        try:
            await self.start(self._shared)
            for reader in attached:
                await self.attach(reader)
        except (ChannelClosed, DatabaseFailed, OSError) as error:
            self._say(f"the log keeper cannot be started: {error}")
            return failed and not isinstance(error, _Crashed)
        if self._distrusts_log:
            self._say("the commit log can be written again; calls are accepted")
            self._distrusts_log = False
        self._shared.keeper_bell.ring()
        self._shared.actor_bell.ring()
        return True
