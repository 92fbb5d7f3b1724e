"""Port of upstream's module `sdk-test-event-table`: rows that are sent and not kept."""

from spacetimedb import Module, ReducerContext, Row, u64

m = Module()


@m.table(public=True, event=True)
class TestEvent(Row):
    name: str
    value: u64


@m.reducer
def emit_test_event(ctx: ReducerContext, name: str, value: u64) -> None:
    ctx.db[TestEvent].insert(TestEvent(name=name, value=value))


@m.reducer
def emit_multiple_test_events(ctx: ReducerContext) -> None:
    for value, name in enumerate("abc", 1):
        emit_test_event(ctx, name, value)


@m.reducer
def noop(ctx: ReducerContext) -> None: ...
