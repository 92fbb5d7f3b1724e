"""Names: identifier rules, case conversion, names the server gives to unnamed objects, database names.

Case conversion splits a name into words and joins them in a style. A word ends at ``_``, ``-`` and space (which
vanish), between a lowercase and an uppercase letter, between a letter and an ASCII digit in either order, and before
the last capital of a run of capitals that is followed by a lowercase letter (``HTTPRequest`` -> ``HTTP Request``).
Letters without case (CJK) never end a word. Empty words are dropped, so leading underscores vanish and ``_`` becomes
empty.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

IDENTITY_DIGITS = 64
"""Length of an identity in hex."""

NAMESPACE_LIMIT = 63
"""Longest namespace of a submodule, in bytes of UTF-8."""

_DELIMITERS = frozenset("_- ")
_DIGITS = frozenset("0123456789")
_DATABASE_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_ANNEX_31 = (
    "(according to Unicode Standard Annex 31, https://www.unicode.org/reports/tr31/) "
    "and cannot be used for entities in a module."
)


def words(name: str) -> list[str]:
    """The words of a name, in their own case."""
    found: list[str] = []
    word = ""
    for position, char in enumerate(name):
        if char in _DELIMITERS:
            found.append(word)
            word = ""
            continue
        if word and _is_boundary(name, position):
            found.append(word)
            word = ""
        word += char
    found.append(word)
    return [word for word in found if word]


def _is_boundary(name: str, position: int) -> bool:
    """Whether a word starts at ``position`` although no delimiter stands before it."""
    before, char = name[position - 1], name[position]
    if before.islower():
        return char.isupper() or char in _DIGITS
    if before.isupper():
        if char in _DIGITS:
            return True
        return char.isupper() and position + 1 < len(name) and name[position + 1].islower()
    return before in _DIGITS and (char.isupper() or char.islower())


def snake_case(name: str) -> str:
    """``countFresh2`` -> ``count_fresh_2``."""
    return "_".join(word.lower() for word in words(name))


def pascal_case(name: str) -> str:
    """``count_fresh`` -> ``CountFresh``."""
    return "".join(_capitalised(word) for word in words(name))


def camel_case(name: str) -> str:
    """``count_fresh`` -> ``countFresh``."""
    parts = words(name)
    return "".join(word.lower() if position == 0 else _capitalised(word) for position, word in enumerate(parts))


def _capitalised(word: str) -> str:
    return word[0].upper() + word[1:].lower()


def identifier_problem(name: str) -> str | None:
    """What keeps ``name`` from being an identifier, in the server's words; None when it is one.

    An identifier is not empty, in normalization form C, and starts with ``_`` or an XID_Start character; the others are
    XID_Continue. No word is reserved.
    """
    if not name:
        return "Empty identifiers are forbidden."
    if unicodedata.normalize("NFC", name) != name:
        return (
            f"Identifier `{name}` is not in normalization form C according to Unicode Standard Annex 15 "
            "(http://www.unicode.org/reports/tr15/) and cannot be used for entities in a module."
        )
    if not name[0].isidentifier():
        return (
            f"Identifier `{name}`'s starting character '{name[0]}' is neither an underscore ('_') nor a Unicode "
            f"XID_start character {_ANNEX_31}"
        )
    for char in name[1:]:
        if not ("_" + char).isidentifier():
            return (
                f"Identifier `{name}` contains a character '{char}' that is not an XID_continue character {_ANNEX_31}"
            )
    return None


def index_name(table: str, columns: Iterable[str], algorithm: str) -> str:
    """Name of an index that has none of its own; ``algorithm`` is btree, hash or direct."""
    return f"{table}_{'_'.join(columns)}_idx_{algorithm}"


def unique_name(table: str, columns: Iterable[str]) -> str:
    """Name of a unique constraint."""
    return f"{table}_{'_'.join(columns)}_key"


def sequence_name(table: str, column: str) -> str:
    """Name of a sequence that has none of its own."""
    return f"{table}_{column}_seq"


def schedule_name(table: str) -> str:
    """Name of a table's schedule."""
    return f"{table}_sched"


def database_name_problem(name: str) -> str | None:
    """What keeps a database from being called so, in the server's words; None when nothing does.

    A database name is lowercase ASCII letters and digits in groups joined by single hyphens, and no identity (64 hex
    digits, which would be taken for one in every address).
    """
    if len(name) == IDENTITY_DIGITS and all(char in _HEX_DIGITS for char in name):
        return "database names cannot be identities"
    if not name:
        return "database names cannot be empty"
    for position, char in enumerate(name):
        if char == "-":
            if position in (0, len(name) - 1) or name[position - 1] == "-":
                return "invalid hyphen in database name"
        elif char not in _DATABASE_NAME_CHARACTERS:
            return "invalid characters in database name"
    return None
