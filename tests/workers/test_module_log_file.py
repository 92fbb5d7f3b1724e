"""The log keeper's file of module log lines."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spacetimedb.workers.log_keeper.log_keeper import ModuleLogFile


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d.log")


def test_lines_are_appended(tmp_path: Path) -> None:
    for piece in (b"a\n", b"b\nc\n"):
        file = ModuleLogFile(tmp_path / "logs")
        file.write(piece)
        file.write(piece)
    assert (tmp_path / "logs" / today()).read_bytes() == b"a\na\nb\nc\nb\nc\n"


def test_it_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "logs"
    file = ModuleLogFile(directory)
    file.write(b"a\n")
    # The next day begins while the directory cannot be used.
    monkeypatch.setattr(file, "_name", "1999-12-31.log")
    shutil.move(directory, tmp_path / "elsewhere")
    file.write(b"lost\n")
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)  # may get the number of the closed file
    file.write(b"lost\n")
    directory.mkdir()
    file.write(b"b\n")
    os.close(other)
    assert (directory / today()).read_bytes() == b"b\n"
    assert (tmp_path / "other").read_bytes() == b""
    assert "module log: " in capfd.readouterr().err


def test_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ModuleLogFile(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    file.write(b"0123456789\n")
    assert (tmp_path / today()).read_bytes() == b"0123456789\n"
