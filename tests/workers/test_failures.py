"""Processes and disks that fail at bad moments: it is said clearly, nothing hangs, and what can go on goes on."""

from __future__ import annotations

import os
import re
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ServerFactory
from patience import PATIENCE_S, until
from server_process import SAMPLES, RequestFailed, ServerProcess, descendants, kill, wait_for_end
from session_client import Ended, SessionClient

from spacetimedb.protocol import v2_client as v2

BALANCE = 1_000_000
V3 = "v3.bsatn.spacetimedb"


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with one reader, for tests that leave it as they found it, without a database but "bank"."""
    running = ServerProcess(tmp_path_factory.mktemp("lone"), readers=1).start()
    try:
        yield running
    finally:
        running.stop()


def pids(server: ServerProcess, module: str) -> list[int]:
    return [pid for pid, command in server.processes().items() if f".{module} " in command + " "]


def bank(server: ServerProcess) -> ServerProcess:
    server.publish(SAMPLES / "bank.py", "bank", clear=True)
    server.call("bank", "seed", 4, BALANCE)
    return server


def balances(server: ServerProcess) -> dict[int, int]:
    return dict(server.sql("bank", "SELECT * FROM accounts"))


def connect(server: ServerProcess, query: str = "compression=None") -> SessionClient:
    client = SessionClient(server.base_url, "bank", [V3], query)
    assert isinstance(client.receive(), v2.InitialConnection)
    return client


def transfer(request_id: int) -> bytes:
    return v2.call_reducer(request_id, "transfer", struct.pack("<IIq", 0, 1, 1))


def test_a_database_whose_log_cannot_be_made(start_server: ServerFactory) -> None:
    server = bank(start_server(readers=1))
    (server.data_dir / "replicas" / "2").mkdir(parents=True)
    (server.data_dir / "replicas" / "2" / "clog").write_text("in the way")
    with pytest.raises(RequestFailed) as failure:
        server.publish(SAMPLES / "bank.py", "second")
    assert failure.value.status == 500
    assert "commit log" in failure.value.text
    assert "replicas" not in failure.value.text
    server.call("bank", "transfer", 0, 1, 1)
    server.publish(SAMPLES / "bank.py", "third")
    server.call("third", "seed", 1, 1)
    server.stop()


def test_a_damaged_log_is_one_databases_matter(start_server: ServerFactory) -> None:
    server = bank(start_server(readers=1))
    server.publish(SAMPLES / "bank.py", "other")
    server.stop()
    (segment,) = (server.data_dir / "replicas" / "1" / "clog").glob("*.stdb.log")
    data = bytearray(segment.read_bytes())
    data[40] ^= 0xFF
    segment.write_bytes(data)
    server.start()
    with pytest.raises(RequestFailed) as failure:
        server.call("bank", "transfer", 0, 1, 1)
    assert failure.value.status == 500
    server.call("other", "seed", 1, 1)
    told = server.request("GET", "/v1/metrics").text
    replays = re.findall(r'^spacetime_replay_total_time_seconds\{db="\w+"\} (\S+)$', told, re.MULTILINE)
    assert [0 < float(seconds) < PATIENCE_S for seconds in replays] == [True]
    assert re.search(r'^spacetime_replay_commitlog_num_commits\{db="\w+"\} 1$', told, re.MULTILINE)
    server.publish(SAMPLES / "bank.py", "bank", clear=True)
    server.call("bank", "seed", 2, 10)
    server.stop()


def test_an_end_during_the_start(start_server: ServerFactory) -> None:
    server = bank(start_server(readers=1))
    server.stop()
    (segment,) = (server.data_dir / "replicas" / "1" / "clog").glob("*.stdb.log")
    segment.rename(segment.with_suffix(".kept"))
    os.mkfifo(segment)  # whoever opens it waits
    command = [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(server.root), "start"]
    command += ["--listen-addr", "127.0.0.1:0", "--data-dir", str(server.data_dir), "--readers", "1"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # Supervisor, reader, actor, log keeper.
        until(lambda: len(list(descendants(process.pid))) == 4)
        tree = list(descendants(process.pid))
        process.send_signal(signal.SIGTERM)
        assert wait_for_end(tree, PATIENCE_S) == []
    finally:
        process.kill()
        process.wait()


def test_clients_of_a_reader_that_died(lone: ServerProcess) -> None:
    server = bank(lone)
    (actor,) = pids(server, "transaction_actor")
    descriptors = []
    for round_ in range(4):
        client = connect(server, "compression=None&confirmed=false")
        client.send(transfer(1))
        assert isinstance(client.receive(), v2.ReducerResult)
        client.send(v2.subscribe(2, 1, ["SELECT * FROM accounts"]))
        assert isinstance(client.receive(), v2.SubscribeApplied)
        # Calls that are under way for the dead reader's clients are not those of the new one's.
        client.send(b"".join(transfer(1000 + n) for n in range(2000)))
        (reader,) = pids(server, "reader")
        kill(reader)
        client.receive_all()
        until(lambda: server.call("bank", "transfer", 0, 1, 1).ok)
        again = connect(server, "compression=None&confirmed=false")
        again.send(transfer(5))
        answer = again.receive()
        assert isinstance(answer, v2.ReducerResult)
        assert answer.request_id == 5
        again.close()
        descriptors.append(len(os.listdir(f"/proc/{actor}/fd")))
        if round_:
            assert descriptors[-1] <= descriptors[-2], descriptors


def test_calls_before_a_close_are_run(lone: ServerProcess) -> None:
    server = bank(lone)
    client = SessionClient(server.base_url, "bank", [V3], "compression=None")
    # Before the greeting has come, a Subscribe in between, and then the end.
    client.send(b"".join(transfer(n) for n in range(100)))
    client.send(v2.subscribe(1, 1, ["SELECT * FROM accounts"]) + transfer(100) + transfer(101))
    client.close()
    until(lambda: balances(server)[1] == BALANCE + 102)


def test_an_update_while_calls_never_pause(lone: ServerProcess) -> None:
    server = bank(lone)
    clients = [connect(server) for _ in range(4)]
    source = (SAMPLES / "bank.py").read_bytes()
    for client in clients:
        client.send(b"".join(transfer(n) for n in range(250)))
    server.publish(source + b"\n# another one\n", "bank")
    for client in clients:
        answers = [client.receive(PATIENCE_S) for _ in range(250)]
        assert {type(answer) for answer in answers} == {v2.ReducerResult}
    assert balances(server)[1] == BALANCE + 4 * 250


def test_delete_and_create_again_and_again(start_server: ServerFactory) -> None:
    server = bank(start_server(readers=2))
    for _ in range(3):
        client = connect(server)
        server.publish(SAMPLES / "bank.py", "bank", clear=True)
        with pytest.raises(Ended) as end:
            client.receive()
        assert (end.value.code, end.value.reason) == (1001, "module exited")
        server.call("bank", "seed", 2, 7)
        assert balances(server) == {0: 7, 1: 7}
    client = connect(server)
    server.request("DELETE", "/v1/database/bank")
    with pytest.raises(Ended) as end:
        client.receive()
    assert (end.value.code, end.value.reason) == (1001, "module exited")
    assert len(pids(server, "transaction_actor")) == len(pids(server, "log_keeper")) == 0
    server.stop()


BLOBS = b"""
from spacetimedb import Module, Pk, ReducerContext, Row, u32

m = Module()


@m.table(public=True)
class Blob(Row):
    id: Pk[u32]
    data: bytes


@m.reducer
def put(ctx: ReducerContext, id: u32, size: u32) -> None:
    ctx.db[Blob].id.upsert(Blob(id=id, data=bytes([id]) * size))
"""


def test_a_reader_that_stands_still(start_server: ServerFactory) -> None:
    server = start_server(readers=2)
    server.publish(BLOBS, "bank")
    # The system spreads connections over both readers; stop the one that has the first client.
    first = connect(server, "compression=None&confirmed=false")
    first.send(v2.subscribe(1, 1, ["SELECT * FROM blob"]))
    assert isinstance(first.receive(), v2.SubscribeApplied)
    stopped = _reader_of(server, first)
    os.kill(stopped, signal.SIGSTOP)
    other = connect(server, "compression=None&confirmed=false")
    # More than the ring holds: what a stopped reader has not passed must not be overwritten before it is dropped.
    for number in range(1, 90):
        other.send(v2.call_reducer(number, "put", struct.pack("<II", number % 200, 1 << 20)))
        answer = other.receive(PATIENCE_S)
        assert isinstance(answer, v2.ReducerResult)
        assert isinstance(answer.outcome, v2.Ok)
    assert wait_for_end([stopped], PATIENCE_S) == []
    until(lambda: len(pids(server, "reader")) == 2)
    again = connect(server)
    again.send(v2.one_off_query(1, "SELECT * FROM blob WHERE id = 5"))
    result = again.receive(PATIENCE_S)
    assert isinstance(result, v2.OneOffQueryResult)
    assert result.tables is not None
    assert result.tables[0].rows.rows() == [struct.pack("<II", 5, 1 << 20) + bytes([5]) * (1 << 20)]
    server.stop()


SLOW = b"""
from spacetimedb import Module, ReducerContext

m = Module()


@m.reducer
def spin(ctx: ReducerContext) -> None:
    while True:
        pass


@m.reducer
def take(ctx: ReducerContext, data: bytes) -> None:
    pass
"""


def test_a_busy_database_holds_up_no_other(lone: ServerProcess) -> None:
    server = lone
    server.publish(SLOW, "slow")
    bank(server)
    client = connect(server)
    busy = SessionClient(server.base_url, "slow", [V3], "compression=None&confirmed=false")
    assert isinstance(busy.receive(), v2.InitialConnection)
    busy.send(v2.call_reducer(0, "spin", b""))  # takes a second, then it is stopped
    for number in range(1, 9):  # more than the mailbox holds
        busy.send(v2.call_reducer(number, "take", struct.pack("<I", 3 << 20) + bytes(3 << 20)))
    for number in range(5):
        client.send(transfer(number))
        assert isinstance(client.receive(), v2.ReducerResult)
    answers = [busy.receive(PATIENCE_S) for _ in range(9)]
    assert [answer.request_id for answer in answers if isinstance(answer, v2.ReducerResult)] == list(range(9))
    server.request("DELETE", "/v1/database/slow")


CYCLES = b"""
from spacetimedb import Module, ReducerContext

m = Module()


@m.reducer
def cycle(ctx: ReducerContext) -> None:
    a = [bytes(2000)]
    a.append(a)
"""


def test_cycles_of_module_code_are_freed(lone: ServerProcess) -> None:
    server = lone
    server.publish(CYCLES, "bank", clear=True)
    (actor,) = pids(server, "transaction_actor")
    client = connect(server, "compression=None&confirmed=false")

    def resident_mb() -> float:
        return int(Path(f"/proc/{actor}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    before = resident_mb()
    for _ in range(6):
        client.send(b"".join(v2.call_reducer(n, "cycle", b"") for n in range(5000)))
        for _ in range(5000):
            client.receive()
    assert resident_mb() - before < 50  # 66 MB of cycles were made


def _reader_of(server: ServerProcess, client: SessionClient) -> int:
    """Pid of the reader that has the other end of the client's connection."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(fields[at].rpartition(":")[2], 16) for at in (1, 2)] == [server.port, client.port]:
            socket = f"socket:[{fields[9]}]"
            for reader in pids(server, "reader"):
                if any(os.readlink(fd) == socket for fd in Path(f"/proc/{reader}/fd").iterdir()):
                    return reader
    raise AssertionError("no reader has the client")
