"""`spacetime extract-schema`: what the official generator reads."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from spacetimedb.cli.main import main

MODULE = """
from spacetimedb import Module, Pk, Row, u32

print("loading")
m = Module()


@m.table(public=True)
class Item(Row):
    id: Pk[u32]
"""


def test_the_definition_alone_is_on_stdout(tmp_path: Path) -> None:
    source = tmp_path / "shop.py"
    source.write_text(MODULE)
    result = CliRunner().invoke(main, ["extract-schema", str(source)])
    assert result.exit_code == 0, result.output
    definition = json.loads(result.stdout)
    assert definition.keys() == {"V10"}
    (tables,) = (section["Tables"] for section in definition["V10"]["sections"] if "Tables" in section)
    assert [table["source_name"] for table in tables] == ["item"]


def test_what_it_prints_is_what_generate_reads(tmp_path: Path) -> None:
    source = tmp_path / "shop.py"
    source.write_text(MODULE)
    extracted = tmp_path / "shop.json"
    extracted.write_text(CliRunner().invoke(main, ["extract-schema", str(source)]).stdout)
    for given, out in (["--module-def", str(extracted)], "a"), (["--bin-path", str(source)], "b"):
        made = CliRunner().invoke(main, ["generate", "-l", "typescript", "-o", str(tmp_path / out), *given])
        assert made.exit_code == 0, made.output
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.ts"))
    assert files
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_mistake_is_told(tmp_path: Path) -> None:
    source = tmp_path / "shop.py"
    source.write_text(MODULE.replace("Pk[u32]", "Pk[nothing]"))
    result = CliRunner().invoke(main, ["extract-schema", str(source)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "shop.py" in result.stderr
