"""Another program takes over a database: tables, numbers, clients, and what readers hear, in the core of the actor."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable

import pytest

from spacetimedb.auth.keccak import keccak256
from spacetimedb.hosts import mail
from spacetimedb.hosts.database import Database, caller
from spacetimedb.hosts.installation import InstallError, create, recover_from, update
from spacetimedb.log.recovery import initial_state
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.store.commit_record import COMMIT, LOGGED, TableChange, changes, header, log_payload
from spacetimedb.types.special import ConnectionId, Identity

OWNER = Identity(bytes(32))
HEAP_BYTES = 1 << 30

HEAD = """
from spacetimedb import *
m = Module()
"""
FIRST = (
    HEAD
    + """
@m.table(public=True)
class Person(Row):
    id: Pk[u64] = auto_inc()
    name: str

@m.table(public=True)
class Visit(Row):
    who: Identity
    what: str

@m.reducer
def add(ctx: ReducerContext, name: str) -> None:
    ctx.db[Person].insert(Person(name=name))

@m.client_disconnected
def gone(ctx: ReducerContext) -> None:
    ctx.db[Visit].insert(Visit(who=ctx.sender, what="old"))
"""
)
WIDER = FIRST.replace("    name: str\n\n@m.table", "    name: str\n    age: u32 = default(18)\n\n@m.table").replace(
    '"old"', '"new"'
)
UNIQUE = FIRST.replace("    name: str\n\n@m.table", "    name: Unique[str]\n\n@m.table")
REPEATING = (
    FIRST
    + """
@m.every(seconds=1)
def tick(ctx: ReducerContext) -> None:
    ctx.db[Visit].insert(Visit(who=ctx.sender, what=str(int(ctx.timestamp))))
"""
)


class Running:
    """A database that runs a program. `records` came out so far, `payloads` are its log."""

    def __init__(self, program: str) -> None:
        self.now = 1_700_000_000_000_000
        self.records: list[bytes] = []
        self.payloads: list[bytes] = []
        self.database = self._fresh()
        create(self.database, program.encode(), keccak256(program.encode()))
        self.take()

    def _fresh(self) -> Database:
        return Database(OWNER, OWNER, RowHeap(Region.private(HEAP_BYTES)), lambda: self.now)

    def take(self) -> list[bytes]:
        """New records."""
        records, self.database.out = self.database.out, []
        self.payloads += [bytes(log_payload(r)) for r in records if r[4] == COMMIT and header(r).flags & LOGGED]
        self.records += records
        return records

    def update(self, program: str, break_clients: bool = False) -> list[bytes]:
        update(self.database, program.encode(), keccak256(program.encode()), break_clients)
        return self.take()

    def connect(self, number: int) -> None:
        self.database.connect(caller(OWNER, ConnectionId.from_int(number), 0, number), 0, "{}")
        self.take()

    def add(self, *names: str) -> None:
        for name in names:
            who = next(iter(self.database.clients.values()))
            args = len(name).to_bytes(4, "little") + name.encode()
            self.database.call_by_name(who, "add", 0, args)
        self.take()

    def rows(self, table: str) -> list[tuple[object, ...]]:
        found = self.database.store.by_name[table].reader.iter()
        return sorted(tuple(getattr(row, field) for field in row.__struct_fields__) for row in found)

    def restart(self) -> None:
        state = initial_state()
        for payload in self.payloads:
            state.apply(state.decode(payload, 0)[0])
        state.finish()
        self.database = self._fresh()
        recover_from(self.database, state, None)
        self.take()

    def lines(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.database.log.take()]


def changes_of(record: bytes) -> dict[int, TableChange]:
    return {change.table_id: change for change in changes(record, 0, header(record).table_count)}


def test_columns_are_added() -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann", "Bob")
    old_id = running.database.table_ids["person"]
    commit, program, *hooks, closing = running.update(WIDER, break_clients=True)
    new_id = running.database.table_ids["person"]
    assert new_id == 4098
    assert running.rows("person") == [(1, "Ann", 18), (2, "Bob", 18)]
    running.database.store._check()
    # What readers hear: the rows move, then the new schema, then the hooks of the new program, then the end.
    found = changes_of(commit)
    assert found[old_id].deletes.row_count == found[new_id].inserts.row_count == 2
    assert mail.program_of(program).table_ids == running.database.table_ids
    assert [record[4] for record in hooks] == [COMMIT]
    assert closing == mail.CLOSE_CLIENTS_RECORD
    assert [what for _who, what in running.rows("visit")] == ["new"]
    assert not running.database.clients
    assert not running.rows("st_client")
    # Numbers go on where they were; after a restart behind what was reserved.
    running.connect(2)
    running.add("Cid")
    assert running.rows("person")[-1] == (3, "Cid", 18)
    running.restart()
    assert [row[:2] for row in running.rows("person")] == [(1, "Ann"), (2, "Bob"), (3, "Cid")]
    running.connect(3)
    running.add("Dan")
    assert running.rows("person")[-1][0] == 4097
    running.database.store._check()


def test_break_of_clients_must_be_allowed() -> None:
    running = Running(FIRST)
    running.connect(1)
    with pytest.raises(InstallError, match="client-breaking change"):
        running.update(WIDER)
    assert running.database.clients
    assert running.take() == []


def test_ids_are_never_given_twice() -> None:
    running = Running(FIRST)
    without = FIRST.replace("class Visit", "class Other").replace("[Visit]", "[Other]").replace("Visit(", "Other(")
    running.update(without, break_clients=True)
    assert running.database.table_ids["other"] == 4098
    running.update(FIRST, break_clients=True)
    assert running.database.table_ids["visit"] == 4099
    running.restart()
    running.update(without, break_clients=True)
    assert running.database.table_ids["other"] == 8192


def test_refused_plan_changes_nothing() -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann", "Ann", "Bob")
    running.lines()
    before = {t.name: sorted(t.images()) for t in running.database.store.tables.values()}
    with pytest.raises(InstallError) as refusal:
        running.update(UNIQUE)
    text = (
        "DatastoreError: IndexError: Unique constraint violation 'person_name_idx_btree' in table 'person': "
        'column(s): \'["name"]\' value: "Ann"'
    )
    assert str(refusal.value) == text
    assert running.lines()[-1] == f"Database update failed: {text}"
    assert running.take() == []
    assert {t.name: sorted(t.images()) for t in running.database.store.tables.values()} == before
    running.database.store._check()
    running.add("Cid")
    assert running.rows("person")[-1] == (4, "Cid")
    running.restart()
    assert [row[0] for row in running.rows("person")] == [1, 2, 3, 4]


def test_failure_after_the_steps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann")
    store = running.database.store
    tables = dict(store.tables)
    commit: Callable[[], object] = store.commit

    def failing() -> object:
        monkeypatch.setattr(store, "commit", commit)
        raise MemoryError

    monkeypatch.setattr(store, "commit", failing)
    with pytest.raises(InstallError, match="internal error"):
        running.update(WIDER, break_clients=True)
    assert store.tables == tables
    store._check()
    running.update(WIDER, break_clients=True)
    assert running.rows("person") == [(1, "Ann", 18)]
    store._check()


def test_repeated_reducer_comes_with_an_update() -> None:
    running = Running(FIRST)
    running.update(REPEATING)
    running.now += 1_500_000
    assert running.database.run_due()
    assert len(running.rows("visit")) == 1
    running.take()
    running.restart()
    running.now += 1_500_000
    assert running.database.run_due()
    assert len(running.rows("visit")) == 2


def test_old_program_is_let_go() -> None:
    """Its tables would hold a second copy of all rows."""
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann")
    old = [weakref.ref(table) for table in running.database.store.tables.values() if not table.definition.is_system]
    running.update(WIDER, break_clients=True)
    gc.collect()
    assert [table() for table in old] == [None] * len(old)


VIEWS = (
    FIRST
    + """
class Short(Struct):
    name: str

@m.view
def people(ctx: AnonymousViewContext) -> list[Person]:
    return list(ctx.db[Person].iter())

@m.view
def names(ctx: AnonymousViewContext) -> list[Short]:
    return [Short(name=p.name) for p in ctx.db[Person].iter()]
"""
)


def rows_of_views(running: Running) -> dict[str, list[bytes]]:
    return {key[0]: sorted(instance.rows) for key, instance in running.database.views._instances.items()}


def test_views_are_run_again() -> None:
    running = Running(VIEWS)
    running.connect(1)
    running.add("Ann", "Bob")
    views = running.database.views
    names = views.open(0, ("names", None))
    changed = VIEWS.replace("Short(name=p.name)", "Short(name=p.name[:1])")
    commit = running.update(changed)[0]
    delta = changes_of(commit)[names.table_id]
    assert sorted(delta.inserts.split()) == [b"\x01\0\0\0A", b"\x01\0\0\0B"]
    assert delta.deletes.row_count == 2
    running.add("Bea")
    assert rows_of_views(running) == {"names": [b"\x01\0\0\0A", b"\x01\0\0\0B"]}


def test_a_view_in_use_that_fails_in_the_new_program() -> None:
    """The update is refused, nothing has changed; nobody uses it: it is the affair of whoever subscribes to it."""
    running = Running(VIEWS)
    running.connect(1)
    running.add("Ann")
    views = running.database.views
    names = views.open(0, ("names", None))
    before = rows_of_views(running)
    failing = VIEWS.replace("name=p.name)", "name=p.name if p.id > 5 else 1 / 0)")
    with pytest.raises(InstallError, match=r"view `names`.*failed: ZeroDivisionError: division by zero"):
        running.update(failing)
    assert rows_of_views(running) == before
    assert "ZeroDivisionError: division by zero" in running.lines()
    running.add("Bob")
    assert len(rows_of_views(running)["names"]) == 2
    running.database.budget.start()
    try:
        with pytest.raises(InstallError, match=r"view `names`.*failed: it ran longer than 1 s"):
            running.update(VIEWS.replace("    return [Short(", "    while True: pass\n    return [Short("))
    finally:
        running.database.budget.stop()
    running.add("Bea")
    assert len(rows_of_views(running)["names"]) == 3
    views.close(0, names.table_id)
    running.update(failing)
    running.add("Cleo")


def test_an_instance_of_another_shape_is_left_to_its_readers() -> None:
    running = Running(VIEWS)
    running.connect(1)
    running.add("Ann")
    views = running.database.views
    people, names = views.open(0, ("people", None)), views.open(0, ("names", None))
    running.update(VIEWS.replace("    name: str\n\n@m.view", "    name: str\n    age: u8 = 1\n\n@m.view"), True)
    running.connect(2)
    running.add("Bob")
    assert len(people.rows) == 2
    assert len(names.rows) == 1
    fresh = views.open(0, ("names", None))
    assert fresh.table_id != names.table_id
    assert len(fresh.rows) == 2
    for instance in (names, people, fresh):
        views.close(0, instance.table_id)
    assert views.statistics()["instances"] == 0
    assert running.database.commit == running.database.store.commit
