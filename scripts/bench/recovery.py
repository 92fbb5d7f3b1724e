"""Benchmark `recovery`: replay of a log, a start from a snapshot of a million rows, and what the log costs meanwhile.

CPU time of this process where a figure says so: what else the machine does then matters less.
"""

from __future__ import annotations

import gc
import math
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from log_keeper_rig import Rig
from server_process import SAMPLES, ServerProcess

from spacetimedb.auth.keccak import keccak256
from spacetimedb.cli.session import Session, open_session
from spacetimedb.hosts.database import Database, caller
from spacetimedb.hosts.installation import create, recover_from
from spacetimedb.log.commit_log import CommitLogWriter
from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.recovery import RecoveredState, initial_state, recover
from spacetimedb.log.segments import start_segment
from spacetimedb.log.snapshot import snapshot_directory, write_snapshot
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.protocol import v2_client as v2
from spacetimedb.store.commit_record import COMMIT, LOGGED, TableDelta, header, log_payload
from spacetimedb.types.special import ConnectionId, Identity

NOBODY = Identity(bytes(32))
ACCOUNTS = 10_000
TRANSFERS = 100_000
ROWS = 1_000_000
BATCH = 500
HEAP_BYTES = 8 << 30
KEEPER_BATCHES = 100
LOADED_ROWS = 300_000
CALLS_BEFORE = 1500


def measure(server: ServerProcess, folder: Path) -> dict[str, Any]:
    """All figures."""
    return {
        "row_ops_per_cpu_s": _replay(folder / "replay"),
        "snapshot_start_s": _start(folder / "start"),
        "keeper_us_per_tx": _keeper(folder / "keeper"),
        **_stall(server),
    }


def _database(sample: str) -> tuple[Database, Callable[[], list[bytes]]]:
    """A database in this process, and a function that takes the log payloads which came since the last call."""
    program = (SAMPLES / sample).read_bytes()
    heap = RowHeap(Region.private(HEAP_BYTES))
    database = Database(NOBODY, NOBODY, heap, lambda: time.time_ns() // 1000)
    create(database, program, keccak256(program))

    def payloads() -> list[bytes]:
        records, database.out = database.out, []
        return [bytes(log_payload(r)) for r in records if r[4] == COMMIT and header(r).flags & LOGGED]

    return database, payloads


def _replay(directory: Path) -> float:
    """Row operations that a log of transfers gives per second of CPU."""
    database, take = _database("bank.py")
    who = caller(NOBODY, ConnectionId.from_int(1), 0, 1)
    database.connect(who, 0, "{}")
    database.call_by_name(who, "seed", 0, struct.pack("<Iq", ACCOUNTS, 1_000_000))
    rng = random.Random(1)
    with CommitLogWriter.open(directory) as log:
        for number in range(TRANSFERS):
            payer = rng.randrange(ACCOUNTS)
            payee = (payer + 1 + rng.randrange(ACCOUNTS - 2)) % ACCOUNTS
            database.call_by_name(who, "transfer", 0, struct.pack("<IIq", payer, payee, 1))
            if number % BATCH == 0:
                log.append(take())
        log.append(take())
    best = 0.0
    for _ in range(3):
        started = time.process_time()
        state = recover(directory)
        best = max(best, state.row_operations / (time.process_time() - started))
    return round(best)


def _start(directory: Path) -> float:
    """Seconds until a database with a million rows of 24 bytes and two indexes serves from its snapshot."""
    database, take = _database("rows.py")
    state = initial_state()
    for payload in take():
        state.advance(payload, 0)
    state.finish()
    things = database.store.by_name["things"].table_id
    state.tables[things] = {struct.pack("<IIQq", n, n % 1000, 0, 0): None for n in range(ROWS)}
    log = directory / "clog"
    OPERATING_SYSTEM.make_directory(log)
    write_snapshot(OPERATING_SYSTEM, snapshot_directory(log), state.tables, state.next_offset, bytes(32), 0)
    start_segment(OPERATING_SYSTEM, log, state.next_offset)
    del state
    gc.collect()
    best = math.inf
    for _ in range(2):
        fresh = Database(NOBODY, NOBODY, RowHeap(Region.private(HEAP_BYTES)), lambda: time.time_ns() // 1000)
        gc.disable()
        started = time.process_time()
        recovered: RecoveredState = recover(log, snapshot_directory(log))
        recover_from(fresh, recovered, None)
        best = min(best, time.process_time() - started)
        gc.enable()
        assert fresh.store.by_name["things"].row_count == ROWS
    return round(best, 2)


def _keeper(directory: Path) -> float:
    """Microseconds of CPU that the log keeper needs for a small transaction, the system's for its writes included."""
    rig = Rig(directory)
    rows = [struct.pack("<Iq", number, 1_000_000) for number in range(4)]
    transfer = TableDelta(4096, 0, len(rows[0]), rows[:2], rows[2:], [0, 8], [16, 24])
    spent = 0.0
    for _ in range(KEEPER_BATCHES):
        for _ in range(BATCH):
            rig.commit([transfer])
        started = time.process_time()
        while rig.keeper._drain():
            pass
        spent += time.process_time() - started
    rig.close()
    return round(spent / (KEEPER_BATCHES * BATCH) * 1e6, 2)


def _stall(server: ServerProcess) -> dict[str, float]:
    """Latency of one call after the other: alone, and while a snapshot of 300,000 rows is taken."""
    server.publish(SAMPLES / "rows.py", "snapshotted")
    for first in range(0, LOADED_ROWS, 50_000):
        server.call("snapshotted", "populate", first, 50_000, 1000)
    return trio.run(_latencies, server)


async def _latencies(server: ServerProcess) -> dict[str, float]:
    async with open_session(server.base_url, "snapshotted", confirmed=False) as session:
        alone = sorted([await _one_call(session) for _ in range(CALLS_BEFORE)])
        during: list[float] = []
        taken = trio.Event()

        async def take() -> None:
            await trio.to_thread.run_sync(server.request, "POST", "/v1/database/snapshotted/snapshot")
            taken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            while not taken.is_set():
                during.append(await _one_call(session))
    during.sort()
    return {
        "call_p99_ms": round(alone[int(0.99 * len(alone))] * 1e3, 2),
        "call_p99_with_snapshot_ms": round(during[int(0.99 * len(during))] * 1e3, 2),
        "calls_during_snapshot": len(during),
    }


async def _one_call(session: Session) -> float:
    started = time.perf_counter()
    request_id = session.next_request()
    await session.send(v2.call_reducer(request_id, "touch", struct.pack("<I", request_id % LOADED_ROWS)))
    while True:
        for message in await session.receive():
            if isinstance(message, v2.ReducerResult) and message.request_id == request_id:
                return time.perf_counter() - started
