"""SQL over HTTP and one-off queries against a real server: what goes beyond SpacetimeDB, limits, plans."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import ServerFactory
from server_process import SAMPLES, RequestFailed, ServerProcess
from soak import SoakClient

from spacetimedb.protocol import v2_client as v2

DATABASE = "sql-rows"
PAGES = "sql-pages"
ROWS = 40_000
OWNERS = 100
PATIENCE_S = 60.0
LIMIT_TEXT = "Estimated cardinality (40000 rows) exceeds limit (100 rows)"


@pytest.fixture(scope="module")
def rows(server: ServerProcess) -> ServerProcess:
    """The server, with a large table."""
    server.publish(SAMPLES / "rows.py", DATABASE)
    server.call(DATABASE, "populate", 0, ROWS, OWNERS)
    return server


def stranger_sql(server: ServerProcess, query: str, database: str = DATABASE) -> list[list[Any]]:
    """Rows for a caller that does not own the database."""
    answer = server.request("POST", f"/v1/database/{database}/sql", query, authorized=False)
    found: list[list[Any]] = answer.json()[0]["rows"]
    return found


def one_off(client: SoakClient, query: str) -> v2.OneOffQueryResult:
    """The answer to a one-off query."""
    client.client.send(v2.one_off_query(client.request(), query))
    answer = client.client.receive()
    assert isinstance(answer, v2.OneOffQueryResult)
    return answer


def test_order_and_aggregates(rows: ServerProcess) -> None:
    found = rows.sql(DATABASE, "SELECT id FROM things WHERE owner = 7 ORDER BY id DESC LIMIT 2 OFFSET 1")
    assert found == [[ROWS - 2 * OWNERS + 7], [ROWS - 3 * OWNERS + 7]]
    found = rows.sql(DATABASE, "SELECT owner, COUNT(*) AS n FROM things GROUP BY owner ORDER BY owner LIMIT 2")
    assert found == [[0, ROWS // OWNERS], [1, ROWS // OWNERS]]
    found = rows.sql(DATABASE, "SELECT id, owner AS o FROM things ORDER BY o DESC, id LIMIT 3 OFFSET 1")
    assert found == [[n * OWNERS - 1, OWNERS - 1] for n in (2, 3, 4)]
    found = rows.sql(DATABASE, "SELECT COUNT(*) AS n, SUM(id) AS s, AVG(id) AS a, MAX(id) AS b FROM things")
    assert found == [[ROWS, ROWS * (ROWS - 1) // 2, (ROWS - 1) / 2, ROWS - 1]]
    assert len(rows.sql(DATABASE, "SELECT * FROM things LIMIT 5000")) == 5000


def test_searches_again_and_again_see_changes(rows: ServerProcess) -> None:
    client = SoakClient(rows.base_url, 1, "v2.bsatn.spacetimedb", DATABASE)
    for value in range(1, 6):
        rows.call(DATABASE, "touch", 4321)
        assert rows.sql(DATABASE, "SELECT value FROM things WHERE id = 4321") == [[value]]
        answer = one_off(client, "SELECT * FROM things WHERE id = 4321")
        assert answer.tables is not None
        (row,) = answer.tables[0].rows.rows()
        assert int.from_bytes(row[8:16], "little") == value
    assert rows.sql(DATABASE, "SELECT id FROM things WHERE value = 5") == [[4321]]
    client.client.drop()


def cost_lines(server: ServerProcess, query: str, are_there: Callable[[list[str]], bool]) -> list[str]:
    """The lines of the metrics about a query, as soon as the readers have said what is awaited."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        text = server.request("GET", "/v1/metrics").text
        lines = [line for line in text.splitlines() if f'query="{query}"' in line]
        if are_there(lines):
            return lines
        assert time.monotonic() < deadline, lines or text
        time.sleep(0.05)


def test_explain_and_metrics(rows: ServerProcess) -> None:
    client = SoakClient(rows.base_url, 2, "v2.bsatn.spacetimedb", DATABASE)
    query = "SELECT * FROM things WHERE value > 1000"
    client.client.send(v2.subscribe(1, 1, [query]))
    client.sets[1] = []
    client.take(client.client.receive())
    rows.call(DATABASE, "touch", 1)
    client.settle()
    steps = rows.sql(DATABASE, f"EXPLAIN {query}")
    assert steps[0] == ["scan", f"things: {ROWS} rows"]
    assert steps[1] == ["filter", "things.value > 1000"]
    assert steps[2] == ["estimate", f"{2 * ROWS} rows looked at"]
    told = one_off(client, f"EXPLAIN {query}")
    assert told.tables is not None
    assert any(b"scan" in row for row in told.tables[0].rows.rows())
    lines = cost_lines(rows, query, lambda lines: len(lines) > 0)
    assert any(line.startswith("spacetime_query_seconds_total") for line in lines)
    client.client.drop()


CLIENTS = 10


def test_costs_are_those_of_all_readers(start_server: ServerFactory) -> None:
    server = start_server(readers=2, in_memory=True)
    server.publish(SAMPLES / "rows.py", DATABASE)
    server.call(DATABASE, "populate", 0, 10, 10)
    query = "SELECT * FROM things WHERE value > 0"
    clients = [SoakClient(server.base_url, n, "v2.bsatn.spacetimedb", DATABASE) for n in range(CLIENTS)]
    for client in clients:
        client.client.send(v2.subscribe(1, 1, [query]))
        client.sets[1] = []
        client.take(client.client.receive())
    server.call(DATABASE, "touch", 1)
    for client in clients:
        client.settle()
    # Whoever answers, and though each reader knows its own clients only.
    for client in clients:
        told = one_off(client, f"EXPLAIN {query}")
        assert told.tables is not None
        assert any(f"{CLIENTS} clients".encode() in row for row in told.tables[0].rows.rows())
        assert ["subscribers", f"{CLIENTS} clients"] in server.sql(DATABASE, f"EXPLAIN {query}")
    subscribers = f" {CLIENTS}"
    cost_lines(
        server,
        query,
        lambda lines: any("query_subscribers" in line and line.endswith(subscribers) for line in lines),
    )
    for client in clients:
        client.client.drop()


def test_row_limit_binds_strangers(rows: ServerProcess) -> None:
    rows.sql(DATABASE, "SET row_limit = 100")
    try:
        assert rows.sql(DATABASE, "SELECT COUNT(*) AS n FROM things") == [[ROWS]]
        with pytest.raises(RequestFailed) as refused:
            stranger_sql(rows, "SELECT * FROM things")
        assert refused.value.status == 400
        assert refused.value.text == LIMIT_TEXT
        assert len(stranger_sql(rows, "SELECT * FROM things WHERE id = 5")) == 1
        client = SoakClient(rows.base_url, 3, "v2.bsatn.spacetimedb", DATABASE)
        assert one_off(client, "SELECT * FROM things").error == LIMIT_TEXT
        client.client.send(v2.subscribe(7, 1, ["SELECT * FROM things"]))
        answer = client.client.receive()
        assert isinstance(answer, v2.SubscriptionError)
        assert answer.error == LIMIT_TEXT
        client.client.drop()
    finally:
        rows.sql(DATABASE, "DELETE FROM st_var WHERE name = 'row_limit'")
    assert len(stranger_sql(rows, "SELECT * FROM things")) == ROWS


def test_pages_of_a_large_table(server: ServerProcess) -> None:
    """Each row is on one page, in the order of insertion, and a caller's own changes are seen at once."""
    server.publish(SAMPLES / "rows.py", PAGES)
    server.call(PAGES, "populate", 0, ROWS, OWNERS)
    size = 1000
    for offset in (0, 17_000, ROWS - size):
        page = server.sql(PAGES, f"SELECT * FROM things LIMIT {size} OFFSET {offset}")
        assert [row[0] for row in page] == list(range(offset, offset + size))
    assert server.sql(PAGES, f"SELECT id FROM things LIMIT {size} OFFSET {ROWS - 1}") == [[ROWS - 1]]
    assert server.sql(PAGES, f"SELECT * FROM things LIMIT {size} OFFSET {ROWS}") == []
    assert server.sql(PAGES, f"SELECT * FROM things LIMIT {size} OFFSET {2**64 - 1}") == []
    assert server.sql(PAGES, "SELECT * FROM things LIMIT 0") == []
    assert server.sql(PAGES, "SELECT id FROM things LIMIT 2") == [[0], [1]]
    for number in range(1, 4):
        server.sql(PAGES, f"DELETE FROM things WHERE id = {number}")
        assert server.sql(PAGES, "SELECT COUNT(*) AS n FROM things") == [[ROWS - number]]
    server.call(PAGES, "touch", 4)
    assert [row[0] for row in server.sql(PAGES, "SELECT * FROM things LIMIT 3")] == [0, 4, 5]
    assert stranger_sql(server, "SELECT id FROM things LIMIT 2", PAGES) == [[0], [4]]
    assert stranger_sql(server, "SELECT COUNT(*) AS n FROM things", PAGES) == [[ROWS - 3]]
    # The same once a reader knows the table.
    assert server.sql(PAGES, "SELECT COUNT(*) AS n FROM things WHERE value > 0") == [[1]]
    assert server.sql(PAGES, f"SELECT id FROM things LIMIT 5 OFFSET {ROWS - 5}") == [[ROWS - 2], [ROWS - 1]]
