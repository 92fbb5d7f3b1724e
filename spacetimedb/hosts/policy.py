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


def check_imports(source: str, file: str, own_package: str) -> list[Problem]:
    """Every import in `source` that is not allowed. `own_package` is the name under which the module itself is loaded.

    Raises SyntaxError as the compiler does.
    """
    problems = []
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if top not in ALLOWED_IMPORTS and top != own_package:
                hint = (
                    "; a module has ctx.timestamp and ctx.rng for time and chance" if top in ("time", "secrets") else ""
                )
                problems.append(Problem(file, node.lineno, f"a module may not import {name!r}{hint}"))
    return problems
