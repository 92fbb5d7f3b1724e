"""Port of upstream's module `sdk-test-procedure-concurrency`: what else runs while a procedure waits.

Rows are numbered as they are inserted and say who inserted them.
"""

from spacetimedb import Module, ProcedureContext, ReducerContext, Row, Schedule, TimeDuration, after, at, auto_inc, u32

m = Module()
PATIENCE = TimeDuration.seconds(10)
PAUSE_SECONDS = 0.1


@m.table(public=True)
class ProcedureConcurrencyRow(Row):
    insertion_order: u32 = auto_inc()
    insertion_context: str


@m.table()
class ScheduledReducerRow(Schedule): ...


@m.table()
class ScheduledProcedureRow(Schedule): ...


def insert_row(ctx: ReducerContext, insertion_context: str) -> None:
    ctx.db[ProcedureConcurrencyRow].insert(ProcedureConcurrencyRow(insertion_context=insertion_context))


def somebody_else_was_here(tx: ReducerContext) -> bool:
    return any(row.insertion_context != "procedure_before" for row in tx.db[ProcedureConcurrencyRow].iter())


def wait_for_somebody_else(ctx: ProcedureContext) -> None:
    deadline = ctx.timestamp + PATIENCE
    while ctx.timestamp < deadline:
        ctx.sleep(PAUSE_SECONDS)
        if ctx.with_tx(somebody_else_was_here):
            return
    raise RuntimeError("nobody else has inserted a row")


@m.reducer
def insert_reducer_row(ctx: ReducerContext) -> None:
    insert_row(ctx, "reducer")


@m.procedure
def procedure_sleep_between_inserts(ctx: ProcedureContext) -> None:
    ctx.with_tx(insert_row, "procedure_before")
    wait_for_somebody_else(ctx)
    ctx.with_tx(insert_row, "procedure_after")


@m.reducer(on_schedule=ScheduledReducerRow)
def insert_scheduled_reducer(ctx: ReducerContext, schedule: ScheduledReducerRow) -> None:
    insert_row(ctx, "scheduled_reducer")


@m.procedure
def procedure_schedule_reducer_between_inserts(ctx: ProcedureContext) -> None:
    def insert_and_schedule(tx: ReducerContext) -> None:
        insert_row(tx, "procedure_before")
        tx.db[ScheduledReducerRow].insert(ScheduledReducerRow(scheduled_at=at(tx.timestamp)))

    ctx.with_tx(insert_and_schedule)
    wait_for_somebody_else(ctx)
    ctx.with_tx(insert_row, "procedure_after")


@m.procedure(on_schedule=ScheduledProcedureRow)
def scheduled_procedure_sleep_between_inserts(ctx: ProcedureContext, schedule: ScheduledProcedureRow) -> None:
    ctx.with_tx(insert_row, "scheduled_procedure_before")
    ctx.sleep(10)
    ctx.with_tx(insert_row, "scheduled_procedure_after")


@m.reducer
def schedule_procedure_then_reducer(ctx: ReducerContext) -> None:
    ctx.db[ScheduledProcedureRow].insert(ScheduledProcedureRow(scheduled_at=at(ctx.timestamp)))
    ctx.db[ScheduledReducerRow].insert(ScheduledReducerRow(scheduled_at=after(ctx, seconds=2)))
