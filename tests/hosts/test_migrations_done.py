"""Migrations carried out on the core of a database: recorded pairs of definitions, with rows, outcomes and log lines.

Every case also shows that a refused plan leaves nothing behind, and that the log leads to the same state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spacetimedb.hosts.database import Database
from spacetimedb.hosts.installation import write_catalogue
from spacetimedb.hosts.migration import Migration, MigrationFailed
from spacetimedb.log.recovery import RecoveredState, initial_state
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.migration import plan
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate
from spacetimedb.store.commit_record import (
    LOGGED,
    MUTATIONS_ONLY,
    NO_READER,
    NO_REDUCER,
    TableDelta,
    build_commit,
    log_payload,
)
from spacetimedb.types.sats_json import row_to_json
from spacetimedb.types.shapes import ProductShape, shape_of
from spacetimedb.types.special import Identity

VECTORS = Path(__file__).parent.parent / "vectors" / "migrations"
CASES = [case for path in sorted(VECTORS.glob("*.json")) for case in json.loads(path.read_text())]
WITH_PLAN = [case for case in CASES if case["outcome"] != "refused_at_plan"]
HEAP_BYTES = 1 << 30
PUBLISHER_PREFIX = "Failed to create or update the database: "


def shapes_of(definition: ModuleDef) -> dict[str, ProductShape]:
    shapes = {table.name: shape_of(table.row_type) for table in definition.all_tables}
    return {name: shape for name, shape in shapes.items() if isinstance(shape, ProductShape)}


class Host:
    """A database of generic rows, without a module. `log` has the lines, `payloads` the commit log."""

    def __init__(self, definition: ModuleDef) -> None:
        heap = RowHeap(Region.private(HEAP_BYTES))
        database = Database(Identity(bytes(32)), Identity(bytes(32)), heap, lambda: 0)
        self.definition = definition
        self.store = database.store
        self.lines: list[str] = []
        self.payloads: list[bytes] = []
        self.table_ids = write_catalogue(database, definition, b"", bytes(32))
        shapes = shapes_of(definition)
        for table in definition.all_tables:
            self.store.add_table(self.table_ids[table.name], table, shapes[table.name])
        self.note(self.store.commit())

    def note(self, deltas: list[TableDelta]) -> None:
        record = build_commit(deltas, MUTATIONS_ONLY, len(self.payloads) + 1, LOGGED, 0, NO_READER, 0, 0, NO_REDUCER, 0)
        self.payloads.append(bytes(log_payload(record)))

    def insert(self, accessor: str, image: bytes) -> None:
        definition = next(t for t in self.definition.all_tables if accessor in (t.accessor_name, t.name))
        table = self.store.tables[self.table_ids[definition.name]]
        table.handle.insert(table.decode(image))
        self.note(self.store.commit())

    def migrate(self, new: ModuleDef) -> None:
        migration = Migration(self.store, plan(self.definition, new), self.table_ids, shapes_of(new), self.lines.append)
        try:
            migration.run()
            self.note(migration.commit())
        except BaseException:
            migration.undo()
            raise
        self.definition, self.table_ids = new, migration.table_ids

    def state(self) -> dict[int, list[bytes]]:
        return {table_id: sorted(table.images()) for table_id, table in self.store.tables.items()}

    def recovered(self) -> RecoveredState:
        state = initial_state()
        for payload in self.payloads:
            transaction, end = state.decode(payload, 0)
            assert end == len(payload)
            state.apply(transaction)
        state.finish()
        return state

    def check(self) -> None:
        """The store agrees with itself, and with what its log says."""
        self.store._check()
        recovered = self.recovered()
        for table_id, images in self.state().items():
            assert images == sorted(recovered.rows(table_id)), self.store.tables[table_id].name
        for table in self.definition.all_tables:
            assert recovered.schema.row_type(self.table_ids[table.name]) == table.row_type


def definition_of(case: Mapping[str, Any], which: str) -> ModuleDef:
    return validate(decode_raw(bytes.fromhex(case[which]["raw_hex"])))


def rows_of(host: Host, name: str) -> list[Any]:
    table = host.store.tables[host.table_ids[name]]
    to_json = row_to_json(table.definition.row_type)
    return [json.loads(to_json(image, 0)[0]) for image in table.images()]


def log_of(case: Mapping[str, Any]) -> list[str]:
    """The lines that steps write."""
    own = ("Updated program to", "Database updated", "Database update failed")
    return [line for line in case.get("module_log", []) if not line.startswith(own)]


@pytest.mark.parametrize("case", WITH_PLAN, ids=lambda case: case["name"])
def test_recorded_case(case: Mapping[str, Any]) -> None:
    host = Host(definition_of(case, "old"))
    for row in case["rows"]:
        host.insert(row["table"], bytes.fromhex(row["bsatn_hex"]))
    host.check()
    before = host.state()
    tables = dict(host.store.tables)
    new = definition_of(case, "new")
    if case["outcome"] == "refused_at_execution":
        with pytest.raises(MigrationFailed) as refusal:
            host.migrate(new)
        assert PUBLISHER_PREFIX + str(refusal.value) == case["error"]
        assert host.state() == before
        assert host.store.tables == tables
    else:
        host.migrate(new)
        for name, expected in case["tables_after"].items():
            assert host.table_ids[name] == expected["table_id"], name
            access = host.store.tables[1].handle.table_id.find(host.table_ids[name]).table_access
            assert access == expected["access"]
            if new.table(name) is not None:
                assert sorted(rows_of(host, name), key=repr) == sorted(expected["rows"], key=repr)
        assert {table.name for table in new.all_tables} <= case["tables_after"].keys()
        # But for ids, the rows that describe the tables are those of a database made from the new definition.
        assert described(host) == described(Host(new))
    host.check()
    if "module_log" in case:
        assert host.lines == log_of(case)


def described(host: Host) -> dict[str, list[Any]]:
    """Rows of the catalogue, ids of tables replaced by names, other ids left out."""
    names = {row.table_id: row.table_name for row in host.store.tables[1].reader.iter()}
    ids = {"table_id", "index_id", "constraint_id", "sequence_id", "schedule_id", "view_id"}
    found: dict[str, list[Any]] = {}
    for table_id in (1, 2, 3, 4, 5, 9, 10, 12, 13, 14, 17, 18, 19, 20):
        table = host.store.tables[table_id]
        rows = found[table.name] = []
        for row in table.reader.iter():
            if table_id == 3 and row.table_id < 4096:
                continue
            values = {field: getattr(row, field) for field in row.__struct_fields__ if field not in ids}
            values["of"] = names.get(getattr(row, "table_id", None))
            rows.append(values)
        rows.sort(key=repr)
    return found
