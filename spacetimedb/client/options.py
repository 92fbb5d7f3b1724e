"""What `connect` takes beside server and database, the same on every face."""

from __future__ import annotations

from types import ModuleType
from typing import TypedDict

import msgspec
from msgspec.structs import replace

from spacetimedb.module import Module

from .address import CONNECT_SECONDS, Address
from .definition import schema_from_json
from .face import Backoff
from .schema import Schema, schema_of
from .tokens import FileTokenStore


class ConnectOptions(TypedDict, total=False):
    """The keyword arguments of `connect`."""

    module: Module | ModuleType | Schema | None
    """Where the types come from: the module itself, its generated form, or a Schema. None: the server is asked."""
    token: str | FileTokenStore | None
    """Comes back as the identity of this token, or of the store's, which keeps a new one. None: somebody new."""
    confirmed: bool | None
    """False: changes are shown before they are safe on disk. None leaves it to the server, which waits."""
    light: bool
    """Passed to the server."""
    reconnect: Backoff | None
    """How to connect again when the connection is lost. None: it stays lost."""
    timeout: float
    """Seconds until the server must have greeted."""


class Plan(msgspec.Struct, frozen=True):
    """What a connection begins with. `schema` None: the server is to be asked, now and at every reconnect."""

    address: Address
    schema: Schema | None
    backoff: Backoff | None
    store: FileTokenStore | None

    @classmethod
    def of(cls, url: str, database: str, options: ConnectOptions) -> Plan:
        """ValueError for an address, TypeError for a module that is none, and for options that do not exist."""
        known = ConnectOptions.__annotations__
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"connect() has no option {', '.join(unknown)}; it has {', '.join(known)}")
        backoff = options.get("reconnect")
        if not isinstance(backoff, Backoff | None):
            raise TypeError(f"reconnect takes a Backoff(), not {backoff!r}")
        given = options.get("token")
        store = given if isinstance(given, FileTokenStore) else None
        address = Address.parse(
            url,
            database,
            token=given.load() if isinstance(given, FileTokenStore) else given,
            confirmed=options.get("confirmed"),
            light=options.get("light", False),
            timeout=options.get("timeout", CONNECT_SECONDS),
        )
        module = options.get("module")
        schema = None if module is None else schema_of(module)
        return cls(address, schema, backoff, store)

    def with_token(self, token: str) -> Plan:
        """The same for somebody else."""
        return replace(self, address=replace(self.address, token=token))


class Asked:
    """The schema as the server last gave it, for connections whose user has none."""

    __slots__ = ("_text", "schema")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.schema = schema_from_json(text)

    def renew(self, text: bytes) -> bool:
        """Takes another answer; whether anything is different. ProtocolError."""
        if text == self._text:
            return False
        self.schema, self._text = schema_from_json(text), text
        return True
