"""What holds for all routes: paths, methods, CORS, tokens, framing; server-wide and identity routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h11
import pytest
from fake_server import JSON_TYPE, KEYS, Server, header_values, json_of, told
from hypothesis import given
from hypothesis import strategies as st

from spacetimedb.http import h11_events
from spacetimedb.http.backend import CallKind, CallOutcome
from spacetimedb.http.messages import Request, Response
from spacetimedb.http.routes import DEFAULT_BODY_LIMIT, PROGRAM_BODY_LIMIT, body_limit, find
from spacetimedb.http.upgrade import Upgrade


@pytest.fixture
def server() -> Server:
    return Server()


# Transport


async def test_unknown_paths_carry_nothing(server: Server) -> None:
    for path in (
        "/v1/nope",
        "/identity",
        "/v1/ping/",
        "/v1/database/",
        "/v1",
        "",
        "x",
        "//v1/ping",
        "/v1/database/a/b",
    ):
        answer = await server("GET", path)
        assert (answer.status, answer.headers, answer.body) == (404, [], b"")
    assert (await server("OPTIONS", "/v1/nope")).headers == []


async def test_cors(server: Server) -> None:
    answer = await server("OPTIONS", "/v1/database/foo/sql", headers={"authorization": "Bearer garbage"})
    assert (answer.status, answer.body) == (200, b"")
    assert dict(answer.headers) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "*",
        "access-control-allow-headers": "authorization,accept,content-type",
        "vary": "origin, access-control-request-method, access-control-request-headers",
        "allow": "POST",
    }
    for path in ("/v1/ping", "/v1/database/foo"):
        plain = await server("GET", path)
        assert header_values(plain, "access-control-allow-origin") == ["*"]
        assert plain.header("vary") == "origin, access-control-request-method, access-control-request-headers"


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/ping", "GET,HEAD"),
        ("/v1/identity", "POST"),
        ("/v1/database", "POST"),
        ("/v1/database/foo", "GET,HEAD,PUT,DELETE"),
        ("/v1/database/foo/names", "GET,HEAD,POST,PUT"),
        ("/v1/energy/x", "GET,HEAD,POST,PUT"),
    ],
)
async def test_wrong_method(server: Server, path: str, allow: str) -> None:
    await server.publish()
    answer = await server("BREW", path)
    assert told(answer) == (405, "")
    assert answer.header("allow") == allow
    assert answer.header("access-control-allow-origin") == "*"
    assert (answer.header("spacetime-identity") is not None) == path.startswith("/v1/database")


async def test_wrong_method_on_an_unknown_database(server: Server) -> None:
    answer = await server("GET", "/v1/database/foo/sql", by=server.owner)
    assert told(answer) == (404, "`foo` not found")
    assert answer.header("allow") == "POST"
    assert answer.header("spacetime-identity") == server.owner.identity.hex()


async def test_framing(server: Server) -> None:
    await server.publish()
    chunked = [
        ("GET", "/v1/database/foo/schema"),
        ("GET", "/v1/database/foo/names"),
        ("GET", "/v1/database/nope/names"),
    ]
    whole = [("GET", "/v1/database/foo/identity"), ("GET", "/v1/health"), ("POST", "/v1/database/foo/lock")]
    for method, path in chunked:
        assert (await server(method, path)).chunked
    for method, path in whole:
        assert not (await server(method, path, by=server.owner)).chunked


async def test_internal_errors_say_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    await server.publish()
    answer = await server("POST", "/v1/database/foo/call/break", "[]", headers=JSON_TYPE)
    assert told(answer) == (500, "Internal server error")
    assert "secret detail" in caplog.text
    assert answer.header("spacetime-identity")


async def test_body_limits(server: Server) -> None:
    assert body_limit("/v1/database/foo/sql") == DEFAULT_BODY_LIMIT == 2097152
    for path in ("/v1/database", "/v1/database/foo", "/v1/database/foo/pre_publish"):
        assert body_limit(path) == PROGRAM_BODY_LIMIT
    assert body_limit("/nowhere") == DEFAULT_BODY_LIMIT
    await server.publish()
    answer = await server("POST", "/v1/database/foo/sql", None)
    assert told(answer) == (413, "Failed to buffer the request body: length limit exceeded")
    assert (await server("GET", "/v1/ping", None)).status == 200


async def test_static_pages(server: Server) -> None:
    page = await server("GET", "/")
    assert (page.status, page.body) == (200, b"<p>demo")
    for tags, status, body in ((page.header("etag"), 304, b""), ('"another"', 200, b"<p>demo")):
        again = await server("GET", "/", headers={"if-none-match": f'"old", {tags}'})
        assert (again.status, again.body, again.header("etag")) == (status, body, page.header("etag"))
    assert (await server("POST", "/")).status == 404


# Tokens


@pytest.mark.parametrize(
    ("authorization", "refusal"),
    [
        ("Basic abc", (400, "Authorization is invalid: malformed token")),
        ("Bearer ", (400, "Authorization is invalid: malformed token")),
        ("", (400, "Authorization is invalid: malformed token")),
        ("Bearer garbage", (401, "Invalid token: InvalidToken")),
    ],
)
@pytest.mark.parametrize("path", ["/v1/ping", "/v1/database/foo/sql", "/v1/database/Not/names"])
async def test_bad_tokens(server: Server, path: str, authorization: str, refusal: tuple[int, str]) -> None:
    answer = await server("GET", path, headers={"authorization": authorization})
    assert told(answer) == refusal
    assert answer.header("spacetime-identity") is None
    assert answer.header("spacetime-identity-token") is None
    assert (await server("GET", "/v1/health", headers={"authorization": authorization})).status == 200


async def test_token_in_the_query(server: Server) -> None:
    path = f"/v1/identity/{server.owner.identity.hex()}/verify"
    assert (await server("GET", f"{path}?token={server.owner.token}")).status == 204
    assert (await server("GET", f"{path}?token=bad", by=server.owner)).status == 204
    assert told(await server("GET", f"{path}?token=")) == (401, "Invalid token: InvalidToken")
    assert told(await server("GET", path)) == (401, "Authorization required")
    assert told(await server("GET", path, by=server.other)) == (400, "")


async def test_bad_path_comes_before_a_missing_token(server: Server) -> None:
    bad = (400, 'Invalid URL: invalid value: string "zz", expected a byte array or hex string')
    assert told(await server("GET", "/v1/identity/zz/verify")) == bad
    assert told(await server("GET", "/v1/identity/zz/databases")) == bad
    assert told(await server("POST", "/v1/energy/zz")) == bad
    assert told(await server("POST", "/v1/energy/c2")) == (400, "Invalid URL: too few elements for array")
    prefixed = "0x" + "c2" * 32
    assert (await server("GET", f"/v1/identity/{prefixed}/databases")).status == 400


async def test_anonymous_callers_get_an_identity(server: Server) -> None:
    answer = await server("GET", "/v1/database/foo/identity")
    token = answer.header("spacetime-identity-token")
    assert token is not None
    assert server.tokens.verify_local(token).identity.hex() == answer.header("spacetime-identity")


async def test_identity_routes(server: Server) -> None:
    made = json_of(await server("POST", "/v1/identity", b"ignored", headers={"authorization": "Basic x"}))
    claims = server.tokens.verify_local(made["token"])
    assert claims.identity.hex() == made["identity"]
    key = await server("GET", "/v1/identity/public-key")
    assert (key.header("content-type"), key.body) == ("application/pem-certificate-chain", KEYS.public_pem)
    assert told(await server("POST", "/v1/identity/websocket-token")) == (401, "Authorization required")
    short = json_of(await server("POST", "/v1/identity/websocket-token", by=claims))
    assert server.tokens.verify_local(short["token"]).expires_at is not None
    identity = await server.publish()
    owned = await server("GET", f"/v1/identity/{server.owner.identity.hex().upper()}/databases")
    assert json_of(owned) == {"identities": [identity]}


async def test_energy(server: Server) -> None:
    path = f"/v1/energy/{server.other.identity.hex()}"
    assert json_of(await server("GET", path, headers={"authorization": "Basic x"})) == {"balance": "0"}
    assert json_of(await server("POST", path + "?amount=5", by=server.owner)) == {"balance": "5"}
    assert json_of(await server("POST", path, by=server.owner)) == {"balance": "5"}
    assert told(await server("POST", path + "?amount=x", by=server.owner)) == (400, "")
    assert told(await server("POST", path)) == (401, "Authorization required")
    assert told(await server("PUT", path + "?balance=1")) == (401, "Authorization required")
    assert told(await server("PUT", path + "?balance=1", by=server.owner)) == (401, "")


# h11


async def serve(api: Callable[[Request], Awaitable[Response | Upgrade]], data: bytes) -> bytes:
    """One request through h11, as a worker does it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    request = h11_events.request_of(head, body)
    answer = await api(request)
    assert isinstance(answer, Response)
    sent = connection.send(h11_events.response_head(answer)) or b""
    for piece in h11_events.body_events(answer, request.method):
        sent += connection.send(piece) or b""
    return sent + (connection.send(h11.EndOfMessage()) or b"")


async def test_through_h11(server: Server) -> None:
    await server.publish()
    sent = await serve(server.api.handle, b"GET /v1/ping?x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 0\r\n" in sent
    sent = await serve(server.api.handle, b"GET http://a/v1/database/foo/schema?version=9 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Transfer-Encoding: chunked\r\n" in sent or b"transfer-encoding: chunked\r\n" in sent
    assert sent.endswith(b'd\r\n{"version":9}\r\n0\r\n\r\n')
    sent = await serve(server.api.handle, b"HEAD /v1/health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"content-length: 9" in sent
    assert sent.endswith(b"\r\n\r\n")
    server.backend.outcomes["f"] = CallOutcome(CallKind.FAILED, "no")
    call = b"POST /v1/database/foo/call/f HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2"
    assert (await serve(server.api.handle, call + b"\r\n\r\n[]")).startswith(b"HTTP/1.1 530 <none>\r\n")
    identity = server.owner.identity.hex().encode()
    verify = (
        b"GET /v1/identity/"
        + identity
        + b"/verify?token="
        + server.owner.token.encode()
        + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    sent = await serve(server.api.handle, verify)
    assert sent.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"content-length" not in sent.lower()


def test_headers_cannot_be_split() -> None:
    assert h11_events.encode_headers([("a", "x\r\nb: y"), ("é", "Ж")]) == [(b"a", b"x??b: y"), (b"\xe9", b"?")]


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["GET", "PUT", "POST", "DELETE"]))
def test_any_path_and_query(path: str, query: str, method: str) -> None:
    import trio

    server = Server()

    async def ask() -> None:
        for prefix in ("/", "/v1/", "/v1/database/", "/v1/database/foo/", "/v1/identity/"):
            answer = await server.api.handle(Request(method, prefix + path, query, [], b""))
            assert isinstance(answer, Response)
            assert answer.status < 500

    find(path)
    trio.run(ask)
