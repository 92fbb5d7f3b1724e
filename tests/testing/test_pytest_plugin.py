"""The pytest plugin as its user meets it: a project of its own, pytest, mypy and pyright in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spacetimedb import Module, Pk, ReducerContext, Row, TestHost, u32

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "testing.md"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"MYPYPATH": str(ROOT)},
    )


def run_alone(folder: Path, *tests: str) -> str:
    """What pytest prints with this plugin and no other: it starts in half the time."""
    with pytest.MonkeyPatch.context() as only_here:
        only_here.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return run(folder, "pytest", "-q", "-p", "spacetimedb.testing.plugin", *tests).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files of docs/testing.md."""
    for name, text in re.findall(r"```python (\S+)\n(.*?)```", DOCS.read_text(), re.DOTALL):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_documented_tests_pass(project: Path) -> None:
    done = run(project, "pytest", "-q")
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_module_of_another_name_is_found_among_files_that_make_none(project: Path) -> None:
    (project / "module.py").rename(project / "notes.py")
    (project / "bot.py").write_text("from spacetimedb.client.blocking import connect\nimport notes\n")
    tests = project / "test_notes.py"
    tests.write_text(tests.read_text().replace("from module import", "from notes import"))
    done = run(project, "pytest", "-q")
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_documented_example_without_fixtures_runs(project: Path) -> None:
    plain = DOCS.read_text().rpartition("## Without fixtures")[2]
    (project / "plain.py").write_text(re.findall(r"```python\n(.*?)```", plain, re.DOTALL)[0])
    done = run(project, "plain")
    assert done.returncode == 0, done.stderr


def test_types_hold(project: Path) -> None:
    done = run(project, "mypy", "--strict", "module.py", "test_notes.py")
    assert done.returncode == 0, done.stdout
    (project / "wrong.py").write_text(
        "from module import write\nfrom spacetimedb.testing import Client\n\n"
        "def use(ann: Client) -> None:\n    ann.call(write, 1, 2)\n    ann.call(write, 'ann')\n"
    )
    done = run(project, "mypy", "--strict", "wrong.py")
    assert re.findall(r"wrong.py:(\d+): error", done.stdout) == ["5", "5", "6"]


def test_pyright_agrees(project: Path) -> None:
    pyright = ROOT / "tests" / "npm" / "node_modules" / ".bin" / "pyright"
    (project / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}))
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable, "module.py", "test_notes.py"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 errors" in done.stdout, done.stdout


def test_a_failing_test_keeps_its_database(project: Path) -> None:
    (project / "test_failing.py").write_text(
        "from module import write\n\n"
        "def test_it(client):\n    client('ann').call(write, 'ann', 'Hello')\n    assert False\n"
    )
    done = run(project, "pytest", "-q", "test_failing.py")
    found = re.search(r"database kept in (\S+)", done.stdout)
    assert found, done.stdout
    assert "note: 1 rows" in done.stdout
    kept = Path(found[1])
    assert json.loads((kept / "tables" / "note.jsonl").read_text())["text"] == "Hello"
    (project / "reopen.py").write_text(
        f"import module\nfrom spacetimedb import TestHost\n"
        f"db = TestHost.open(module.m, {str(kept)!r})\n"
        f"ann = db.identity('ann')\n"
        f"db.call(ann, module.write, 'ann', 'again')\n"
        f"db.restart(crash=True)\n"
        f"assert [note.text for note in db.db[module.Note].iter()] == ['Hello', 'again']\n"
    )
    done = run(project, "reopen")
    assert done.returncode == 0, done.stderr


def test_databases_of_tests_that_are_over_are_given_back(project: Path) -> None:
    (project / "test_many.py").write_text(
        "import gc\nimport pytest\nfrom spacetimedb import TestHost\n\n"
        "@pytest.mark.parametrize('n', range(8))\n"
        "def test_it(db, n):\n"
        "    gc.collect()\n"
        "    assert sum(isinstance(found, TestHost) for found in gc.get_objects()) <= 2\n"
    )
    assert "8 passed" in run_alone(project, "test_many.py")


@pytest.mark.parametrize(
    ("ini", "files", "said"),
    [
        ("", {}, "there is neither module.py nor one other file"),
        ("nowhere.py", {}, "there is no "),
        ("game", {"game/module.py": "x = 1"}, "it has no __init__.py"),
        ("two.py", {"two.py": "from spacetimedb import Module\na = Module()\nb = Module()"}, "more than one"),
        ("none.py", {"none.py": "x = 1"}, "holds no spacetimedb.Module"),
        ("none.py:x", {"none.py": "x = 1"}, "none.x is no spacetimedb.Module"),
    ],
)
def test_a_module_that_cannot_be_found_is_explained(tmp_path: Path, ini: str, files: dict[str, str], said: str) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nspacetimedb_module = {ini}\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "test_it.py").write_text("def test_it(db): pass\n")
    printed = run_alone(tmp_path)
    assert said in printed
    assert "Traceback" not in printed


def test_a_package_and_a_named_module_object_are_found(tmp_path: Path) -> None:
    (tmp_path / "game").mkdir()
    (tmp_path / "game" / "__init__.py").write_text("from spacetimedb import Module\none = Module()\ntwo = Module()\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nspacetimedb_module = game:two\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "import game\n\ndef test_it(db, module):\n    assert module is game.two\n    assert db.module is module\n"
    )
    assert "1 passed" in run_alone(tmp_path)


m = Module()


@m.table(public=True)
class Counter(Row):
    id: Pk[u32]
    n: u32 = 0


@m.reducer
def count(ctx: ReducerContext, by: u32) -> None:
    counter = ctx.db[Counter].id.find(1) or ctx.db[Counter].insert(Counter(id=1))
    counter.n += by
    ctx.db[Counter].id.update(counter)


def test_a_hundred_hosts_and_ten_thousand_calls_are_quick() -> None:
    """20,000 calls/s and 5 s for a hundred tests are the goals on a quiet machine; CPU time, with room."""
    started = time.process_time()
    for _ in range(100):
        host = TestHost(m)
    assert time.process_time() - started < 30
    ann = host.identity("ann")
    host.connect(ann)
    started = time.process_time()
    for _ in range(10_000):
        host.call(ann, count, 1)
    assert time.process_time() - started < 6
    assert host.db[Counter].id.get(1).n == 10_000
