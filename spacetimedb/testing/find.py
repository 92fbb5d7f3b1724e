"""Finds the module that a test project is about."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from spacetimedb.module import Module

CANDIDATES = ("module.py", "src/module.py", "spacetimedb/module.py", "server/module.py")
_IS_A_TEST = re.compile(r"^test_|_test\.py$|^conftest\.py$")
_MAKES_A_MODULE = re.compile(r"^[^#\n]*=\s*(\w+\.)?Module\(", re.MULTILINE)


class NoModule(Exception):
    """There is none, or more than one; the text says what to do."""


def find_module(wanted: str, root: Path, beside: Path) -> Module:
    """The `Module` object.

    `wanted`: what the ini option `spacetimedb_module` says: a file or a package directory (relative to `root`), or a
    name to import; with `:attribute` if it holds several. "": `module.py` beside the test file or in one of the usual
    places below `root`, or else the only file beside the test that makes a `Module`. Raises NoModule; what the module
    raises while it is imported passes through.
    """
    place, _, attribute = wanted.partition(":")
    if not place:
        paths = [beside.parent / "module.py", beside.parent.parent / "module.py", *(root / c for c in CANDIDATES)]
        found = next((path for path in paths if path.is_file()), None) or _only_maker(beside.parent)
        if found is None:
            raise NoModule(
                "no module to test: beside the test there is neither module.py nor one other file with a Module. "
                "Name yours in pyproject.toml:\n"
                '[tool.pytest.ini_options]\nspacetimedb_module = "path/to/module.py"'
            )
        return _module_in(found, attribute)
    path = root / place
    if path.exists():
        return _module_in(path, attribute)
    if "/" in place or place.endswith(".py"):
        raise NoModule(f"spacetimedb_module = {wanted!r}: there is no {path}")
    return _pick(importlib.import_module(place), attribute)


def _only_maker(folder: Path) -> Path | None:
    """The one file of the folder, tests left out, that makes a `Module`."""
    sources = [path for path in folder.glob("*.py") if not _IS_A_TEST.search(path.name)]
    found = [path for path in sources if _MAKES_A_MODULE.search(path.read_text(errors="replace"))]
    return found[0] if len(found) == 1 else None


def _module_in(path: Path, attribute: str) -> Module:
    path = path.resolve()
    if path.is_dir() and not (path / "__init__.py").exists():
        raise NoModule(f"{path} is no package: it has no __init__.py")
    name = path.stem if path.is_file() else path.name
    loaded = sys.modules.get(name)
    if loaded is None:
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        loaded = importlib.import_module(name)
    file = getattr(loaded, "__file__", None)
    expected = path if path.is_file() else path / "__init__.py"
    if file is None or Path(file).resolve() != expected:
        raise NoModule(f"{expected} cannot be imported as {name}: that name is {file or loaded}. Rename one of them.")
    return _pick(loaded, attribute)


def _pick(namespace: object, attribute: str) -> Module:
    name = getattr(namespace, "__name__", str(namespace))
    if attribute:
        made = getattr(namespace, attribute, None)
        if not isinstance(made, Module):
            raise NoModule(f"{name}.{attribute} is no spacetimedb.Module")
        return made
    found = {id(value): value for value in vars(namespace).values() if isinstance(value, Module)}
    if len(found) != 1:
        what = "no" if not found else "more than one"
        raise NoModule(f"{name} holds {what} spacetimedb.Module; name it: spacetimedb_module = '{name}:m'")
    return next(iter(found.values()))
