"""The conductor: starts workers, tells them every second how many bots there shall be, adds up what they saw.

A run is a list of points, one about every second, and totals. `Conductor.step` makes one point; what is wanted when is
the caller's affair: `play` follows stages, `search` looks for the number of bots that a condition allows.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import trio
from msgspec.structs import replace

from ..client.address import Address
from .conditions import Condition
from .crowd import DRAIN_S, Settings
from .figures import Portion, Totals, summary_ms
from .server_figures import ServerFigures
from .stages import Stage, clients_at, duration
from .worker import FAILED, Orders, Tick, share

STEP_S: Final = 1.0
START_S: Final = 60.0
"""How long workers may take to begin."""
ARRIVE_S: Final = 20.0
"""Beyond what --connect-rate asks for, until all bots of a search are there."""
SETTLE_S: Final = 3
MEASURE_S: Final = 5
"""Seconds of a search at one number of bots: until all is steady, and measured."""

Point = dict[str, Any]
OnPoint = Callable[[Point, dict[str, int]], None]
"""Told every second: the new point, and all errors so far by text."""


class RunError(Exception):
    """The test cannot go on."""


class Options(msgspec.Struct, frozen=True):
    """One run. `rate`: tasks per second at the largest number of bots, fewer for as long as so many have not been
    connected, or are not wanted any more; None: closed loop.
    `warm_up_s`: left out of the totals. `clocks`: time columns by table."""

    settings: Settings
    name: str
    scenario: str | None
    definition: str
    workers: int
    rate: float | None = None
    warm_up_s: float = 0.0
    clocks: dict[str, str] = {}
    conditions: tuple[Condition, ...] = ()


class Worker:
    """One process and its pipes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = bytearray()

    async def tell(self, message: msgspec.Struct) -> None:
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(msgspec.json.encode(message) + b"\n")
        except trio.BrokenResourceError:
            raise RunError("a worker of the load test has ended") from None

    async def hear(self) -> Portion:
        """The next portion. RunError if there is none to come."""
        assert self.process.stdout is not None
        while True:
            length = int.from_bytes(self._buffer[:4], "little") + 4
            if len(self._buffer) >= max(5, length):
                data = bytes(self._buffer[4:length])
                del self._buffer[:length]
                portion = msgspec.msgpack.decode(data, type=Portion)
                if portion.number == FAILED:
                    raise RunError(portion.trace)
                return portion
            chunk = await self.process.stdout.receive_some(65536)
            if not chunk:
                raise RunError("a worker of the load test has ended; what it printed may say why")
            self._buffer += chunk


class Conductor:
    """A run under way."""

    def __init__(self, options: Options, workers: list[Worker], on_point: OnPoint, empty: list[Portion]) -> None:
        self.options = options
        self.points: list[Point] = []
        self.totals = Totals()
        self.so_far = Totals()
        self.trace = ""
        self.cpu_s = 0.0
        self.resident = self.empty = sum(portion.resident for portion in empty)
        self.most_connected = 0
        """Bots, at any time so far."""
        self._workers, self._on_point = workers, on_point
        address = Address.parse(options.settings.url, options.settings.database)
        self._server = ServerFigures(address)
        self._run = uuid.uuid4().hex
        self._begun = self._last = time.perf_counter()
        self._cpu = [portion.cpu_s for portion in empty]

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._begun

    async def step(self, clients: int, rate: float, *, is_last: bool = False) -> tuple[Totals, Point]:
        """Tells what is wanted from now on, waits a second, and gathers what has happened since the last time."""
        number, count = len(self.points), len(self._workers)
        if is_last:
            ticks = [Tick(number, is_last=True)] * count
        else:
            ticks = [Tick(number, share(clients, index, count), rate / count) for index in range(count)]
            for worker, tick in zip(self._workers, ticks, strict=True):
                await worker.tell(replace(tick, report=False))
            await trio.sleep_until(trio.current_time() + STEP_S - (time.perf_counter() - self._last) % STEP_S)
        for worker, tick in zip(self._workers, ticks, strict=True):
            await worker.tell(tick)
        portions = [Portion(FAILED)] * count
        server: dict[str, float] = {}

        async def gather(index: int) -> None:
            portions[index] = await self._workers[index].hear()

        async def ask() -> None:
            server.update(await trio.to_thread.run_sync(self._server.read, time.perf_counter()))

        try:
            with trio.fail_after(START_S if not number else DRAIN_S + 20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    for index in range(count):
                        nursery.start_soon(gather, index)
        except trio.TooSlowError:
            raise RunError("a worker of the load test does not answer any more") from None
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        totals = Totals()
        totals.add(portions, seconds)
        self.so_far.add(portions, seconds)
        if self.elapsed > self.options.warm_up_s:
            self.totals.add(portions, seconds)
            if not is_last:
                self.totals.saw(sum(portion.clients for portion in portions))
        self.trace = self.trace or next((p.trace for p in portions if p.trace), "")
        cpu = [p.cpu_s - before for p, before in zip(portions, self._cpu, strict=True)]
        self._cpu = [p.cpu_s for p in portions]
        self.cpu_s, self.resident = sum(self._cpu), sum(p.resident for p in portions)
        point = self._point(totals, portions, clients, server)
        self.most_connected = max(self.most_connected, point["clients"])
        point["bots_cpu_percent"] = round(sum(cpu) / seconds * 100, 1)
        self.points.append(point)
        self._on_point(point, self.so_far.errors.by_text)
        await trio.to_thread.run_sync(self._server.show, self._for_dashboard(point, is_last))
        return totals, point

    def _point(self, totals: Totals, portions: list[Portion], clients: int, server: dict[str, float]) -> Point:
        return {
            "t": round(self.elapsed, 2),
            "clients": sum(p.clients for p in portions),
            "target_clients": clients,
            "calls_per_s": round(totals.answered / totals.seconds, 1),
            "rows_per_s": round(totals.rows / totals.seconds, 1),
            "failed": totals.failed,
            "failed_per_s": round(totals.failed / totals.seconds, 1),
            "lost": totals.lost,
            "latency_ms": summary_ms(totals.calls.merged()),
            "task_ms": summary_ms(totals.tasks.merged()),
            "age_ms": summary_ms(totals.ages.merged()),
            "server": server,
            "bots_memory_mb": round(self.resident / 1e6, 1),
        }

    def _for_dashboard(self, point: Point, is_last: bool) -> Point:
        options = self.options
        return {
            "run": self._run,
            "scenario": options.name,
            "database": options.settings.database,
            "elapsed_s": point["t"],
            "state": "finished" if is_last else "running",
            "clients": point["clients"],
            "target_clients": point["target_clients"],
            "workers": options.workers,
            "calls_per_s": point["calls_per_s"],
            "rows_per_s": point["rows_per_s"],
            "calls": self.so_far.answered,
            "failed": self.so_far.failed,
            "latency_ms": {k: v for k, v in point["latency_ms"].items() if k != "count"},
            "update_age_ms": {k: v for k, v in point["age_ms"].items() if k != "count"},
            "errors": dict(sorted(self.so_far.errors.by_text.items(), key=lambda item: -item[1])[:10]),
            "required": {c.text: c.holds(self.totals) for c in options.conditions},
        }


@asynccontextmanager
async def conduct(options: Options, on_point: OnPoint) -> AsyncIterator[Conductor]:
    """A conductor with its workers, which end with the block. RunError."""
    workers: list[Worker] = []
    command = [sys.executable, "-P", "-m", "spacetimedb.loadtest.worker"]
    try:
        for index in range(options.workers):
            process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            workers.append(Worker(process))
            await workers[-1].tell(
                Orders(options.settings, options.scenario, options.definition, options.clocks, index, options.workers)
            )
        for worker in workers:  # the answer says that it has loaded everything
            await worker.tell(Tick(0))
        with trio.fail_after(START_S):
            empty = [await worker.hear() for worker in workers]
        yield Conductor(options, workers, on_point, empty)
    except trio.TooSlowError:
        raise RunError("the workers of the load test do not begin") from None
    finally:
        with trio.CancelScope(shield=True):
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                await worker.process.wait()


async def play(options: Options, stages: list[Stage], on_point: OnPoint) -> Conductor:
    """Follows stages to their end, then lets calls under way finish."""
    most = max((stage.clients for stage in stages), default=0)
    async with conduct(options, on_point) as conductor:
        while (elapsed := conductor.elapsed) < duration(stages):
            clients = clients_at(stages, elapsed + STEP_S)
            there = min(clients, conductor.most_connected)
            await conductor.step(clients, (options.rate or 0.0) * there / max(1, most))
        await conductor.step(clients_at(stages, duration(stages)), 0.0, is_last=True)
        return conductor


class Found(msgspec.Struct):
    """`clients`: the largest number at which the condition held; `steps`: (clients, value, held) as tried."""

    clients: int
    steps: list[tuple[int, float | None, bool]]


async def search(
    options: Options, condition: Condition, first: int, most: int, on_point: OnPoint
) -> tuple[Conductor, Found]:
    """The number of bots up to which a condition holds: half as many more until it breaks, then between, to a tenth.

    A number is too large when it fails twice: something else on the machine may have disturbed it once. `options.rate`
    is per bot here.
    """
    found = Found(0, [])
    async with conduct(options, on_point) as conductor:
        clients, broken = min(first, most), most + 1
        while True:
            held, value = await _try(conductor, condition, clients)
            found.steps.append((clients, value, held))
            if not held and value is not None:
                held, value = await _try(conductor, condition, clients)
                found.steps.append((clients, value, held))
            if held:
                found.clients = max(found.clients, clients)
                following = min(most, clients + max(1, clients // 2))
                clients = following if following < broken else (clients + broken) // 2
            else:
                broken = clients
                clients = (found.clients + broken) // 2
            if found.clients >= most or broken - found.clients <= max(1, broken // 10) or clients < 1:
                break
        await conductor.step(clients, 0.0, is_last=True)
        return conductor, found


async def _try(conductor: Conductor, condition: Condition, clients: int) -> tuple[bool, float | None]:
    rate = (conductor.options.rate or 0.0) * clients
    patience = ARRIVE_S + clients / conductor.options.settings.connect_rate / conductor.options.workers * 3
    begun = conductor.elapsed
    while conductor.elapsed - begun < patience:
        _, point = await conductor.step(clients, rate)
        if point["clients"] == clients and conductor.elapsed - begun >= SETTLE_S:
            break
    else:
        return False, None
    measured = Totals()
    for _ in range(MEASURE_S):
        _add(measured, (await conductor.step(clients, rate))[0])
    return condition.holds(measured), condition.value(measured)


def _add(total: Totals, part: Totals) -> None:
    total.seconds += part.seconds
    total.sent += part.sent
    total.failed += part.failed
    total.lost += part.lost
    total.rows += part.rows
    for mine, theirs in ((total.calls, part.calls), (total.tasks, part.tasks), (total.ages, part.ages)):
        mine.add({name: found.encode() for name, found in theirs.by_name.items()})
