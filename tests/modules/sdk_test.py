"""Port of upstream's module `sdk-test`: a table for every column type, and reducers that write to each.

Upstream's test clients connect to it with the bindings they were built with, so every name and type is part of the
contract. Most tables and reducers come in families, made here from the members' names and types:

| Family | Table | Reducers |
|---|---|---|
| `one_X`, `vec_X`, `option_X`, `result_X` | one column | insert, delete the equal row |
| `unique_X` | a unique column and `data: i32` | insert, delete the equal row, replace by key, delete by key |
| `pk_X` | the same with a primary key | the same, but a real update |
"""

import enum
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import spacetimedb as st
from spacetimedb import (
    ConnectionId,
    Identity,
    Index,
    Module,
    Pk,
    ReducerContext,
    ReducerError,
    Result,
    Row,
    Schedule,
    Schema,
    Struct,
    Sum,
    TimeDuration,
    Timestamp,
    Unique,
    Uuid,
    Variant,
    btree,
    f32,
    i8,
    i16,
    i32,
    i64,
    i128,
    i256,
    table,
    u8,
    u16,
    u32,
    u64,
    u128,
    u256,
)

m = Module()

# -- types


class SimpleEnum(enum.IntEnum):
    Zero = 0
    One = 1
    Two = 2


class Payload:
    """The variants of EnumWithPayload; a name space, since some are called like the types they carry."""

    class U8(Variant[u8]): ...

    class U16(Variant[u16]): ...

    class U32(Variant[u32]): ...

    class U64(Variant[u64]): ...

    class U128(Variant[u128]): ...

    class U256(Variant[u256]): ...

    class I8(Variant[i8]): ...

    class I16(Variant[i16]): ...

    class I32(Variant[i32]): ...

    class I64(Variant[i64]): ...

    class I128(Variant[i128]): ...

    class I256(Variant[i256]): ...

    class Bool(Variant[bool]): ...

    class F32(Variant[f32]): ...

    class F64(Variant[float]): ...

    class Str(Variant[str]): ...

    class Identity(Variant[st.Identity]): ...

    class ConnectionId(Variant[st.ConnectionId]): ...

    class Timestamp(Variant[st.Timestamp]): ...

    class Uuid(Variant[st.Uuid]): ...

    class Bytes(Variant[bytes]): ...

    class Ints(Variant[list[i32]]): ...

    class Strings(Variant[list[str]]): ...

    class SimpleEnums(Variant[list[SimpleEnum]]): ...


EnumWithPayload: TypeAlias = Annotated[
    Payload.U8
    | Payload.U16
    | Payload.U32
    | Payload.U64
    | Payload.U128
    | Payload.U256
    | Payload.I8
    | Payload.I16
    | Payload.I32
    | Payload.I64
    | Payload.I128
    | Payload.I256
    | Payload.Bool
    | Payload.F32
    | Payload.F64
    | Payload.Str
    | Payload.Identity
    | Payload.ConnectionId
    | Payload.Timestamp
    | Payload.Uuid
    | Payload.Bytes
    | Payload.Ints
    | Payload.Strings
    | Payload.SimpleEnums,
    Sum("EnumWithPayload"),
]


class UnitStruct(Struct): ...


class ByteStruct(Struct):
    b: u8


class EveryPrimitiveStruct(Struct):
    a: u8
    b: u16
    c: u32
    d: u64
    e: u128
    f: u256
    g: i8
    h: i16
    i: i32
    j: i64
    k: i128
    l: i256  # noqa: E741  # the name is upstream's
    m: bool
    n: f32
    o: float
    p: str
    q: Identity
    r: ConnectionId
    s: Timestamp
    t: TimeDuration
    u: Uuid


class EveryVecStruct(Struct):
    a: bytes
    b: list[u16]
    c: list[u32]
    d: list[u64]
    e: list[u128]
    f: list[u256]
    g: list[i8]
    h: list[i16]
    i: list[i32]
    j: list[i64]
    k: list[i128]
    l: list[i256]  # noqa: E741  # the name is upstream's
    m: list[bool]
    n: list[f32]
    o: list[float]
    p: list[str]
    q: list[Identity]
    r: list[ConnectionId]
    s: list[Timestamp]
    t: list[TimeDuration]
    u: list[Uuid]


# -- families

Columns = Mapping[str, Any]
"""Types (annotations) by column."""


def pascal(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def array(kind: Any) -> Any:
    return bytes if kind is u8 else types.GenericAlias(list, (kind,))


def result(ok: Any, err: Any) -> Any:
    alias: Any = Result
    return alias[ok, err]


def make_table(name: str, columns: Columns) -> Any:
    """A public table and its row class."""
    metaclass: Any = type(Row)
    return m.table(public=True)(
        metaclass(pascal(name), (Row,), {"__annotations__": dict(columns), "__module__": __name__})
    )


def make_reducer(name: str, body: Callable[..., None], params: Columns) -> None:
    """A reducer whose arguments reach `body` by position."""

    def reducer(ctx: ReducerContext, *arguments: Any) -> None:
        body(ctx, *arguments)

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    annotations = {"ctx": ReducerContext, **params}
    described: Any = reducer
    described.__signature__ = inspect.Signature(
        [inspect.Parameter(n, positional, annotation=t) for n, t in annotations.items()]
    )
    reducer.__name__ = name
    reducer.__annotations__ = {**annotations, "return": None}
    m.reducer(reducer)


def make_writers(table: Any, name: str, columns: Columns, *, insert: str = "insert_", delete: str | None) -> None:
    """Reducers that insert a row and delete the equal row; they take the columns."""

    def row(values: tuple[Any, ...]) -> Any:
        return table(**dict(zip(columns, values, strict=True)))

    def insert_row(ctx: ReducerContext, *values: Any) -> None:
        ctx.db[table].insert(row(values))

    def delete_row(ctx: ReducerContext, *values: Any) -> None:
        ctx.db[table].delete(row(values))

    make_reducer(insert + name, insert_row, columns)
    if delete is not None:
        make_reducer(delete + name, delete_row, columns)


def make_plain(name: str, column: str, kind: Any, *, deletes: bool = True) -> Any:
    columns = {column: kind}
    table = make_table(name, columns)
    make_writers(table, name, columns, delete="delete_all_" if deletes else None)
    return table


def make_keyed(name: str, marker: Any, column: str, kind: Any) -> Any:
    """A table with a key and reducers that use it. Replacing a row by a key that is only unique is no update."""
    columns = {column: kind, "data": i32}
    table = make_table(name, {column: marker[kind], "data": i32})
    make_writers(table, name, columns, delete="delete_all_")

    def update(ctx: ReducerContext, key: Any, data: int) -> None:
        index = getattr(ctx.db[table], column)
        if marker is Pk:
            index.update(table(**{column: key, "data": data}))
        else:
            index.delete(key)
            ctx.db[table].insert(table(**{column: key, "data": data}))

    def delete(ctx: ReducerContext, key: Any) -> None:
        getattr(ctx.db[table], column).delete(key)

    make_reducer("update_" + name, update, columns)
    make_reducer("delete_" + name, delete, {column: kind})
    return table


INTEGERS = {
    "u8": u8, "u16": u16, "u32": u32, "u64": u64, "u128": u128, "u256": u256,
    "i8": i8, "i16": i16, "i32": i32, "i64": i64, "i128": i128, "i256": i256,
}  # fmt: skip
KEYS: dict[str, tuple[str, Any]] = {
    **{name: ("n", kind) for name, kind in INTEGERS.items()},
    "bool": ("b", bool),
    "string": ("s", str),
    "identity": ("i", Identity),
    "connection_id": ("a", ConnectionId),
    "uuid": ("u", Uuid),
}
COLUMNS: dict[str, tuple[str, Any]] = {
    **KEYS,
    "f32": ("f", f32),
    "f64": ("f", float),
    "timestamp": ("t", Timestamp),
    "simple_enum": ("e", SimpleEnum),
    "enum_with_payload": ("e", EnumWithPayload),
    "unit_struct": ("s", UnitStruct),
    "byte_struct": ("s", ByteStruct),
    "every_primitive_struct": ("s", EveryPrimitiveStruct),
    "every_vec_struct": ("s", EveryVecStruct),
}

one = {name: make_plain(f"one_{name}", *of, deletes=name != "connection_id") for name, of in COLUMNS.items()}
vec = {
    name: make_plain(f"vec_{name}", column, array(kind), deletes=name != "connection_id")
    for name, (column, kind) in COLUMNS.items()
}
make_plain("option_i32", "n", i32 | None)
make_plain("option_string", "s", str | None)
make_plain("option_identity", "i", Identity | None)
make_plain("option_uuid", "u", Uuid | None)
make_plain("option_simple_enum", "e", SimpleEnum | None)
make_plain("option_every_primitive_struct", "s", EveryPrimitiveStruct | None)
make_plain("option_vec_option_i32", "v", list[i32 | None] | None)
make_plain("result_i32_string", "r", result(i32, str), deletes=False)
make_plain("result_string_i32", "r", result(str, i32), deletes=False)
make_plain("result_identity_string", "r", result(Identity, str), deletes=False)
make_plain("result_simple_enum_i32", "r", result(SimpleEnum, i32), deletes=False)
make_plain("result_every_primitive_struct_string", "r", result(EveryPrimitiveStruct, str), deletes=False)
make_plain("result_vec_i32_string", "r", result(list[i32], str), deletes=False)
unique = {name: make_keyed(f"unique_{name}", Unique, *of) for name, of in KEYS.items()}
pk = {name: make_keyed(f"pk_{name}", Pk, *of) for name, of in {**KEYS, "u32_two": ("n", u32)}.items()}

PkU32, PkU32Two, UniqueU32 = pk["u32"], pk["u32_two"], unique["u32"]
large_columns: dict[str, Any] = {
    **{name: kind for name, kind in EveryPrimitiveStruct.__annotations__.items() if name <= "p"},
    "q": SimpleEnum,
    "r": EnumWithPayload,
    "s": UnitStruct,
    "t": ByteStruct,
    "u": EveryPrimitiveStruct,
    "v": EveryVecStruct,
}
make_writers(make_table("large_table", large_columns), "large_table", large_columns, delete="delete_")
holding_columns: dict[str, Any] = {"a": one["u8"], "b": vec["u8"]}
make_writers(make_table("table_holds_table", holding_columns), "table_holds_table", holding_columns, delete=None)

# -- tables of their own


@m.table(public=True)
class PkSimpleEnum(Row):
    a: Pk[SimpleEnum]
    data: i32


class BTreeU32(Row):
    n: Index[u32]
    data: i32


@m.schema
class OtherNames(Schema):
    """Tables that are not called as their class is."""

    btree_u32 = table(BTreeU32, public=True)


@m.table(public=True)
class Users(Row):
    identity: Pk[Identity]
    name: str


@m.table(public=True)
class IndexedSimpleEnum(Row):
    n: Index[SimpleEnum]


@m.table()
class IndexedTable(Row):
    player_id: Index[u32]


@m.table()
class IndexedTable2(Row):
    player_id: u32
    player_snazz: f32
    player_id_snazz_index = btree("player_id")  # upstream's has player_snazz too; floats are no keys here


@m.table(public=True)
class ScheduledTable(Schedule):
    text: str


m.row_filter("SELECT * FROM one_u_8")
m.row_filter("SELECT * FROM users WHERE identity = :sender")

# -- reducers of their own


@m.reducer(on_schedule=ScheduledTable)
def send_scheduled_message(ctx: ReducerContext, arg: ScheduledTable) -> None: ...


@m.reducer
def no_op_succeeds(ctx: ReducerContext) -> None: ...


@m.reducer
def insert_pk_simple_enum(ctx: ReducerContext, a: SimpleEnum, data: i32) -> None:
    ctx.db[PkSimpleEnum].insert(PkSimpleEnum(a=a, data=data))


@m.reducer
def update_pk_simple_enum(ctx: ReducerContext, a: SimpleEnum, data: i32) -> None:
    if a not in ctx.db[PkSimpleEnum].a:
        raise ReducerError("row not found")
    ctx.db[PkSimpleEnum].a.update(PkSimpleEnum(a=a, data=data))


@m.reducer
def insert_into_btree_u32(ctx: ReducerContext, rows: list[BTreeU32]) -> None:
    for row in rows:
        ctx.db[BTreeU32].insert(row)


@m.reducer
def delete_from_btree_u32(ctx: ReducerContext, rows: list[BTreeU32]) -> None:
    for row in rows:
        ctx.db[BTreeU32].delete(row)


def insert_into_pk_btree_u32(ctx: ReducerContext, pk_u32: list[Row], bt_u32: list[BTreeU32]) -> None:
    for row in pk_u32:
        ctx.db[PkU32].insert(row)
    insert_into_btree_u32(ctx, bt_u32)


make_reducer("insert_into_pk_btree_u32", insert_into_pk_btree_u32, {"pk_u32": array(PkU32), "bt_u32": array(BTreeU32)})


@m.reducer
def insert_unique_u32_update_pk_u32(ctx: ReducerContext, n: u32, d_unique: i32, d_pk: i32) -> None:
    ctx.db[UniqueU32].insert(UniqueU32(n=n, data=d_unique))
    ctx.db[PkU32].n.update(PkU32(n=n, data=d_pk))


@m.reducer
def delete_pk_u32_insert_pk_u32_two(ctx: ReducerContext, n: u32, data: i32) -> None:
    ctx.db[PkU32Two].insert(PkU32Two(n=n, data=data))
    ctx.db[PkU32].delete(PkU32(n=n, data=data))


def connection_of(ctx: ReducerContext) -> ConnectionId:
    if ctx.connection_id is None:
        raise ReducerError("No connection id in reducer context")
    return ctx.connection_id


def make_caller_reducers(member: str, column: str, caller: Callable[[ReducerContext], Any]) -> None:
    """insert_caller_{one,vec,unique,pk}_X: store who called."""

    def insert_one(ctx: ReducerContext) -> None:
        ctx.db[one[member]].insert(one[member](**{column: caller(ctx)}))

    def insert_vec(ctx: ReducerContext) -> None:
        ctx.db[vec[member]].insert(vec[member](**{column: [caller(ctx)]}))

    def insert_unique(ctx: ReducerContext, data: int) -> None:
        ctx.db[unique[member]].insert(unique[member](**{column: caller(ctx), "data": data}))

    def insert_pk(ctx: ReducerContext, data: int) -> None:
        ctx.db[pk[member]].insert(pk[member](**{column: caller(ctx), "data": data}))

    make_reducer(f"insert_caller_one_{member}", insert_one, {})
    make_reducer(f"insert_caller_vec_{member}", insert_vec, {})
    make_reducer(f"insert_caller_unique_{member}", insert_unique, {"data": i32})
    make_reducer(f"insert_caller_pk_{member}", insert_pk, {"data": i32})


make_caller_reducers("identity", "i", lambda ctx: ctx.sender)
make_caller_reducers("connection_id", "a", connection_of)


@m.reducer
def insert_call_timestamp(ctx: ReducerContext) -> None:
    ctx.db[one["timestamp"]].insert(one["timestamp"](t=ctx.timestamp))


@m.reducer
def insert_call_uuid_v4(ctx: ReducerContext) -> None:
    ctx.db[one["uuid"]].insert(one["uuid"](u=ctx.uuid4()))


@m.reducer
def insert_call_uuid_v7(ctx: ReducerContext) -> None:
    ctx.db[one["uuid"]].insert(one["uuid"](u=ctx.uuid7()))


def text_of(value: object) -> str:
    """As upstream's module prints it: booleans in lower case, whole floats without a fraction."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return str(value)


@m.reducer
def insert_primitives_as_strings(ctx: ReducerContext, s: EveryPrimitiveStruct) -> None:
    texts = [text_of(getattr(s, field)) for field in EveryPrimitiveStruct.__annotations__]
    ctx.db[vec["string"]].insert(vec["string"](s=texts))


@m.reducer
def insert_user(ctx: ReducerContext, name: str, identity: Identity) -> None:
    ctx.db[Users].insert(Users(identity=identity, name=name))


@m.reducer
def insert_into_indexed_simple_enum(ctx: ReducerContext, n: SimpleEnum) -> None:
    ctx.db[IndexedSimpleEnum].insert(IndexedSimpleEnum(n=n))


@m.reducer
def update_indexed_simple_enum(ctx: ReducerContext, a: SimpleEnum, b: SimpleEnum) -> None:
    if ctx.db[IndexedSimpleEnum].n.delete(a):
        ctx.db[IndexedSimpleEnum].insert(IndexedSimpleEnum(n=b))


@m.reducer
def sorted_uuids_insert(ctx: ReducerContext) -> None:
    """A thousand in one call; they must come out in the order in which they were made."""
    table = ctx.db[pk["uuid"]]
    for _ in range(1000):
        table.insert(pk["uuid"](u=ctx.uuid7(), data=0))
    stored = [row.u for row in table.iter()]
    if stored != sorted(stored):
        raise ReducerError("UUIDs are not sorted correctly")
