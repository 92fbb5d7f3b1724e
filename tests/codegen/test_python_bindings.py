"""Generated Python: it type-checks, it means the same bytes as the module, and the command writes and cleans up."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from server_process import ServerProcess

from spacetimedb.client import schema_of
from spacetimedb.client.trio import connect
from spacetimedb.codegen.python import python_files
from spacetimedb.hosts.program import load_program
from spacetimedb.schema.json import schema_v10
from spacetimedb.schema.validation import validate
from spacetimedb.types import codec

TESTS = Path(__file__).parents[1]
PROBE = TESTS / "vectors" / "websocket" / "sessions" / "probe.py"
ROOT = TESTS.parent

TYPED = """
from typing import assert_type

from spacetimedb import Timestamp
from spacetimedb.client import asyncio, blocking, trio
from spacetimedb.client.events import Event
from spacetimedb.module.query import Query

import probe_bindings as db


def inserted(event: Event, row: db.Item) -> None:
    assert_type(row.name, str)


async def use() -> None:
    async with trio.connect("ws://h", "d", module=db) as conn:
        assert_type(await conn.call(db.add_item, 1, "a", 5), Timestamp)
        assert_type(await conn.procedure(db.add, 1, 2), int)
        assert_type(await conn.query(db.Item.score > 3), list[db.Item])
        assert_type(db.Item.score > 3, Query[db.Item])
        table = conn.db[db.Item]
        table.on_insert(inserted)
        assert_type(table.find(db.Item.name, "a"), db.Item | None)
        assert_type(next(iter(conn.db[db.low_items])), db.Item)
        for row in table.filter(db.Item.score, 3):
            assert_type(row, db.Item)
        match next(iter(conn.db[db.Kinds])).shape:
            case db.Circle(radius):
                assert_type(radius, float)
            case db.Rect(point):
                assert_type(point, db.Point)
            case db.Nothing():
                pass
    async with asyncio.connect("ws://h", "d", module=db) as other:
        assert_type(await other.procedure(db.two_tx, 1), str)
    with blocking.connect("ws://h", "d", module=db) as plain:
        assert_type(plain.call(db.add_tag, 1, "text"), Timestamp)
        assert_type(plain.procedure(db.add, 1, 2), int)
"""

WRONG = {
    'conn.call(db.add_item, "1", "a", 5)': "call-overload",
    "conn.call(db.add_item, 1)": "call-overload",
    'conn.db[db.Item].find(db.Item.score, "x")': "misc",
    "conn.db[db.Item].on_insert(shouted)": "arg-type",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bindings of the probe module, made by the command."""
    folder = tmp_path_factory.mktemp("bindings")
    generate(folder / "probe_bindings", "--bin-path", str(PROBE))
    return folder


@pytest.fixture(scope="module")
def bindings(folder: Path) -> Iterator[ModuleType]:
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("probe_bindings")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("probe_bindings", None)


def generate(out_dir: Path, *options: str, lang: str = "python") -> str:
    command = [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(out_dir.parent / "config"), "generate"]
    done = subprocess.run(
        [*command, "--lang", lang, "--out-dir", str(out_dir), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def mypy(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command += [name, "probe_bindings"]
    places = os.environ | {"MYPYPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=places).stdout


def test_typed_use_passes_and_mistakes_are_found(folder: Path) -> None:
    """One run of mypy: the lines of TYPED are right, each line of WRONG is an error of its kind."""
    mistakes = "".join(f"    {line}  # wrong\n" for line in WRONG)
    tail = (
        "\n\ndef shouted(event: Event, row: db.Tag) -> None: ...\n\n\n"
        f"def misuse(conn: blocking.Connection) -> None:\n{mistakes}"
    )
    text = textwrap.dedent(TYPED) + tail
    output = mypy(folder, "usage.py", text)
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines, 1) if line.endswith("# wrong"))
    errors = [line for line in output.splitlines() if line.startswith("usage.py") and ": error:" in line]
    expected = [(f"usage.py:{first + n}", kind) for n, kind in enumerate(WRONG.values())]
    assert [(":".join(e.split(":")[:2]), e.rsplit("[", 1)[1].rstrip("]")) for e in errors] == expected, output


def test_bindings_mean_what_the_module_means(bindings: ModuleType) -> None:
    """Every row and every function: the same bytes, in the classes of the generated code."""
    module = schema_of(load_program(PROBE.read_bytes()))
    generated = schema_of(bindings)
    names = [name for name in module.tables if isinstance(name, str)]
    assert sorted(names) == sorted(name for name in generated.tables if isinstance(name, str))
    for name in names:
        ours, theirs = generated.table(name), module.table(name)
        assert (ours.primary_key, ours.is_event, list(ours.columns)) == (
            theirs.primary_key,
            theirs.is_event,
            list(theirs.columns),
        )
    row = bindings.Kinds(
        id=1,
        opt=None,
        opt_text="x",
        color=bindings.Color.blue,
        shape=bindings.Rect(bindings.Point(x=1, y=-1)),
        numbers=[1, 2],
        data=b"\0\1",
        words=["a"],
        big=-5,
        huge=2**255,
        ratio=0.5,
        flag=True,
        place=bindings.Point(x=3, y=4),
    )
    data = codec(generated.table("kinds").shape).encode(row)
    assert generated.table(bindings.Kinds).decode(data) == row
    assert codec(module.table("kinds").shape).encode(module.table("kinds").decode(data)) == data
    kinds = generated.function("reducer", bindings.set_kinds)
    arguments = [getattr(row, name) for name in kinds.parameters]
    theirs_function = module.function("reducer", "set_kinds")
    assert codec(theirs_function.shape).encode(codec(theirs_function.shape).decode(kinds.encode(tuple(arguments)))[0])


async def test_bindings_against_a_server(
    server: ServerProcess, probe_database: str, bindings: Any, folder: Path
) -> None:
    async with connect(server.ws_url, probe_database, module=bindings) as conn:
        await conn.subscribe(bindings.Kinds, bindings.low_items)
        point = bindings.Point(x=1, y=2)
        shape = bindings.Circle(1.5)
        with trio.fail_after(90):
            await conn.call(
                bindings.set_kinds, 7, 5, None, bindings.Color.green, shape, [1], b"x", [], -1, 1, 2.0, False, point
            )
        row: Any = conn.db[bindings.Kinds].find(bindings.Kinds.id, 7)
        assert row.shape == shape
        assert row.place == point
        assert row.color is bindings.Color.green
        assert await conn.procedure(bindings.add, 2, 3) == 5
        assert await conn.procedures.add(a=4, b=5) == 9
        await conn.reducers.noop()
    # the running database gives the same bindings as its source
    generate(folder / "other", "--database", probe_database, "--server", server.base_url)
    described = (folder / "other" / "__init__.py").read_text()
    assert (
        described.partition("SCHEMA =")[0]
        == (folder / "probe_bindings" / "__init__.py").read_text().partition("SCHEMA =")[0]
    )


MOUNTED = """
from spacetimedb import Module, Pk, ReducerContext, Row, Struct, auto_inc, u32

lib = Module()


class Kind(Struct):
    a: u32


@lib.table(public=True)
class FruitBasket(Row):
    id: Pk[u32] = auto_inc()
    kind: Kind


@lib.reducer
def add_fruit(ctx: ReducerContext, kind: Kind) -> None:
    ctx.db[FruitBasket].insert(FruitBasket(kind=kind))


m = Module()
m.mount("lib", lib)


@m.table(public=True)
class Own(Row):
    id: Pk[u32]
"""


async def test_mounted_modules(server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source, its bindings and the server's schema: tables of a mounted module on all three ways."""
    (tmp_path / "fruit.py").write_text(MOUNTED)
    server.publish(tmp_path / "fruit.py", "fruit-bindings")
    generate(tmp_path / "fruit_bindings", "--bin-path", str(tmp_path / "fruit.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    source, generated = importlib.import_module("fruit"), importlib.import_module("fruit_bindings")
    for module, inner in ((source, source), (generated, generated.lib)):
        async with connect(server.ws_url, "fruit-bindings", module=module) as conn:
            await conn.subscribe(inner.FruitBasket, module.Own)
            before = conn.db[inner.FruitBasket].count()
            await conn.call(inner.add_fruit, inner.Kind(a=before))
            rows = list(conn.db[inner.FruitBasket])
            assert inner.FruitBasket(id=before + 1, kind=inner.Kind(a=before)) in rows
    async with connect(server.ws_url, "fruit-bindings") as conn:
        await conn.subscribe('SELECT * FROM "lib.fruit_basket"')
        assert sorted(row.kind.a for row in conn.db["lib.fruit_basket"]) == [0, 1]


def test_files_are_rewritten_when_changed_and_stale_ones_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = generate(out, "--bin-path", str(PROBE), lang="ts")
    assert "Writing file" in first
    assert "Skipping private tables during codegen: banned, secret." in first
    own = out / "own.ts"
    own.write_text("// mine\n")
    old = out / "old_table.ts"
    old.write_text("// THIS FILE IS AUTOMATICALLY GENERATED BY SPACETIMEDB. EDITS\n")
    again = generate(out, "--bin-path", str(PROBE), lang="ts")
    assert "Writing file" not in again
    assert "old_table.ts" in again
    assert old.exists(), "nobody agreed"
    assert "Writing file" not in generate(out, "--bin-path", str(PROBE), "--yes", lang="ts")
    assert not old.exists()
    assert own.exists()


def test_definitions_from_elsewhere(tmp_path: Path) -> None:
    """`--module-def`: the definition as JSON, as other tools print it."""
    definition = validate(load_program(PROBE.read_bytes()).describe())
    file = tmp_path / "definition.json"
    file.write_text(json.dumps({"V10": json.loads(schema_v10(definition))}))
    generate(tmp_path / "out", "--module-def", str(file))
    assert (tmp_path / "out" / "__init__.py").read_text().partition("SCHEMA =")[0] == python_files(definition)[
        "__init__.py"
    ].partition("SCHEMA =")[0]
    broken = subprocess.run(
        [sys.executable, "-m", "spacetimedb.cli.main", "generate", "-l", "python", "-o", "x", "--module-def", "-"],
        input='{"V10": {"sections": 3}}',
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert broken.returncode == 1
    assert "no module definition of version 10" in broken.stderr
