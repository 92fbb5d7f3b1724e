"""Rows: how SQL shows values of every type, names, keys that count up, look-ups and filters."""

from __future__ import annotations

from smoketest import User

VALUES = """
    from enum import IntEnum

    from spacetimedb import (
        ConnectionId, Identity, Index, Module, Pk, Query, ReducerContext, Result, Row, Struct, TimeDuration, Timestamp,
        Uuid, ViewContext, auto_inc, f32, i8, i16, i32, i64, i128, i256, u8, u16, u32, u64, u128, u256,
    )

    m = Module()


    class Action(IntEnum):
        Inactive = 0
        Active = 1


    class Ints(Struct):
        i8: i8
        i16: i16
        i32: i32
        i64: i64
        i128: i128
        i256: i256


    class Others(Struct):
        bool: bool
        f32: f32
        f64: float
        str: str
        bytes: bytes
        identity: Identity
        connection_id: ConnectionId
        timestamp: Timestamp
        duration: TimeDuration
        uuid: Uuid


    class Uints(Struct):
        u8: u8
        u16: u16
        u32: u32
        u64: u64
        u128: u128
        u256: u256


    @m.table()
    class TInts(Row):
        i8: i8
        i16: i16
        i32: i32
        i64: i64
        i128: i128
        i256: i256


    @m.table()
    class TUints(Row):
        u8: u8
        u16: u16
        u32: u32
        u64: u64
        u128: u128
        u256: u256


    @m.table()
    class TTuples(Row):
        ints: Ints
        uints: Uints


    @m.table()
    class TOthers(Row):
        tuple: Others
        bytes: bytes
        timestamp: Timestamp
        duration: TimeDuration
        uuid: Uuid


    @m.table()
    class TEnums(Row):
        bool_opt: bool | None
        bool_result: Result[bool, str]
        action: Action


    @m.table(public=True, name="canonical_table")
    class AccessorRow(Row):
        id: Pk[u32]
        accessor_value1: Index[u32]


    @m.view(name="canonical_filtered")
    def accessor_filtered(ctx: ViewContext) -> Query[AccessorRow]:
        return AccessorRow.accessor_value1 == 7


    @m.init
    def init(ctx: ReducerContext) -> None:
        ints = Ints(-25, -3224, -23443, -2344353, -234434897853, -234434897853)
        uints = Uints(105, 1050, 83892, 48937498, 4378528978889, 4378528978889)
        ctx.db[TInts].insert(TInts(**{name: getattr(ints, name) for name in ints.__struct_fields__}))
        ctx.db[TUints].insert(TUints(**{name: getattr(uints, name) for name in uints.__struct_fields__}))
        ctx.db[TTuples].insert(TTuples(ints=ints, uints=uints))
        zero = (Timestamp(0), TimeDuration(0), Uuid(bytes(16)))
        others = Others(
            True, 594806.58906, -3454353.345389043278459, "This is spacetimedb", bytes(range(1, 8)),
            Identity.from_int(1), ConnectionId(bytes(16)), *zero,
        )
        ctx.db[TOthers].insert(
            TOthers(tuple=others, bytes=others.bytes, timestamp=zero[0], duration=zero[1], uuid=zero[2])
        )
        ctx.db[TEnums].insert(TEnums(bool_opt=True, bool_result=("ok", False), action=Action.Active))
        ctx.db[AccessorRow].insert(AccessorRow(id=1, accessor_value1=7))


    KINDS = {
        "u8": u8, "u16": u16, "u32": u32, "u64": u64, "u128": u128,
        "i8": i8, "i16": i16, "i32": i32, "i64": i64, "i128": i128,
    }


    def counting(kind: str) -> None:
        \"\"\"A table whose key counts up, and a reducer that says what it was given; 0 asks for the next number.\"\"\"
        row = type(Row)(f"Counted{kind.upper()}", (Row,), {
            "__annotations__": {"key": Pk[KINDS[kind]], "name": str}, "__module__": __name__, "key": auto_inc(),
        })
        table = m.table()(row)

        def add(ctx: ReducerContext, names: list[str], key: KINDS[kind]) -> None:
            for name in names:
                ctx.log.info(f"{name} is {kind} {ctx.db[table].insert(table(key=key, name=name)).key}")

        m.reducer(name=f"add_{kind}")(add)


    for kind in KINDS:
        counting(kind)
"""
FILTERING = """
    from spacetimedb import Identity, Index, Module, Pk, ReducerContext, Row, Unique, auto_inc, btree, i32, u32

    m = Module()


    @m.table()
    class Person(Row):
        id: Unique[i32]
        name: str
        nick: Unique[str]


    @m.table()
    class Nonunique(Row):
        id: Index[i32]
        name: str
        is_human: bool


    @m.table()
    class Indexed(Row):
        player_id: i32
        snazz: u32
        by_both = btree("player_id", "snazz")


    @m.table()
    class Counter(Row):
        key: Unique[i32] = auto_inc()
        name: Unique[str]


    @m.table()
    class Family(Row):
        id: Unique[i32]
        name: str
        surname: Index[str]


    @m.table()
    class Identified(Row):
        identity: Unique[Identity]
        name: str


    @m.table()
    class Friends(Row):
        friend_1: i32
        friend_2: i32


    @m.reducer
    def insert_person(ctx: ReducerContext, id: i32, name: str, nick: str) -> None:
        ctx.db[Person].insert(Person(id=id, name=name, nick=nick))


    @m.reducer
    def insert_person_twice(ctx: ReducerContext, id: i32, name: str, nick: str) -> None:
        insert_person(ctx, id, name, nick)
        if ctx.db[Person].try_insert(Person(id=id, name=name + "2", nick=nick)) is None:
            ctx.log.info(f"VIOLATION: {id}")


    @m.reducer
    def delete_person(ctx: ReducerContext, id: i32) -> None:
        ctx.db[Person].id.delete(id)


    @m.reducer
    def find(ctx: ReducerContext, id: i32, nick: str) -> None:
        read_only = ctx.as_view()
        for db in ctx.db, read_only.db:
            by_id, by_nick = db[Person].id.find(id), db[Person].nick.find(nick)
            ctx.log.info(f"{by_id.name if by_id else 'nobody'}, {by_nick.id if by_nick else 'nobody'}")


    @m.reducer
    def insert_nonunique(ctx: ReducerContext, id: i32, name: str, is_human: bool) -> None:
        ctx.db[Nonunique].insert(Nonunique(id=id, name=name, is_human=is_human))


    @m.reducer
    def find_nonunique(ctx: ReducerContext, id: i32) -> None:
        exact, above = ctx.db[Nonunique].id.filter(id), ctx.db[Nonunique].id.filter(gt=id)
        humans = [p.name for p in ctx.db[Nonunique].iter() if p.is_human]
        ctx.log.info(f"{sorted(p.name for p in exact)} {sorted(p.name for p in above)} {sorted(humans)}")


    @m.reducer
    def insert_indexed(ctx: ReducerContext) -> None:
        for player in range(3):
            for snazz in range(3):
                ctx.db[Indexed].insert(Indexed(player_id=player, snazz=snazz))
        index = ctx.db[Indexed].by_both
        counts = [len(list(found)) for found in (index.filter(1), index.filter(1, 2), index.filter(1, ge=1))]
        ctx.log.info(f"{counts} {index.delete(1)} {ctx.db[Indexed].count()}")


    @m.reducer
    def add_counted(ctx: ReducerContext, name: str, key: i32) -> None:
        ctx.log.info(f"{name} is {ctx.db[Counter].insert(Counter(key=key, name=name)).key}")


    @m.reducer
    def find_by_name(ctx: ReducerContext, name: str) -> None:
        found = sorted(p.nick for p in ctx.db[Person].iter() if p.name == name)
        ctx.log.info(f"{name}: {found}")


    @m.reducer
    def insert_family(ctx: ReducerContext, id: i32, name: str, surname: str) -> None:
        ctx.db[Family].insert(Family(id=id, name=name, surname=surname))


    @m.reducer
    def delete_family(ctx: ReducerContext, id: i32) -> None:
        ctx.db[Family].id.delete(id)


    @m.reducer
    def find_family(ctx: ReducerContext, surname: str) -> None:
        for db in ctx.db, ctx.as_view().db:
            ctx.log.info(f"{surname}: {sorted(p.name for p in db[Family].surname.filter(surname))}")


    @m.reducer
    def identify(ctx: ReducerContext, number: i32, name: str) -> None:
        identity = Identity.from_int(number)
        ctx.db[Identified].insert(Identified(identity=identity, name=name))
        found = ctx.db[Identified].identity.find(identity)
        ctx.log.info(f"identified {found.name if found else 'nobody'}")


    @m.reducer
    def add_friend(ctx: ReducerContext, mine: i32, theirs: i32) -> None:
        for person in ctx.db[Person].iter():
            if person.id == theirs:
                ctx.db[Friends].insert(Friends(friend_1=mine, friend_2=theirs))


    @m.reducer
    def say_friends(ctx: ReducerContext) -> None:
        for pair in ctx.db[Friends].iter():
            one, other = ctx.db[Person].id.get(pair.friend_1), ctx.db[Person].id.get(pair.friend_2)
            ctx.log.info(f"{one.name} is friends with {other.name}")
"""


def test_how_sql_shows_values(user: User) -> None:
    name = user.publish(VALUES)
    zeros = "00000000-0000-0000-0000-000000000000"
    others = (
        '(bool = true, f_32 = 594806.56, f_64 = -3454353.3453890434, str = "This is spacetimedb", '
        f"bytes = 0x01020304050607, identity = 0x{1:064x}, connection_id = 0x{0:032x}, "
        f'timestamp = 1970-01-01T00:00:00+00:00, duration = +0.000000, uuid = "{zeros}")'
    )
    assert user.sql(name, "SELECT * FROM t_ints") == [
        " i_8 | i_16  | i_32   | i_64     | i_128         | i_256",
        "-----+-------+--------+----------+---------------+---------------",
        " -25 | -3224 | -23443 | -2344353 | -234434897853 | -234434897853",
    ]
    assert user.sql(name, "SELECT * FROM t_uints") == [
        " u_8 | u_16 | u_32  | u_64     | u_128         | u_256",
        "-----+------+-------+----------+---------------+---------------",
        " 105 | 1050 | 83892 | 48937498 | 4378528978889 | 4378528978889",
    ]
    assert user.sql_rows(name, "SELECT * FROM t_tuples") == [
        [
            "(i_8 = -25, i_16 = -3224, i_32 = -23443, i_64 = -2344353, i_128 = -234434897853, i_256 = -234434897853)",
            "(u_8 = 105, u_16 = 1050, u_32 = 83892, u_64 = 48937498, u_128 = 4378528978889, u_256 = 4378528978889)",
        ]
    ]
    assert user.sql_rows(name, "SELECT * FROM t_others") == [
        [others, "0x01020304050607", "1970-01-01T00:00:00+00:00", "+0.000000", f'"{zeros}"']
    ]
    assert user.sql(name, "SELECT * FROM t_enums") == [
        " bool_opt      | bool_result  | action",
        "---------------+--------------+---------------",
        " (some = true) | (ok = false) | (active = ())",
    ]


def test_names_in_sql(user: User) -> None:
    """Tables, views and columns have the names of the source and canonical ones; one statement uses one of them."""
    name = user.publish(VALUES)
    for table in ("accessor_row", "canonical_table", "accessor_filtered", "canonical_filtered"):
        assert user.sql_rows(name, f"SELECT * FROM {table}") == [["1", "7"]]
        assert user.sql(name, f"SELECT accessor_value1 FROM {table}")[0] == " accessor_value1"
        assert user.sql(name, f"SELECT accessor_value_1 FROM {table}")[0] == " accessor_value_1"
    for number, (table, qualifier) in enumerate(
        (("accessor_row", ""), ("accessor_row", "accessor_row."), ("canonical_table", "canonical_table.")), 8
    ):
        user.sql(name, f"UPDATE {table} SET accessor_value_1 = {number} WHERE {qualifier}id = 1")
        assert user.sql_rows(name, "SELECT accessor_value_1 FROM canonical_table WHERE id = 1") == [[str(number)]]
    for table, qualifier in (("accessor_row", "canonical_table"), ("canonical_table", "accessor_row")):
        user.sql_fails(name, f"UPDATE {table} SET accessor_value_1 = 8 WHERE {qualifier}.id = 1")
    user.sql(name, "DELETE FROM accessor_row WHERE id = 1")
    assert user.sql_rows(name, "SELECT * FROM canonical_table") == []


def test_keys_that_count_up(user: User) -> None:
    """In columns of every integer type; a number that was given by hand is in the way."""
    name = user.publish(VALUES)
    kinds = ("u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128")
    for kind in kinds:
        user.call(name, f"add_{kind}", ["Robert", "Julie", "Samantha"], 0)
        user.call(name, f"add_{kind}", ["Explicit"], 4)
        user.call_fails(name, f"add_{kind}", ["Failure"], 0)
        user.call(name, f"add_{kind}", ["Success"], 0)
    logs = user.logs(name)
    for kind in kinds:
        for person, number in ("Robert", 1), ("Julie", 2), ("Samantha", 3), ("Explicit", 4), ("Success", 5):
            assert f"{person} is {kind} {number}" in logs
    assert "Failure is" not in logs


def test_keys_and_filters(user: User) -> None:
    name = user.publish(FILTERING)
    for id, person, nick in ((23, "Alice", "al"), (42, "Bob", "bo"), (64, "Bob", "b2")):
        user.call(name, "insert_person", id, person, nick)
    user.call(name, "find", 23, "bo")
    user.call(name, "find", 43, "none")
    user.call(name, "find_by_name", "Bob")
    user.call(name, "insert_person_twice", 100, "Cleo", "cl")
    user.call_fails(name, "insert_person", 23, "Alice2", "a2")
    user.call_fails(name, "insert_person", 24, "Alice2", "al")
    user.call(name, "add_friend", 23, 42)
    user.call(name, "add_friend", 23, 99)
    user.call(name, "say_friends")
    user.call(name, "delete_person", 23)
    user.call(name, "find", 23, "al")
    user.call(name, "insert_person", 23, "Alice2", "al")
    user.call(name, "find", 23, "al")
    for id, person, is_human in ((23, "Alice", True), (42, "Bob", True), (42, "Carol", False)):
        user.call(name, "insert_nonunique", id, person, is_human)
    user.call(name, "find_nonunique", 23)
    user.call(name, "find_nonunique", 42)
    user.call(name, "insert_indexed")
    user.call(name, "add_counted", "Robert", 2)  # an explicit value does not move the sequence
    user.call(name, "add_counted", "Success", 0)
    user.call_fails(name, "add_counted", "Failure", 0)
    user.call(name, "add_counted", "Julie", 0)
    for id in (101, 102, 103, 104):
        user.call(name, "insert_person", id, f"Giant {id}", f"g{id}")
    user.call(name, "delete_person", 103)
    user.call(name, "find", 104, "g103")
    for id, person in ((7, "James"), (79, "Gold"), (1, "Hydrogen"), (100, "Whiskey")):
        user.call(name, "insert_family", id, person, "Bond")
    user.call(name, "delete_family", 100)
    user.call(name, "find_family", "Bond")
    user.call(name, "identify", 23, "Alice")
    logs = user.logs(name)
    for line in (
        "Alice, 42",
        "Bob: ['b2', 'bo']",
        "Giant 104, nobody",
        "identified Alice",
        "nobody, nobody",
        "VIOLATION: 100",
        "Alice is friends with Bob",
        "Alice2, 23",
        "['Alice'] ['Bob', 'Carol'] ['Alice', 'Bob']",
        "['Bob', 'Carol'] [] ['Alice', 'Bob']",
        "[3, 1, 2] 3 6",
        "Robert is 2",
        "Success is 1",
        "Julie is 3",
    ):
        assert line in logs
    assert logs.count("is friends with") == 1
    assert logs.count("Bond: ['Gold', 'Hydrogen', 'James']") == 2
