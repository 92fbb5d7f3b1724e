"""The bots of one process: as many as wanted, connected at a bounded rate, closed or open loop.

Closed loop: every bot picks a task, plays it, thinks. Open loop: tasks become due at a steady rate, whatever the server
does; a due task waits for the next bot that has nothing to do, and its latency counts from when it was due.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from typing import Final

import msgspec
import trio

from ..client.errors import ClientError, Disconnected
from ..client.options import ConnectOptions, Plan
from ..client.schema import Schema
from ..client.trio import Connection
from .bot import Bot, Clocks, error_text
from .figures import Figures
from .scenario import Scenario, Task, Think

AGAIN_S: Final = 1.0
"""Before a bot that was thrown out connects again, longer or shorter by half."""
NO_WAIT_S: Final = 20e-6
"""A task that has waited for anything has taken longer."""
AT_ONCE: Final = 256
"""Connections in the making."""
TICK_S: Final = 0.005
DRAIN_S: Final = 10.0
"""How long calls under way may take when the test is over."""


class Settings(msgspec.Struct, frozen=True):
    """What all bots of a run have in common. `connect_rate`: connections per second of this process. `think`:
    seconds, instead of the scenario's."""

    url: str
    database: str
    seed: str
    connect_rate: float = 100.0
    confirmed: bool | None = None
    timeout: float = 30.0
    is_open: bool = False
    think: float | None = None


class Crowd:
    """Bots `first`, `first + step`, ... of a run. `want` says how many there shall be, and how many tasks a second."""

    def __init__(self, settings: Settings, scenario: Scenario, schema: Schema, clocks: Clocks) -> None:
        self.settings, self.scenario, self.schema, self.clocks = settings, scenario, schema, clocks
        self.figures = Figures()
        self.connected = 0
        self._wanted = 0
        self._rate = 0.0
        self._bots: list[tuple[Bot, trio.CancelScope]] = []
        self._due: deque[float] = deque()
        self._idle: deque[trio.lowlevel.Task] = deque()
        self._ending = False
        self._resting: set[trio.CancelScope] = set()
        self._gate = trio.Semaphore(AT_ONCE)
        self._next_connect = 0.0
        options = ConnectOptions(module=schema, confirmed=settings.confirmed, timeout=settings.timeout)
        self._plan = Plan.of(settings.url, settings.database, options)
        self._weights = [task.weight for task in scenario.tasks]

    def want(self, clients: int, rate: float) -> None:
        """`rate`: tasks per second, open loop only."""
        self._wanted, self._rate = clients, rate

    async def run(self, first: int, step: int) -> None:
        """Until `end`."""
        async with trio.open_nursery() as nursery:
            if self.settings.is_open:
                nursery.start_soon(self._make_due)
            while not self._ending:
                while len(self._bots) > self._wanted:
                    bot, scope = self._bots.pop()
                    bot.is_dismissed = True
                    scope.cancel()
                if len(self._bots) < self._wanted:
                    number = first + step * len(self._bots)
                    bot, scope = Bot(number, self.settings.seed, self.figures, self.clocks), trio.CancelScope()
                    self._bots.append((bot, scope))
                    nursery.start_soon(self._live, bot, scope)
                    continue
                await trio.sleep(0.02)
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN_S
            self._wake_all()

    def end(self) -> None:
        """No new tasks; what is under way may finish."""
        self._ending = True
        for scope in list(self._resting):
            scope.cancel()

    # -- one bot

    async def _live(self, bot: Bot, scope: trio.CancelScope) -> None:
        with scope:
            while not self._ending:
                try:
                    await self._session(bot)
                except ClientError as error:
                    self.figures.errors.count(error_text(error))
                if not self._ending:
                    await trio.sleep(AGAIN_S * bot.random.uniform(0.5, 1.5))

    async def _session(self, bot: Bot) -> None:
        """From connecting to the end of the connection."""
        async with self._gate:
            await self._turn()
            if self._ending:
                return
            connection = Connection(self._plan if bot.token is None else self._plan.with_token(bot.token))
            await connection._open()
        self.connected += 1
        try:
            bot.attach(connection)
            await self._play(bot)
            await connection.aclose()
        finally:
            self.connected -= 1
            connection._abort()

    async def _turn(self) -> None:
        """Waits so that connections begin at the bounded rate."""
        now = trio.current_time()
        self._next_connect = max(self._next_connect + 1 / self.settings.connect_rate, now)
        if self._next_connect > now:
            await trio.sleep_until(self._next_connect)

    async def _play(self, bot: Bot) -> None:
        scenario = self.scenario
        if scenario.start is not None:
            await self._one(bot, Task("start", scenario.start), None)
        if not scenario.tasks:
            await self._until_end(bot)
            return
        if self.settings.is_open:
            while not self._ending and bot.connection.is_active:
                due = await self._take_due()
                if due is not None and not bot.connection.is_active:
                    self._due.appendleft(due)  # for another bot
                elif due is not None:
                    await self._one(bot, self._choose(bot), due)
        else:
            first = self._choose(bot)
            await trio.sleep(bot.random.random() * self._pause(first)[1])
            while not self._ending and bot.connection.is_active:
                task = self._choose(bot)
                await self._one(bot, task, None)
                low, high = self._pause(task)
                if high and not self._ending:
                    await trio.sleep(low + (high - low) * bot.random.random())
        if not self._ending:
            raise Disconnected("the connection was lost")

    async def _until_end(self, bot: Bot) -> None:
        """For bots without tasks. Raises Disconnected if the connection is lost."""
        with trio.CancelScope() as scope:
            self._resting.add(scope)
            try:
                await bot.connection.wait_closed()
            finally:
                self._resting.discard(scope)

    def _pause(self, task: Task) -> Think:
        if self.settings.think is not None:
            return self.settings.think, self.settings.think
        return self.scenario.think if task.think is None else task.think

    def _choose(self, bot: Bot) -> Task:
        tasks = self.scenario.tasks
        return tasks[0] if len(tasks) == 1 else bot.random.choices(tasks, self._weights)[0]

    async def _one(self, bot: Bot, task: Task, due: float | None) -> None:
        """Plays a task. Refusals are counted, a lost connection is raised."""
        begun = time.perf_counter() if due is None else due
        bot.due_at(due)
        try:
            await task.play(bot)
        except Disconnected:
            raise
        except ClientError as error:
            self.figures.errors.count(error_text(error))
        except Exception as error:
            self.figures.errors.count(f"{task.name}: {error_text(error)}")
            self.figures.trace = self.figures.trace or traceback.format_exc()
            await trio.sleep(0.1)  # a scenario that fails at once must not spin
        took = time.perf_counter() - begun
        self.figures.tasks.record(task.name, took)
        if took < NO_WAIT_S:
            await trio.lowlevel.checkpoint()  # it waited for nothing, perhaps for want of an `await`: others' turn

    # -- open loop

    async def _make_due(self) -> None:
        """Makes tasks due at the wanted rate, as of the times at which they should have been."""
        last = time.perf_counter()
        owed = 0.0
        while not self._ending:
            await trio.sleep(TICK_S)
            now = time.perf_counter()
            owed += (now - last) * self._rate
            count = int(owed)
            owed -= count
            for n in range(count):
                self._due.append(last + (now - last) * (n + 1) / count)
                if self._idle:
                    trio.lowlevel.reschedule(self._idle.popleft())
            last = now

    async def _take_due(self) -> float | None:
        """The next due task's time; None at the end of the test."""
        if self._due:
            await trio.lowlevel.checkpoint()
        while not self._due:
            if self._ending:
                return None
            waiting = trio.lowlevel.current_task()
            self._idle.append(waiting)

            def abort(_raise_cancel: object, waiting: trio.lowlevel.Task = waiting) -> trio.lowlevel.Abort:
                self._idle.remove(waiting)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        return self._due.popleft()

    def _wake_all(self) -> None:
        while self._idle:
            trio.lowlevel.reschedule(self._idle.popleft())
