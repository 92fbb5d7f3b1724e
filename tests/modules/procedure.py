"""Port of upstream's module `sdk-test-procedure`: what procedures return, raise, store and ask of other servers."""

from typing import Annotated, TypeAlias

from spacetimedb import (
    HttpError,
    Module,
    ProcedureContext,
    ReducerContext,
    Row,
    Schedule,
    Struct,
    Sum,
    Timestamp,
    Uuid,
    Variant,
    every,
    u8,
    u32,
)

m = Module()
INVALID_URL = "http://foo.invalid/"


class ReturnStruct(Struct):
    a: u32
    b: str


class A(Variant[u32]): ...


class B(Variant[str]): ...


ReturnEnum: TypeAlias = Annotated[A | B, Sum("ReturnEnum")]


@m.table(public=True)
class MyTable(Row):
    field: ReturnStruct


@m.table(public=True)
class ProcInsertsInto(Row):
    reducer_ts: Timestamp
    procedure_ts: Timestamp
    x: u8
    y: u8


@m.table(public=True)
class PkUuid(Row):
    u: Uuid
    data: u8


@m.table()
class ScheduledProcTable(Schedule):
    reducer_ts: Timestamp
    x: u8
    y: u8


@m.procedure
def return_primitive(ctx: ProcedureContext, lhs: u32, rhs: u32) -> u32:
    return lhs + rhs


@m.procedure
def return_struct(ctx: ProcedureContext, a: u32, b: str) -> ReturnStruct:
    return ReturnStruct(a, b)


@m.procedure
def return_enum_a(ctx: ProcedureContext, a: u32) -> ReturnEnum:
    return A(a)


@m.procedure
def return_enum_b(ctx: ProcedureContext, b: str) -> ReturnEnum:
    return B(b)


@m.procedure
def will_panic(ctx: ProcedureContext) -> None:
    raise RuntimeError("This procedure is expected to panic")


@m.procedure
def read_my_schema(ctx: ProcedureContext, server_url: str) -> str:
    url = f"{server_url.rstrip('/')}/v1/database/{ctx.identity.hex()}/schema?version=9"
    return ctx.http.get(url).body.decode()


@m.procedure
def invalid_request(ctx: ProcedureContext) -> str:
    try:
        ctx.http.get(INVALID_URL)
    except HttpError as error:
        return str(error)
    raise RuntimeError(f"{INVALID_URL} has answered")


def insert_my_table(tx: ReducerContext) -> None:
    tx.db[MyTable].insert(MyTable(field=ReturnStruct(42, "magic")))


def count_my_table(tx: ReducerContext) -> int:
    return tx.db[MyTable].count()


@m.procedure
def insert_with_tx_commit(ctx: ProcedureContext) -> None:
    ctx.with_tx(insert_my_table)
    assert ctx.with_tx(count_my_table) == 1


class RollBack(Exception): ...


@m.procedure
def insert_with_tx_rollback(ctx: ProcedureContext) -> None:
    def insert_and_raise(tx: ReducerContext) -> None:
        insert_my_table(tx)
        raise RollBack

    try:
        ctx.with_tx(insert_and_raise)
    except RollBack:
        assert ctx.with_tx(count_my_table) == 0


@m.reducer
def schedule_proc(ctx: ReducerContext) -> None:
    """The procedure runs a second later and stores both times."""
    row = ScheduledProcTable(scheduled_at=every(seconds=1), reducer_ts=ctx.timestamp, x=42, y=24)
    ctx.db[ScheduledProcTable].insert(row)


@m.procedure(on_schedule=ScheduledProcTable)
def scheduled_proc(ctx: ProcedureContext, data: ScheduledProcTable) -> None:
    row = ProcInsertsInto(reducer_ts=data.reducer_ts, procedure_ts=ctx.timestamp, x=data.x, y=data.y)

    def insert(tx: ReducerContext) -> None:
        tx.db[ProcInsertsInto].insert(row)

    ctx.with_tx(insert)


@m.procedure
def sorted_uuids_insert(ctx: ProcedureContext) -> None:
    def insert_and_check(tx: ReducerContext) -> None:
        for _ in range(1000):
            tx.db[PkUuid].insert(PkUuid(u=tx.uuid7(), data=0))
        stored = [row.u for row in tx.db[PkUuid].iter()]
        assert stored == sorted(stored), "UUIDs are not sorted correctly"

    ctx.with_tx(insert_and_check)
