"""What is uploaded for a module.

A single `.py` file, or a package directory (with `__init__.py` or `spacetime.toml`), becomes a zip that depends on
nothing but names and contents: entries sorted by path, stored with one fixed time and mode, no bytecode, no hidden
files. Paths begin with the name of the directory; a single file is alone in its zip. So the server's log names the
author's own files. (Bare source of one file is accepted too, and is called `module.py` there.) The server's program
hash is the hash of these bytes, so publishing unchanged source is no update.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import click

MAXIMUM_PACKAGE_FILES = 10_000
EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = {"__pycache__", "node_modules", "build", "dist", "venv"}
_IS_A_TEST = re.compile(r"^test_|_test\.py$|^conftest\.py$")
_IMPORTS_IT = re.compile(rb"^\s*(from\s+spacetimedb\b|import\s+spacetimedb\b)", re.MULTILINE)
_MAKES_A_MODULE = re.compile(rb"^[^#\n]*=\s*(\w+\.)?Module\(", re.MULTILINE)


def find_module(path: Path) -> Path:
    """The file or package directory that `--module-path` means; ClickException with advice when there is none.

    A directory without `__init__.py` and `spacetime.toml` stands for the one Python file in it that imports
    `spacetimedb` and is no test; of several, as clients and load tests import it too, for the one that makes a
    `Module`.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise click.ClickException(f"no such file or directory: {path}. Name your module with --module-path FILE.py")
    if (path / "__init__.py").is_file() or (path / "spacetime.toml").is_file():
        return path
    sources = [file for file in sorted(path.glob("*.py")) if not _IS_A_TEST.search(file.name)]
    found = [file for file in sources if _IMPORTS_IT.search(file.read_bytes())]
    if len(found) > 1:
        found = [file for file in found if _MAKES_A_MODULE.search(file.read_bytes())] or found
    if len(found) == 1:
        return found[0]
    where = "this directory" if path.resolve() == Path.cwd() else str(path)
    if found:
        names = ", ".join(file.name for file in found)
        raise click.ClickException(f"{where} holds several modules ({names}): choose one with --module-path FILE.py")
    raise click.ClickException(
        f"{where} holds no Python module (a .py file that imports spacetimedb, or a package with __init__.py). "
        "Go to your module's directory or name it with --module-path FILE.py"
    )


def program_bytes(path: Path) -> bytes:
    """Bytes to upload for a file (of a zip its own) or a package directory."""
    if path.is_dir():
        return zip_package(path)
    data = path.read_bytes()
    if not data.strip():
        raise click.ClickException(f"{path} is empty")
    if data.startswith(b"PK\3\4"):
        return data
    return _zip([(path.name, data)])


def zip_package(folder: Path) -> bytes:
    """Deterministic zip of a package directory."""
    root = folder.resolve().parent
    files = program_files(folder)
    if len(files) > MAXIMUM_PACKAGE_FILES:
        raise click.ClickException(f"{folder} holds {len(files)} files; a module may have {MAXIMUM_PACKAGE_FILES}")
    return _zip(sorted((file.relative_to(root).as_posix(), file.read_bytes()) for file in files))


def program_files(path: Path) -> list[Path]:
    """The files that are uploaded for a file or a package directory."""
    if path.is_file():
        return [path]
    folder = path.resolve()
    return [file for file in folder.rglob("*") if file.is_file() and _belongs(file.relative_to(folder))]


def _zip(files: list[tuple[str, bytes]]) -> bytes:
    """Stored, not compressed: compressed bytes differ between versions of zlib."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return packed.getvalue()


def _belongs(relative: Path) -> bool:
    hidden = any(part.startswith(".") or part in _LEFT_OUT for part in relative.parts)
    return not hidden and relative.suffix not in (".pyc", ".pyo")
