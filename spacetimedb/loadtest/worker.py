"""A load test's worker process: `python -m spacetimedb.loadtest.worker`, driven over its standard streams.

In: one line of JSON (`Orders`), then lines of `Tick`. Out: one MessagePack `Portion` for every tick that asks for it,
each behind four bytes of length; or a `Portion` with number -1 and a text in `trace`: it cannot begin. The end of the
input ends the worker, so none outlives its conductor. What the scenario prints goes to stderr.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import msgspec
import trio

from ..client.definition import schema_from_json
from ..client.errors import ClientError
from ..client.schema import schema_of
from .auto import scenario_of
from .bot import Clocks
from .crowd import Crowd, Settings
from .figures import Portion
from .scenario import Scenario, ScenarioError, load_scenario

FAILED = -1


class Orders(msgspec.Struct, frozen=True):
    """What to play. `scenario`: path of a file, None: made of the schema. `definition`: JSON of the schema route."""

    settings: Settings
    scenario: str | None
    definition: str
    clocks: dict[str, str]
    index: int
    workers: int


class Tick(msgspec.Struct, frozen=True):
    """How many bots there shall be in this process, how many tasks a second. `report`: hand on what came since the last
    portion; `is_last`: finish, report and go."""

    number: int
    clients: int = 0
    rate: float = 0.0
    report: bool = True
    is_last: bool = False


def share(total: int, index: int, workers: int) -> int:
    """What one of several workers does of a whole."""
    return (total + workers - 1 - index) // workers


def resident() -> int:
    """Bytes of memory this process has now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Out:
    """Where portions go: the standard output of before, which the scenario cannot reach."""

    def __init__(self) -> None:
        self._file = os.dup(1)
        os.dup2(2, 1)

    def send(self, portion: Portion) -> None:
        data = msgspec.msgpack.encode(portion)
        data = len(data).to_bytes(4, "little") + data
        while data:
            data = data[os.write(self._file, data) :]


async def work(orders: Orders, out: Out) -> None:
    """Follows ticks until the last one or the end of the input."""
    crowd = _crowd(orders)
    stream = trio.lowlevel.FdStream(os.dup(0))
    decode = msgspec.json.Decoder(Tick).decode
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def play() -> None:
            await crowd.run(orders.index, orders.workers)
            ended.set()

        nursery.start_soon(play)
        buffer = b""
        async for chunk in stream:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for tick in map(decode, lines):
                crowd.want(tick.clients, tick.rate)
                if tick.is_last:
                    crowd.end()
                    await ended.wait()
                if tick.report:
                    out.send(_portion(crowd, tick.number))
                if tick.is_last:
                    return
        nursery.cancel_scope.cancel()


def _portion(crowd: Crowd, number: int) -> Portion:
    portion = crowd.figures.take(number)
    portion.clients = crowd.connected
    portion.cpu_s = time.process_time()
    portion.resident = resident()
    return portion


def _crowd(orders: Orders) -> Crowd:
    schema = schema_from_json(orders.definition)
    if orders.scenario is None:
        scenario: Scenario = scenario_of(schema, orders.settings.database)
    else:
        scenario = load_scenario(Path(orders.scenario))
        if scenario.module is not None:
            schema = schema_of(scenario.module)
    return Crowd(orders.settings, scenario, schema, Clocks(schema, orders.clocks))


def main() -> None:
    out = Out()
    line = bytearray()
    while not line.endswith(b"\n"):  # byte by byte: what follows is for the trio stream
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    orders = msgspec.json.decode(line, type=Orders)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every bot is a descriptor
    try:
        trio.run(work, orders, out)
    except (ScenarioError, ClientError, LookupError, TypeError) as error:
        out.send(Portion(FAILED, trace=f"{error}"))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
