"""Subscriptions to tables that are read in pieces, and their indexes, while every row of them changes."""

from __future__ import annotations

import struct
import threading
from collections import Counter

from server_process import SAMPLES, ServerProcess
from soak import SoakClient

from spacetimedb.protocol import v2_client as v2

ROWS = 40_000
TURNS = 4
OWNERS = 50
PER_CHUNK = 100
V2 = "v2.bsatn.spacetimedb"
V3 = "v3.bsatn.spacetimedb"


def test_large_tables_under_changes(server: ServerProcess) -> None:
    server.publish(SAMPLES / "rows.py", "large-rows")
    writer = SoakClient(server.base_url, 1, V2, "large-rows")
    call(writer, "populate", 0, ROWS, OWNERS)
    call(writer, "place", 0, ROWS, PER_CHUNK)
    stop = threading.Event()
    thread = threading.Thread(target=write, args=(writer, stop))
    thread.start()
    readers = [SoakClient(server.base_url, 10 + n, V3 if n % 2 else V2, "large-rows") for n in range(3)]
    try:
        for turn in range(TURNS):
            for number, reader in enumerate(readers):
                for set_id, texts in enumerate(queries(turn, number)):
                    reader.sets[10 * turn + set_id] = []
                    reader.client.send(v2.subscribe(reader.request(), 10 * turn + set_id, texts))
            for reader in readers:
                reader.drain(0.2)
        for reader in readers:
            while reader.applied < len(reader.sets):
                reader.take(reader.client.receive(30))
    finally:
        stop.set()
        thread.join()
    for reader in readers:
        reader.settle()
    compare(writer, readers)
    for client in (writer, *readers):
        client.client.drop()


def queries(turn: int, number: int) -> list[list[str]]:
    """Query sets: scans of whole tables, look-ups that want an index the second time, joins that want two."""
    chunk = 7 * turn + number
    return [
        ["SELECT * FROM things"] if turn < 2 else ["SELECT * FROM things WHERE value = 0"],
        [f"SELECT * FROM things WHERE value > {turn}"],
        [f"SELECT * FROM things WHERE owner = {chunk % OWNERS}", "SELECT * FROM places"],
        [f"SELECT things.* FROM things JOIN places ON things.id = places.id WHERE places.chunk = {chunk}"],
    ]


def rows_of(query: str, things: list[bytes], places: dict[int, tuple[int, bytes]]) -> list[bytes]:
    """What a query of `queries` gives."""
    if query == "SELECT * FROM places":
        return [row for _, row in places.values()]
    if query == "SELECT * FROM things":
        return things
    number = int(query.rsplit(" ", 1)[1])
    fields = [(struct.unpack_from("<IIQ", row), row) for row in things]
    if "JOIN" in query:
        return [row for (key, _, _), row in fields if key in places and places[key][0] == number]
    if "owner" in query:
        return [row for (_, owner, _), row in fields if owner == number]
    if "value >" in query:
        return [row for (_, _, value), row in fields if value > number]
    return [row for (_, _, value), row in fields if value == number]


def call(client: SoakClient, reducer: str, *args: int) -> None:
    """One call, and what comes until it is answered."""
    wanted = client.answered + 1
    client.client.send(v2.call_reducer(client.request(), reducer, struct.pack(f"<{len(args)}I", *args)))
    while client.answered < wanted:
        client.take(client.client.receive(30))


def write(client: SoakClient, stop: threading.Event) -> None:
    """Changes things, moves and removes places, until told to stop."""
    while not stop.is_set():
        call(client, "touch", client.draw.randrange(ROWS))
        call(client, "move", client.draw.randrange(ROWS), client.draw.randrange(ROWS // PER_CHUNK))


def compare(asking: SoakClient, readers: list[SoakClient]) -> None:
    """Every bag is what its queries give over the tables now."""
    tables: dict[str, list[bytes]] = {}
    for name in ("things", "places"):
        asking.client.send(v2.one_off_query(asking.request(), f"SELECT * FROM {name}"))
        answer = asking.client.receive(30)
        assert isinstance(answer, v2.OneOffQueryResult)
        assert answer.tables is not None
        tables[name] = answer.tables[0].rows.rows()
    things = tables["things"]
    assert len(things) == ROWS
    places = {number: (chunk, row) for row in tables["places"] for number, chunk in [struct.unpack("<II", row)]}
    for number, reader in enumerate(readers):
        for turn in range(TURNS):
            for set_id, texts in enumerate(queries(turn, number)):
                wanted: Counter[tuple[str, bytes]] = Counter()
                for text in texts:
                    name = "places" if text == "SELECT * FROM places" else "things"
                    wanted.update((name, row) for row in rows_of(text, things, places))
                assert reader.bags[10 * turn + set_id] == wanted, f"stale rows in {texts}"
