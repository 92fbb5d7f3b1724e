"""System tables by SQL, as the owner and as others, over HTTP and subscriptions; what nobody else may see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_process import RequestFailed, ServerProcess
from soak import SoakClient

from spacetimedb.protocol import v2_client as v2

DATABASE = "system-tables"
MODULE = b"""
from spacetimedb import *
m = Module()

@m.table(public=True)
class Shown(Row):
    id: Pk[u32] = auto_inc()
    name: Unique[str]
    level: Index[u32]

@m.table()
class Secret(Row):
    id: Pk[u32]

@m.view
def all_of_it(ctx: AnonymousViewContext) -> list[Shown]:
    return list(ctx.db[Shown].iter())

m.row_filter("SELECT * FROM shown WHERE level < 10")

@m.client_connected
def come(ctx: ReducerContext) -> None:
    pass  # changes of st_client are only broadcast if there are hooks

@m.client_disconnected
def go(ctx: ReducerContext) -> None:
    pass

@m.reducer
def add(ctx: ReducerContext, name: str, level: u32) -> None:
    ctx.db[Shown].insert(Shown(name=name, level=level))
    ctx.db[Secret].insert(Secret(id=level))
"""
FIRST_TABLE = 4096
PUBLIC = [
    *("st_table", "st_column", "st_sequence", "st_index", "st_constraint", "st_module", "st_client", "st_var"),
    *("st_scheduled", "st_row_level_security", "st_view", "st_view_param", "st_view_column", "st_view_sub"),
    *("st_view_arg", "st_event_table", "st_table_accessor", "st_index_accessor", "st_column_accessor"),
]
PRIVATE = ["st_connection_credentials", "secret"]


@pytest.fixture(scope="module")
def database(server: ServerProcess) -> ServerProcess:
    server.publish(MODULE, DATABASE)
    server.call(DATABASE, "add", "low", 1)
    server.call(DATABASE, "add", "high", 20)
    return server


@pytest.fixture
def client(database: ServerProcess) -> Iterator[SoakClient]:
    connection = SoakClient(database.base_url, 1, "v2.bsatn.spacetimedb", DATABASE)
    yield connection
    connection.client.drop()


def ask(server: ServerProcess, query: str, is_owner: bool = True) -> list[list[Any]]:
    answer = server.request("POST", f"/v1/database/{DATABASE}/sql", query, authorized=is_owner)
    rows: list[list[Any]] = answer.json()[0]["rows"]
    return rows


@pytest.mark.parametrize("is_owner", [True, False])
def test_what_they_say(database: ServerProcess, is_owner: bool) -> None:
    def find(query: str) -> list[list[Any]]:
        return ask(database, query, is_owner)

    assert find("SELECT * FROM st_table WHERE table_id = 1") == [[1, "st_table", "system", "public", [0, [0]]]]
    tables = find(
        f"SELECT table_id, table_name, table_type, table_access FROM st_table WHERE table_id >= {FIRST_TABLE}"
    )
    # In the order of their names, views behind all tables.
    assert sorted(tables)[:2] == [
        [FIRST_TABLE, "secret", "user", "private"],
        [FIRST_TABLE + 1, "shown", "user", "public"],
    ]
    shown = find("SELECT col_pos, col_name FROM st_column WHERE table_id = 4097")
    assert sorted(shown) == [[0, "id"], [1, "name"], [2, "level"]]
    indexes = find("SELECT index_name FROM st_index WHERE table_id = 4097")
    assert sorted(indexes) == [["shown_id_idx_btree"], ["shown_level_idx_btree"], ["shown_name_idx_btree"]]
    assert len(find("SELECT * FROM st_sequence WHERE table_id = 4097")) == 1
    assert len(find("SELECT * FROM st_constraint WHERE table_id = 4097")) == 2
    assert find("SELECT sql FROM st_row_level_security") == [["SELECT * FROM shown WHERE level < 10"]]
    assert find("SELECT view_name, is_public, is_anonymous FROM st_view") == [["all_of_it", True, True]]
    joined = find(
        "SELECT c.col_name FROM st_table t JOIN st_column c ON t.table_id = c.table_id WHERE t.table_name = 'secret'"
    )
    assert joined == [["id"]]


@pytest.mark.parametrize("name", PUBLIC)
def test_everybody_reads_them(database: ServerProcess, client: SoakClient, name: str) -> None:
    owners = ask(database, f"SELECT * FROM {name}")
    if name != "st_client":  # whoever asks is in it
        assert ask(database, f"SELECT * FROM {name}", is_owner=False) == owners
    client.client.send(v2.subscribe(1, 1, [f"SELECT * FROM {name}"]))
    applied = client.client.receive()
    assert isinstance(applied, v2.SubscribeApplied)
    if name != "st_client":
        assert sum(len(table.rows.rows()) for table in applied.tables) == len(owners)


@pytest.mark.parametrize("name", PRIVATE)
def test_private_ones_do_not_exist_for_others(database: ServerProcess, client: SoakClient, name: str) -> None:
    text = f"no such table: `{name}`. If the table exists, it may be marked private."
    assert isinstance(ask(database, f"SELECT * FROM {name}"), list)
    queries = [f"SELECT * FROM {name}", f"SELECT shown.* FROM shown JOIN {name} ON shown.level = {name}.id"]
    for query in queries:
        with pytest.raises(RequestFailed) as refused:
            ask(database, query, is_owner=False)
        assert (refused.value.status, refused.value.text) == (400, text)
        client.client.send(v2.subscribe(1, 1, [query]))
        answer = client.client.receive()
        assert isinstance(answer, v2.SubscriptionError)
        assert answer.error == f"{text}, executing: `{query}`"
        client.client.send(v2.one_off_query(1, query))
        found = client.client.receive()
        assert isinstance(found, v2.OneOffQueryResult)
        assert found.error == text
    client.client.send(v2.subscribe(2, 2, ["SELECT * FROM *"]))
    everything = client.client.receive()
    assert isinstance(everything, v2.SubscribeApplied)
    assert {table.table for table in everything.tables} == {"shown", "all_of_it"}


def test_connections_come_and_go_in_st_client(database: ServerProcess, client: SoakClient) -> None:
    client.client.send(v2.subscribe(1, 1, ["SELECT * FROM st_client"]))
    applied = client.client.receive()
    assert isinstance(applied, v2.SubscribeApplied)
    before = {row for table in applied.tables for row in table.rows.rows()}
    other = SoakClient(database.base_url, 2, "v2.bsatn.spacetimedb", DATABASE)
    come = changed(client)
    assert len(come[0]) == 1
    assert not come[1]
    assert not before & set(come[0])
    other.client.drop()
    assert changed(client) == ([], come[0])


def changed(client: SoakClient) -> tuple[list[bytes], list[bytes]]:
    """(inserts, deletes) of the next update."""
    update = client.client.receive()
    assert isinstance(update, v2.TransactionUpdate)
    (rows,) = update.query_sets[0].tables[0].rows
    assert isinstance(rows, v2.PersistentRows)
    return rows.inserts.rows(), rows.deletes.rows()


@pytest.mark.parametrize("table", ["st_table", "st_client", "st_row_level_security", "shown", "secret"])
def test_others_change_nothing(database: ServerProcess, table: str) -> None:
    with pytest.raises(RequestFailed):
        ask(database, f"DELETE FROM {table}", is_owner=False)
    if table.startswith("st_"):
        with pytest.raises(RequestFailed):
            ask(database, f"DELETE FROM {table}")
