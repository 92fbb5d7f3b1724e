"""Whose a data directory is: one server's at a time, never the official one's, whose default is the same directory."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from spacetimedb.workers.options import ServerOptions
from spacetimedb.workers.supervisor.data_directory import data_directory
from spacetimedb.workers.supervisor.errors import ServerError


def options(directory: Path) -> ServerOptions:
    return ServerOptions(listen_host="127.0.0.1", listen_port=0, data_dir=directory, jwt_key_dir=directory)


async def use(directory: Path) -> None:
    async with data_directory(options(directory)) as given:
        assert given == directory


async def test_is_marked_so_that_the_official_server_refuses_it(tmp_path: Path) -> None:
    for _ in range(2):
        await use(tmp_path / "data")
    metadata = tomllib.loads((tmp_path / "data" / "metadata.toml").read_text())
    assert metadata == {"version": "2.8.3", "edition": "python"}


async def test_one_server_at_a_time(tmp_path: Path) -> None:
    async with data_directory(options(tmp_path)):
        with pytest.raises(ServerError, match="in use by the server with pid"):
            await use(tmp_path)
    await use(tmp_path)


async def test_the_official_servers_is_refused_and_left_alone(tmp_path: Path) -> None:
    metadata = tmp_path / "metadata.toml"
    metadata.write_text('version = "2.8.3"\nedition = "standalone"\n')
    with pytest.raises(ServerError, match="edition standalone"):
        await use(tmp_path)
    assert "standalone" in metadata.read_text()
    metadata.unlink()
    (tmp_path / "control-db").mkdir()
    with pytest.raises(ServerError, match="another server"):
        await use(tmp_path)
    assert not metadata.exists()
    metadata.write_text("edition =")
    with pytest.raises(ServerError, match=r"metadata\.toml cannot be read"):
        await use(tmp_path)
