"""Errors that module code raises, catches, or is told about."""

from __future__ import annotations

from typing import NamedTuple


class ReducerError(Exception):
    """A user failure: the transaction is rolled back and the caller receives this text, word for word.

    Subclass it freely; the text sent is `str(error)`.
    """


class UniqueViolation(Exception):
    """A row carries a unique value that another row has. Uncaught it is an internal failure: callers see a fixed text.

    `table` and `column` are source names; several columns are joined with a comma. `key` is the value (a tuple for
    several columns). `note` says why when it is not obvious, as for a sequence that has run through its type.
    """

    def __init__(self, table: str, column: str, key: object, note: str = "") -> None:
        self.table = table
        self.column = column
        self.key = key
        self.note = note
        super().__init__(table, column, key)

    def __str__(self) -> str:
        text = f"table {self.table}: another row has {self.column} = {self.key!r}"
        return f"{text} ({self.note})" if self.note else text


class NoSuchRow(Exception):
    """`update` found no row under the key. `table` and `column` are source names."""

    def __init__(self, table: str, column: str, key: object) -> None:
        self.table = table
        self.column = column
        self.key = key
        super().__init__(table, column, key)

    def __str__(self) -> str:
        return f"table {self.table}: no row has {self.column} = {self.key!r}"


class WouldBlock(Exception):
    """A procedure tried to wait (HTTP, sleep, another transaction) inside a transaction."""


class HttpError(Exception):
    """An HTTP request of a procedure failed; the text says why, without the query part of the address."""


class BudgetExceeded(BaseException):
    """The time budget of a call is used up. Not an `Exception`, so that `except Exception` in a module lets it pass."""


class ProgramReplaced(BaseException):
    """A procedure opens a transaction, but the database runs another program than the procedure's: it ends here.

    Not an `Exception`: a procedure that tries again and again would never end.
    """


class Problem(NamedTuple):
    """One thing wrong in a module: where (file, line counted from 1) and what."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class ModuleError(Exception):
    """Everything that is wrong with a module, found at load. `problems` is never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "1 problem in the module:" if count == 1 else f"{count} problems in the module:"
        return "\n".join([head, *map(str, self.problems)])
