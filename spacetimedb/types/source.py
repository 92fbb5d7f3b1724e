"""Generated Python code: names for its constants and variables, and compilation with readable tracebacks.

Code generators of any room put their text together with a `SourceBuilder` and hand it to `compile_source`. The text is
registered in `linecache` for as long as one of its functions lives, so tracebacks and debuggers show its lines.
"""

from __future__ import annotations

import builtins
import itertools
import keyword
import linecache
import re
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

_RESERVED: Final = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "buf", "at", "v", "self"})
_serial = itertools.count(1)

INDENT: Final = "    "
REMEMBERED: Final = 256
"""Texts whose code is kept for the next one who asks."""


class SourceBuilder:
    """Hands out names: `bind` for objects the code refers to, `fresh` for its local variables.

    `names` is what the code needs in its global namespace.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self.names: dict[str, object] = {}
        self._taken = {*_RESERVED, *reserved}
        self._bound: dict[tuple[str, int], str] = {}

    def bind(self, hint: str, value: object) -> str:
        """A name by which the code can refer to `value`; the same object under the same hint gets the same name."""
        key = (hint, id(value))  # the object is kept alive by `names`, so its id stays its own
        name = self._bound.get(key)
        if name is None:
            name = self._bound[key] = self.fresh(hint)
            self.names[name] = value
        return name

    def fresh(self, hint: str) -> str:
        """A name that nobody has yet: `hint` itself when possible, else with a number."""
        stem = re.sub(r"\W", "_", hint) or "x"
        if stem[0].isdigit():
            stem = "_" + stem
        name = stem
        for number in itertools.count(1):
            if name not in self._taken:
                break
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    """The lines one or more levels deeper; `pass` if there are none."""
    return [INDENT * levels + line for line in lines] or [INDENT * levels + "pass"]


def compile_source(title: str, source: str, names: dict[str, object], function: str) -> Callable[..., Any]:
    """Runs `source` with `names` as its globals and returns the function called `function` that it defines.

    `title` says in tracebacks what the code is for, e.g. "encode Player".
    """
    compiled = _compiled(title, source)
    namespace: dict[str, Any] = {"__name__": "spacetimedb.generated", **names}
    exec(compiled.code, namespace)
    made: Callable[..., Any] = namespace[function]
    vars(made)["__compiled__"] = compiled  # its lines can be shown as long as the function lives
    return made


class _Compiled:
    """Code whose lines are in `linecache` as long as this object lives."""

    __slots__ = ("__weakref__", "code")

    def __init__(self, filename: str, source: str) -> None:
        self.code = compile(source, filename, "exec")
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        weakref.finalize(self, linecache.cache.pop, filename, None)


@lru_cache(REMEMBERED)
def _compiled(title: str, source: str) -> _Compiled:
    """The same text is compiled once: tests make the same tables again and again."""
    return _Compiled(f"<spacetimedb {title} {next(_serial)}>", source)
