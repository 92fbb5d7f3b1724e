"""`spacetime backup`, `restore`, `export` and `import` against real servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import ServerFactory
from server_process import SAMPLES, ServerProcess

from spacetimedb.cli.main import main

ACCOUNTS, BALANCE = 20, 1000
KINDS = b"""
import enum
from typing import Annotated
from spacetimedb import *

m = Module()


class Colour(enum.IntEnum):
    RED = 0
    GREEN = 1


class Circle(Variant[f32]):
    pass


class Label(Variant[str]):
    pass


Shape = Annotated[Circle | Label, Sum("Shape")]


class Place(Struct):
    x: float
    y: f32


@m.table()
class Everything(Row):
    id: Pk[u64] = auto_inc()
    flag: bool
    small: i8
    wide: i128
    huge: u256
    negative: i256
    single: f32
    double: float
    text: str
    data: bytes
    numbers: list[u16]
    texts: list[str]
    maybe: str | None
    maybe_number: u32 | None
    colour: Colour
    shape: Shape
    place: Place
    places: list[Place]
    who: Identity
    connection: ConnectionId
    at: Timestamp
    span: TimeDuration
    uuid: Uuid


@m.table(durable=False)
class Position(Row):
    id: Pk[u32]
    x: u32


@m.reducer
def fill(ctx: ReducerContext) -> None:
    texts = ["", "plain", "a,b", 'quo"te', "line\\nbreak", "null", " space ", "\\u00e9\\u4e2d"]
    doubles = [0.0, -0.0, 1.5, 1e300, float("nan"), float("inf"), float("-inf"), 5e-324]
    for n in range(8):
        ctx.db[Everything].insert(Everything(
            flag=n % 2 == 0, small=n - 4, wide=-(2**100) + n, huge=2**255 + n, negative=-(2**200) - n,
            single=doubles[n] if abs(doubles[n]) < 1e30 else 0.1, double=doubles[n],
            text=texts[n], data=bytes(range(n)),
            numbers=list(range(n)), texts=texts[:n], maybe=None if n == 0 else texts[n],
            shape=Label(texts[n]) if n % 2 else Circle(0.5),
            maybe_number=None if n % 2 else n, colour=Colour.RED if n % 2 else Colour.GREEN,
            place=Place(x=doubles[n], y=0.25), places=[Place(x=n, y=n)] * n,
            who=ctx.sender, connection=ConnectionId.from_int(n), at=ctx.timestamp, span=TimeDuration(-n),
            uuid=Uuid(bytes([n]) * 16),
        ))
    ctx.db[Position].insert(Position(id=1, x=2))


@m.reducer
def one_more(ctx: ReducerContext) -> None:
    row = next(iter(ctx.db[Everything].iter()))
    ctx.db[Everything].insert(replace(row, id=0))


@m.reducer
def clear(ctx: ReducerContext) -> None:
    ctx.db[Everything].clear()
"""
Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs a command with a login of its own; `fails`: it must."""

    def run(server: ServerProcess, *arguments: str | Path, fails: bool = False, login: str = "owner") -> Result:
        words = ["--root-dir", str(tmp_path / login), *map(str, arguments), "-s", server.base_url]
        result = CliRunner().invoke(main, words)
        assert (result.exit_code != 0) == fails, result.output
        return result

    return run


@pytest.fixture
def ledger(server: ServerProcess, cli: Cli, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database `ledger` whose money moves all the time, and entries are appended."""
    name = f"ledger-{abs(hash(request.node.name)) % 10_000}"
    cli(server, "publish", name, "--module-path", SAMPLES / "ledger.py")
    cli(server, "call", name, "open_accounts", str(ACCOUNTS), str(BALANCE))
    stopping = threading.Event()

    def move() -> None:
        number = 0
        while not stopping.is_set():
            server.call(name, "transfer", number % ACCOUNTS, (number + 7) % ACCOUNTS, 3)
            server.call(name, "append", number)
            number += 1

    thread = threading.Thread(target=move)
    thread.start()
    yield name
    stopping.set()
    thread.join()


def test_a_backup_of_a_busy_database_starts_another_server(
    server: ServerProcess, start_server: ServerFactory, cli: Cli, ledger: str, tmp_path: Path
) -> None:
    file = tmp_path / "ledger.backup"
    cli(server, "backup", ledger, file)
    assert "exists" in cli(server, "backup", ledger, file, fails=True).output
    other = start_server()
    told = cli(other, "restore", file, "copy", login="other").output
    assert "Restored copy" in told
    entries = check_ledger(cli, other, "copy")
    cli(other, "call", "copy", "append", "77", login="other")
    assert len(rows_as(cli, other, "copy", "SELECT * FROM entry")) == entries + 1  # with a number of its own
    # It is there, complete, after a kill too.
    other.kill()
    other.start()
    assert check_ledger(cli, other, "copy") == entries + 1


def rows_as(cli: Cli, server: ServerProcess, database: str, query: str) -> list[list[int]]:
    answer = cli(server, "sql", database, query, "--format", "json", login="other").output
    found: list[list[int]] = json.loads(answer)[0]["rows"]
    return found


def check_ledger(cli: Cli, server: ServerProcess, database: str) -> int:
    """The money is all there, entries are in order; the number of entries."""
    balances = rows_as(cli, server, database, "SELECT * FROM accounts")
    assert (len(balances), sum(balance for _, balance in balances)) == (ACCOUNTS, ACCOUNTS * BALANCE)
    values = [value for _, value in sorted(rows_as(cli, server, database, "SELECT * FROM entry"))]
    plain = [value for value in values if value != 77]
    assert plain == list(range(len(plain)))
    return len(values)


def test_a_restore_replaces_nothing_unless_told(server: ServerProcess, cli: Cli, tmp_path: Path) -> None:
    module, file = tmp_path / "kinds.py", tmp_path / "kinds.backup"
    module.write_bytes(KINDS)
    cli(server, "publish", "kinds-a", "--module-path", module)
    cli(server, "call", "kinds-a", "fill")
    cli(server, "backup", "kinds-a", file)
    cli(server, "call", "kinds-a", "clear")
    assert "--overwrite" in cli(server, "restore", file, "kinds-a", fails=True).output
    assert "another identity" in cli(server, "restore", file, "kinds-a", "--overwrite", fails=True, login="b").output
    assert count(cli, server, "kinds-a", "everything") == 0
    cli(server, "restore", file, "kinds-a", "--overwrite")
    assert count(cli, server, "kinds-a", "everything") == 8
    assert count(cli, server, "kinds-a", "position") == 0  # which is not durable
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert "does not match its hash" in cli(server, "restore", file, "kinds-c", fails=True).output
    file.write_bytes(b"something else")
    assert "no backup" in cli(server, "restore", file, "kinds-d", fails=True).output
    assert "cannot be a database's name" in cli(server, "restore", file, "NO NAME", fails=True).output


def count(cli: Cli, server: ServerProcess, database: str, table: str) -> int:
    answer = cli(server, "sql", database, f"SELECT COUNT(*) AS n FROM {table}", "--format", "json").output
    found: int = json.loads(answer)[0]["rows"][0][0]
    return found


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_of_all_types_go_out_and_come_in_again(server: ServerProcess, cli: Cli, tmp_path: Path, form: str) -> None:
    module, name = tmp_path / "kinds.py", f"kinds-{form}"
    module.write_bytes(KINDS)
    cli(server, "publish", name, "--module-path", module)
    cli(server, "call", name, "fill")
    cli(server, "export", name, "-o", tmp_path, "--format", form)
    first = (tmp_path / f"everything.{form}").read_bytes()
    assert (tmp_path / f"position.{form}").exists()
    cli(server, "call", name, "clear")
    assert "8 rows inserted" in cli(server, "import", name, "everything", tmp_path / f"everything.{form}").output
    assert "8 were there already" in cli(server, "import", name, "everything", tmp_path / f"everything.{form}").output
    cli(server, "export", name, "everything", "-o", tmp_path / "again", "--format", form)
    again = (tmp_path / "again").read_bytes()
    assert sorted(first.splitlines()) == sorted(again.splitlines())
    cli(server, "call", name, "one_more")  # its number is none that was imported
    assert count(cli, server, name, "everything") == 9


def test_errors_of_an_import_name_line_and_column(server: ServerProcess, cli: Cli, tmp_path: Path) -> None:
    cli(server, "publish", "imported", "--module-path", SAMPLES / "ledger.py")
    for lines, form, wanted in (
        (['{"id":1,"balance":5}', '{"id":2,"balance":"much"}'], "jsonl", "line 2, column `balance`: invalid type"),
        (['{"id":1,"balance":5}', "", '{"id":2}'], "jsonl", "line 3"),
        (['{"id":1,"balance":5}', '{"id":1,"balance":6}'], "jsonl", "line 2: IndexError: Unique constraint violation"),
        (["id,balance", "1,5", "2,much"], "csv", "line 3, column `balance`"),
        (["id,balance", "1,5,7"], "csv", "line 2: 3 cells"),
        (["id,amount", "1,5"], "csv", "column `balance`: is missing"),
        (["id,balance", "1,5", "4294967296,5"], "csv", "line 3, column `id`"),
    ):
        file = tmp_path / f"rows.{form}"
        file.write_text("\n".join(lines))
        output = cli(server, "import", "imported", "accounts", file, fails=True).output
        assert wanted in output, output
        assert count(cli, server, "imported", "accounts") == 0
    assert "no table `nothing`" in cli(server, "import", "imported", "nothing", file, fails=True).output
