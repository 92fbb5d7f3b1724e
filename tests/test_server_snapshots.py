"""Snapshots of a running server: on request and by themselves, and recovery from them."""

from __future__ import annotations

import pytest
from conftest import ServerFactory
from patience import until
from server_process import SAMPLES, RequestFailed, ServerProcess

from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.recovery import snapshot_state
from spacetimedb.log.snapshot import read_snapshot, write_snapshot
from spacetimedb.schema.system_tables import FIRST_USER_ID


def snapshots(server: ServerProcess) -> list[str]:
    return sorted(path.name for path in server.data_dir.glob("replicas/*/snapshots/*.snap"))


def test_a_snapshot_on_request(start_server: ServerFactory) -> None:
    server = start_server()
    identity = server.publish(SAMPLES / "bank.py", "bank")
    server.call("bank", "seed", 100, 50)
    taken = server.request("POST", f"/v1/database/{identity}/snapshot").json()
    assert taken["rows"] > 100
    assert len(snapshots(server)) == 1
    server.call("bank", "transfer", 1, 2, 7)
    with pytest.raises(RequestFailed, match="403"):
        server.request("POST", f"/v1/database/{identity}/snapshot", authorized=False)
    server.kill()
    server.start()
    balances = dict(server.sql("bank", "SELECT * FROM accounts"))
    assert (balances[1], balances[2], len(balances)) == (43, 57, 100)
    again = server.request("POST", f"/v1/database/{identity}/snapshot").json()
    assert again["next_offset"] > taken["next_offset"]
    assert len(snapshots(server)) == 2
    server.call("bank", "transfer", 1, 2, 7)
    newest = sorted(server.data_dir.glob("replicas/*/snapshots/*.snap"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    server.stop()
    server.start()
    assert dict(server.sql("bank", "SELECT * FROM accounts"))[2] == 64
    assert any("a snapshot cannot be used" in line for line in server.output)
    server.stop()


def test_snapshots_by_themselves(start_server: ServerFactory) -> None:
    server = start_server(options=["--snapshot-mb", "0.01"])
    server.publish(SAMPLES / "bank.py", "bank")
    for balance in range(3):
        server.call("bank", "seed", 500, balance)
    until(lambda: snapshots(server))
    server.stop()
    server.start()
    assert len(server.sql("bank", "SELECT * FROM accounts")) == 500
    server.stop()


def test_in_memory_there_are_none(start_server: ServerFactory) -> None:
    server = start_server(in_memory=True)
    identity = server.publish(SAMPLES / "notes.py", "notes")
    with pytest.raises(RequestFailed, match="400: A database in memory has no snapshots"):
        server.request("POST", f"/v1/database/{identity}/snapshot")


def test_a_divergence_is_said_loudly_and_the_database_goes_on(start_server: ServerFactory) -> None:
    """A snapshot that lacks rows of the database, with a right hash, is what the next one starts from."""
    server = start_server()
    identity = server.publish(SAMPLES / "bank.py", "bank")
    server.call("bank", "seed", 100, 50)
    server.request("POST", f"/v1/database/{identity}/snapshot")
    (path,) = server.data_dir.glob("replicas/*/snapshots/*.snap")
    snapshot = read_snapshot(OPERATING_SYSTEM, path)
    tables = {table_id: dict(rows) for table_id, rows in snapshot_state(snapshot).tables.items()}
    accounts = max(tables, key=lambda table_id: (table_id >= FIRST_USER_ID, len(tables[table_id])))
    del tables[accounts][next(iter(tables[accounts]))]
    write_snapshot(OPERATING_SYSTEM, path.parent, tables, snapshot.next_offset, snapshot.identity, 0)
    server.call("bank", "transfer", 5, 6, 1)
    for _ in range(2):
        with pytest.raises(RequestFailed, match="500: No snapshot was taken"):
            server.request("POST", f"/v1/database/{identity}/snapshot")
    assert sum("DIVERGED" in line for line in server.output) == 1
    assert len(snapshots(server)) == 1
    server.call("bank", "seed", 10, 50)
    assert len(server.sql("bank", "SELECT * FROM accounts")) == 10
    server.kill()
