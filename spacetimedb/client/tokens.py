"""Tokens kept on disk, where the official Rust client keeps them: `~/.spacetimedb_client_credentials/KEY`.

A file is a product of one string in BSATN: u32 little-endian length, then the token in UTF-8.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

FOLDER: Final = ".spacetimedb_client_credentials"
_LENGTH: Final = struct.Struct("<I")


class FileTokenStore:
    """The token of one application on one machine. `key` names the file; `folder` is the home's by default.

    ValueError for a key that is no plain file name, or a file that holds something else.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        if not key or key in (".", "..") or "/" in key or os.sep in key or "\0" in key:
            raise ValueError(f"the key of a token store names a file, and {key!r} does not")
        self.path = (Path.home() / FOLDER if folder is None else folder) / key

    def load(self) -> str | None:
        """The token, or None if there is none yet."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            (length,) = _LENGTH.unpack_from(data)
            if length != len(data) - _LENGTH.size:
                raise ValueError
            return data[_LENGTH.size :].decode()
        except (struct.error, ValueError):
            raise ValueError(f"{self.path} does not hold a token; delete it to begin as somebody new") from None

    def save(self, token: str) -> None:
        """Keeps a token; only this user can read it."""
        raw = token.encode()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_LENGTH.pack(len(raw)) + raw)
        fresh.replace(self.path)

    def forget(self) -> None:
        """The next connection is somebody new."""
        self.path.unlink(missing_ok=True)
