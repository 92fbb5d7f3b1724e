"""One server as the command line sees it: HTTP requests over one kept-alive connection, errors a person can act on."""

from __future__ import annotations

import base64
import http.client
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import click
import msgspec

from .config import Config

CONNECT_TIMEOUT_SECONDS = 10.0
ANSWER_TIMEOUT_SECONDS = 600.0  # a publish runs `init`, a reducer may be long
IDENTITY_LENGTH = 64


def version() -> str:
    """Version of the installed distribution."""
    try:
        return importlib.metadata.version("spacetimedb")
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path, never installed
        return "0"


class Unreachable(click.ClickException):
    """No server listens at the address."""


class Answer(msgspec.Struct, frozen=True):
    """A complete response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server by URL, with the token that goes along (None: every request is somebody new)."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.ClickException(f"not a server address: {url} (expected http://HOST:PORT)")
        self.url, self.token = url, token
        self._parts = parts
        self._connection: http.client.HTTPConnection | None = None

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        authorized: bool = True,
    ) -> Answer:
        """One exchange. ClickException if the server cannot be reached or hangs up."""
        response = self._send(method, path, query, body, headers, authorized)
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise click.ClickException(
                f"the server at {self.url} hung up in the middle of its answer: {error}"
            ) from None
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)

    def lines(self, path: str, query: Mapping[str, str | None]) -> Iterator[bytes]:
        """Lines of a streamed answer as they arrive; ends when the server ends it."""
        response = self._send("GET", path, query, None, None, True)
        if not 200 <= response.status < 300:
            raise refused(Answer(response.status, {}, response.read()), f"{self.url}{path}")
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(None)
        try:
            while line := response.readline():
                yield line
        except (OSError, http.client.HTTPException):
            return
        finally:
            self.close()

    def open(self, path: str) -> http.client.HTTPResponse:
        """The answer to a GET, its body still to be read. ClickException if the server refuses."""
        response = self._send("GET", path, None, None, None, True)
        if not 200 <= response.status < 300:
            raise refused(Answer(response.status, {}, response.read()), f"{self.url}{path}")
        return response

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None,
        body: bytes | str | None,
        headers: Mapping[str, str] | None,
        authorized: bool,
    ) -> http.client.HTTPResponse:
        chosen = {"accept": "*/*", "user-agent": f"spacetimedb-python-cli/{version()}", **(headers or {})}
        if authorized and self.token:
            chosen["authorization"] = f"Bearer {self.token}"
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = self._parts.path.rstrip("/") + path + ("?" + urlencode(given) if given else "")
        data = body.encode("utf-8") if isinstance(body, str) else body
        fresh = self._connection is None
        try:
            return self._exchange(method, target, data, chosen)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                raise self._unreachable(error) from None
        try:  # the server closed a connection that we had kept: once more over a new one
            return self._exchange(method, target, data, chosen)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from None

    def _exchange(
        self, method: str, target: str, data: bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._parts.hostname or "", self._parts.port, timeout=CONNECT_TIMEOUT_SECONDS)
            self._connection.connect()
            self._connection.sock.settimeout(ANSWER_TIMEOUT_SECONDS)
        self._connection.request(method, target, data, headers)
        return self._connection.getresponse()

    def _unreachable(self, error: Exception) -> click.ClickException:
        if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError | TimeoutError):
            said = "did not answer in time" if isinstance(error, TimeoutError) else "closed the connection unanswered"
            return click.ClickException(f"the server at {self.url} {said}; what it printed may say why")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        return Unreachable(
            f"no server answers at {self.url} ({reason}). Start one with `spacetime start`, "
            "or name another with --server."
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- databases -----------------------------------------------------------------------------------------------------

    def resolve(self, database: str) -> str:
        """Identity (64 hex digits) of a database given by name or identity."""
        if is_identity(database):
            return database.removeprefix("0x").lower()
        answer = self.request("GET", f"/v1/database/{quote(database, safe='')}/identity", authorized=False)
        if answer.status == 404:
            raise click.ClickException(
                f"failed to find database `{database}` on {self.url}. `spacetime list` shows yours; "
                f"`spacetime publish {database}` makes it."
            )
        return require(answer, self.url).text.strip()

    def schema(self, identity: str) -> dict[str, Any]:
        """Body of the schema route, version 10."""
        answer = self.request("GET", f"/v1/database/{identity}/schema", query={"version": "10"})
        result: dict[str, Any] = require(answer, self.url).json()
        return result


def is_identity(text: str) -> bool:
    digits = text.removeprefix("0x")
    return len(digits) == IDENTITY_LENGTH and all(digit in "0123456789abcdefABCDEF" for digit in digits)


def refused(answer: Answer, where: str) -> click.ClickException:
    """A refusal as an error: the server's text first, then what can be done about it."""
    text = answer.text.strip() or f"HTTP status {answer.status} from {where}"
    if answer.status == 401 and "token" in text.lower():
        text += (
            "\nThe server does not accept the saved login (its keys were probably made anew). "
            "`spacetime logout` forgets it; the next command makes a new identity."
        )
    elif answer.status == 403 and "is not authorized to perform action" in text:
        text += "\nThe database belongs to another identity. `spacetime login show` tells who you are."
    return click.ClickException(text)


def require(answer: Answer, where: str) -> Answer:
    """The answer if it is a success, else ClickException."""
    if answer.ok:
        return answer
    raise refused(answer, where)


def token_identity(token: str) -> str | None:
    """Identity inside a token, unverified; None if it cannot be read."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        identity = claims.get("hex_identity")
    except (IndexError, ValueError, AttributeError):
        return None
    return identity if isinstance(identity, str) else None


def connect(config: Config, server: str | None, *, anonymous: bool = False) -> Server:
    """Server by nickname, host or URL with the saved token; the first use makes an identity there and saves it."""
    target = Server(config.server_url(server))
    if anonymous:
        return target
    if config.token is None:
        answer = require(target.request("POST", "/v1/identity"), target.url).json()
        config.token = answer["token"]
        click.echo(f"New identity {answer['identity']}, saved in {config.path}", err=True)
    target.token = config.token
    return target
