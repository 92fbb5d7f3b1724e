"""The command line's files: `cli.toml` and the package that is uploaded."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import click
import pytest

from spacetimedb.cli.config import Config, Paths
from spacetimedb.cli.packaging import find_module, program_bytes, zip_package
from spacetimedb.cli.start import parse_address

SHARED_FILE = """# my servers
default_server = "maincloud"
web_session_token = "keep me"

[[server_configs]]
nickname = "maincloud"  # the cloud
host = "maincloud.spacetimedb.com"
protocol = "https"
"""


def test_a_new_file_knows_the_local_server(tmp_path: Path) -> None:
    config = Config(tmp_path / "a" / "cli.toml")
    assert config.server_url(None) == "http://127.0.0.1:3000"
    assert config.server_url("maincloud") == "https://maincloud.spacetimedb.com"
    assert config.token is None
    assert not config.path.exists()


def test_a_default_elsewhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cli.toml"
    assert Config(path).default_is_elsewhere() is None
    path.write_text(SHARED_FILE)
    config = Config(path)
    assert "go to https://maincloud.spacetimedb.com" in (config.default_is_elsewhere() or "")
    config.default_server = "nobody"
    assert config.default_is_elsewhere() is None
    config.default_server = "local"
    assert config.default_is_elsewhere() is None


def test_comments_and_foreign_keys_stay(tmp_path: Path) -> None:
    path = tmp_path / "cli.toml"
    path.write_text(SHARED_FILE)
    config = Config(path)
    config.token = 'a"b\\c'
    config.default_server = "maincloud"
    again = Config(path)
    assert again.token == 'a"b\\c'
    again.token = None
    assert path.read_text() == SHARED_FILE


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("maincloud", "https://maincloud.spacetimedb.com"),
        ("maincloud.spacetimedb.com", "https://maincloud.spacetimedb.com"),
        ("http://10.0.0.1:3000/", "http://10.0.0.1:3000"),
        ("localhost:4000", "http://localhost:4000"),
        ("local", "http://127.0.0.1:3000"),
    ],
)
def test_server_by_nickname_host_or_url(tmp_path: Path, server: str, url: str) -> None:
    path = tmp_path / "cli.toml"
    path.write_text(SHARED_FILE)
    assert Config(path).server_url(server) == url


def test_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "cli.toml"
    path.write_text("default_server = ")
    with pytest.raises(click.ClickException, match="is not valid TOML"):
        Config(path)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    paths = Paths.locate()
    assert paths.config_file == tmp_path / "c" / "spacetime" / "cli.toml"
    assert paths.data == tmp_path / "d" / "spacetime" / "data"
    below = Paths.locate(tmp_path / "r")
    assert (below.config_file, below.data) == (tmp_path / "r" / "config" / "cli.toml", tmp_path / "r" / "data")


def test_a_package_is_packed_the_same_way_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "game", tmp_path / "two" / "game"
    for folder, names in ((first, ["b.py", "__init__.py", "sub/a.py"]), (second, ["sub/a.py", "__init__.py", "b.py"])):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"# {name}\n")
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "b.pyc").write_bytes(b"x")
    (second / ".git").mkdir()
    (second / ".git" / "config").write_text("x")
    os.utime(second / "b.py", (1, 1))
    assert zip_package(first) == zip_package(second)
    with zipfile.ZipFile(io.BytesIO(zip_package(first))) as archive:
        assert archive.namelist() == ["game/__init__.py", "game/b.py", "game/sub/a.py"]
        assert archive.testzip() is None
    packed = tmp_path / "game.zip"
    packed.write_bytes(zip_package(first))
    assert program_bytes(packed) == packed.read_bytes()


def test_which_module_is_meant(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("print('no module')\n")
    (tmp_path / "game.py").write_text("import math\nfrom spacetimedb import Module\n")
    assert find_module(tmp_path) == tmp_path / "game.py"
    with zipfile.ZipFile(io.BytesIO(program_bytes(tmp_path / "game.py"))) as archive:
        assert archive.namelist() == ["game.py"]
        assert archive.read("game.py") == (tmp_path / "game.py").read_bytes()
    (tmp_path / "bot.py").write_text("from spacetimedb.loadtest import Bot\n")
    with pytest.raises(click.ClickException, match=r"several modules \(bot.py, game.py\)"):
        find_module(tmp_path)
    (tmp_path / "game.py").write_text("from spacetimedb import Module\nm = Module()\n")
    assert find_module(tmp_path) == tmp_path / "game.py"
    (tmp_path / "__init__.py").write_text("")
    assert find_module(tmp_path) == tmp_path
    assert program_bytes(tmp_path)[:4] == b"PK\3\4"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("[::1]:0", ("::1", 0)),
        (":80", ("0.0.0.0", 80)),
        ("host:1", ("host", 1)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
