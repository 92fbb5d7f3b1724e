"""`spacetime.toml`: what a package says about itself, in TOML, beside its files. Both keys are optional.

    entry = "game.py"           the file there with `m = Module()`; without it that is `__init__.py`
    python = ">=3.12, <3.14"    versions of Python that it is written for: comparisons, all of which hold

There is no key for more imports: what modules may import is for those to say who run the server.
"""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable
from typing import Final

import msgspec

FILE_NAME: Final = "spacetime.toml"
_COMPARISON: Final = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+){0,2})\s*")
_OPERATORS: Final[dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": lambda version, given: version[: len(given)] == given,
    "!=": lambda version, given: version[: len(given)] != given,
}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the head of the module."""

    entry: str | None = None
    python: str = ""


def read_manifest(text: str) -> Manifest:
    """Raises ValueError with what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(text), Manifest)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(str(error)) from None


def runs_on(requirement: str, version: tuple[int, ...]) -> bool:
    """Whether a version of Python meets a requirement; an empty one is met by all. Raises ValueError if it is none."""
    parts = [part for part in requirement.split(",") if requirement.strip()]
    found = [_COMPARISON.fullmatch(part) for part in parts]
    if not all(found):
        raise ValueError(f'`python` must be like ">=3.11" or ">=3.11, <3.14", not {requirement!r}')
    return all(_OPERATORS[match[1]](version, tuple(map(int, match[2].split(".")))) for match in found if match)
