"""Who gets what from the dashboard's routes: this machine, owners from elsewhere, everybody else."""

from __future__ import annotations

import gzip
import json
from typing import Any, Literal

import pytest
from fake_server import KEYS, Server, json_of, told

from spacetimedb.auth.keys import KeyPair
from spacetimedb.auth.publishers import Publishers
from spacetimedb.auth.tokens import Claims, TokenError, Tokens
from spacetimedb.http.api import Api
from spacetimedb.http.local_access import is_local
from spacetimedb.http.messages import Request, Response
from spacetimedb.types.special import Identity

HERE = {"host": "127.0.0.1:3000"}
ROUTES = [
    ("GET", "", b""),
    ("POST", "/token", b'{"database": "%s"}'),
    ("GET", "/metrics", b""),
    ("GET", "/loadtest", b""),
    ("POST", "/loadtest", b'{"run": "r", "scenario": "s", "database": "foo", "elapsed_s": 1}'),
]


async def ask(
    server: Server,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    peer: str | None = "127.0.0.1",
    headers: dict[str, str] = HERE,
    by: Claims | None = None,
) -> Response:
    listed = [*headers.items()]
    if by is not None:
        listed.append(("authorization", f"Bearer {by.token}"))
    answer = await server.api.handle(Request(method, f"/dashboard/api{path}", "", listed, body, "1.1", peer))
    assert isinstance(answer, Response)
    return answer


@pytest.fixture
async def server() -> Server:
    made = Server()
    await made.publish()
    return made


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:3000", "127.0.0.1:3000", "[::1]:3000", "LOCALHOST"])
def test_local(peer: str, host: str) -> None:
    origin = f"http://{host.lower()}"
    for more in ([], [("origin", origin)], [("sec-fetch-site", "same-origin")], [("sec-fetch-site", "none")]):
        assert is_local(Request("GET", "/", "", [("host", host), *more], b"", peer=peer))


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        (None, [("host", "localhost")]),
        ("192.168.1.7", [("host", "localhost")]),
        ("::ffff:192.168.1.7", [("host", "localhost")]),
        ("fe80::1%eth0", [("host", "localhost")]),
        ("127.0.0.1", []),
        ("127.0.0.1", [("host", "localhost"), ("host", "localhost")]),
        ("127.0.0.1", [("host", "evil.example")]),
        ("127.0.0.1", [("host", "localhost.evil.example")]),
        ("127.0.0.1", [("host", "127.0.0.1.evil.example:3000")]),
        ("127.0.0.1", [("host", "[::1].evil")]),
        ("127.0.0.1", [("host", "localhost"), ("origin", "http://evil.example")]),
        ("127.0.0.1", [("host", "localhost"), ("origin", "null")]),
        ("127.0.0.1", [("host", "localhost:3000"), ("origin", "http://localhost:3001")]),
        ("127.0.0.1", [("host", "localhost"), ("sec-fetch-site", "cross-site")]),
        ("127.0.0.1", [("host", "localhost"), ("sec-fetch-site", "same-site")]),
        ("127.0.0.1", [("host", "localhost"), ("x-forwarded-for", "10.0.0.1")]),
        ("127.0.0.1", [("host", "localhost"), ("forwarded", "for=10.0.0.1")]),
        ("127.0.0.1", [("host", "localhost"), ("via", "1.1 proxy")]),
    ],
)
def test_not_local(peer: str | None, headers: list[tuple[str, str]]) -> None:
    assert not is_local(Request("GET", "/", "", headers, b"", peer=peer))


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_nothing_without_a_token_from_elsewhere(server: Server, method: str, path: str, body: bytes) -> None:
    identity = (await server.backend.all_databases())[0][0].identity.hex().encode()
    body = body % identity if b"%s" in body else body
    for peer, headers in (("192.168.1.7", HERE), ("127.0.0.1", {"host": "evil.example"}), (None, HERE)):
        answer = await ask(server, method, path, body, peer=peer, headers=headers)
        assert answer.status == 401
        assert identity not in (answer.body if isinstance(answer.body, bytes) else b"")
    # Somebody else's token opens nothing either.
    answer = await ask(server, method, path, body, peer="192.168.1.7", by=server.other)
    assert answer.status in (401, 403)
    assert not server.backend.load_points
    answer = await ask(server, method, path, body)
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") is None
    assert (await ask(server, "OPTIONS", path)).status == 405


async def test_owner_from_elsewhere(server: Server) -> None:
    identity = await server.publish("bar")
    seen = json_of(await ask(server, "GET", "", peer="10.0.0.9", by=server.owner))
    assert seen["access"] == "token"
    assert [database["names"] for database in seen["databases"]] == [["foo"], ["bar"]]
    own = {Identity.from_hex(database["identity"]) for database in seen["databases"]}
    assert identity in {found.hex() for found in own}
    await ask(server, "GET", "/metrics", peer="10.0.0.9", by=server.owner)
    await ask(server, "GET", "/metrics")
    assert server.backend.calls[-2:] == [("metrics", own, own), ("metrics", None, None)]
    assert server.backend.metrics_named is None
    asked = Request("GET", "/dashboard/api/metrics", "names=a,b_total", [*HERE.items()], b"", peer="127.0.0.1")
    assert isinstance(await server.api.handle(asked), Response)
    assert server.backend.metrics_named == {"a", "b_total"}


async def test_figures_are_compressed_for_those_elsewhere(server: Server) -> None:
    server.backend.metrics_text = b"up 1\n" * 100_000
    accepts = HERE | {"accept-encoding": "br, gzip;q=0.9"}
    here = await ask(server, "GET", "/metrics", headers=accepts)
    assert (here.body, here.header("content-encoding")) == (server.backend.metrics_text, None)
    there = await ask(server, "GET", "/metrics", headers=accepts, peer="10.0.0.9", by=server.owner)
    assert there.header("content-encoding") == "gzip"
    assert not isinstance(there.body, bytes)
    packed = b"".join([piece async for piece in there.body])
    assert gzip.decompress(packed) == server.backend.metrics_text
    plain = await ask(server, "GET", "/metrics", peer="10.0.0.9", by=server.owner)
    assert plain.body == server.backend.metrics_text


async def test_figures_are_open_but_texts_of_queries_are_not(server: Server) -> None:
    """What /v1/metrics asks the backend to tell, and to whom: (databases, databases whose queries are named)."""
    own = [database.identity for database, _names in await server.backend.all_databases()]

    async def told_of(peer: str = "127.0.0.1", by: Claims | None = None, **headers: str) -> object:
        fields = [("host", "localhost:3000"), *headers.items()]
        if by is not None:
            fields.append(("authorization", f"Bearer {by.token}"))
        answer = await server.api.handle(Request("GET", "/v1/metrics", "", fields, b"", peer=peer))
        assert isinstance(answer, Response)
        assert (answer.status, answer.body) == (200, server.backend.metrics_text)
        return server.backend.calls[-1]

    assert await told_of() == ("metrics", None, None)
    assert await told_of(origin="https://evil.example") == ("metrics", None, [])
    assert await told_of(via="1.1 proxy") == ("metrics", None, [])
    assert await told_of(peer="10.0.0.9") == ("metrics", None, [])
    assert await told_of(peer="10.0.0.9", authorization="Bearer nonsense") == ("metrics", None, [])
    assert await told_of(peer="10.0.0.9", by=server.other) == ("metrics", None, [])
    assert await told_of(peer="10.0.0.9", by=server.owner) == ("metrics", None, own)
    server.backend.dashboard = "token"
    assert await told_of() == ("metrics", None, [])


@pytest.mark.parametrize("policy", ["token", "off"])
async def test_policies(server: Server, policy: Literal["token", "off"]) -> None:
    server.backend.dashboard = policy
    for method, path, body in ROUTES:
        answer = await ask(server, method, path, body)
        assert answer.status == (404 if policy == "off" else 401), path
    answer = await ask(server, "GET", "", by=server.owner)
    assert answer.status == (404 if policy == "off" else 200)


async def test_token_acts_as_the_owner_for_a_while(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    database = (await server.backend.all_databases())[0][0]
    answer = json_of(await ask(server, "POST", "/token", json.dumps({"database": database.identity.hex()}).encode()))
    tokens = Tokens(KEYS)
    claims = tokens.verify_local(answer["token"])
    assert claims.identity == database.owner
    assert claims.issuer == "spacetimedb-dashboard"
    short = tokens.verify_local(tokens.websocket_token(claims).token)
    assert short.identity == database.owner
    assert short.expires_at is not None
    assert claims.expires_at is not None
    assert short.expires_at <= claims.expires_at
    monkeypatch.setattr("time.time", lambda: float(answer["expires_at"] + 61))
    with pytest.raises(TokenError, match="ExpiredSignature"):
        Tokens(KEYS).verify_local(answer["token"])


async def test_nobody_else_can_make_such_a_token(server: Server) -> None:
    """Neither with another key, nor by having a foreign token signed again."""
    owner = (await server.backend.all_databases())[0][0].owner
    forged = Tokens(KeyPair.generate()).dashboard_token(owner)
    with pytest.raises(TokenError, match="InvalidSignature"):
        await server.tokens.verify(forged.token)
    foreign = Claims(owner, "mallory", "https://issuer.example", (), 0, None, {"role": "x"}, "", "")
    assert server.tokens.websocket_token(foreign).identity != owner


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"database": "foo"}', b'{"database": 5}', b"\xff"])
async def test_bad_requests(server: Server, body: bytes) -> None:
    answer = await ask(server, "POST", "/token", body)
    assert told(answer) == (400, 'expected {"database": "<64 hex digits>"}')
    answer = await ask(server, "POST", "/loadtest", body)
    assert answer.status == 400


async def test_unknown_database(server: Server) -> None:
    answer = await ask(server, "POST", "/token", json.dumps({"database": "00" * 32}).encode())
    assert told(answer) == (404, "No such database.")


async def test_load_points(server: Server) -> None:
    point: dict[str, Any] = {"run": "r", "scenario": "s", "database": "foo", "elapsed_s": 1.5, "unheard_of": [1]}
    body = json.dumps(point).encode()
    assert (await ask(server, "POST", "/loadtest", body, peer="10.0.0.9", by=server.owner)).status == 200
    (kept,) = json_of(await ask(server, "GET", "/loadtest"))["points"]
    assert kept["elapsed_s"] == 1.5
    assert kept["latency_ms"] == {}
    owner_sees = await ask(server, "GET", "/loadtest", peer="10.0.0.9", by=server.owner)
    assert json_of(owner_sees)["points"] == [kept]


async def test_pages_that_modules_make_have_an_origin_of_their_own(server: Server) -> None:
    """Whatever they say that it is: browsers take the last of several types."""
    for kinds in (["text/html"], ["image/svg+xml"], ["text/plain", "text/html"], ["application/json"], []):
        server.backend.handler_headers = [("content-type", kind) for kind in kinds]
        answer = await server("GET", "/v1/database/foo/route/echo")
        policy = answer.header("content-security-policy")
        assert policy is not None, kinds
        assert policy.startswith("sandbox ")
        assert "same-origin" not in policy
    server.backend.dashboard = "off"
    assert (await server("GET", "/v1/database/foo/route/echo")).header("content-security-policy") is None
    local = Api(server.backend, server.tokens, Publishers(local=True))
    request = Request("GET", "/v1/database/foo/route/echo", "", [("host", "localhost:3000")], b"")
    page = await local.handle(request)
    assert isinstance(page, Response)
    assert page.header("content-security-policy"), "else a page could ask for an identity that may publish"
