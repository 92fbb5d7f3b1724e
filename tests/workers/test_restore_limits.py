"""A restore has limits of bytes and of time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spacetimedb.http.backend import BackendError
from spacetimedb.workers.reader.http import backup_requests
from spacetimedb.workers.supervisor import backups
from spacetimedb.workers.supervisor.errors import ControlError


def test_a_backup_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_requests, "MAX_BACKUP_BYTES", 100)
    upload = tmp_path / "upload"
    upload.touch()
    assert backup_requests._append(upload, 0, bytes(60)) == 60
    with pytest.raises(BackendError, match="at most 100 bytes") as failure:
        backup_requests._append(upload, 60, bytes(41))
    assert failure.value.status == 413
    assert backup_requests._append(upload, 60, bytes(40)) == 100


async def test_a_backup_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "RESTORE_LIMIT_S", 0.2)
    endless = tmp_path / "backup"
    os.mkfifo(endless)  # whoever opens it waits
    with pytest.raises(ControlError, match="would have taken longer") as failure:
        await backups.unpack(endless, tmp_path / "replica", bytes(32), None)
    assert failure.value.status == 504
