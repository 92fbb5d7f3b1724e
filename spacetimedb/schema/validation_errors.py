"""The errors of a module definition: their kinds, their order and their printed form.

All errors of a stage are reported at once: sorted by kind, in the order of ``Kind``, then by their parts, each once.
Printed: ``Errors occurred:\\n``, then every error followed by an empty line.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from spacetimedb.schema.names import identifier_problem


class Kind(IntEnum):
    """Kinds of errors, in the order they are printed."""

    DUPLICATE_NAME = 0
    DUPLICATE_TYPE_NAME = 1
    DUPLICATE_LIFECYCLE = 2
    IDENTIFIER = 3
    UNNAMED_COLUMN = 4
    TYPE_ORDER = 5
    COLUMN_NOT_FOUND = 6
    SEQUENCE_COLUMN_TYPE = 7
    INDEX_COLUMN_TYPE = 8
    UNIQUE_WITHOUT_INDEX = 9
    SEQUENCE_RANGE = 10
    DUPLICATE_COLUMNS = 11
    KEY_WITHOUT_UNIQUE = 12
    SEVERAL_KEYS = 13
    SEVERAL_SEQUENCES = 14
    SCHEDULED_COLUMNS = 15
    TYPE_USE = 16
    TYPE_REFERENCE = 17
    TABLE_NOT_FOUND = 18
    SCHEDULED_PARAMETERS = 19
    DEFAULT = 20
    SCHEDULED_FUNCTION = 21
    LIFECYCLE = 22
    VIEW = 23
    RETURN_TYPE = 24
    DUPLICATE_FUNCTION = 25
    HTTP = 26
    RESERVED_TABLE_NAME = 27
    SUBMODULE = 28
    OURS = 29
    """Definitions that upstream accepts and that then end its process."""


_IDENTIFIER_ORDER = ("is not in normalization form C", "'s starting character", "contains a character", "Empty")


class Problem(NamedTuple):
    """One error: kind, what it is sorted by within the kind, and its text."""

    kind: Kind
    key: tuple[str | int, ...]
    text: str


class Problems:
    """The errors found so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, kind: Kind, text: str, *key: str | int) -> None:
        """Note an error; ``key`` are the parts it is sorted by (the text when there are none)."""
        self.found.append(Problem(kind, key or (text,), text))

    def identifier(self, name: str) -> bool:
        """Whether ``name`` is an identifier; notes what is wrong when it is not."""
        problem = identifier_problem(name)
        if problem is None:
            return True
        order = next(rank for rank, mark in enumerate(_IDENTIFIER_ORDER) if mark in problem)
        self.add(Kind.IDENTIFIER, f"module contains invalid identifier: {problem}", order, name)
        return False

    def raise_if_any(self) -> None:
        """End the stage: ``ModuleDefErrors`` when there are errors."""
        if self.found:
            raise ModuleDefErrors(tuple(self.found))


class ModuleDefErrors(ValueError):
    """A definition that is refused; its text is exactly what the publisher is told.

    ``problems`` is empty for what is only found while tables are created: then ``text`` is all there is.
    """

    def __init__(self, problems: tuple[Problem, ...], text: str | None = None) -> None:
        self.problems = problems
        if text is None:
            texts = dict.fromkeys(problem.text for problem in sorted(problems))
            text = "Errors occurred:\n" + "".join(f"{line}\n\n" for line in texts)
        super().__init__(text)
