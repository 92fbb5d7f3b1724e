"""What module code may import. It guards against accidents and nondeterminism; it is no security boundary.

Reducers must give the same result from the same input: no clock, no network, no files, no threads. The check reads the
source before it runs, so that a module is refused with file and line instead of failing in the middle of a game.
"""

from __future__ import annotations

import ast
from typing import Final

from spacetimedb.module.errors import Problem

ALLOWED_IMPORTS: Final = frozenset(
    [
        "__future__",
        "abc",
        "base64",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "inspect",
        "itertools",
        "json",
        "logging",
        "math",
        "msgspec",
        "numpy",
        "operator",
        "random",
        "re",
        "spacetimedb",
        "statistics",
        "string",
        "struct",
        "textwrap",
        "types",
        "typing",
        "typing_extensions",
        "unicodedata",
        "uuid",
        "zlib",
    ]
)
"""Top-level packages a module may import besides its own."""
ON_DEMAND: Final = frozenset(["numpy", "typing_extensions", "spacetimedb.testing.host"])
"""What is no part of Python, or big, and is loaded only for programs that import it."""
INNER_PARTS: Final = frozenset(["auth", "cli", "client", "codegen", "hosts", "http", "log", "protocol", "workers"])
"""Parts of `spacetimedb` that are the server's own affair."""

_BLOCKS: Final = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of statements that hold statements, or what holds statements in turn."""
_CHECKERS_ONLY: Final = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def check_imports(source: str, file: str, own_package: str) -> list[Problem]:
    """Every import in `source` that is not allowed. `own_package` is the name under which the module itself is loaded.

    Raises SyntaxError as the compiler does.
    """
    problems = []
    for line, name in imported(source, file):
        top, _, rest = name.partition(".")
        is_inner = top == "spacetimedb" and rest.partition(".")[0] in INNER_PARTS
        if (top not in ALLOWED_IMPORTS or is_inner) and top != own_package:
            hint = "; a module has ctx.timestamp and ctx.rng for time and chance" if top in ("time", "secrets") else ""
            problems.append(Problem(file, line, f"a module may not import {name!r}{hint}"))
    return problems


def imported(source: str, file: str = "<program>") -> list[tuple[int, str]]:
    """Line and full name of everything that is imported by name, relative imports and those for type checkers left
    out."""
    found = []
    statements: list[ast.AST] = [ast.parse(source, file)]
    for node in statements:  # which grows: no expression imports anything, so only blocks are gone into
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module:
                found.append((node.lineno, node.module))
                if node.module == "spacetimedb":
                    found += [(node.lineno, f"spacetimedb.{alias.name}") for alias in node.names]
        else:
            is_for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) in _CHECKERS_ONLY
            for block in _BLOCKS[is_for_checkers:]:
                statements += getattr(node, block, ())
    return found
