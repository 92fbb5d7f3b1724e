"""The server names an author's own files: in the module's log and in what a publisher is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server_process import RequestFailed, ServerProcess

from spacetimedb.cli.packaging import program_bytes

MAIN = """from spacetimedb import *
import logging
{imports}
m = Module()

@m.reducer
def speak(ctx: ReducerContext) -> None:
    logging.getLogger("module").info("spoken")

@m.reducer
def fail(ctx: ReducerContext) -> None:
    helper()
"""
HELPER = """
def helper() -> None:
    raise ValueError("no")
"""


def lines_of(server: ServerProcess, name: str) -> list[tuple[str, str, int]]:
    """Level, file and line of what the module itself logged."""
    text = server.request("GET", f"/v1/database/{name}/logs").text
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        (line["level"], line["filename"], line["line_number"])
        for line in lines
        if line.get("message") == "spoken" or line["level"] == "Panic"
    ]


def test_a_single_file(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text(MAIN.format(imports="") + HELPER)
    server.publish(program_bytes(file), "names-file")
    server.call("names-file", "speak")
    with pytest.raises(RequestFailed):
        server.call("names-file", "fail")
    assert lines_of(server, "names-file") == [("Info", "shop.py", 8), ("Panic", "shop.py", 15)]
    file.write_text(file.read_text().replace("ctx: ReducerContext", "ctx"))
    with pytest.raises(RequestFailed, match=r"shop\.py:7: speak"):
        server.publish(program_bytes(file), "names-file")


def test_a_package_with_another_main_file(server: ServerProcess, tmp_path: Path) -> None:
    """Published over bare source: the process that takes it has confined itself already."""
    server.publish((MAIN.format(imports="") + HELPER).encode(), "names-entry")
    (tmp_path / "main.py").write_text(MAIN.format(imports="from .inside import helper"))
    (tmp_path / "inside.py").write_text(HELPER)
    (tmp_path / "spacetime.toml").write_text('entry = "main.py"\npython = ">=3.11"\n')
    server.publish(program_bytes(tmp_path), "names-entry")
    with pytest.raises(RequestFailed):
        server.call("names-entry", "fail")
    assert lines_of(server, "names-entry") == [("Panic", f"{tmp_path.name}/inside.py", 3)]
    (tmp_path / "spacetime.toml").write_text('entry = "main.py"\npython = ">=99"\n')
    with pytest.raises(RequestFailed, match="the module is written for Python >=99; this server runs"):
        server.publish(program_bytes(tmp_path), "names-entry")


def test_a_package(server: ServerProcess, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text(MAIN.format(imports="from .inside import helper"))
    (folder / "inside.py").write_text(HELPER)
    server.publish(program_bytes(folder), "names-package")
    server.call("names-package", "speak")
    with pytest.raises(RequestFailed):
        server.call("names-package", "fail")
    assert lines_of(server, "names-package") == [("Info", "shop/__init__.py", 8), ("Panic", "shop/inside.py", 3)]
