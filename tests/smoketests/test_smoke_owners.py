"""Who may do what with a database; names, locks, deletion; calls from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from patience import until
from server_process import RequestFailed
from smoketest import SubscriptionRefused, User, inserts, new_name

from spacetimedb.cli.api import Server

NewUser = Callable[[], User]
JSON = {"content-type": "application/json"}

BASIC = """
    from spacetimedb import Module, Pk, ReducerContext, Row, auto_inc, u32

    m = Module()


    @m.table()
    class Person(Row):
        id: Pk[u32] = auto_inc()
        name: str


    @m.table(public=True)
    class CommonKnowledge(Row):
        thing: str


    @m.init
    def lifecycle_init(ctx: ReducerContext) -> None:
        ctx.db[Person].insert(Person(name="secret"))


    @m.client_connected
    def lifecycle_client_connected(ctx: ReducerContext) -> None:
        ctx.log.info("_connect called")


    @m.client_disconnected
    def lifecycle_client_disconnected(ctx: ReducerContext) -> None:
        ctx.log.info("disconnect called")


    @m.reducer
    def add(ctx: ReducerContext, name: str) -> None:
        ctx.db[Person].insert(Person(name=name))


    @m.reducer
    def do_thing(ctx: ReducerContext, thing: str) -> None:
        ctx.db[Person].insert(Person(name=thing))
        ctx.db[CommonKnowledge].insert(CommonKnowledge(thing=thing))


    @m.reducer
    def say_hello(ctx: ReducerContext) -> None:
        for person in ctx.db[Person].iter():
            ctx.log.info(f"Hello, {person.name}!")
        ctx.log.info("Hello, World!")


    @m.reducer
    def first(ctx: ReducerContext) -> None:
        ctx.db[Person].insert(Person(name="never"))
        raise IndexError("out of bounds")


    @m.reducer
    def second(ctx: ReducerContext) -> None:
        assert ctx.db[Person].count() == 1, "what a failed reducer did is there"
        ctx.log.info("Test Passed")


    @m.reducer
    def fail(ctx: ReducerContext) -> None:
        from spacetimedb import ReducerError

        raise ReducerError("oopsie :(")
"""
EMPTY = """
    from spacetimedb import Module

    m = Module()
"""
MANY = """
    from spacetimedb import Module, ProcedureContext, ReducerContext

    m = Module()

    for number in range(11):

        @m.reducer(name=f"say_reducer_{number}")
        def reducer(ctx: ReducerContext) -> None: ...

        @m.procedure(name=f"say_procedure_{number}")
        def procedure(ctx: ProcedureContext) -> None: ...
"""
CALLS = """
    from spacetimedb import Identity, Module, ProcedureContext, ReducerContext, Struct

    m = Module()


    class Person(Struct):
        name: str


    @m.reducer
    def say_hello(ctx: ReducerContext) -> None:
        ctx.log.info("Hello, World!")


    @m.reducer
    def say_identity(ctx: ReducerContext, id: Identity) -> None:
        ctx.log.info(f"Hello, {id}!")


    @m.procedure
    def return_person(ctx: ProcedureContext) -> Person:
        return Person("World")


    @m.procedure
    def return_identity(ctx: ProcedureContext, id: Identity) -> Identity:
        return id
"""


def rename_all(user: User, database: str, *names: str) -> bool:
    """Replaces all names of the database; whether the server did it."""
    api = Server(user.server.base_url, user.token)
    answer = api.request("PUT", f"/v1/database/{database}/names", body=json.dumps(names), headers=JSON)
    api.close()
    return answer.ok


def test_anybody_may_call_and_describe_but_not_look_behind(new_user: NewUser) -> None:
    owner, other = new_user(), new_user()
    name = owner.publish(BASIC)
    assert "World" not in owner.logs(name)
    other.call(name, "say_hello")
    other.run("call", name, "say_hello", "--anonymous")
    other.run("describe", name, "--json", "--anonymous")
    assert '"say_hello"' in other.run("describe", name, "reducer", "say_hello", "--json")
    assert '"person"' in other.run("describe", name, "table", "person", "--json")
    assert owner.logs(name).count("Hello, World!") == 2
    other.fails("logs", name)
    other.publish_fails(EMPTY, name)
    other.publish_fails(EMPTY, name, "--delete-data", "--yes")
    other.fails("delete", name, "--yes")
    other.fails("rename", "--to", new_name(), name)
    assert not rename_all(other, name, new_name(), new_name())
    other.fails("lock", name)
    other.fails("unlock", name)
    assert "Hello, World!" in owner.logs(name)


def test_private_tables_are_the_owners(new_user: NewUser) -> None:
    owner, other = new_user(), new_user()
    name = owner.publish(BASIC)
    assert owner.sql(name, "SELECT name FROM person") == [" name", "----------", ' "secret"']
    assert "no such table" in other.sql_fails(name, "SELECT * FROM person")
    with pytest.raises(SubscriptionRefused, match="no such table"):
        other.subscribe(name, "SELECT * FROM person")
    public = other.subscribe(name, "SELECT * FROM common_knowledge")
    other.call(name, "do_thing", "godmorgon")
    assert public.next() == inserts("common_knowledge", {"thing": "godmorgon"})
    everything = other.subscribe(name, "SELECT * FROM *")
    other.call(name, "do_thing", "howdy")
    assert everything.next() == inserts("common_knowledge", {"thing": "howdy"})


def test_lifecycle_reducers_cannot_be_called(user: User) -> None:
    name = user.publish(BASIC)
    for hook in ("lifecycle_init", "lifecycle_client_connected", "lifecycle_client_disconnected"):
        user.call_fails(name, hook)


def test_hooks_run_for_calls_from_the_command_line(user: User) -> None:
    name = user.publish(BASIC)
    user.call(name, "say_hello")
    logs = user.logs(name)
    assert logs.index("_connect called") < logs.index("Hello, World!") < logs.index("disconnect called")


def test_a_failed_reducer_leaves_no_trace(user: User) -> None:
    name = user.publish(BASIC)
    user.call_fails(name, "first")
    user.call(name, "second")
    assert "oopsie :(" in user.call_fails(name, "fail")
    logs = user.logs(name)
    for text in ("out of bounds", "Test Passed", "oopsie :("):
        assert text in logs


def test_from_publish_to_sql(user: User) -> None:
    """A new user's way: publish, call, look at logs and rows, in an empty configuration."""
    name = user.publish(BASIC)
    user.call(name, "add", "Tyrion")
    user.call(name, "say_hello")
    assert "Hello, Tyrion!" in user.logs(name)
    assert user.sql(name, "SELECT * FROM person") == [
        " id | name",
        "----+----------",
        ' 1  | "secret"',
        ' 2  | "Tyrion"',
    ]
    assert "Server is online" in user.run("server", "ping", "here")


def test_names(user: User) -> None:
    first, second, renamed = user.publish(EMPTY), user.publish(EMPTY), new_name()
    identity = user.identity(first)
    user.fails("logs", renamed)
    user.run("rename", "--to", renamed, identity)
    user.run("logs", renamed)
    user.fails("logs", first)
    assert "name" in user.fails("rename", "--to", second, identity)
    for bad in (f"{second}//test", f"{second}/test/"):
        user.publish_fails(EMPTY, bad)


def test_replaced_names_are_listed(user: User) -> None:
    name, alias, other = user.publish(EMPTY), new_name(), new_name()
    identity = user.identity(name)
    assert rename_all(user, name, alias, other)
    user.run("logs", alias)
    user.run("logs", other)
    user.fails("logs", name)
    listed = user.run("list")
    for text in ("Database Name(s)", "Identity", alias, other, identity):
        assert text in listed


def test_a_locked_database_stays(user: User) -> None:
    name = user.publish(BASIC)
    user.run("unlock", name)  # no error without a lock
    user.run("lock", name)
    user.run("lock", name)
    user.fails("delete", name, "--yes")
    user.publish_fails(BASIC, name, "--delete-data", "--yes")
    user.publish(BASIC, name)
    user.run("unlock", name)
    user.run("delete", name, "--yes")
    user.fails("logs", name)


def test_deleting_asks_and_stops_what_runs(user: User) -> None:
    name = user.publish("""
        from spacetimedb import Module, Pk, ReducerContext, Row, u32

        m = Module()


        @m.table(public=True)
        class Counter(Row):
            id: Pk[u32]
            value: u32


        @m.every(ms=20)
        def count(ctx: ReducerContext) -> None:
            row = ctx.db[Counter].id.find(0) or Counter(id=0, value=0)
            ctx.db[Counter].id.upsert(Counter(id=0, value=row.value + 1))
    """)
    watch = user.subscribe(name, "SELECT * FROM counter")
    watch.take(3)
    assert "nobody agreed" in user.fails("delete", name)  # nobody there to be asked
    code, output = user.at_terminal("delete", name, typed="n\n")
    assert code == 1
    assert f"Delete {name} ({user.identity(name)}) and all its data?" in output
    user.run("logs", name)
    assert user.at_terminal("delete", name, typed="y\n")[0] == 0
    watch.session.receive_all()  # raises if the connection goes on
    user.fails("logs", name)


def test_call_arguments_and_results(user: User) -> None:
    name = user.publish(CALLS)
    assert user.call(name, "say_hello") == ""
    assert user.call(name, "return_person") == '["World"]'
    identity = user.identity(name)
    texts = (identity, f"0x{identity}", f'["0x{identity}"]', f'{{"__identity__": "0x{identity}"}}')
    for text in texts:
        assert user.call(name, "return_identity", text) == f'["0x{identity}"]'
        user.call(name, "say_identity", text)
    assert user.logs(name).count(f"Hello, {identity}!") == 4


def test_calls_of_what_does_not_exist(user: User) -> None:
    name = user.publish(CALLS)
    identity = user.identity(name)
    unknown = user.call_fails(name, "other")
    assert f"No such reducer OR procedure `other` for database `{name}` resolving to identity `{identity}`." in unknown
    assert "Here are some existing reducers:\n- say_hello()\n- say_identity(id: Identity)" in unknown
    assert "Here are some existing procedures:\n- return_person()\n- return_identity(id: Identity)" in unknown
    assert "Did you mean `say_hello`?" in user.call_fails(name, "say_hell")
    assert "Did you mean `return_person`?" in user.call_fails(name, "return_perso")
    empty = user.call_fails(user.publish(EMPTY), "say")
    assert "existing" not in empty
    assert "The database has no reducers.\n\nThe database has no procedures." in empty
    many = user.call_fails(user.publish(MANY), "other")
    for kind in ("reducer", "procedure"):
        listed = "\n".join(f"- say_{kind}_{number}()" for number in range(10))
        assert f"Here are some existing {kind}s:\n{listed}\n... (1 {kind} not shown)" in many


def test_a_failed_first_publish_leaves_nothing(user: User) -> None:
    name = new_name()
    broken = "from spacetimedb import Module\nm = Module()\nm.row_filter(\"SELECT * FROM person WHERE name = 'me'\")\n"
    table = "from spacetimedb import Row\n@m.table(public=True)\nclass Person(Row):\n    name: str\n"
    user.publish_fails(broken, name)
    assert "No such database" in user.fails("describe", name, "--json")
    user.publish(broken + table, name)
    assert "name = 'me'" in user.run("describe", name, "--json")
    user.publish_fails(broken, name)
    assert "name = 'me'" in user.run("describe", name, "--json")


def test_log_levels(user: User) -> None:
    name = user.publish("""
        from spacetimedb import Module, ReducerContext

        m = Module()


        @m.reducer
        def say(ctx: ReducerContext) -> None:
            ctx.log.log(5, "at trace")
            ctx.log.debug("at debug")
            ctx.log.info("at info")
            ctx.log.warning("at warning")
            ctx.log.error("at error")
    """)
    user.call(name, "say")

    def shown(*options: str) -> list[str]:
        lines = user.run("logs", name, *options).splitlines()
        return [line.rpartition("at ")[2] for line in lines if " at " in line]

    assert shown() == ["trace", "debug", "info", "warning", "error"]
    assert shown("--level", "warn") == ["warning", "error"]
    assert shown("--level", "error") == ["error"]
    for level in ("info", "debug"):
        assert shown("--level", level, "--level-exact") == [level]
    lines = user.run("logs", name, "--format", "json", "--level", "warn").splitlines()
    texts = [json.loads(line)["message"] for line in lines]
    assert [text for text in texts if text.startswith("at ")] == ["at warning", "at error"]


def test_timestamp_route(user: User) -> None:
    name = new_name()
    with pytest.raises(RequestFailed, match="404"):
        user.server.request("GET", f"/v1/database/{name}/unstable/timestamp")
    user.publish(EMPTY, name)
    answer = user.server.request("GET", f"/v1/database/{name}/unstable/timestamp").json()
    moment = answer["__timestamp_micros_since_unix_epoch__"]
    later = until(
        lambda: user.server.request("GET", f"/v1/database/{name}/unstable/timestamp").json(), lambda a: a != answer
    )
    assert later["__timestamp_micros_since_unix_epoch__"] > moment > 1_700_000_000_000_000
