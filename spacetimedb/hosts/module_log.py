"""The module log: what reducers log, as JSON lines in the order and spelling of SpacetimeDB's own.

Keys, in this order, absent ones left out: `level` (Error Warn Info Debug Trace Panic), `ts` (microseconds since the
epoch), `target`, `filename`, `line_number`, `function` (the reducer that runs), `message`, `trace` (of a Panic: a
list of `{"module_name", "func_name"}`). Lines that the server itself writes have `__spacetimedb__` as target, file
name and function. Lines are kept whether or not the transaction commits.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from os.path import dirname, isabs
from threading import get_ident
from typing import Final

import msgspec

from spacetimedb.hosts.program import PROGRAM_NAME

SYSTEM: Final = "__spacetimedb__"
MAX_PENDING_LINES: Final = 100_000
"""Lines between two calls of `take`; what a transaction logs beyond that is counted and dropped."""
MAX_PENDING_BYTES: Final = 16 << 20
"""The same in bytes; the line that passes it is the last."""
MAX_MESSAGE_CHARACTERS: Final = 64 << 10
MAX_TRACE_FRAMES: Final = 64
"""Innermost frames that a Panic line lists."""

_NOT_OF_MODULES: Final = (f"{dirname(dirname(__file__))}/", "<spacetimedb ")
"""How file names of the server's own code begin, and of code that it has generated."""

_encode = msgspec.json.Encoder().encode
_LEVELS: Final = ((logging.ERROR, "Error"), (logging.WARNING, "Warn"), (logging.INFO, "Info"), (logging.DEBUG, "Debug"))


class ModuleLog(logging.Handler):
    """Collects lines until the owner takes them. `clock` gives microseconds; `function` is set around every call.

    Threads may log too: `thread_functions` has the function that each of them runs, `wake` is called for their lines.
    There is no lock, on purpose: the budget's signal may end a call anywhere, also while it holds one. Lines are added
    and taken by single operations on a list.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(level=0)
        self.function: str | None = None
        self.is_muted = False
        """Nothing is kept for now."""
        self.thread_functions: dict[int, str] = {}
        self.wake: Callable[[], None] | None = None
        self._clock = clock
        self._lines: list[bytes] = []
        self._bytes = 0
        self._dropped = 0
        logger = logging.getLogger(PROGRAM_NAME)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.addHandler(self)
        logger.setLevel(1)
        logger.propagate = False
        self.logger = logger

    def createLock(self) -> None:
        """No lock; see the class."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As `logging.Handler.handle`, without its lock."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging` for everything the module logs."""
        level = next((name for floor, name in _LEVELS if record.levelno >= floor), "Trace")
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        self._add(level, self._clock(), record.name, _file_of(record), record.lineno, self._running(), message, None)

    def print_line(self, text: str) -> None:
        """What the module prints becomes a line of level Info."""
        self._add("Info", self._clock(), PROGRAM_NAME, None, None, self._running(), text, None)

    def _running(self) -> str | None:
        """The function that runs in this thread."""
        threads = self.thread_functions
        return threads.get(get_ident(), self.function) if threads else self.function

    def system(self, message: str, level: str = "Info", function: str = SYSTEM, ts: int | None = None) -> None:
        """A line of the server itself, or about the call of `function`."""
        self._add(level, self._clock() if ts is None else ts, SYSTEM, SYSTEM, None, function, message, None)

    def panic(self, error: BaseException, function: str) -> None:
        """The record of an exception that a function did not handle: its text, and its frames, innermost first."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not f.filename.startswith(_NOT_OF_MODULES)] or frames
        trace = [
            {"module_name": f"{f.filename}:{f.lineno}", "func_name": f.name} for f in own[: -MAX_TRACE_FRAMES - 1 : -1]
        ]
        last = own[-1] if own else None
        text = text_of(error)
        message = f"{type(error).__name__}: {text}" if text else type(error).__name__
        self._add("Panic", self._clock(), None, last and last.filename, last and last.lineno, function, message, trace)

    def _add(
        self,
        level: str,
        ts: int,
        target: str | None,
        filename: str | None,
        line_number: int | None,
        function: str | None,
        message: str,
        trace: list[dict[str, str]] | None,
    ) -> None:
        if self.is_muted:
            return
        if len(self._lines) >= MAX_PENDING_LINES or self._bytes >= MAX_PENDING_BYTES:
            self._dropped += 1
            return
        line: dict[str, object] = {"level": level, "ts": ts}
        for key, value in (
            ("target", target),
            ("filename", filename),
            ("line_number", line_number),
            ("function", function),
            # Module code can make text that no UTF-8 holds.
            ("message", message[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()),
            ("trace", trace),
        ):
            if value is not None:
                line[key] = value
        data = _encode(line) + b"\n"
        self._bytes += len(data)
        self._lines.append(data)
        if self.wake is not None and get_ident() in self.thread_functions:
            self.wake()

    @property
    def pending(self) -> bool:
        """Whether there are lines to take."""
        return bool(self._lines)

    def take(self) -> list[bytes]:
        """All lines since the last call, each a JSON object and a newline."""
        lines = self._take_lines()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.system(f"{dropped} log lines were dropped: too many at once", "Warn")
            lines += self._take_lines()
        return lines

    def _take_lines(self) -> list[bytes]:
        """Other threads may append meanwhile."""
        count = len(self._lines)
        self._bytes = 0
        lines = self._lines[:count]
        del self._lines[:count]
        return lines


def _file_of(record: logging.LogRecord) -> str:
    """The file as the author knows it: files of a program have the paths they were published with."""
    return record.filename if isabs(record.pathname) else record.pathname


def text_of(error: BaseException) -> str:
    """The text of an exception, whose class may be the module's own and have a fault in it."""
    try:
        return str(error)
    except Exception:
        return ""


def described_error(error: BaseException) -> str:
    """An exception with the line of the module that it comes from, for whoever publishes the module."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_NOT_OF_MODULES)]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text_of(error)}{where}"
