"""`spacetime.json`: the databases of a project and what they are made of, in the official command line's format.

JSON5, in the project's directory or one above. The root object is a database, or holds what its `children` share:

    {
      "database": "game", "server": "local", "module-path": "./server",
      "generate": [{"language": "typescript", "out-dir": "./src/bindings"}],
      "children": [{"database": "game-test"}],
      "dev": {"run": "npm run dev"}
    }

A child has its parent's values except `database`, `generate`, `children` and `dev`; if it names a source of its own
(`module-path`, `bin-path`, `js-path`) it has none of the parent's. Paths count from the file's directory. Later files
replace keys of earlier ones (`spacetime.json`, `spacetime.local.json`, `spacetime.ENV.json`,
`spacetime.ENV.local.json`), `children` are matched by position. What the command line is told comes first.

Keys that only builds of other languages need are accepted and not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import click
import msgspec

FILE_NAME: Final = "spacetime.json"
SOURCES: Final = ("module-path", "bin-path", "js-path")
SYNONYMS: Final = {"wasm-file": "bin-path", "js-file": "js-path", "anon-identity": "anonymous"}
"""The official command line documents the one and takes the other."""
TEXTS: Final = ("database", "server", *SOURCES)
FLAGS: Final = ("break-clients", "anonymous")
ELSEWHERE: Final = ("build-options", "num-replicas", "parent", "organization", "native-aot", "dotnet-version")
OF_ONE: Final = ("generate", "children", "dev")
ALL_KEYS: Final = (*TEXTS, *FLAGS, *ELSEWHERE, *OF_ONE)


class Bindings(msgspec.Struct, frozen=True):
    """One entry of `generate`."""

    language: str
    out_dir: Path
    include_private: bool


class Target(msgspec.Struct, frozen=True):
    """A database of the project. `name` None: the command line says which. `source` is what is uploaded, or its
    directory."""

    name: str | None
    server: str | None
    source: Path | None
    break_clients: bool
    anonymous: bool
    bindings: tuple[Bindings, ...]


class Project(msgspec.Struct, frozen=True):
    """What the files say. `run` is the command that `spacetime dev` runs beside."""

    file: Path
    targets: tuple[Target, ...]
    run: str | None

    def matching(self, name: str | None) -> list[Target]:
        """The databases that NAME (`*` and `?` stand for anything) means; all of them for None."""
        if name is None:
            return [target for target in self.targets if target.name is not None]
        named = [target for target in self.targets if target.name and fnmatchcase(target.name, name)]
        return named or [msgspec.structs.replace(t, name=name) for t in self.targets if t.name is None]

    def database(self, name: str | None) -> Target:
        """The one database that a command is about. ClickException if NAME is missing and there are several."""
        found = self.matching(name)
        if len(found) == 1:
            return found[0]
        if name is not None:
            return Target(name, None, None, False, False, ())
        names = ", ".join(target.name or "" for target in found)
        raise click.ClickException(f"which database? {self.file} has {names or 'none'}")


def load_project(env: str | None = None) -> Project | None:
    """The project that the current directory belongs to, None without a file. ClickException for what is wrong in
    one."""
    here = Path.cwd()
    folder = next((f for f in (here, *here.parents) if (f / FILE_NAME).is_file()), None)
    if folder is None:
        return None
    names = [FILE_NAME, "spacetime.local.json"]
    names += [] if env is None else [f"spacetime.{env}.json", f"spacetime.{env}.local.json"]
    whole: dict[str, Any] = {}
    for name in names:
        if (folder / name).is_file():
            _overlay(whole, _read(folder / name))
    dev = whole.get("dev") or {}
    run = dev.get("run") if isinstance(dev, dict) and dev.keys() <= {"run"} else 0
    if run is not None and not isinstance(run, str):
        raise click.ClickException(f'{folder / FILE_NAME}: `dev` holds the command to run beside: {{"run": "..."}}')
    return Project(folder / FILE_NAME, tuple(_targets(whole, {}, folder)), run)


def _read(file: Path) -> dict[str, Any]:
    import json5

    try:
        value = json5.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from None
    return _checked(value, file)


def _checked(value: Any, file: Path) -> dict[str, Any]:
    """An object with its keys under their documented names, children included."""
    if not isinstance(value, dict):
        raise click.ClickException(f"{file}: a database is an object")
    found: dict[str, Any] = {SYNONYMS.get(str(key), str(key)): part for key, part in value.items()}
    for key, part in found.items():
        if key not in ALL_KEYS:
            raise click.ClickException(
                f"{file}: Config key '{key}' is not supported in the config file. Available keys: {', '.join(ALL_KEYS)}"
            )
        kind = str if key in TEXTS else bool if key in FLAGS else list if key in ("generate", "children") else object
        if not isinstance(part, kind):
            shown = {str: "text", bool: "true or false", list: "a list"}[kind]
            raise click.ClickException(f"{file}: `{key}` must be {shown}")
    if "children" in found:
        found["children"] = [_checked(child, file) for child in found["children"]]
    return found


def _overlay(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if key == "children" and key in base:
            for mine, theirs in zip(base[key], value, strict=False):
                _overlay(mine, theirs)
        else:
            base[key] = value


def _targets(entity: dict[str, Any], inherited: dict[str, Any], folder: Path) -> Iterator[Target]:
    own = {key: value for key, value in entity.items() if key not in OF_ONE}
    if any(key in own for key in SOURCES):
        inherited = {key: value for key, value in inherited.items() if key not in SOURCES}
    values = inherited | own
    source = next((values[key] for key in SOURCES if key in values), None)
    children = entity.get("children", [])
    if "database" in own or not children:
        yield Target(
            own.get("database"),
            values.get("server"),
            None if source is None else folder / source,
            values.get("break-clients", False),
            values.get("anonymous", False),
            tuple(_bindings(entry, folder) for entry in entity.get("generate", [])),
        )
    for child in children:
        yield from _targets(child, {key: value for key, value in values.items() if key != "database"}, folder)


def _bindings(entry: Any, folder: Path) -> Bindings:
    try:
        return Bindings(str(entry["language"]), folder / entry["out-dir"], bool(entry.get("include-private", False)))
    except (TypeError, KeyError, AttributeError):
        raise click.ClickException(
            f"{folder / FILE_NAME}: an entry of `generate` has a `language` and an `out-dir`"
        ) from None
