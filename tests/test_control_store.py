"""What the control store promises: a change is on disk when it is done, whole or not at all, and the log has the last
word about a database's program."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ServerFactory

from spacetimedb.workers.supervisor.control_store import ControlStore, DatabaseRow, NameClaimed, NameTaken

KILLS = 6
CHANGES = """
import sys
from pathlib import Path
from spacetimedb.workers.supervisor.control_store import ControlStore, DatabaseRow
store = ControlStore.open(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    key = number.to_bytes(32, "little")
    replica = store.new_replica()
    store.put_database(DatabaseRow(key, key, replica, b"p" * 5000, key, key))
    store.set_names([f"a{number}", f"b{number}"], key, key)
    store.set_program(key, b"q" * 5000, key)
    print(number, replica, flush=True)
"""
PROGRAM = """
from spacetimedb import *
m = Module()

@m.table(public=True)
class Thing(Row):
    id: Pk[u32]

@m.reducer
def which(ctx: ReducerContext) -> None:
    ctx.db[Thing].insert(Thing(id=VERSION))
"""


def test_what_was_told_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    told = replica = 0
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", CHANGES, str(path), str(told)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(5):
            told, new_replica = map(int, child.stdout.readline().split())
            assert new_replica > replica
            replica = new_replica
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0].splitlines()
        told = int(rest[-1].split()[0]) if rest and len(rest[-1].split()) == 2 else told
        store = ControlStore.open(path)
        rows = {int.from_bytes(row.identity, "little"): row for row in store.databases()}
        names: dict[bytes, list[str]] = {}
        for name, identity in store.all_names():
            names.setdefault(identity, []).append(name)
        assert set(range(1, told + 1)) <= rows.keys() <= set(range(1, told + 2))
        for number, row in rows.items():
            whole = [f"a{number}", f"b{number}"]
            assert names.get(row.identity, []) in (whole, [] if number > told else whole)
            assert row.program in (b"q" * 5000, b"p" * 5000 if number > told else b"q" * 5000)
        replica = max(row.replica for row in rows.values())
        told = max(rows)
        store.close()


def test_a_refused_change_leaves_no_trace(tmp_path: Path) -> None:
    store = ControlStore.open(tmp_path / "control.sqlite")
    mine, other = bytes([1]) * 32, bytes([2]) * 32
    store.set_names(["mine", "my-other"], mine, mine)
    before = store.all_names()
    with pytest.raises(NameTaken):
        store.set_names(["new", "mine"], other, other)
    store.delete_database(mine)
    with pytest.raises(NameClaimed):
        store.set_names(["fresh"], mine, other)  # the old names would go, which are not the caller's
    assert store.all_names() == before
    assert store.database(other) is None
    store.put_database(DatabaseRow(other, other, 1, b"", b"", b""))
    store.close()
    again = ControlStore.open(tmp_path / "control.sqlite")
    assert again.all_names() == before
    assert [row.identity for row in again.databases()] == [other]


def program(version: int) -> bytes:
    return PROGRAM.replace("VERSION", str(version)).encode()


def test_the_program_in_the_log_is_the_one_that_counts(start_server: ServerFactory) -> None:
    """As after a crash between the commit of an update and what the supervisor writes about it."""
    server = start_server()
    store, kept = server.data_dir / "control.sqlite", server.root / "kept.sqlite"
    server.publish(program(1), "things")
    server.stop()
    shutil.copy(store, kept)
    server.start()
    server.publish(program(2), "things")
    server.stop()
    shutil.copy(kept, store)
    server.start()
    server.call("things", "which")
    server.publish(program(1), "things")  # which is a change, though the old control store thought otherwise
    server.call("things", "which")
    assert sorted(server.sql("things", "SELECT * FROM thing")) == [[1], [2]]
    server.stop()
