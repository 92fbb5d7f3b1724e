"""Benchmark module `bank`: accounts and transfers between them (driven by scripts/bench/transfer.mjs)."""

from spacetimedb import Module, Pk, ReducerContext, ReducerError, Row, i64, u32

m = Module()


@m.table(public=True)
class Accounts(Row):
    id: Pk[u32]
    balance: i64


@m.reducer
def seed(ctx: ReducerContext, n: u32, initial_balance: i64) -> None:
    """Empties the table and opens the accounts 0..n-1."""
    accounts = ctx.db[Accounts]
    accounts.clear()
    for number in range(n):
        accounts.insert(Accounts(id=number, balance=initial_balance))


@m.reducer
def transfer(ctx: ReducerContext, from_: u32, to: u32, amount: i64) -> None:
    """Moves `amount` from one account to another, or fails without a trace."""
    if from_ == to:
        raise ReducerError("same_account")
    if amount <= 0:
        raise ReducerError("non_positive_amount")
    accounts = ctx.db[Accounts].id
    payer, payee = accounts.find(from_), accounts.find(to)
    if payer is None or payee is None:
        raise ReducerError("account_missing")
    if payer.balance < amount:
        raise ReducerError("insufficient_funds")
    payer.balance -= amount
    payee.balance += amount
    accounts.update(payer)
    accounts.update(payee)
