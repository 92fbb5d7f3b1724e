"""`spacetime.json`: which databases a project has, and what the commands make of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from patience import PATIENCE_S, until
from smoketest import User, new_name

from spacetimedb.cli.project import Bindings, Project, load_project

MODULE = """
from spacetimedb import Module, Pk, ReducerContext, Row, u32

m = Module()


@m.table(public=True)
class Person(Row):
    id: Pk[u32]


@m.reducer
def say(ctx: ReducerContext) -> None:
    ctx.log.info("said")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's directory; tests run in one below it."""
    made = tmp_path / "project"
    (made / "below").mkdir(parents=True)
    monkeypatch.chdir(made / "below")
    return made


def write(folder: Path, value: Any, name: str = "spacetime.json") -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def loaded(env: str | None = None) -> Project:
    project = load_project(env)
    assert project is not None
    return project


def test_no_file(folder: Path) -> None:
    assert load_project() is None


def test_one_database(folder: Path) -> None:
    write(
        folder,
        """{ // as JSON5 has it
            database: 'game', server: 'here', "module-path": './server',
            generate: [{language: "typescript", "out-dir": "src/bindings"},],
            dev: {run: "npm run dev"},
        }""",
    )
    project = loaded()
    (target,) = project.targets
    assert (target.name, target.server, target.source) == ("game", "here", folder / "server")
    assert target.bindings == (Bindings("typescript", folder / "src/bindings", False),)
    assert project.run == "npm run dev"
    assert project.matching(None) == project.matching("game") == project.matching("g*") == [target]
    assert project.matching("other") == []
    assert project.database("other").source is None


def test_children_inherit(folder: Path) -> None:
    write(
        folder,
        {
            "server": "here",
            "module-path": "server",
            "generate": [{"language": "python", "out-dir": "out"}],
            "children": [
                {"database": "one"},
                {"database": "two", "bin-path": "two.zip", "break-clients": True},
                {"database": "three", "server": "there", "children": [{"database": "four"}]},
            ],
        },
    )
    found = {t.name: (t.server, t.source and t.source.name, t.break_clients, t.bindings) for t in loaded().targets}
    assert found == {
        "one": ("here", "server", False, ()),
        "two": ("here", "two.zip", True, ()),
        "three": ("there", "server", False, ()),
        "four": ("there", "server", False, ()),
    }
    assert [t.name for t in loaded().matching("t*")] == ["two", "three"]
    with pytest.raises(click.ClickException, match=r"which database.*one, two, three, four"):
        loaded().database(None)


def test_overlays(folder: Path) -> None:
    write(folder, {"database": "game", "server": "here", "children": [{"database": "a"}, {"database": "b"}]})
    write(folder, {"server": "mine", "children": [{"database": "mine"}]}, "spacetime.local.json")
    write(folder, {"server": "live"}, "spacetime.live.json")
    assert [(t.name, t.server) for t in loaded().targets] == [("game", "mine"), ("mine", "mine"), ("b", "mine")]
    assert {t.server for t in loaded("live").targets} == {"live"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"databse": "game"}', "Config key 'databse' is not supported.*Available keys: database, server"),
        ('{"children": [{"databse": "game"}]}', "Config key 'databse'"),
        ('{"database": 5}', "`database` must be text"),
        ('{"break-clients": "yes"}', "`break-clients` must be true or false"),
        ('{"dev": {"runs": "x"}}', "`dev` holds the command"),
        ('{"generate": [{"language": "python"}]}', "an entry of `generate` has"),
        ("[]", "a database is an object"),
        ("{", "spacetime.json"),
    ],
)
def test_mistakes(folder: Path, text: str, message: str) -> None:
    write(folder, text)
    with pytest.raises(click.ClickException, match=message):
        load_project()


def test_commands(folder: Path, user: User) -> None:
    """publish (all, a pattern, something else), logs and generate."""
    one, two, other = new_name(), new_name(), new_name()
    (folder / "server").mkdir()
    (folder / "server" / "game.py").write_text(MODULE)
    write(
        folder,
        {
            "database": one,
            "server": "here",
            "wasm-file": "server",
            "generate": [{"language": "python", "out-dir": "bindings"}],
            "children": [{"database": two}],
        },
    )
    said = user.run("publish")
    assert f"name: {one}," in said
    assert f"name: {two}," in said
    user.call(one, "say")
    assert "said" in user.run("logs", one)
    assert "which database" in user.fails("logs")
    user.run("generate")
    assert list((folder / "bindings").glob("*.py"))
    assert f"{other} is not in" in user.run("publish", other, "--module-path", str(folder / "server" / "game.py"))
    user.fails("publish", other, "--no-config")
    assert user.try_run("publish", "--module-path", str(folder)).exit_code == 2


def test_dev_runs_the_projects_command(folder: Path, user: User) -> None:
    """Beside the server, and ends it with itself."""
    name = new_name()
    (folder / "game.py").write_text(MODULE)
    command = "echo $$ $SPACETIMEDB_DB_NAME $SPACETIMEDB_HOST > ran.tmp; mv ran.tmp ran; exec sleep 1000"
    write(folder, {"database": name, "server": "here", "module-path": "game.py", "dev": {"run": command}})
    dev = subprocess.Popen(
        [sys.executable, "-m", "spacetimedb.cli.main", "--root-dir", str(user.home), "dev"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until((folder / "ran").exists)
        pid, database, host = (folder / "ran").read_text().split()
        assert (database, host) == (name, user.server.base_url)
        user.call(name, "say")
        dev.send_signal(signal.SIGINT)
        output, _ = dev.communicate(timeout=PATIENCE_S)
        assert dev.returncode == 0, output
        assert f"running   {command}" in output
        assert not Path(f"/proc/{pid}").exists()
    finally:
        dev.kill()
        dev.wait()
