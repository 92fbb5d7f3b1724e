"""One transaction actor as the supervisor sees it, from its start to its end.

It runs module code, so nothing that comes from it is believed: what is no message, what has no meaning, and more
messages than an actor has reason to send end it, and so does silence where an answer is due.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import trio

from spacetimedb.workers.channel import ChannelClosed, ChannelCorrupt
from spacetimedb.workers.last_words import STACK_SIGNAL, Culprit, LastWords
from spacetimedb.workers.messages import (
    ActorFailed,
    ActorOutbound,
    ActorReady,
    ActorRecovered,
    ActorSetup,
    FromActor,
    RowCounts,
    SlowReader,
    Stop,
    UpdateProgram,
)
from spacetimedb.workers.options import HttpReach
from spacetimedb.workers.supervisor.child import STOP_S, Child, start_child
from spacetimedb.workers.supervisor.death import Death, explain
from spacetimedb.workers.supervisor.errors import DatabaseFailed
from spacetimedb.workers.supervisor.heartbeat import Heartbeats
from spacetimedb.workers.supervisor.outbound_link import OutboundLink
from spacetimedb.workers.supervisor.shared_parts import SharedParts

STACK_S: Final = 2.0
"""How long a stuck process may take to write its stacks; a moment, unless the machine is busy."""
STACK_LOOK_S: Final = 0.01
START_LIMIT_S: Final = 600.0
"""So long may a start take once the log has been read: the program is loaded, and the rows into tables."""
TELL_S: Final = 10.0
"""A process that does not take a message for so long is killed."""
UPDATE_LIMIT_S: Final = 120.0
"""An update must be answered within this time. Loading the program and migrating rows have limits of their own, which
are shorter together; what waits in the mailboxes comes first."""
MAX_UNASKED: Final = 200
"""More messages that nobody has asked for are not sent by an actor in its whole life."""
NO_ANSWER: Final = "the database process sent what is no answer"
TOO_LONG: Final = (
    "the database process did not answer within {:.0f} s and is replaced; the update may be in force afterwards"
)
GATEWAY_TIMEOUT: Final = 504


class ActorEnded(DatabaseFailed):
    """The process has ended while it started."""


class ActorProcess:
    """`child` is the process, `shared` what it shares with others."""

    def __init__(
        self,
        child: Child,
        shared: SharedParts,
        last_words: LastWords,
        outbound: OutboundLink | None,
        say: Callable[[str], None],
    ) -> None:
        self.child = child
        self.shared = shared
        self._say = say
        self._outbound = outbound
        self._last_words = last_words
        self._is_stuck = False
        """It was killed because a call did not end."""
        self._culprit: Culprit | None = None
        self._is_closed = False
        self._unasked = 0
        self._answer: trio.MemorySendChannel[ActorReady | ActorFailed] | None = None

    @classmethod
    async def start(
        cls, database: str, shared: SharedParts, memory_bytes: int, http_reach: HttpReach, say: Callable[[str], None]
    ) -> ActorProcess:
        """Starts the process; it waits for `set_up`. `database`: identity in hex. Raises OSError."""
        with ExitStack() as undo:
            last_words = LastWords()
            undo.callback(last_words.close)
            outbound = OutboundLink(database, memory_bytes, http_reach, say) if http_reach is not None else None
            if outbound is not None:
                undo.callback(outbound.close)
            child = await start_child(
                "database process", "spacetimedb.workers.transaction_actor", FromActor, is_trusted=False
            )
            undo.pop_all()
        return cls(child, shared, last_words, outbound, say)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.child.process.returncode is None

    def kill(self) -> None:
        """Ends it at once, if it runs."""
        if self.is_running:
            self.child.process.kill()

    async def set_up(self, setup: ActorSetup, heartbeats: Heartbeats) -> ActorReady:
        """Has it make or recover its database. Raises DatabaseFailed; `death` says more if it has ended."""
        shared, outbound = self.shared, self._outbound
        fds = [*shared.fds, *shared.actor_bell.fds, *shared.keeper_bell.fds, self._last_words.fd]
        if outbound is not None:
            fds.append(outbound.theirs.fileno())
        heartbeats.watch(self.child.pid, shared.control, self._end_stuck)
        try:
            await self.child.channel.send_async(setup, *fds)
            if outbound is not None:
                outbound.theirs.close()
            received = await self.child.channel.receive_async()
            if received is not None and isinstance(received[0], ActorRecovered):
                with trio.move_on_after(START_LIMIT_S) as scope:
                    received = await self.child.channel.receive_async()
                if scope.cancelled_caught:
                    self._say(f"the database process did not start within {START_LIMIT_S:.0f} s; it is ended")
                    self.kill()
                    received = None
        except (ChannelClosed, ChannelCorrupt):
            received = None
        if received is None:
            with trio.move_on_after(STOP_S):
                await self.child.process.wait()
            raise ActorEnded(f"{self.death().text} while the database started")
        message = received[0]
        if not isinstance(message, ActorReady):
            raise DatabaseFailed(message.text if isinstance(message, ActorFailed) else NO_ANSWER)
        return message

    async def tell(self, message: Any, *fds: int) -> None:
        """Sends a message and wakes the process; one that does not take it is killed. Raises ChannelClosed."""
        with trio.move_on_after(TELL_S) as scope:
            await self.child.channel.send_async(message, *fds)
        if scope.cancelled_caught:
            self._say("the database process takes no messages; it is replaced")
            self.kill()
            raise ChannelClosed
        if not self.shared.is_closed:
            self.shared.actor_bell.ring()

    async def hear(self, slow_reader: Callable[[int], None], row_counts: Callable[[RowCounts], bool]) -> None:
        """Takes its messages until it ends. `slow_reader` hears of readers that it has dropped; `row_counts` says
        whether somebody has asked for them."""
        try:
            while (received := await self.child.channel.receive_async()) is not None:
                match received[0]:
                    case SlowReader(reader):
                        slow_reader(reader)
                        self._unasked += 1
                    case RowCounts() as counts:
                        self._unasked += not row_counts(counts)
                    case ActorReady() | ActorFailed() as answer:
                        self._unasked += not self._take_answer(answer)
                    case ActorRecovered():
                        self._unasked += 1
                if self._unasked > MAX_UNASKED:
                    raise ChannelCorrupt(f"{MAX_UNASKED} messages that nobody has asked for")
        except ChannelCorrupt as error:
            self._say(f"the database process sent what is no message ({error}); it is replaced")
            self.kill()

    async def update(self, message: UpdateProgram) -> ActorReady:
        """Runs another program. Raises DatabaseFailed; one that does not answer is killed."""
        send, receive = trio.open_memory_channel[ActorReady | ActorFailed](1)
        self._answer = send
        try:
            with trio.move_on_after(UPDATE_LIMIT_S) as scope:
                await self.child.channel.send_async(message)
                self.shared.actor_bell.ring()
                answer = await receive.receive()
        except ChannelClosed:
            answer = ActorFailed("the database process ended during the update")
        finally:
            self._answer = None
        if scope.cancelled_caught:
            text = TOO_LONG.format(UPDATE_LIMIT_S)
            self._say(text)
            self.kill()
            raise DatabaseFailed(text, GATEWAY_TIMEOUT)
        if isinstance(answer, ActorFailed):
            raise DatabaseFailed(answer.text)
        return answer

    def ended(self) -> None:
        """The process has ended: whoever waits for its answer hears why."""
        self._take_answer(ActorFailed(f"{self.death().text} during the update"))

    def _take_answer(self, answer: ActorReady | ActorFailed) -> bool:
        """Only the first answer counts, and only when there was a question."""
        try:
            if self._answer is None:
                return False
            self._answer.send_nowait(answer)
        except trio.WouldBlock:
            return False
        return True

    async def run_outbound(self) -> None:
        """Sends its HTTP requests until it has ended, if it may send any."""
        if self._outbound is not None:
            await self._outbound.run(lambda descriptor: self.tell(ActorOutbound(), descriptor))

    def death(self) -> Death:
        """Why it has ended."""
        returncode, text, culprit = self.child.process.returncode, "", self._culprit
        if not self._is_closed:
            text, culprit = self._last_words.text(), culprit or self._last_words.culprit()
        return explain(returncode, self._is_stuck, culprit, text)

    async def _end_stuck(self) -> None:
        """Kills it while it runs a call which does not end, and finds out which."""
        if self._is_closed or not self.is_running:
            return
        self._is_stuck = True
        self._last_words.clear()
        self.child.process.send_signal(STACK_SIGNAL)
        with trio.move_on_after(STACK_S):
            while not self._is_closed and self.is_running:
                self._culprit = self._last_words.culprit(is_whole=False)
                if self._culprit is not None:
                    break
                await trio.sleep(STACK_LOOK_S)
        self.kill()

    async def stop(self) -> None:
        """Has it finish what was accepted, and waits for its end."""
        try:
            await self.tell(Stop())
        except ChannelClosed:
            pass
        await self.child.stop()

    def close(self, heartbeats: Heartbeats) -> None:
        """After its end: gives everything back."""
        self._is_closed = True
        heartbeats.forget(self.child.pid)
        self.child.channel.close()
        self._last_words.close()
        if self._outbound is not None:
            self._outbound.close()
