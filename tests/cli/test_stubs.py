"""`spacetime stubs`, and what type checkers make of `ctx.db.<table>` with a stub and with a schema class."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from server_process import ServerProcess

import spacetimedb
from spacetimedb.cli.main import main
from spacetimedb.cli.packaging import program_bytes

GAME = """from typing import TYPE_CHECKING

from spacetimedb import AnonymousViewContext, Index, Module, Pk, ReducerContext, Row, Schema
from spacetimedb import auto_inc, default, table, u32

{imports}

m = Module()
{mounts}

class Player(Row):
    id: Pk[u32] = auto_inc()
    name: str
    level: Index[u32] = default(1)

{tables}

@m.reducer
def join(ctx: {context}, name: str) -> None:
    ctx.db.player.insert(Player(name=name))
    found = ctx.db.player.id.find(1)
    if found is not None:
        ctx.db.retired.insert(found)


@m.view
def beginners(ctx: AnonymousViewContext[{tables_name}]) -> list[Player]:
    return list(ctx.db.player.level.filter(le=1))


def wrong(ctx: {context}) -> None:
    ctx.db.player.id.find("x")  # error
    ctx.db.player.insert(3)  # error
    ctx.db.plyer.count()  # error
    name: str = ctx.db.retired.level.count(le=3)  # error
"""
DECORATED = """
m.table(public=True)(Player)
retired = m.add_table(Player, name="retired")


@m.every(seconds=1000)
def tick(ctx: {context}) -> None:
    ctx.db.tick_timer.count()
"""
SCHEMA = """
@m.schema
class Tables(Schema):
    player = table(Player, public=True)
    retired = table(Player)
"""
LIBRARY = """from spacetimedb import Module, Row

m = Module()


@m.table(public=True)
class Line(Row):
    text: str
"""


def source(stub: str | None, mounts: str = "", imports: str = "") -> str:
    quoted = '"Tables"' if stub else "Tables"
    context = f"ReducerContext[{quoted}]"
    if stub:
        imports += f"\nif TYPE_CHECKING:\n    from {stub} import Tables\n"
    tables = DECORATED.format(context=context) if stub else SCHEMA
    return GAME.format(imports=imports, context=context, tables=tables, tables_name=quoted, mounts=mounts)


def errors(folder: Path, *what: str) -> list[int]:
    """Lines that mypy --strict reports."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *what]
    places = {**os.environ, "MYPYPATH": str(Path(spacetimedb.__file__).parents[1])}
    output = subprocess.run(command, cwd=folder, env=places, capture_output=True, text=True, timeout=300).stdout
    return [int(line.split(":")[1]) for line in output.splitlines() if " error: " in line]


def marked(file: Path) -> list[int]:
    return [n for n, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# error")]


def spacetime(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


def test_a_module_with_a_stub(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "game.py"
    file.write_text(source("game_tables"))
    assert spacetime("stubs", "--check", str(file))[0] == 1
    code, output = spacetime("stubs", str(file))
    assert code == 0, output
    assert (tmp_path / "game_tables.pyi").is_file()
    assert spacetime("stubs", "--check", str(file))[0] == 0
    assert errors(tmp_path, "game.py") == marked(file)
    server.publish(program_bytes(file), "stubbed")
    server.call("stubbed", "join", "Ann")
    assert server.sql("stubbed", "SELECT * FROM retired") == [[1, "Ann", 1]]
    file.write_text(file.read_text().replace('name="retired"', 'name="gone"'))
    code, output = spacetime("stubs", "--check", str(file))
    assert (code, "out of date" in output) == (1, True)


def test_a_package_with_a_mounted_module(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "library.py").write_text(LIBRARY)
    text = source(".shop_tables", imports="from . import library", mounts='m.mount("lib", library.m)')
    more = 'ctx.db.lib.line.insert(library.Line(text="x"))\n    found = ctx'
    (package / "__init__.py").write_text(text.replace("found = ctx", more))
    code, output = spacetime("stubs", str(package))
    assert code == 0, output
    assert errors(tmp_path, "-p", "shop") == marked(package / "__init__.py")


def test_a_schema_class(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "game.py"
    file.write_text(source(None))
    assert errors(tmp_path, "game.py") == marked(file)
    server.publish(program_bytes(file), "schema-class")
    server.call("schema-class", "join", "Ann")
    assert server.sql("schema-class", "SELECT * FROM retired") == [[1, "Ann", 1]]
    assert server.sql("schema-class", "SELECT * FROM beginners") == [[1, "Ann", 1]]
