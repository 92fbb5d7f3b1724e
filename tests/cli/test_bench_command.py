"""`spacetime bench`: a real run with its table, JSON and comparison; and what it says where something is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spacetimedb.cli import bench

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, folder: Path, path: str | None = None) -> tuple[int, str, str]:
    """Status and output of `spacetime bench` in a folder, with another PATH if given."""
    command = [sys.executable, "-m", "spacetimedb.cli.main", "bench", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": path if path is not None else "/usr/bin:/bin"}
    if path is None and (node := shutil.which("node")):
        environment["PATH"] = f"{Path(node).parent}:{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def programs(folder: Path, **said: str) -> str:
    """A PATH with programs that say something."""
    folder.mkdir()
    for name, text in said.items():
        (folder / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_a_run_beside_an_earlier_one(tmp_path: Path) -> None:
    earlier = {"idle": {"resident_mb": 1.0, "processes": 2, "note": "text"}, "gone": {"x": 1}}
    (tmp_path / "earlier.json").write_text(json.dumps({"machine": {"cores": 64}, "results": earlier}))
    options = ["--only", "idle", "--seconds", "1", "--json", "now.json", "--compare", "earlier.json"]
    status, out, err = run(*options, folder=tmp_path)
    assert status == 0, err
    measured = json.loads((tmp_path / "now.json").read_text())
    assert measured["machine"]["cores"] > 0
    memory, processes = measured["results"]["idle"]["resident_mb"], measured["results"]["idle"]["processes"]
    assert "before: cores 64" in out
    change = rf"\+{(memory - 1) * 100:.1f} % worse"
    assert re.search(rf"│ idle +│ resident_mb +│ 1.0 +│ {memory} +│ {change} +│ <= 160 +│ - +│ (ok|SHORT)", out), out
    assert re.search(r"│ idle +│ cpu_percent +│ - +│ [\d.]+ +│  +│", out), out
    assert re.search(rf"│ idle +│ processes {processes} \(2\) ", out), out


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    """Without Node."""
    for name, rate, floor in (("old", 900, 0.5), ("new", 1000, 0.6)):
        transfer = {"failed": 0, "tps_over_floor": floor, "server_cpu_s_per_1000_tx": 0.02, "tps": rate, "seconds": 5}
        run_of = {"machine": {"cores": 2, "time": name}, "results": {"transfer": transfer}}
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of))
    nothing = programs(tmp_path / "none")
    status, out, err = run("--show", "new.json", "--compare", "old.json", folder=tmp_path, path=nothing)
    assert status == 0, err
    assert out.startswith("cores 2 · time new\nbefore: cores 2 · time old\n")
    assert re.search(r"│ transfer +│ tps_over_floor +│ 0.5 +│ 0.6 +│ \+20.0 % better +│ >= 0.4 +│", out), out
    assert re.search(r"│ transfer +│ failed +│ 0 +│ 0 +│  +│", out), out
    assert re.search(r"│ transfer +│ tps 1000 \(900\) ", out), out


def test_what_is_missing(tmp_path: Path) -> None:
    for text in ("", "[]", '{"machine": {}}'):
        (tmp_path / "bad.json").write_text(text)
        status, _, err = run("--compare", "bad.json", folder=tmp_path)
        assert (status, err) == (1, f"{tmp_path}/bad.json: this is no JSON of `spacetime bench`\n")
    assert "there is no such folder" in run("--json", "not/there.json", folder=tmp_path)[2]
    assert "need Node 20 or newer: https://nodejs.org" in run(folder=tmp_path, path=programs(tmp_path / "none"))[2]
    old = programs(tmp_path / "old", node="v18.1.0")
    assert "need Node 20 or newer (this is v18.1.0): https" in run(folder=tmp_path, path=old)[2]
    status, _, err = run("--only", "idle,speed", folder=tmp_path)
    assert status == 2
    assert "no such benchmark: speed; there are idle, connections, " in err


def test_npm_installs_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", programs(tmp_path / "node", node="v20.0.0"))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    with pytest.raises(Exception, match="there is no npm to install it"):
        bench.check_node(checkout)
    monkeypatch.setenv("PATH", programs(tmp_path / "both", node="v22.0.0", npm="$@"))
    bench.check_node(checkout)
    (tmp_path / "both" / "npm").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(Exception, match=r"`npm ci` in .*checkout failed"):
        bench.check_node(checkout)


def test_an_installed_package_measures_with_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "OWN_CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="Run `spacetime bench` in a checkout"):
        bench.find_script()
    monkeypatch.chdir(ROOT / "docs")
    assert bench.find_script() == ROOT / "scripts" / "bench" / "bench.py"
