"""The command line's own files: where they live, and `cli.toml`.

`cli.toml` is shared with upstream's command line, so tokens and server nicknames are too:

    default_server = "local"
    spacetimedb_token = "eyJ..."            one token for all servers
    listen_addr = "127.0.0.1:3000"          used by `start` when it is not told otherwise
    [[server_configs]]
    nickname = "local"
    host = "127.0.0.1:3000"
    protocol = "http"

Only top-level keys are ever rewritten, line by line: comments and keys that we do not know stay as they are.
A file that upstream's command made has `default_server = "maincloud"`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import msgspec

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Host names of this machine."""
NEW_FILE = """default_server = "local"

[[server_configs]]
nickname = "maincloud"
host = "maincloud.spacetimedb.com"
protocol = "https"

[[server_configs]]
nickname = "local"
host = "127.0.0.1:3000"
protocol = "http"
"""


class Paths(msgspec.Struct, frozen=True):
    """Places of one user: `cli.toml`, the directory of the key pair, and what a server keeps by default."""

    config_file: Path
    key_dir: Path
    data: Path

    @classmethod
    def locate(cls, root_dir: Path | None = None, config_path: Path | None = None) -> Paths:
        """Upstream's places: below `root_dir` if given, else the XDG directories (or %LocalAppData%)."""
        if root_dir is None and sys.platform == "win32":
            root_dir = Path(os.environ["LOCALAPPDATA"]) / "SpacetimeDB"
        if root_dir is not None:
            config, data = root_dir / "config", root_dir / "data"
        else:
            home = Path.home()
            config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "spacetime"
            data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "spacetime" / "data"
        return cls(config_path or config / "cli.toml", config, data)


class ServerEntry(msgspec.Struct, frozen=True):
    nickname: str | None
    host: str
    protocol: str

    @property
    def url(self) -> str:
        return f"{self.protocol}://{self.host}"


class Config:
    """`cli.toml`, read once; every setter writes the file back at once (mode 0600, by rename)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = path.read_text("utf-8")
        except FileNotFoundError:
            self._text = NEW_FILE
        try:
            self._values: dict[str, Any] = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise click.ClickException(f"{path} is not valid TOML: {error}") from None

    @property
    def token(self) -> str | None:
        return self._text_value("spacetimedb_token")

    @token.setter
    def token(self, value: str | None) -> None:
        self._set("spacetimedb_token", value)

    @property
    def default_server(self) -> str | None:
        return self._text_value("default_server")

    @default_server.setter
    def default_server(self, value: str) -> None:
        self._set("default_server", value)

    @property
    def listen_addr(self) -> str | None:
        return self._text_value("listen_addr")

    @property
    def servers(self) -> list[ServerEntry]:
        return [
            ServerEntry(entry.get("nickname"), str(entry["host"]), str(entry.get("protocol", "https")))
            for entry in self._values.get("server_configs", [])
            if "host" in entry
        ]

    def server_url(self, server: str | None) -> str:
        """URL of a server given as nickname, host or URL; None means the default one."""
        wanted = server or self.default_server or "local"
        if "://" in wanted:
            return wanted.rstrip("/")
        entries = self.servers
        for entry in entries:
            if wanted == entry.nickname:
                return entry.url
        for entry in entries:
            if wanted == entry.host:
                return entry.url
        if wanted == "local":
            return "http://127.0.0.1:3000"
        if ":" in wanted:  # HOST:PORT that the file does not know
            return f"http://{wanted}"
        known = ", ".join(entry.nickname or entry.host for entry in entries)
        raise click.ClickException(
            f"no server named `{wanted}`. Known servers: {known}. A URL works too: --server http://HOST:PORT"
        )

    def default_is_elsewhere(self) -> str | None:
        """What to say if commands go to another machine by default, as in a file that upstream's command made."""
        try:
            url = self.server_url(None)
        except click.ClickException:
            return None  # the command that wants it says so
        if urlsplit(url).hostname in LOOPBACK:
            return None
        return f"commands without --server go to {url} ({self.path}): `spacetime server set-default local` changes that"

    def add_server(self, nickname: str, host: str, protocol: str) -> None:
        """Appends an entry; ClickException if the nickname or the host is there already."""
        if any(nickname == entry.nickname or host == entry.host for entry in self.servers):
            raise click.ClickException(f"a server with nickname `{nickname}` or host `{host}` exists already")
        entry = f'\n[[server_configs]]\nnickname = {_quote(nickname)}\nhost = {_quote(host)}\nprotocol = "{protocol}"\n'
        self._write(self._text.rstrip("\n") + "\n" + entry)

    def _text_value(self, key: str) -> str | None:
        value = self._values.get(key)
        return value if isinstance(value, str) and value else None

    def _set(self, key: str, value: str | None) -> None:
        lines = self._text.splitlines()
        first_table = next((n for n, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
        at = next((n for n in range(first_table) if re.match(rf"\s*{key}\s*=", lines[n])), None)
        new = [] if value is None else [f"{key} = {_quote(value)}"]
        if at is not None:
            lines[at : at + 1] = new
        else:
            while first_table and not lines[first_table - 1].strip():
                first_table -= 1
            lines[first_table:first_table] = new
        self._write("\n".join(lines) + "\n")

    def _write(self, text: str) -> None:
        self._values = tomllib.loads(text)
        self._text = text
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix="cli.toml.")  # mode 0600: it holds a token
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, self.path)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
