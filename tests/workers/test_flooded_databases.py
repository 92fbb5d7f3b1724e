"""A database with more calls in its mailbox than it can run in a minute: what else there is to do does not wait."""

from __future__ import annotations

import struct
import time

import pytest
from conftest import ServerFactory
from patience import PATIENCE_S
from server_process import ServerProcess
from session_client import Ended, SessionClient

from spacetimedb.protocol import v2_client as v2
from spacetimedb.workers.supervisor.child import STOP_S

CALLS = 3000
MODULE = b"""
from spacetimedb import Module, Pk, ReducerContext, Row, u32, u64

m = Module()
LOOPS = 300_000


@m.table(public=True)
class Done(Row):
    number: Pk[u32]
    loops: u32


@m.table(public=True)
class Tick(Row):
    done: Pk[u64]


@m.reducer
def work(ctx: ReducerContext, number: u32) -> None:
    for _ in range(LOOPS):
        pass
    ctx.db[Done].insert(Done(number=number, loops=LOOPS))


@m.every(ms=20)
def tick(ctx: ReducerContext) -> None:
    ctx.db[Tick].insert(Tick(done=ctx.db[Done].count()))

"""
QUICK = MODULE.replace(b"300_000", b"0")


def connect(server: ServerProcess, name: str) -> SessionClient:
    client = SessionClient(server.base_url, name, ["v3.bsatn.spacetimedb"], "compression=None")
    assert isinstance(client.receive(), v2.InitialConnection)
    return client


def flood(client: SessionClient) -> None:
    """Many calls at once; the first of them has been answered when it returns."""
    client.send(b"".join(v2.call_reducer(number, "work", struct.pack("<I", number)) for number in range(CALLS)))
    answers(client, range(1))


def answers(client: SessionClient, numbers: range) -> None:
    """What comes next must be the good ends of these calls."""
    for number in numbers:
        result = client.receive(PATIENCE_S)
        assert isinstance(result, v2.ReducerResult)
        assert result.request_id == number
        assert isinstance(result.outcome, v2.Ok)


def test_another_program_comes_soon(server: ServerProcess) -> None:
    server.publish(MODULE, "flooded")
    client = connect(server, "flooded")
    flood(client)
    server.publish(QUICK, "flooded")
    answers(client, range(1, CALLS))
    client.drop()
    loops = [loops for _number, loops in server.sql("flooded", "SELECT * FROM done")]
    slow = loops.index(0)
    assert 0 < slow < CALLS
    assert not any(loops[slow:]), "calls that waited were run by the old program after the new one"
    ticks = [done for (done,) in server.sql("flooded", "SELECT * FROM tick")]
    assert len([done for done in ticks if 0 < done < slow]) > 1, "the schedule waited for the calls"


def test_a_program_for_which_the_process_is_replaced(server: ServerProcess) -> None:
    """It needs a library that the process has not loaded: the process ends, and with it what waits there."""
    server.publish(MODULE, "flooded-2")
    client = connect(server, "flooded-2")
    flood(client)
    server.publish(QUICK.replace(b"u64\n", b"u64, TestHost\n", 1), "flooded-2")
    with pytest.raises(Ended, match="1001"):
        answers(client, range(1, CALLS))
    done = [number for number, _loops in server.sql("flooded-2", "SELECT * FROM done")]
    assert done == list(range(len(done)))
    assert 0 < len(done) < CALLS


def test_the_server_stops_soon(start_server: ServerFactory) -> None:
    server = start_server(readers=1)
    server.publish(MODULE, "flooded")
    client = connect(server, "flooded")
    flood(client)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < STOP_S, "the database process had to be killed"
    client.drop()
