"""Test module `ledger`: money that only moves, and a list that only grows (driven by scripts/soak_kill.py)."""

from spacetimedb import Module, Pk, ReducerContext, Row, auto_inc, i64, u32, u64

m = Module()


@m.table(public=True)
class Accounts(Row):
    id: Pk[u32]
    balance: i64


@m.table(public=True)
class Entry(Row):
    id: Pk[u64] = auto_inc()
    value: u64


@m.reducer
def open_accounts(ctx: ReducerContext, count: u32, balance: i64) -> None:
    for number in range(count):
        ctx.db[Accounts].insert(Accounts(id=number, balance=balance))


@m.reducer
def transfer(ctx: ReducerContext, payer: u32, payee: u32, amount: i64) -> None:
    accounts = ctx.db[Accounts].id
    source, target = accounts.get(payer), accounts.get(payee)
    source.balance -= amount
    accounts.update(source)
    target.balance += amount
    accounts.update(target)


@m.reducer
def append(ctx: ReducerContext, value: u64) -> None:
    ctx.db[Entry].insert(Entry(value=value))
