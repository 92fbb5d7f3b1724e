"""Processor time and memory of the server's processes, as the kernel tells them (Linux; elsewhere there are none)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from spacetimedb.memory import control as words
from spacetimedb.types.special import Identity
from spacetimedb.workers.reader.exposition import header, labels

if TYPE_CHECKING:
    from spacetimedb.workers.reader.database_link import DatabaseLink
    from spacetimedb.workers.reader.reader import Reader

CPU: Final = "process_cpu_seconds_total"
MEMORY: Final = "process_resident_memory_bytes"
FILES: Final = "process_open_fds"
PROCESS_METRICS: Final = {
    CPU: header(CPU, "counter", "User and system time."),
    MEMORY: header(MEMORY, "gauge", "Resident memory, with the shared memory it touched."),
    FILES: header(FILES, "gauge", "Open descriptors."),
}
"""With what stands before their series."""
_UTIME, _STIME, _RSS = 11, 12, 21
"""Fields of /proc/PID/stat behind the name of the command."""
_STAT_BYTES: Final = 4096
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MODULES: Final = "spacetimedb.workers."
_HELPERS: Final = ("outbound", "loader", "snapshotter", "restorer")
_IDENTITY: Final = re.compile("[0-9a-f]{64}")


class ProcessFigures:
    """Adds processes to the lines of the metrics above."""

    def __init__(self, lines: dict[str, list[str]]) -> None:
        self._lines = lines
        self.known: set[int] = set()
        """Pids that were added."""

    def add(self, pid: int, name: str, database: str) -> None:
        """Labels are process, pid, and the identity of the database that it belongs to, if it does. 50 us."""
        try:
            stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
            try:
                fields = os.read(stat, _STAT_BYTES).rpartition(b") ")[2].split()
            finally:
                os.close(stat)
            # The size of the folder is the number of its entries, from Linux 6.2 on.
            folder = f"/proc/{pid}/fd"
            count = os.stat(folder).st_size or len(os.listdir(folder))
        except OSError:
            return  # it has just ended
        self.known.add(pid)
        text = labels({"process": name, "pid": str(pid), "database_identity": database})
        self._lines[CPU].append(f"{CPU}{{{text}}} {(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS}\n")
        self._lines[MEMORY].append(f"{MEMORY}{{{text}}} {int(fields[_RSS]) * _PAGE}\n")
        self._lines[FILES].append(f"{FILES}{{{text}}} {count}\n")


class Helper(NamedTuple):
    """A process that comes and goes: sends HTTP requests, looks at a program, takes a snapshot, restores a backup."""

    name: str
    database: Identity | None


def helper_of(pid: int) -> Helper | None:
    """What a process is, if it is one of those. 30 us."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return None
    for argument in arguments:
        name = argument.rpartition(".")[2]
        if argument.startswith(_MODULES) and name in _HELPERS:
            database = next(filter(_IDENTITY.fullmatch, arguments), None)
            return Helper(name, None if database is None else Identity.from_hex(database))
    return None


def servers_children() -> Iterator[int]:
    """Children of the supervisor, as far as the kernel tells; one that starts or ends just now may be missing."""
    folder = f"/proc/{os.getppid()}/task"
    try:
        for thread in os.listdir(folder):
            with open(f"{folder}/{thread}/children", "rb") as file:
                yield from map(int, file.read().split())
    except OSError:
        return


def processes_of(link: DatabaseLink) -> Iterator[tuple[int, str]]:
    """Pids and names of the processes of one database."""
    for name, word in (("actor", words.ACTOR_PID), ("log_keeper", words.LOG_PID)):
        if pid := link.control.words[word]:
            yield pid, name


def servers_processes(reader: Reader) -> dict[int, str]:
    """Pids and names of those that belong to no database."""
    found = {os.getppid(): "supervisor", os.getpid(): f"reader_{reader.number}"}
    for link in reader.links.values():
        if link.down:
            continue
        for slot in range(words.READER_SLOTS):
            if pid := link.control.reader(slot, words.READER_PID):
                found[pid] = f"reader_{slot}"
    return found
