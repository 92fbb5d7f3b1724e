"""The routes over the backend in memory, asked without any HTTP, and two users."""

from __future__ import annotations

import json
from typing import Any

from fake_backend import FakeBackend

from spacetimedb.auth.keys import KeyPair
from spacetimedb.auth.publishers import Publishers
from spacetimedb.auth.tokens import Claims, Tokens
from spacetimedb.http.api import Api
from spacetimedb.http.backend import Backend
from spacetimedb.http.messages import Request, Response
from spacetimedb.http.upgrade import Upgrade

KEYS = KeyPair.generate()
JSON_TYPE = {"content-type": "application/json"}
WEBSOCKET = {
    "connection": "keep-alive, Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "v1.json.spacetimedb,v2.bsatn.spacetimedb,  v3.bsatn.spacetimedb",
}


class Server:
    """The routes with two known users."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        backend: Backend = self.backend  # the fake keeps to the protocol
        self.tokens = Tokens(KEYS)
        self.api = Api(backend, self.tokens, Publishers(anyone=True))
        self.owner: Claims = self.tokens.mint()
        self.other: Claims = self.tokens.mint()

    async def answer(
        self,
        method: str,
        target: str,
        body: bytes | str | None = b"",
        headers: dict[str, str] | None = None,
        by: Claims | None = None,
    ) -> Response | Upgrade:
        path, _, query = target.partition("?")
        listed = [*(headers or {}).items()]
        if by is not None:
            listed.append(("authorization", f"Bearer {by.token}"))
        raw = body.encode() if isinstance(body, str) else body
        return await self.api.handle(Request(method, path, query, listed, raw))

    async def __call__(self, method: str, target: str, body: bytes | str | None = b"", **more: Any) -> Response:
        answer = await self.answer(method, target, body, **more)
        assert isinstance(answer, Response)
        return answer

    async def publish(self, name: str = "foo") -> str:
        answer = await self("PUT", f"/v1/database/{name}", b"program", by=self.owner)
        identity = json_of(answer)["Success"]["database_identity"]
        assert isinstance(identity, str)
        return identity


def json_of(response: Response) -> Any:
    assert response.header("content-type") == "application/json"
    return json.loads(body_of(response))


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def told(response: Response) -> tuple[int, str]:
    """Status and text of an error."""
    body = body_of(response)
    assert response.header("content-type") == ("text/plain; charset=utf-8" if body else None)
    return response.status, body.decode()


def header_values(response: Response, name: str) -> list[str]:
    return [value for key, value in response.headers if key == name]
