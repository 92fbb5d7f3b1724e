"""Processor time and memory of the server's processes, as the kernel tells them (Linux; elsewhere there are none)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric

from spacetimedb.memory import control as words

if TYPE_CHECKING:
    from spacetimedb.workers.reader import Reader

_UTIME, _STIME, _RSS = 11, 12, 21
"""Fields of /proc/PID/stat behind the name of the command."""


def process_metrics(reader: Reader) -> Iterator[Metric]:
    """`process_...` with labels process (supervisor, reader, actor, log_keeper), pid, and database_identity of those
    that belong to one."""
    cpu = Metric("process_cpu_seconds", "User and system time.", "counter")
    memory = Metric("process_resident_memory_bytes", "Resident memory, with the shared memory it touched.", "gauge")
    files = Metric("process_open_fds", "Open descriptors.", "gauge")
    for pid, labels in _processes(reader):
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
            count = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue  # it has just ended
        labels["pid"] = str(pid)
        cpu.add_sample("process_cpu_seconds_total", labels, (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS)
        memory.add_sample("process_resident_memory_bytes", labels, int(fields[_RSS]) * _PAGE)
        files.add_sample("process_open_fds", labels, count)
    yield from (cpu, memory, files)


def _processes(reader: Reader) -> Iterator[tuple[int, dict[str, str]]]:
    readers = {reader.number: os.getpid()}
    for link in reader.links.values():
        block = link.control
        for process, word in (("actor", words.ACTOR_PID), ("log_keeper", words.LOG_PID)):
            if pid := block.words[word]:
                yield pid, {"process": process, "database_identity": link.identity.hex()}
        for slot in range(words.READER_SLOTS):
            if pid := block.reader(slot, words.READER_PID):
                readers[slot] = pid
    for slot, pid in readers.items():
        yield pid, {"process": f"reader_{slot}", "database_identity": ""}
    yield os.getppid(), {"process": "supervisor", "database_identity": ""}


_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
