"""The README's first steps, word for word, with the package installed the way a stranger installs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SECONDS = 180


class Stranger:
    """Somebody with the package installed in a folder, a home of his own, and an empty working directory."""

    def __init__(self, installed: Path, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.complaints = folder / "stderr"
        self.program = [sys.executable, str(installed / "bin" / "spacetime")]
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(installed),
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "share"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.program, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=self.complaints.open("a"),
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )

    def must(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\nserver: {self.complaints.read_text()}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package built from a copy of the sources and installed into an empty folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    left_out = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("spacetimedb", "workers"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=left_out)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-warn-conflicts",
    ]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def stranger(installed: Path, tmp_path: Path) -> Iterator[Stranger]:
    somebody = Stranger(installed, tmp_path)
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    (somebody.folder / "notes.py").write_text(block[1])
    server = somebody.start("start", "--listen-addr", "127.0.0.1:0")
    try:
        assert server.stdout is not None
        found = re.search(r"listening on (http://\S+)", server.stdout.readline())
        assert found, "the first line that `start` prints says where it listens"
        somebody.must("server", "add", "--url", found[1], "--default", "here")
        yield somebody
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(SECONDS) == 0


def commands() -> list[list[str]]:
    """Arguments of every `spacetime` command in the README's block of first steps."""
    block = re.search(r"```\n(spacetime publish .*?)```", README, re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True)[1:] for line in block[1].splitlines()]


def test_the_package_claims_no_other_name(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert top == {"spacetimedb", "bin"}
    for name in ("demo/index.html", "demo/client.js", "demo/style.css", "workers/supervisor/supervisor.py", "py.typed"):
        assert (installed / "spacetimedb" / name).is_file(), name
    assert not (installed / "spacetimedb" / "workers").is_symlink()


def test_first_steps_work_as_the_readme_says(stranger: Stranger) -> None:
    publish, call, sql, subscribe, logs = commands()
    assert "Created new database with name: notes" in stranger.must(*publish)
    assert stranger.must(*call) == ""
    lines = stranger.must(*sql).splitlines()
    assert [column.strip() for column in lines[0].split("|")] == ["id", "author", "text"]
    assert lines[2].startswith(" 1 ")
    assert lines[2].endswith('| "Hello, world"')

    watching = stranger.start(*subscribe, "--print-initial-update", "--num-updates", "1")
    assert watching.stdout is not None
    initial = json.loads(watching.stdout.readline())
    assert [row["text"] for row in initial["note"]["inserts"]] == ["Hello, world"]
    stranger.must("call", "notes", "write", "Once more")
    update = json.loads(watching.stdout.readline())
    assert update["note"]["deletes"] == []
    assert [row["text"] for row in update["note"]["inserts"]] == ["Once more"]
    assert re.fullmatch("0x[0-9a-f]+", update["note"]["inserts"][0]["author"]["__identity__"])
    assert watching.wait(SECONDS) == 0

    watching = stranger.start(*subscribe, "--print-initial-update")
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.wait(SECONDS) == 0
    assert watching.stdout.read() == ""

    assert logs == ["logs", "-f", "notes"]
    following = stranger.start(*logs)
    assert following.stdout is not None
    assert "Creating table `note`" in following.stdout.readline()
    following.send_signal(signal.SIGINT)
    assert following.wait(SECONDS) == 0
    assert stranger.complaints.read_text() == "", "nothing is printed about Ctrl-C"
    assert "Database initialized" in stranger.must("logs", "notes")
    assert "notes" in stranger.must("list")
    assert json.loads(stranger.must("describe", "--json", "notes"))["sections"]
    assert "Updated database with name: notes" in stranger.must(*publish)
    assert len(stranger.must(*sql).splitlines()) == 4, "publishing the same module keeps the rows"
    assert "Updated database" in stranger.must("publish", "notes", "-c", "-y")
    assert len(stranger.must(*sql).splitlines()) == 2
    stranger.must("delete", "notes", "-y")
    assert stranger.run(*sql).returncode == 1


def test_a_module_may_be_a_package(stranger: Stranger) -> None:
    package = stranger.folder / "game"
    package.mkdir()
    (package / "tables.py").write_text(
        "from spacetimedb import Module, Pk, Row, u32\n"
        "m = Module()\n"
        "@m.table(public=True)\n"
        "class Score(Row):\n"
        "    player: Pk[u32]\n"
        "    points: u32\n"
    )
    (package / "__init__.py").write_text(
        "from spacetimedb import ReducerContext, u32\n"
        "from .tables import Score, m\n"
        "@m.reducer\n"
        "def win(ctx: ReducerContext, player: u32, points: u32) -> None:\n"
        "    ctx.db[Score].player.upsert(Score(player=player, points=points))\n"
    )
    stranger.must("publish", "-p", "game", "my-game")
    stranger.must("call", "my-game", "win", "7", "100")
    assert stranger.must("sql", "my-game", "SELECT * FROM score").splitlines()[2].split() == ["7", "|", "100"]
    (package / "tables.py").write_text("from spacetimedb import Module\nm = Module()\nnonsense\n")
    broken = stranger.run("publish", "-p", "game", "my-game")
    assert broken.returncode == 1
    assert 'File "game/tables.py", line 3' in broken.stderr
    assert "nonsense" in broken.stderr
    assert stranger.must("sql", "my-game", "SELECT * FROM score").splitlines()[2].split() == ["7", "|", "100"]


def test_mistakes_of_the_first_hour(stranger: Stranger) -> None:
    (stranger.folder / "notes.py").write_text(
        "from spacetimedb import Module, Pk, ReducerContext, Row\n"
        "m = Module()\n"
        "@m.table(public=True)\n"
        "class Note(Row):\n"
        "    id: Pk[int]\n"
        "@m.reducer\n"
        "def write(ctx: ReducerContext, text) -> None: ...\n"
    )
    broken = stranger.run("publish", "notes")
    assert broken.returncode == 1
    assert "the module was not accepted" in broken.stderr
    assert "notes.py:5" in broken.stderr
    assert "notes.py:7" in broken.stderr
    assert "Traceback" not in broken.stderr

    (stranger.folder / "notes.py").write_text("from spacetimedb import Module\nm = Module(\n")
    broken = stranger.run("publish", "notes")
    assert broken.returncode == 1
    assert "notes.py:2: '(' was never closed" in broken.stderr

    (stranger.folder / "notes.py").write_text("import spacetimedb\n")
    nothing = stranger.run("publish", "notes")
    assert nothing.returncode == 1
    assert "Module()" in nothing.stderr, nothing.stderr
