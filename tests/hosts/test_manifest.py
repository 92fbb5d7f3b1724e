"""`spacetime.toml` of a package: what it says holds, and what it cannot say is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spacetimedb import Module
from spacetimedb.cli.packaging import find_module, program_bytes
from spacetimedb.hosts.manifest import runs_on
from spacetimedb.hosts.program import ProgramError, load_program

GAME = """
from spacetimedb import Module, ReducerContext
from .rules import ANSWER

m = Module(){newer}

@m.reducer
def play(ctx: ReducerContext) -> None:
    ctx.log.info(str(ANSWER))
"""
RUNNING = ".".join(map(str, sys.version_info[:3]))


def load(folder: Path, manifest: str, newer: str = "") -> Module:
    (folder / "game.py").write_text(GAME.format(newer=newer))
    (folder / "rules.py").write_text("ANSWER = 42\n")
    (folder / "spacetime.toml").write_text(manifest)
    assert find_module(folder) == folder
    return load_program(program_bytes(folder))


def test_an_entry_needs_no_init(tmp_path: Path) -> None:
    module = load(tmp_path, 'entry = "game.py"\npython = ">=3.11"\n')
    assert [reducer.name for reducer in module.reducers] == ["play"]


def test_an_entry_comes_before_init(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("raise RuntimeError('loaded')\n")
    assert load(tmp_path, 'entry = "game.py"').reducers


def test_without_an_entry_init_is_the_main_file(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("from .game import m\n")
    assert load(tmp_path, 'python = "<4"').reducers


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        ('entry = "gone.py"', "`entry` names 'gone.py', which is no Python file of the package"),
        ('entry = "../game.py"', "which is no Python file of the package"),
        ("entry = 5", "Expected `str | null`, got `int` - at `$.entry`"),
        ('entry = "game.py"\nimports = ["os"]', "contains unknown field `imports`"),
        ("entry", "Expected '=' after a key"),
        ('python = ">=99.1"', f"the module is written for Python >=99.1; this server runs {RUNNING}"),
        ('python = "3.11"', '`python` must be like ">=3.11" or ">=3.11, <3.14", not \'3.11\''),
        ('python = ">=3.11,"', "`python` must be like"),
        ("", "the archive has no __init__.py (or spacetime.toml with an `entry`)"),
    ],
)
def test_what_is_refused(tmp_path: Path, manifest: str, text: str) -> None:
    with pytest.raises(ProgramError) as refusal:
        load(tmp_path, manifest, newer="\ntype X = int if else")  # what it is not written for is not read
    assert text in str(refusal.value)
    if manifest:
        assert str(refusal.value).startswith(f"{tmp_path.name}/spacetime.toml: ")


KNOWN = ["3.11.0", "3.11.4", "3.12.0", "3.12.1", "3.13.0"]


@pytest.mark.parametrize(
    ("requirement", "versions"),
    [
        ("", KNOWN),
        (">=3.12", ["3.12.0", "3.12.1", "3.13.0"]),
        (">3.11.0, <= 3.12.0", ["3.11.4", "3.12.0"]),
        ("==3.12", ["3.12.0", "3.12.1"]),
        ("!=3.12, <3.13", ["3.11.0", "3.11.4"]),
    ],
)
def test_requirements(requirement: str, versions: list[str]) -> None:
    assert [v for v in KNOWN if runs_on(requirement, tuple(map(int, v.split("."))))] == versions
