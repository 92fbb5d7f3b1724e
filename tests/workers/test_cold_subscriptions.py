"""Joins and look-ups out of large tables that the reader does not know, while things move into what they select."""

from __future__ import annotations

import struct
import threading
from collections import Counter

from server_process import SAMPLES, ServerProcess
from soak import SoakClient
from test_large_subscriptions import OWNERS, PER_CHUNK, ROWS, V2, V3, call

from spacetimedb.protocol import v2_client as v2

DATABASE = "cold-rows"
CHUNKS = 4
AT_ONCE = 30
MOVES = 1500
PATIENCE_S = 60


def test_joins_out_of_tables_that_nobody_knows(server: ServerProcess) -> None:
    server.publish(SAMPLES / "rows.py", DATABASE)
    writers = [SoakClient(server.base_url, 1 + n, V2, DATABASE) for n in range(2)]
    call(writers[0], "populate", 0, ROWS, OWNERS)
    call(writers[0], "place", 0, ROWS, PER_CHUNK)
    readers = [SoakClient(server.base_url, 10 + n, V3 if n % 2 else V2, DATABASE) for n in range(4)]
    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for number, reader in enumerate(readers):
        for set_id, texts in enumerate(queries(number)):
            subscribe(reader, set_id, texts)
    # Sets that come and go: what an answer to Unsubscribe drops has to be what the client holds.
    for turn in range(3):
        for reader in readers:
            wait(reader)
            subscribe(reader, 50 + turn, queries(turn)[0])
            wait(reader)
            reader.client.send(v2.unsubscribe(reader.request(), 50 + turn, True))
            del reader.sets[50 + turn]
    for thread in threads:
        thread.join()
    for reader in readers:
        reader.settle()
    compare(writers[0], readers)
    assert all(reader.updates for reader in readers)
    asked = "SELECT things.* FROM things JOIN places ON things.id = places.id WHERE places.chunk = 0"
    readers[0].client.send(v2.one_off_query(readers[0].request(), asked))
    answer = readers[0].client.receive(PATIENCE_S)
    assert isinstance(answer, v2.OneOffQueryResult)
    assert answer.tables is not None
    assert Counter(("things", row) for row in answer.tables[0].rows.rows()) == readers[0].bags[0]
    joined = "SELECT COUNT(*) AS n FROM things JOIN places ON things.id = places.id"
    assert server.sql(DATABASE, joined) == [[ROWS]]
    for client in (*writers, *readers):
        client.client.drop()


def queries(number: int) -> list[list[str]]:
    """Query sets of one reader; no table of them is read from end to end."""
    join = "JOIN places ON things.id = places.id WHERE"
    return [
        [f"SELECT things.* FROM things {join} places.chunk = {number % CHUNKS}"],
        [f"SELECT places.* FROM things {join} things.owner = {number}"],
        [f"SELECT things.* FROM things {join} places.chunk = {(number + 1) % CHUNKS} AND things.owner = 1"],
        [f"SELECT * FROM things WHERE owner = {number}", f"SELECT * FROM places WHERE chunk = {number % CHUNKS}"],
    ]


def subscribe(reader: SoakClient, set_id: int, texts: list[str]) -> None:
    reader.sets[set_id] = []
    reader.waiting.add(set_id)
    reader.client.send(v2.subscribe(reader.request(), set_id, texts))


def wait(reader: SoakClient) -> None:
    """Until all query sets have come."""
    while reader.waiting:
        reader.take(reader.client.receive(PATIENCE_S))


def write(client: SoakClient) -> None:
    """Moves things into the chunks and out of them, and changes those there; many calls in flight."""
    draw, thing = client.draw, 0
    args: tuple[int, ...]
    for _ in range(MOVES // AT_ONCE):
        wanted = client.answered + AT_ONCE
        for number in range(AT_ONCE):
            if number % 2:  # what has just been moved, perhaps to where its row is not known yet
                name, args = "touch", (thing,)
            else:
                thing = draw.randrange(ROWS if number % 4 else CHUNKS * PER_CHUNK)
                name, args = "move", (thing, draw.randrange(CHUNKS if number % 3 else 2 * CHUNKS))
            client.client.send(v2.call_reducer(client.request(), name, struct.pack(f"<{len(args)}I", *args)))
        while client.answered < wanted:
            client.take(client.client.receive(PATIENCE_S))


def compare(asking: SoakClient, readers: list[SoakClient]) -> None:
    """Every bag is what its queries give over the tables now."""
    tables: dict[str, list[bytes]] = {}
    for name in ("things", "places"):
        asking.client.send(v2.one_off_query(asking.request(), f"SELECT * FROM {name}"))
        answer = asking.client.receive(PATIENCE_S)
        assert isinstance(answer, v2.OneOffQueryResult)
        assert answer.tables is not None
        tables[name] = answer.tables[0].rows.rows()
    chunk_of = dict(struct.iter_unpack("<II", b"".join(tables["places"])))
    things = [(*struct.unpack_from("<II", row), row) for row in tables["things"]]
    places = [(*struct.unpack("<II", row), row) for row in tables["places"]]
    owner_of = {key: owner for key, owner, _ in things}
    for number, reader in enumerate(readers):
        chunk, next_chunk = number % CHUNKS, (number + 1) % CHUNKS
        wanted: list[list[tuple[str, bytes]]] = [
            [("things", row) for key, _, row in things if chunk_of[key] == chunk],
            [("places", row) for key, _, row in places if owner_of[key] == number],
            [("things", row) for key, owner, row in things if chunk_of[key] == next_chunk and owner == 1],
            [("things", row) for _, owner, row in things if owner == number]
            + [("places", row) for _, there, row in places if there == chunk],
        ]
        for set_id, rows in enumerate(wanted):
            assert reader.bags[set_id] == Counter(rows), f"stale rows in {queries(number)[set_id]}"
