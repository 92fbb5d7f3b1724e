"""The rooms of the source tree: what may import what, and what stays free of I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import spacetimedb

ROOT = Path(spacetimedb.__file__).parent
ROOMS = (
    *("types", "schema", "module", "memory", "store", "sql", "subscriptions", "log", "hosts", "testing"),
    *("auth", "protocol", "http", "client", "codegen", "loadtest", "cli", "workers"),
)
"""Bottom to top: a room imports only rooms before it."""
LATE = {
    ("cli", "workers"): "`spacetime start` hands its options to the server",
}
"""Exceptions with their reasons."""
SHELLS = {"workers", "cli"}
"""The only rooms that may use trio."""


def room_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything a file imports, `TYPE_CHECKING` blocks left out."""
    package = ["spacetimedb", *path.relative_to(ROOT).parts[:-1]]
    skipped: set[int] = set()
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize("path", room_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "trio" and room not in SHELLS and room not in ("client", "loadtest"):
            wrong.append(f"{path.name}:{line} uses trio")
        if parts[0] != "spacetimedb" or len(parts) < 2 or parts[1] not in ROOMS:
            continue
        other = parts[1]
        if ROOMS.index(other) > ROOMS.index(room) and (room, other) not in LATE:
            wrong.append(f"{path.name}:{line} imports {name}")
    assert not wrong


PROCESSES = ("supervisor", "reader", "transaction_actor", "log_keeper")


@pytest.mark.parametrize("process", PROCESSES)
def test_processes_import_nothing_of_each_other(process: str) -> None:
    others = {f"spacetimedb.workers.{other}" for other in PROCESSES if other != process}
    for path in (ROOT / "workers" / process).rglob("*.py"):
        found = {".".join(name.split(".")[:3]) for _, name in imports(path)}
        assert found.isdisjoint(others), path


def test_authors_import_nothing_heavy() -> None:
    """`import spacetimedb` is what every module pays for."""
    import subprocess
    import sys

    heavy = ("trio", "cryptography", "h11", "rich", "click", "prometheus_client")
    code = f"import sys, spacetimedb; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
