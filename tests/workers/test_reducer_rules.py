"""`spacetime start --check-determinism`, on a real server."""

from __future__ import annotations

import pytest
from conftest import ServerFactory
from patience import until
from server_process import RequestFailed

PROGRAM = b"""
from spacetimedb import *

m = Module()
calls = []


@m.table(public=True)
class Item(Row):
    id: Pk[u64] = auto_inc()
    value: u64


@m.reducer
def add(ctx: ReducerContext, value: u64) -> None:
    ctx.db[Item].insert(Item(value=value))


@m.reducer
def count(ctx: ReducerContext) -> None:
    calls.append(ctx.timestamp)
    add(ctx, len(calls))
"""


def test_reducers_run_twice(start_server: ServerFactory) -> None:
    server = start_server(readers=1, in_memory=True, options=["--check-determinism"])
    server.publish(PROGRAM, "checked")
    server.call("checked", "add", 5)
    with pytest.raises(RequestFailed, match="The instance encountered a fatal error"):
        server.call("checked", "count")
    assert server.sql("checked", "SELECT id, value FROM item") == [[1, 5]]
    text = "`count` is not deterministic: of two runs with the same input, in table `item` one left Item(id=2, value=1)"
    until(lambda: text in server.request("GET", "/v1/database/checked/logs").text)
