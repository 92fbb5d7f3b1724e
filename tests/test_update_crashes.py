"""A database process that ends anywhere in an update: before the update is published the old program serves afterwards,
with its rows, from then on the new one, with the rows that it has made of them. Whoever publishes hears of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from patience import until
from server_process import RequestFailed, ServerProcess

HEAD = """
from spacetimedb import Module, Pk, ReducerContext, Row, u64
m = Module()
"""
OLD = (
    HEAD
    + """
@m.table(public=True)
class Person(Row):
    id: Pk[u64]
    name: str

@m.reducer
def add(ctx: ReducerContext, id: u64, name: str) -> None:
    ctx.db[Person].insert(Person(id=id, name=name))
"""
)
NEW = (
    HEAD
    + """
class OldPerson(Row):
    id: Pk[u64]
    name: str

@m.table(public=True)
class Person(Row):
    id: Pk[u64]
    first: str
    last: str

@m.migration("person", OldPerson)
def split(ctx: ReducerContext, old: OldPerson) -> None:
    if old.id == 1 and POINT == "in the middle of a migration":
        crash()
    first, _, last = old.name.partition(" ")
    ctx.db[Person].insert(Person(id=old.id, first=first, last=last))
"""
)
CRASH = """
# What ends the process is the module itself, which it can do only because it gets around every rule; and only while it
# is published, not when it is loaded again.
sys = __import__("sys")
def crash(*_: object) -> None:
    sys.modules["spacetimedb.workers.sandbox"]._guard.is_on = False
    __import__("ctypes").string_at(1)
frame, callers = sys._getframe(), set()
while frame is not None:
    callers.add(frame.f_code.co_name)
    frame = frame.f_back
POINT = {point!r} if "_update" in callers else ""
main = sys.modules.get("spacetimedb.workers.transaction_actor.transaction_actor")
if POINT == "loading":
    crash()
elif POINT == "between commit and publication":
    main.TransactionActor.publish = crash
elif POINT == "between publication and answer":
    main.TransactionActor.ready = crash
"""
BEFORE = ("loading", "in the middle of a migration", "between commit and publication")
AFTER = "between publication and answer"
ROWS = [[0, "Ada Lovelace"], [1, "Alan Turing"], [2, "Grace Hopper"]]
SPLIT = [[0, "Ada", "Lovelace"], [1, "Alan", "Turing"], [2, "Grace", "Hopper"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path_factory.mktemp("crashes"), readers=1).start()
    try:
        yield running
    finally:
        running.stop()


def publish(server: ServerProcess, name: str, program: str, **query: str) -> None:
    plan = server.request("POST", f"/v1/database/{name}/pre_publish", program.encode()).json()["AutoMigrate"]
    query |= {"policy": "BreakClients", "token": plan["token"]}
    server.request("PUT", f"/v1/database/{name}", program.encode(), query=query)


def rows(server: ServerProcess, name: str) -> list[list[object]]:
    return until(lambda: sorted(server.sql(name, "SELECT * FROM person")))


def old_database(server: ServerProcess, name: str) -> None:
    server.publish(OLD.encode(), name)
    for id_, text in ROWS:
        server.call(name, "add", id_, text)


def test_the_process_crashes(server: ServerProcess) -> None:
    old_database(server, "crashing")
    for point in (*BEFORE, AFTER):
        with pytest.raises(RequestFailed, match="crashed the database process during the update"):
            publish(server, "crashing", CRASH.format(point=point) + NEW)
        assert rows(server, "crashing") == (SPLIT if point == AFTER else ROWS), point
        if point in BEFORE:
            server.call("crashing", "add", 3, "Old Program")
            assert server.sql("crashing", "DELETE FROM person WHERE id = 3") == []
    server.stop()
    server.start()
    assert rows(server, "crashing") == SPLIT


def test_what_is_not_on_disk_in_time(server: ServerProcess) -> None:
    """Whoever publishes is told; the update is in force, and durable when the log keeper goes on."""
    old_database(server, "stopped")
    keepers = [pid for pid, command in server.processes().items() if "log_keeper" in command]
    for pid in keepers:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RequestFailed, match="timeout waiting for transaction confirmation") as failure:
            publish(server, "stopped", "POINT = ''\n" + NEW, update_confirmation_timeout="300ms")
        assert failure.value.status == 504
    finally:
        for pid in keepers:
            os.kill(pid, signal.SIGCONT)
    assert rows(server, "stopped") == SPLIT
    server.kill()
    server.start()
    assert rows(server, "stopped") == SPLIT
