"""Who may publish: identities issued to programs of this machine, the holder of the key, those named, or anyone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_backend import FakeBackend
from fake_server import KEYS, Server, body_of

from spacetimedb.auth.publishers import BY_KEY, BY_PLACE, PUBLISHER_CLAIM, Publishers
from spacetimedb.auth.tokens import Claims, Tokens, _check_claims
from spacetimedb.cli.api import Answer
from spacetimedb.cli.api import Server as Target
from spacetimedb.cli.local_key import act_as_publisher
from spacetimedb.http.api import Api
from spacetimedb.http.messages import Request, Response

LOCAL_HEADERS = [("host", "127.0.0.1:3000")]


def served(publishers: Publishers) -> Api:
    return Api(FakeBackend(), Tokens(KEYS), publishers)


async def ask(
    api: Api,
    method: str,
    path: str,
    by: Claims | None = None,
    *,
    peer: str | None = "127.0.0.1",
    headers: list[tuple[str, str]] = LOCAL_HEADERS,
) -> Response:
    token = [("authorization", f"Bearer {by.token}")] if by is not None else []
    answer = await api.handle(Request(method, path, "", [*headers, *token], b"program", peer=peer))
    assert isinstance(answer, Response)
    return answer


async def issued(api: Api, peer: str | None, headers: list[tuple[str, str]] = LOCAL_HEADERS) -> Claims:
    answer = await ask(api, "POST", "/v1/identity", peer=peer, headers=headers)
    assert isinstance(answer.body, bytes)
    return api.tokens.verify_local(json.loads(answer.body)["token"])


async def status(api: Api, by: Claims | None, method: str = "PUT", path: str = "/v1/database/foo") -> int:
    return (await ask(api, method, path, by)).status


async def test_by_default_programs_of_this_machine_may() -> None:
    api = served(Publishers(local=True))
    assert await status(api, await issued(api, "127.0.0.1")) == 200


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.0.1", LOCAL_HEADERS),
        (None, LOCAL_HEADERS),
        ("127.0.0.1", [("host", "game.example.com")]),
        ("127.0.0.1", [*LOCAL_HEADERS, ("x-forwarded-for", "10.0.0.1")]),
        ("127.0.0.1", [*LOCAL_HEADERS, ("origin", "https://elsewhere.example.com")]),
    ],
    ids=["another machine", "unknown", "rebound name", "through a proxy", "page of another site"],
)
async def test_others_may_not(peer: str | None, headers: list[tuple[str, str]]) -> None:
    api = served(Publishers(local=True))
    stranger = await issued(api, peer, headers)
    refusal = await ask(api, "PUT", "/v1/database/foo", stranger)
    assert refusal.status == 403
    text = body_of(refusal).decode()
    assert f"{stranger.identity.hex()} may not publish on this server" in text
    assert f"--publishers {stranger.identity.hex()}" in text
    assert "log in anew on its machine" in text
    assert await status(api, stranger, "POST", "/v1/database") == 403
    nobody = await ask(api, "PUT", "/v1/database/foo")
    assert (nobody.status, b"without --anonymous" in body_of(nobody)) == (403, True)
    assert await status(api, stranger, path="/v1/database/foo/reset") == 404, "nothing was made"


async def test_those_who_are_named() -> None:
    named = Tokens(KEYS).mint()
    api = served(Publishers(frozenset([bytes(named.identity)])))
    assert await status(api, named) == 200
    other = await issued(api, "127.0.0.1")
    refusal = body_of(await ask(api, "PUT", "/v1/database/bar", other))
    assert b"as the user that runs it, or have it started" in refusal, "logging in anew would not help"
    assert await status(api, other) == 403
    assert await status(api, api.tokens.dashboard_token(named.identity)) == 403, "who sits here is not who is named"


async def test_an_owner_who_may_no_longer_publish() -> None:
    """The database goes on, its program cannot be replaced."""
    server = Server()
    await server.publish()
    strict = Api(server.backend, server.tokens, Publishers())
    assert await status(strict, server.owner) == 403
    assert await status(strict, server.owner, "POST", "/v1/database/foo/pre_publish") == 403
    assert await status(strict, server.owner, "GET", "/v1/database/foo/names") == 200


def test_the_claim_counts_only_where_this_server_signed_it() -> None:
    tokens = Tokens(KEYS)
    extra = {PUBLISHER_CLAIM: BY_KEY}
    own = tokens.sign("localhost", "somebody", (), None, extra)
    assert tokens.verify_local(own.token).extra == extra
    assert _check_claims(own.token, own.payload.encode(), signed_here=False).extra == {}
    assert tokens.websocket_token(tokens.mint(is_local_publisher=True)).extra == {PUBLISHER_CLAIM: BY_PLACE}


class Known(Target):
    """A server with the key pair of the tests."""

    def request(self, method: str, path: str, **_options: object) -> Answer:
        assert (method, path) == ("GET", "/v1/identity/public-key")
        return Answer(200, {}, KEYS.public_pem)


def test_a_command_that_can_read_the_key(tmp_path: Path) -> None:
    """Same identity, a token for a few minutes, nothing saved; without the key, or with another, nothing changes."""
    tokens = Tokens(KEYS)
    mine = tokens.mint()
    target = Known("http://localhost:3000", mine.token)
    act_as_publisher(target, tmp_path)
    assert target.token == mine.token
    (tmp_path / "id_ecdsa").write_bytes(KEYS.private_pem)
    (tmp_path / "id_ecdsa.pub").write_bytes(b"another key")
    act_as_publisher(target, tmp_path)
    assert target.token == mine.token
    (tmp_path / "id_ecdsa.pub").write_bytes(KEYS.public_pem)
    act_as_publisher(target, tmp_path)
    assert target.token is not None
    claims = tokens.verify_local(target.token)
    assert claims.identity == mine.identity
    assert claims.expires_at is not None
    assert Publishers().allow(claims.identity, claims.extra.get(PUBLISHER_CLAIM))
