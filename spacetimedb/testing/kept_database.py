"""A `TestHost`'s database as a directory, to look at after a test.

log/             its commit log
tables/*.jsonl   the rows of each table of the module, one JSON object a line
log.jsonl        the lines of the module log
clock            the virtual time, microseconds as text
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spacetimedb.log.commit_log import CommitLogWriter
from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.recovery import RecoveredState, initial_state
from spacetimedb.log.segments import read_commits
from spacetimedb.store.table import Table
from spacetimedb.types.sats_json import to_json


def keep(
    directory: Path, payloads: list[bytes], tables: Iterable[Table], log: Iterable[Mapping[str, Any]], now_us: int
) -> None:
    """Writes the database; what was kept there before is gone. Raises OSError."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "tables").mkdir(parents=True)
    with CommitLogWriter.open(directory / "log") as writer:
        writer.append(payloads)
        writer.sync()
    for table in tables:
        text_of = to_json(table.shape)
        lines = (text_of(table.decode(row)) + "\n" for row in table.images())
        (directory / "tables" / f"{table.name}.jsonl").write_text("".join(lines))
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (directory / "clock").write_text(str(now_us))


def kept(directory: Path) -> tuple[list[bytes], RecoveredState, int]:
    """The transactions, what they lead to, and the time. Raises FileNotFoundError if nothing is kept there."""
    now_us = int((directory / "clock").read_text())
    state = initial_state()
    payloads = []
    for _path, commit in read_commits(OPERATING_SYSTEM, directory / "log"):
        at = commit.at
        for _ in range(commit.n):
            transaction, end = state.decode(commit.body, at)
            state.apply(transaction)
            payloads.append(commit.body[at:end])
            at = end
    state.finish()
    return payloads, state, now_us
