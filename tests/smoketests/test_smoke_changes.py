"""Changing modules under clients, what subscribers see, schedules, connections, row filters, publish options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from server_process import ServerProcess
from session_client import Ended
from smoketest import Subscriber, SubscriptionRefused, User, deletes, inserts, new_name

NewUser = Callable[[], User]

PERSONS = """
    from spacetimedb import Index, Module, Pk, ReducerContext, Row, auto_inc, u32, u64

    m = Module()


    @m.table(public=True)
    class Person(Row):
        id: Pk[u32] = auto_inc()
        name: str


    @m.client_disconnected
    def gone(ctx: ReducerContext) -> None:
        ctx.log.info("client disconnected")


    @m.reducer
    def add_person(ctx: ReducerContext, name: str) -> None:
        ctx.db[Person].insert(Person(name=name))
"""
WITH_TABLE = (
    PERSONS
    + """

    @m.table(public=True)
    class Book(Row):
        isbn: str


    @m.reducer
    def add_book(ctx: ReducerContext, isbn: str) -> None:
        ctx.db[Book].insert(Book(isbn=isbn))
"""
)
WITH_COLUMNS = PERSONS.replace("name: str\n\n", "name: str\n        age: u32 = 18\n        likes: u64 = 3\n\n", 1)
WITH_NARROW_COLUMN = PERSONS.replace("name: str\n\n", "name: u32\n\n", 1).replace("name=name", "name=1")
JOINED = """
    from spacetimedb import Index, Module, ReducerContext, Row, u64

    m = Module()


    @m.table(public=True)
    class T1(Row):
        id: INDEX[u64]


    @m.table(public=True)
    class T2(Row):
        id: INDEX[u64]


    @m.reducer
    def add(ctx: ReducerContext) -> None:
        for number in range(1000, 1003):
            ctx.db[T1].insert(T1(id=number))
            ctx.db[T2].insert(T2(id=number))
"""
UNINDEXED, INDEXED = JOINED.replace("INDEX[u64]", "u64"), JOINED.replace("INDEX[", "Index[")
JOIN = "SELECT t_1.* FROM t_1 JOIN t_2 ON t_1.id = t_2.id WHERE t_2.id = 1001"
SCHEDULES = """
    from spacetimedb import (
        Identity, Module, Pk, ProcedureContext, Query, ReducerContext, ReducerError, Row, Schedule, Timestamp,
        ViewContext, at, every, select, u64,
    )

    m = Module()
    LONG_AGO = at(Timestamp(0))


    @m.table(public=True)
    class Job(Schedule):
        prev: Timestamp


    @m.table(public=True)
    class FailingJob(Schedule):
        prev: Timestamp


    @m.table(public=True)
    class Task(Schedule):
        prev: Timestamp


    @m.table(public=True)
    class Owned(Row):
        entity_id: Pk[u64]
        owner: Identity


    @m.view
    def job_view(ctx: ViewContext) -> Query[Job]:
        return select(Job)


    @m.view
    def my_jobs(ctx: ViewContext) -> Query[Job]:
        return Job.scheduled_id.semijoin(Owned.entity_id, Owned.owner == ctx.sender)


    @m.view
    def my_failing_jobs(ctx: ViewContext) -> Query[FailingJob]:
        return FailingJob.scheduled_id.semijoin(Owned.entity_id, Owned.owner == ctx.sender)


    @m.view
    def task_view(ctx: ViewContext) -> Query[Task]:
        return select(Task)


    @m.reducer
    def own(ctx: ReducerContext, id: u64) -> None:
        ctx.db[Owned].insert(Owned(entity_id=id, owner=ctx.sender))


    @m.reducer
    def schedule_job(ctx: ReducerContext) -> None:
        ctx.db[Job].insert(Job(scheduled_id=2, scheduled_at=LONG_AGO, prev=Timestamp(0)))


    @m.reducer
    def repeat_job(ctx: ReducerContext) -> None:
        ctx.db[Job].insert(Job(scheduled_id=1, scheduled_at=every(ms=20), prev=Timestamp(0)))


    @m.reducer
    def cancel_job(ctx: ReducerContext) -> None:
        made = ctx.db[Job].insert(Job(scheduled_id=9, scheduled_at=every(ms=1), prev=Timestamp(7)))
        ctx.db[Job].scheduled_id.delete(made.scheduled_id)


    @m.reducer
    def schedule_failing_job(ctx: ReducerContext) -> None:
        ctx.db[FailingJob].insert(FailingJob(scheduled_id=3, scheduled_at=LONG_AGO, prev=Timestamp(0)))


    @m.reducer
    def schedule_task(ctx: ReducerContext) -> None:
        ctx.db[Task].insert(Task(scheduled_id=2, scheduled_at=LONG_AGO, prev=Timestamp(0)))


    @m.reducer
    def repeat_task(ctx: ReducerContext) -> None:
        ctx.db[Task].insert(Task(scheduled_id=1, scheduled_at=every(ms=20), prev=Timestamp(0)))


    @m.reducer(on_schedule=Job)
    def run_job(ctx: ReducerContext, job: Job) -> None:
        ctx.log.info(f"Invoked: job {int(job.prev)}")


    @m.reducer(on_schedule=FailingJob)
    def run_failing_job(ctx: ReducerContext, job: FailingJob) -> None:
        raise ReducerError("scheduled reducer failed")


    @m.procedure(on_schedule=Task)
    def run_task(ctx: ProcedureContext, task: Task) -> None:
        ctx.log.info("Invoked: task")
"""
FILTERED = """
    from spacetimedb import Identity, Module, Pk, ReducerContext, Row

    m = Module()


    @m.table(public=True)
    class Users(Row):
        identity: Pk[Identity]
        name: str


    @m.reducer
    def add_user(ctx: ReducerContext, name: str) -> None:
        ctx.db[Users].insert(Users(identity=ctx.sender, name=name))
"""
FILTER = """

    m.row_filter("SELECT * FROM users WHERE identity = :sender")
"""
REJECTING = """
    from spacetimedb import Module, Pk, ReducerContext, ReducerError, Row, u8

    m = Module()


    @m.table(public=True)
    class AllU8s(Row):
        number: Pk[u8]


    @m.client_connected
    def connected(ctx: ReducerContext) -> None:
        raise ReducerError("Rejecting connection from client")


    @m.client_disconnected
    def disconnected(ctx: ReducerContext) -> None:
        ctx.log.info("This should never be called")
"""
LEAVING = """
    import logging

    from spacetimedb import Module, Pk, ReducerContext, Row, u8

    m = Module()


    @m.table(public=True)
    class AllU8s(Row):
        number: Pk[u8]


    @m.client_connected
    def connected(ctx: ReducerContext) -> None:
        ctx.log.info("client_connected")


    @m.client_disconnected
    def disconnected(ctx: ReducerContext) -> None:
        raise RuntimeError("client_disconnected fails")
"""


def job(id: int, at: dict[str, object]) -> dict[str, object]:
    return {"scheduled_id": id, "scheduled_at": at, "prev": {"__timestamp_micros_since_unix_epoch__": 0}}


DEFAULTS = """
    from spacetimedb import Module, Pk, Row, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64

    m = Module()


    @m.table(public=True)
    class Defaults(Row):
        id: Pk[u32]
"""
NEW_COLUMNS = (
    ("bool", "True", "true"),
    *((f"i{bits}", f"-{bits}", f"-{bits}") for bits in (8, 16, 32, 64)),
    *((f"u{bits}", str(bits), str(bits)) for bits in (8, 16, 32, 64)),
    *((kind, text, text) for kind, text in (("f32", "32.5"), ("f32", "-32.5"), ("f64", "64.25"), ("f64", "-64.25"))),
    ("str", '"default string"', '"default string"'),
)
"""Type, default in the source, and as SQL shows it."""
ONCE: dict[str, object] = {"Time": {"__timestamp_micros_since_unix_epoch__": 0}}
REPEATED: dict[str, object] = {"Interval": {"__time_duration_micros__": 20_000}}


def closed(subscriber: Subscriber) -> int | None:
    """Code of the close, once it comes."""
    return subscriber.session.receive_all()[1].code


# -- changes of modules


def test_what_changes_and_what_is_refused(user: User) -> None:
    """A new table leaves clients connected, new columns with defaults do not, other changes are refused."""
    name = user.publish(PERSONS)
    watch = user.subscribe(name, "SELECT * FROM person")
    user.call(name, "add_person", "Robert")
    user.publish_fails(WITH_NARROW_COLUMN, name, "--yes")
    user.publish_fails(PERSONS.replace("name: str\n\n", "name: str\n        age: u32\n\n", 1), name, "--yes")
    user.publish(WITH_TABLE, name)
    user.call(name, "add_book", "978")
    user.call(name, "add_person", "Julie")
    assert watch.take(2) == [
        inserts("person", {"id": 1, "name": "Robert"}),
        inserts("person", {"id": 2, "name": "Julie"}),
    ]
    with_book = WITH_TABLE.replace("name: str\n\n", "name: str\n        age: u32 = 18\n\n", 1)
    assert "--break-clients" in user.publish_fails(with_book, name)
    watches = [watch, *(user.subscribe(name, "SELECT * FROM person") for _ in range(4))]
    left = user.logs(name).count("client disconnected")
    user.publish(with_book, name, "--break-clients")
    assert [closed(one) for one in watches] == [1001] * len(watches)
    logs = user.await_log(name, "client disconnected", times=left + len(watches))
    assert logs.count("client disconnected") == left + len(watches)
    assert "Disconnecting all users" in logs
    assert user.sql_rows(name, "SELECT * FROM person") == [["1", '"Robert"', "18"], ["2", '"Julie"', "18"]]
    user.call(name, "add_person", "Ann")
    with_more = with_book.replace("age: u32 = 18", "age: u32 = 18\n        height: u32 = 160")
    user.publish(with_more, name, "--break-clients")
    assert ["3", '"Ann"', "18", "160"] in user.sql_rows(name, "SELECT * FROM person")


def test_defaults_of_new_columns(user: User) -> None:
    """Of every type that has them."""
    name = user.publish(DEFAULTS)
    user.sql(name, "INSERT INTO defaults (id) VALUES (1)")
    columns = "".join(f"        {kind}_{n}: {kind} = {text}\n" for n, (kind, text, _) in enumerate(NEW_COLUMNS))
    user.publish(DEFAULTS + columns, name, "--break-clients")
    (row,) = user.sql_rows(name, "SELECT * FROM defaults")
    assert row == ["1", *(shown for _, _, shown in NEW_COLUMNS)]


def test_delete_data_and_break_clients(user: User) -> None:
    """Which of the flags a change needs; without a change none of them does harm."""
    name = user.publish(PERSONS)
    user.call(name, "add_person", "Robert")
    user.publish(PERSONS, name, "--delete-data=on-conflict")
    assert user.sql_rows(name, "SELECT name FROM person") == [['"Robert"']]
    user.publish_fails(WITH_COLUMNS, name, "--delete-data=on-conflict")  # no conflict, but it breaks clients
    user.publish(WITH_COLUMNS, name, "--delete-data=on-conflict", "--break-clients")
    assert user.sql_rows(name, "SELECT * FROM person") == [["1", '"Robert"', "18", "3"]]
    user.publish_fails(PERSONS, name)  # columns cannot go away
    user.publish_fails(PERSONS, name, "--delete-data=on-conflict")  # nobody agreed to the loss
    assert user.sql_rows(name, "SELECT name FROM person") == [['"Robert"']]
    user.publish(PERSONS, name, "--delete-data=on-conflict", "--yes")
    assert user.sql_rows(name, "SELECT name FROM person") == []
    user.call(name, "add_person", "Julie")
    user.publish(WITH_COLUMNS, name, "--delete-data", "--yes")
    assert user.sql_rows(name, "SELECT name FROM person") == []


def test_a_primary_key_goes_away(user: User) -> None:
    plain = PERSONS.replace("id: Pk[u32] = auto_inc()", "id: Index[u32]").replace("Person(name", "Person(id=9, name")
    name = user.publish(PERSONS)
    user.call(name, "add_person", "Robert")
    user.publish(plain, name, "--break-clients")
    user.call(name, "add_person", "Julie")
    user.publish(plain, name, "--break-clients")
    assert user.sql_rows(name, "SELECT * FROM person") == [["1", '"Robert"'], ["9", '"Julie"']]


def test_event_tables_change_as_they_like(user: User) -> None:
    event = (
        PERSONS
        + """

    @m.table(public=True, event=True)
    class Happened(Row):
        COLUMNS


    @m.reducer
    def happen(ctx: ReducerContext) -> None:
        ctx.db[Happened].insert(Happened(VALUES))
"""
    )
    before = event.replace("COLUMNS", "a: u32").replace("VALUES", "a=1")
    after = event.replace("COLUMNS", "b: str\n        c: u64").replace("VALUES", "b='x', c=2")
    name = user.publish(before)
    user.call(name, "happen")
    user.publish(after, name, "--break-clients")
    user.call(name, "happen")
    user.publish(before, name, "--break-clients")
    user.call(name, "happen")


def test_hot_swap_with_a_subscription(user: User) -> None:
    """A publish that clients survive: subscriptions go on and see what the new code does."""
    name = user.publish(PERSONS)
    watch = user.subscribe(name, "SELECT * FROM *")  # all tables that there are now
    user.call(name, "add_person", "Horst")
    user.publish(WITH_TABLE.replace("Person(name=name)", "Person(name=name + '!')"), name)
    user.call(name, "add_book", "0")
    user.call(name, "add_person", "Cindy")
    assert [row["name"] for change in watch.take(2) for row in change["person"]["inserts"]] == ["Horst", "Cindy!"]
    other = user.subscribe(name, "SELECT * FROM book")
    user.call(name, "add_book", "1")
    assert other.next() == inserts("book", {"isbn": "1"})


# -- subscribers


def test_sql_changes_reach_subscribers(user: User) -> None:
    name = user.publish(PERSONS)
    watch = user.subscribe(name, "SELECT * FROM person")
    user.sql(name, "INSERT INTO person (id, name) VALUES (7, 'Alice')")
    user.sql(name, "UPDATE person SET name = 'Bob' WHERE id = 7")
    user.sql(name, "DELETE FROM person WHERE name = 'Bob'")
    alice, bob = {"id": 7, "name": "Alice"}, {"id": 7, "name": "Bob"}
    changed = {"person": {"deletes": [alice], "inserts": [bob]}}
    assert watch.take(3) == [inserts("person", alice), changed, deletes("person", bob)]


def test_confirmed_reads(user: User) -> None:
    name = user.publish(PERSONS)
    watch = user.subscribe(name, "SELECT * FROM person", confirmed=True)
    user.call(name, "add_person", "Horst")
    user.run("sql", name, "INSERT INTO person (id, name) VALUES (9, 'Egon')", "--confirmed", "true")
    assert watch.take(2) == [
        inserts("person", {"id": 1, "name": "Horst"}),
        inserts("person", {"id": 9, "name": "Egon"}),
    ]
    assert "Egon" in user.run("sql", name, "SELECT * FROM person", "--confirmed", "true")


def test_a_refused_connection(user: User) -> None:
    name = user.publish(REJECTING)
    with pytest.raises(Ended):
        user.subscribe(name, "SELECT * FROM all_u_8_s")
    assert "Rejecting connection from client" in user.sql_fails(name, "SELECT * FROM all_u_8_s")
    logs = user.await_log(name, "Rejecting connection from client", times=2)
    assert "This should never be called" not in logs


def test_a_failing_disconnect_hook_leaves_no_client(user: User) -> None:
    name = user.publish(LEAVING)
    watch = user.subscribe(name, "SELECT * FROM all_u_8_s")
    watch.close()
    user.await_log(name, "client_disconnected fails")
    user.sql_fails(name, "SELECT * FROM no_such_table")  # hooks run for a query that fails, too
    logs = user.await_log(name, "client_disconnected fails", times=2)
    assert logs.count("client_connected") == 2
    assert user.sql_rows(name, "SELECT * FROM st_client") == []


# -- schedules


def test_schedules_and_their_views(user: User) -> None:
    """One-shot rows come and go in the table and in views of it, also when the run fails; intervals stay."""
    name = user.publish(SCHEDULES)
    user.call(name, "own", 2)
    user.call(name, "own", 3)
    for call, table, view, id in (
        ("schedule_job", "job", "job_view", 2),
        ("schedule_job", "job", "my_jobs", 2),
        ("schedule_failing_job", "failing_job", "my_failing_jobs", 3),
        ("schedule_task", "task", "task_view", 2),
    ):
        watch = user.subscribe(name, f"SELECT * FROM {table}", f"SELECT * FROM {view}")
        user.call(name, call)
        row = job(id, ONCE)
        assert watch.take(2) == [
            inserts(table, row) | inserts(view, row),
            deletes(table, row) | deletes(view, row),
        ], call
        watch.close()
    assert "scheduled reducer failed" in user.logs(name)
    jobs, tasks = user.subscribe(name, "SELECT * FROM job"), user.subscribe(name, "SELECT * FROM task")
    ran = user.logs(name).count("Invoked:")
    user.call(name, "repeat_job")
    user.call(name, "repeat_task")
    user.await_log(name, "Invoked:", times=ran + 6)
    assert jobs.next() == inserts("job", job(1, REPEATED))
    assert tasks.next() == inserts("task", job(1, REPEATED))
    user.call(name, "cancel_job")
    user.await_log(name, "Invoked: task", times=user.logs(name).count("Invoked: task") + 2)
    assert "job 7" not in user.logs(name)


# -- row filters


def test_row_filters(new_user: NewUser) -> None:
    alice, bob, stranger = new_user(), new_user(), new_user()
    name = alice.publish(FILTERED)
    watch = bob.subscribe(name, "SELECT * FROM users")
    alice.publish(FILTERED, name)  # nothing changes
    alice.publish_fails(FILTERED + FILTER, name)
    alice.publish(FILTERED + FILTER, name, "--break-clients")
    assert closed(watch) == 1001
    alice.publish(FILTERED + FILTER, name)
    assert alice.logs(name).count("Disconnecting all users") == 1
    assert "SELECT * FROM users WHERE identity = :sender" in alice.run(
        "sql", name, "SELECT sql FROM st_row_level_security"
    )
    for user in (alice, bob):
        user.call(name, "add_user", "Alice" if user is alice else "Bob")
    assert bob.sql_rows(name, "SELECT name FROM users") == [['"Bob"']]
    assert stranger.sql_rows(name, "SELECT name FROM users") == []
    assert [row["name"] for row in bob.subscribe(name, "SELECT * FROM users").initial["users"]["inserts"]] == ["Bob"]
    alice.publish_fails(FILTERED.replace("public=True", "") + FILTER, new_name())


# -- restarts


def test_restarts(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """Rows, sequences, indexes and the loss of clients, over restarts of a server of its own."""
    server = start_server()
    user = User(server, tmp_path / "user")
    persons = user.publish(
        WITH_TABLE
        + """

    @m.table(public=True, event=True)
    class Happened(Row):
        what: str


    @m.reducer
    def happen(ctx: ReducerContext) -> None:
        ctx.db[Happened].insert(Happened(what="this"))
"""
    )
    joined = user.publish(UNINDEXED)
    with pytest.raises(SubscriptionRefused, match="indexes"):
        user.subscribe(joined, JOIN)
    user.call(persons, "add_person", "Robert")
    user.call(persons, "happen")
    user.publish(WITH_TABLE, persons, "--break-clients")  # the event table is dropped, with rows in the log
    watch = user.subscribe(persons, "SELECT * FROM person")
    assert len(user.sql_rows(persons, "SELECT * FROM st_client")) == 1
    user.run("sql", persons, "SELECT * FROM person", "--confirmed", "true")
    server.kill()
    server.start()
    watch.session.drop()
    assert user.sql_rows(persons, "SELECT * FROM st_client") == []
    user.call(persons, "add_person", "Julie")
    assert [row[1] for row in user.sql_rows(persons, "SELECT * FROM person")] == ['"Robert"', '"Julie"']
    user.publish(INDEXED, joined, "--yes")
    assert user.subscribe(joined, JOIN).initial == {}
    server.stop()
    server.start()
    watch = user.subscribe(joined, JOIN)
    user.call(joined, "add")
    assert watch.next() == inserts("t_1", {"id": 1001})
    user.publish(UNINDEXED, joined, "--yes")
    with pytest.raises(SubscriptionRefused, match="indexes"):
        user.subscribe(joined, JOIN)
    user.leave()
