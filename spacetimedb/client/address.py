"""Where a connection leads: server, database, token and options, as the handshake wants them."""

from __future__ import annotations

import http.client
import ssl
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from spacetimedb.protocol.client_socket import ClientSocket

from .errors import ConnectError

SUBPROTOCOLS: Final = ("v3.bsatn.spacetimedb", "v2.bsatn.spacetimedb")
CONNECT_SECONDS: Final = 10.0
_SCHEMES: Final = {"ws": False, "http": False, "": False, "wss": True, "https": True}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One database on one server. `database` is a name or an identity in hex.

    `confirmed`: False shows changes before they are safe on disk; None leaves it to the server, which waits.
    `light` is passed on; servers ignore it on the protocols spoken here. `timeout`: seconds from the first packet to
    the server's greeting.
    """

    host: str
    port: int
    secure: bool
    path: str
    database: str
    token: str | None = None
    confirmed: bool | None = None
    light: bool = False
    timeout: float = CONNECT_SECONDS

    @classmethod
    def parse(
        cls,
        url: str,
        database: str,
        *,
        token: str | None = None,
        confirmed: bool | None = None,
        light: bool = False,
        timeout: float = CONNECT_SECONDS,
    ) -> Address:
        """`url`: ws, wss, http or https, or just HOST:PORT. ValueError if it is none of these."""
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        secure = _SCHEMES.get(parts.scheme)
        if secure is None or not parts.hostname or parts.query:
            raise ValueError(f"not a server address: {url} (expected ws://HOST:PORT or http://HOST:PORT)")
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            secure=secure,
            path=parts.path.rstrip("/"),
            database=database,
            token=token,
            confirmed=confirmed,
            light=light,
            timeout=timeout,
        )

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def socket(self, token: str | None) -> ClientSocket:
        """The protocol state of a new WebSocket."""
        parameters = {"compression": "None"}
        if self.confirmed is not None:
            parameters["confirmed"] = str(self.confirmed).lower()
        if self.light:
            parameters["light"] = "true"
        resource = f"{self._base}/subscribe?{urlencode(parameters)}"
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        return ClientSocket(self.authority, resource, SUBPROTOCOLS, headers)

    @property
    def _base(self) -> str:
        return f"{self.path}/v1/database/{quote(self.database, safe='')}"

    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.secure else None

    def fetch_definition(self) -> bytes:
        """JSON of the database's definition, version 10; blocks. ConnectError if there is none to be had."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=self.timeout)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection.request("GET", f"{self._base}/schema?version=10", headers=headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.unreachable(error) from None
        finally:
            connection.close()
        if response.status != 200:
            text = body.decode("utf-8", "replace").strip() or f"HTTP status {response.status}"
            raise self.refusal(text, response.status)
        return body

    def unreachable(self, error: Exception) -> ConnectError:
        """No connection to the server came to be; what the network said."""
        if isinstance(error, TimeoutError):
            return ConnectError(f"no answer from {self} within {self.timeout:g} s")
        if isinstance(error, ConnectionRefusedError):
            return ConnectError(f"no connection to {self}: no server listens at port {self.port} ({error})")
        return ConnectError(f"no connection to {self}: {error}")

    def refusal(self, text: str, status: int | None) -> ConnectError:
        """The server answered with this text and HTTP status."""
        if status == 404:
            text = f"no database `{self.database}` at {self} ({text})"
        elif status == 401:
            text = f"{self} refuses the token: it is another server's, or older than this one's keys ({text})"
        return ConnectError(text, status)
