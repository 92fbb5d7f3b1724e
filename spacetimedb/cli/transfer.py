"""`spacetime export` and `spacetime import`: rows of tables as text files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

import click

from .api import Server, require
from .options import OptionalValues, Settings, pass_settings, server_option, yes_option
from .progress import progress
from .schema import Schema

if TYPE_CHECKING:
    from .row_files import Format, RowText

BATCH_ROWS = 5000
BATCH_BYTES = 1 << 20
"""A transaction of an import has so many rows, or bytes, at most (one row may be longer)."""
_ROW = re.compile(r"row (\d+): (.*)", re.DOTALL)


def _texts(schema: Schema) -> dict[str, RowText]:
    """Of every table that holds rows."""
    from ..types.algebraic import Product, Typespace, type_from_json
    from .row_files import RowText

    found = {}
    for name, table in schema.tables.items():
        if table.is_view or table.raw.get("is_event"):
            continue
        typespace = Typespace(tuple(map(type_from_json, table.typespace)))
        row_type = typespace.resolve(type_from_json(table.row_type))
        assert isinstance(row_type, Product)
        found[name] = RowText(row_type, typespace)
    return found


def _chosen(names: Sequence[str], texts: dict[str, RowText], database: str) -> list[str]:
    for name in names:
        if name not in texts:
            known = ", ".join(texts) or "none"
            raise click.ClickException(f"{database} has no table `{name}` that holds rows; it has: {known}")
    return list(names) or list(texts)


@click.command("export", cls=OptionalValues)
@click.argument("database")
@click.argument("tables", nargs=-1)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=".", show_default=True,
    help="Directory for one file per table; with one table a file, or - for standard output.",
)  # fmt: skip
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@server_option
@yes_option
@pass_settings
def export_tables(
    settings: Settings,
    database: str,
    tables: tuple[str, ...],
    out: Path,
    form: Format,
    overwrite: bool,
    server: str | None,
    yes: frozenset[str],
) -> None:
    """Writes the rows of TABLES of DATABASE (none named: of all), all as they are after the same transaction."""
    target = settings.connect(server)
    identity = target.resolve(database)
    texts = _texts(Schema(target.schema(identity)))
    names = _chosen(tables, texts, database)
    if not names:
        raise click.ClickException(f"{database} has no tables")
    one_file = len(tables) == 1 and (str(out) == "-" or not out.is_dir())
    files = {name: out if one_file else out / f"{name}.{form}" for name in names}
    for file in files.values():
        if str(file) != "-" and file.exists() and not overwrite:
            raise click.ClickException(f"{file} exists; --overwrite replaces it")
    rows = _fetch(target, identity, names)
    for name, file in files.items():
        _write(file, texts[name], rows.pop(name), form, name)


def _fetch(target: Server, identity: str, names: Sequence[str]) -> dict[str, list[bytes]]:
    """Rows of the tables, all as of one transaction."""
    import trio

    from ..protocol import v2_client as v2
    from .session import SessionLost, SessionRefused, open_session

    async def fetch() -> dict[str, list[bytes]]:
        async with open_session(target.url, identity, token=target.token) as session:
            queries = [f'SELECT * FROM "{name}"' for name in names]
            await session.send(v2.subscribe(session.next_request(), 1, queries))
            while True:
                for message in await session.receive():
                    if isinstance(message, v2.SubscriptionError):
                        raise click.ClickException(message.error)
                    if isinstance(message, v2.SubscribeApplied):
                        found: dict[str, list[bytes]] = {name: [] for name in names}
                        for table in message.tables:
                            found[table.table] += table.rows.rows()
                        return found

    target.close()
    try:
        return trio.run(fetch)
    except (SessionRefused, SessionLost) as error:
        raise click.ClickException(str(error)) from None


def _write(file: Path, text: RowText, rows: Sequence[bytes], form: Format, name: str) -> None:
    from .row_files import write_rows

    try:
        with _opened(file) as out, progress(f"Writing {name}", len(rows), "rows") as advance:
            for done in write_rows(out, text, rows, form):
                advance(done)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"{name}: {len(rows)} rows" + ("" if str(file) == "-" else f" in {file}"), err=True)


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    if str(file) == "-":
        yield sys.stdout
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        yield out


@click.command("import", cls=OptionalValues)
@click.argument("database")
@click.argument("table")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), help="Otherwise by FILE's ending.")
@server_option
@yes_option
@pass_settings
def import_table(
    settings: Settings,
    database: str,
    table: str,
    file: Path,
    form: Format | None,
    server: str | None,
    yes: frozenset[str],
) -> None:
    """Inserts the rows in FILE (JSON lines or CSV, as `spacetime export` writes them) into TABLE of DATABASE.

    They go in by transactions of a few thousand rows. At an error the transaction that has it, and what follows, is
    not inserted; everything before is. Rows that are there already are passed over, so it can be run again.
    """
    from .row_files import BadRow, read_rows

    chosen: Format | None = form or {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}.get(file.suffix)  # type: ignore[assignment]
    if chosen is None:
        raise click.ClickException(f"{file}: say what it is with --format jsonl or --format csv")
    target = settings.connect(server)
    identity = target.resolve(database)
    texts = _texts(Schema(target.schema(identity)))
    _chosen([table], texts, database)
    batches = _Import(target, f"/v1/database/{identity}/import/{quote(table, safe='')}", file)
    with (
        file.open(encoding="utf-8", newline="") as source,
        progress(f"Inserting into {table}", file.stat().st_size) as advance,
    ):
        try:
            for line, row in read_rows(source, texts[table], chosen):
                if batches.add(line, row):
                    advance(batches.sent_bytes())
            batches.send()
        except BadRow as error:
            raise batches.failed(str(error)) from None
        except UnicodeDecodeError as error:
            raise batches.failed(f"behind line {batches.last_line}: the file is not UTF-8 ({error.reason})") from None
    click.echo(f"{batches.inserted} rows inserted into {table}" + batches.note())


class _Import:
    """Rows that wait for their transaction, with their lines."""

    def __init__(self, target: Server, path: str, file: Path) -> None:
        self.inserted = 0
        self.last_line = 0
        self._target, self._path, self._file = target, path, file
        self._rows: list[bytes] = []
        self._lines: list[int] = []
        self._size = self._sent = 0
        self._total = 0

    def add(self, line: int, row: bytes) -> bool:
        """Takes one more row; whether some were sent."""
        self.last_line = line
        self._rows.append(row)
        self._lines.append(line)
        self._size += len(row)
        if len(self._rows) < BATCH_ROWS and self._size < BATCH_BYTES:
            return False
        self.send()
        return True

    def send(self) -> None:
        """Inserts what waits. ClickException with the line if a row is to blame."""
        if not self._rows:
            return
        answer = self._target.request("POST", self._path, body=b"".join(self._rows))
        found = _ROW.fullmatch(answer.text) if answer.status == 400 else None
        if found is not None:
            raise self.failed(f"line {self._lines[int(found[1])]}: {found[2]}")
        self.inserted += int(require(answer, self._target.url).json()["inserted"])
        self._total += len(self._rows)
        self._sent = self._size
        self._rows.clear()
        self._lines.clear()
        self._size = 0

    def sent_bytes(self) -> int:
        """How much the last transaction had."""
        return self._sent

    def failed(self, what: str) -> click.ClickException:
        """The error, and what is in the table."""
        return click.ClickException(f"{self._file}: {what}\n{self.inserted} rows were inserted before.")

    def note(self) -> str:
        """What became of the others."""
        there = self._total - self.inserted
        return f"; {there} were there already" if there else ""
