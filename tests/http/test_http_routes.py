"""The rules of the HTTP routes, against a backend in memory."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest
from fake_backend import FakeBackend
from hypothesis import given
from hypothesis import strategies as st

from spacetimedb.auth.keys import KeyPair
from spacetimedb.auth.tokens import Claims, Tokens
from spacetimedb.http import h11_events
from spacetimedb.http.api import Api
from spacetimedb.http.backend import Backend, CallKind, CallOutcome, MigrationPlan
from spacetimedb.http.messages import Request, Response
from spacetimedb.http.routes import DEFAULT_BODY_LIMIT, PROGRAM_BODY_LIMIT, body_limit, find
from spacetimedb.http.upgrade import Upgrade, accept_key

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
        self.api = Api(backend, self.tokens)
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


# Databases


async def test_publish_and_look(server: Server) -> None:
    first = json_of(await server("PUT", "/v1/database/foo", b"p", by=server.owner))
    identity = first["Success"]["database_identity"]
    assert first == {"Success": {"domain": "foo", "database_identity": identity, "op": "created"}}
    second = json_of(await server("PUT", f"/v1/database/0x{identity}", b"p", by=server.owner))
    assert second == {"Success": {"domain": None, "database_identity": identity, "op": "updated"}}
    assert told(await server("PUT", "/v1/database/foo", b"p", by=server.other)) == (
        403,
        f"{server.other.identity.hex()} is not authorized to perform action on database {identity}: update database",
    )
    assert json_of(await server("GET", "/v1/database/foo")) == {
        "database_identity": {"__identity__": f"0x{identity}"},
        "owner_identity": {"__identity__": f"0x{server.owner.identity.hex()}"},
        "host_type": {"Wasm": []},
        "initial_program": "0x1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100",
    }
    assert body_of(await server("GET", "/v1/database/foo/identity")).decode() == identity
    missing = "c2" * 32
    assert body_of(await server("GET", f"/v1/database/{missing}/identity")).decode() == missing
    assert told(await server("GET", f"/v1/database/{missing}/names")) == (404, "No such database.")
    unnamed = json_of(await server("POST", "/v1/database", b"p"))["Success"]
    assert (unnamed["domain"], unnamed["op"]) == (None, "created")
    assert told(await server("PUT", "/v1/database/bar", b"bad")) == (500, "not a module")


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("clear=1", "Failed to deserialize query string: provided string was not `true` or `false`"),
        ("host_type=wasm", "Failed to deserialize query string: unknown variant `wasm`, expected `Wasm` or `Js`"),
        ("num_replicas=x", "Failed to deserialize query string: invalid digit found in string"),
        ("num_replicas=", "Failed to deserialize query string: cannot parse integer from empty string"),
        (
            "num_replicas=99999999999999999999",
            "Failed to deserialize query string: number too large to fit in target type",
        ),
        ("num_replicas=256", "Replication factor 256 out of bounds"),
        ("policy=BreakClients", "Migration policy is set to `BreakClients`, but no migration token was provided."),
        ("token=7", "Failed to deserialize query string: invalid digit found in string"),
        ("clear=true&clear=true", "Failed to deserialize query string: duplicate field `clear`"),
        ("org=a&organization=b", "Failed to deserialize query string: duplicate field `organization`"),
        ("parent=A", "Failed to deserialize query string: invalid characters in database name"),
        ("update_confirmation_timeout=x", "Failed to deserialize query string: expected number at 0"),
        ("clear=true&parent=foo", "Setting the parent of an existing database is not supported"),
    ],
)
async def test_publish_parameters(server: Server, query: str, refusal: str) -> None:
    await server.publish()
    assert told(await server("PUT", f"/v1/database/foo?{query}", b"p", by=server.owner)) == (400, refusal)
    assert len(server.backend.calls) == 1


async def test_publish_passes_its_parameters_on(server: Server) -> None:
    await server.publish()
    query = "policy=BreakClients&token=0x1&host_type=Js&clear=true&update_confirmation_timeout=1s%20500ms&unknown=1"
    await server("PUT", f"/v1/database/foo?{query}", b"p", by=server.owner)
    request = server.backend.calls[-1][1]
    assert (request.break_clients, request.host_type, request.clear) == (True, "Js", True)  # type: ignore[attr-defined]
    assert request.migration_token == b"\x01" + bytes(31)  # type: ignore[attr-defined]
    assert request.confirmation_timeout == 1_500_000_000  # type: ignore[attr-defined]
    token = server.owner.token  # as credentials, it is no migration token
    await server("PUT", f"/v1/database/foo?token={token}", b"p")
    assert server.backend.calls[-1][1].migration_token is None  # type: ignore[attr-defined]
    assert told(await server("PUT", "/v1/database/foo?parent=nope", b"p", by=server.owner)) == (404, "`nope` not found")
    assert told(await server("POST", "/v1/database?clear=true", b"p")) == (
        400,
        "Clear database requires database name or identity",
    )


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("Not_A_Name", "invalid characters in database name"),
        ("a--b", "invalid hyphen in database name"),
        ("%C3%A9", "invalid characters in database name"),
        ("%ff", "Invalid UTF-8 in `%ff`"),
    ],
)
async def test_bad_addresses(server: Server, address: str, problem: str) -> None:
    answer = await server("PUT", f"/v1/database/{address}", b"p", by=server.owner)
    assert told(answer) == (400, f"Invalid URL: {problem}")
    assert answer.header("spacetime-identity")


async def test_a_deleted_name_stays_with_its_owner(server: Server) -> None:
    identity = await server.publish()
    denied = (
        f"{server.other.identity.hex()} is not authorized to perform action on database {identity}: delete database"
    )
    assert told(await server("DELETE", "/v1/database/foo", by=server.other)) == (403, denied)
    assert told(await server("POST", "/v1/database/foo/lock", by=server.other)) == (403, denied)
    assert told(await server("POST", "/v1/database/foo/lock", by=server.owner)) == (200, "")
    locked = "Database is locked and cannot be {} Run `spacetime unlock` first."
    assert told(await server("DELETE", "/v1/database/foo", by=server.owner)) == (403, locked.format("deleted."))
    reset = locked.format("reset with --delete-data.")
    assert told(await server("PUT", "/v1/database/foo?clear=true", b"p", by=server.owner)) == (403, reset)
    assert told(await server("PUT", "/v1/database/foo/reset", b"p", by=server.owner)) == (403, reset)
    assert (await server("PUT", "/v1/database/foo", b"p", by=server.owner)).status == 200
    assert told(await server("POST", "/v1/database/foo/unlock", by=server.owner)) == (200, "")
    assert told(await server("DELETE", "/v1/database/foo", by=server.owner)) == (200, "")
    assert told(await server("DELETE", "/v1/database/foo", by=server.other)) == (200, "")
    assert told(await server("DELETE", "/v1/database/nope")) == (404, "`nope` not found")
    assert body_of(await server("GET", "/v1/database/foo/identity")).decode() == identity
    assert told(await server("GET", "/v1/database/foo")) == (404, "No such database.")
    stranger = await server("PUT", "/v1/database/foo", b"p", by=server.other)
    assert (stranger.status, json_of(stranger)) == (401, {"PermissionDenied": {"name": "foo"}})
    assert await server.publish() == identity


async def test_reset(server: Server) -> None:
    identity = await server.publish()
    for body, program in ((b"p", b"p"), (b"", None), (None, None)):
        answer = await server("PUT", "/v1/database/foo/reset", body, by=server.owner)
        assert json_of(answer) == {"Success": {"domain": "foo", "database_identity": identity, "op": "updated"}}
        assert server.backend.calls[-1] == ("reset", program)
    assert (await server("PUT", "/v1/database/foo/reset", by=server.other)).status == 403


async def test_pre_publish(server: Server) -> None:
    await server.publish()
    for style, colour in (("style=NoColor", False), ("pretty_print_style=NoColor&host_type=Js", False), ("", True)):
        answer = await server("POST", f"/v1/database/foo/pre_publish?{style}", b"new", by=server.owner)
        assert json_of(answer) == {
            "AutoMigrate": {
                "migrate_plan": "plan",
                "break_clients": True,
                "token": "0xa" + "00" * 31,
                "major_version_upgrade": False,
            }
        }
        assert server.backend.calls[-1][3] is colour
    server.backend.plan = MigrationPlan("no way")
    manual = await server("POST", "/v1/database/foo/pre_publish", b"new", by=server.owner)
    assert json_of(manual) == {"ManualMigrate": {"reason": "no way", "major_version_upgrade": False}}
    assert (await server("POST", "/v1/database/foo/pre_publish", b"new", by=server.other)).status == 403


async def test_names(server: Server) -> None:
    identity = await server.publish()
    await server.publish("second")
    added = await server("POST", "/v1/database/foo/names", "bar", by=server.owner)
    assert json_of(added) == {"Success": {"domain": "bar", "database_identity": identity}}
    assert json_of(await server("GET", "/v1/database/bar/names")) == {"names": ["foo", "bar"]}
    again = await server("POST", "/v1/database/foo/names", "bar", by=server.owner)
    assert told(again) == (500, "record with the name bar already exists")
    stranger = await server("POST", "/v1/database/foo/names", "baz", by=server.other)
    assert (stranger.status, json_of(stranger)) == (401, {"PermissionDenied": {"domain": "baz"}})
    assert told(await server("POST", "/v1/database/foo/names", "b ", by=server.owner)) == (
        400,
        "invalid characters in database name",
    )
    assert told(await server("POST", "/v1/database/foo/names", b"b\xff", by=server.owner)) == (
        400,
        "Request body didn't contain valid UTF-8: invalid utf-8 sequence of 1 bytes from index 1",
    )

    async def rename(body: str, by: Claims = server.owner, kind: str = "application/json; charset=utf-8") -> Response:
        return await server("PUT", "/v1/database/foo/names", body, by=by, headers={"content-type": kind})

    assert told(await rename('["x"]', kind="text/plain"))[0] == 415
    assert told(await rename("[")) == (
        400,
        "Failed to parse the request body as JSON: EOF while parsing a value at line 1 column 1",
    )
    for wrong in ('{"a":1}', "[1]", "null"):
        assert (await rename(wrong)).status == 422
    assert told(await rename('["X"]')) == (400, "Error parsing `X`: invalid characters in database name")
    other = await rename('["x"]', by=server.other)
    assert (other.status, json_of(other)) == (401, {"NotYourDatabase": {"database": identity}})
    used = await rename('["second"]')
    assert json_of(used) == {"OtherError": "Cannot rename to second because it already is in use."}
    assert json_of(await rename('["one","two"] trailing')) == "Success"
    assert json_of(await server("GET", f"/v1/database/{identity}/names")) == {"names": ["one", "two"]}
    assert told(await server("GET", "/v1/database/foo/identity")) == (404, "`foo` not found")


# Work in a database


@pytest.mark.parametrize(
    ("outcome", "status", "text", "energy", "duration"),
    [
        (CallOutcome(CallKind.COMMITTED, "", 12, 7), 200, "", "7", "12"),
        (CallOutcome(CallKind.FAILED, "bad luck", 12), 530, "bad luck", "0", "12"),
        (CallOutcome(CallKind.FAILED, "{}", 12), 530, "{}", "0", "12"),
        (CallOutcome(CallKind.PANICKED), 530, "The instance encountered a fatal error.", "0", "0"),
        (CallOutcome(CallKind.OUT_OF_ENERGY), 402, "Module energy budget exhausted.", "0", "0"),
        (CallOutcome(CallKind.RETURNED, "[1]", 9), 200, "[1]", None, "9"),
        (
            CallOutcome(CallKind.PROCEDURE_PANICKED, "trap {}"),
            500,
            "The module instance encountered a fatal error: trap {}",
            None,
            None,
        ),
        (CallOutcome(CallKind.BAD_ARGUMENTS, "invalid"), 400, "invalid", None, None),
        (
            CallOutcome(CallKind.LIFECYCLE, "Init"),
            400,
            "can't directly call special Init lifecycle reducer",
            None,
            None,
        ),
        (CallOutcome(CallKind.NOT_FOUND), 404, "No such procedure", None, None),
        (CallOutcome(CallKind.MODULE_GONE), 404, "no such module", None, None),
        (CallOutcome(CallKind.CONNECT_REFUSED, "go away"), 403, "go away", None, None),
    ],
)
async def test_call_outcomes(
    server: Server, outcome: CallOutcome, status: int, text: str, energy: str | None, duration: str | None
) -> None:
    await server.publish()
    server.backend.outcomes["do it"] = outcome
    answer = await server("POST", "/v1/database/foo/call/do%20it", '["é"]', headers=JSON_TYPE, by=server.owner)
    assert (answer.status, body_of(answer).decode()) == (status, text)
    assert server.backend.calls[-1] == ("call", "do it", '["é"]')
    assert answer.header("spacetime-energy-used") == energy
    assert answer.header("spacetime-execution-duration-micros") == duration
    expected = "application/json" if outcome.kind is CallKind.RETURNED else "text/plain; charset=utf-8"
    assert answer.header("content-type") == expected
    assert answer.reason == ("<none>" if status == 530 else answer.reason)


async def test_call_refusals(server: Server) -> None:
    path = "/v1/database/foo/call/f"
    assert told(await server("POST", path)) == (404, "`foo` not found")
    await server.publish()
    assert told(await server("POST", path)) == (400, "Header of type `content-type` was missing")
    for kind in ("text/plain", "application/json; charset=utf-8"):
        answer = await server("POST", path, "[]", headers={"content-type": kind})
        assert told(answer) == (415, "Expected request with `Content-Type: application/json`")
    loud = await server("POST", path, "[]", headers={"content-type": "Application/JSON"})
    assert told(loud) == (404, "No such procedure")
    assert told(await server("POST", path, b"\xff", headers=JSON_TYPE)) == (
        400,
        "Request body didn't contain valid UTF-8",
    )


async def test_sql(server: Server) -> None:
    await server.publish()
    answer = await server("POST", "/v1/database/foo/sql", "SELECT 1")
    assert json_of(answer) == [
        {
            "schema": {"elements": []},
            "rows": [[1]],
            "total_duration_micros": 17,
            "stats": {"rows_inserted": 1, "rows_deleted": 2, "rows_updated": 3},
        }
    ]
    assert answer.header("spacetime-execution-duration-micros") == "17"
    assert server.backend.calls[-1] == ("sql", "SELECT 1", True)
    await server("POST", "/v1/database/foo/sql?confirmed=false", "x")
    assert server.backend.calls[-1] == ("sql", "x", False)
    assert told(await server("POST", "/v1/database/foo/sql")) == (400, "Empty SQL query")
    assert told(await server("POST", "/v1/database/foo/sql", b"a\xe2\x82")) == (
        400,
        "Request body didn't contain valid UTF-8: incomplete utf-8 byte sequence from index 1",
    )


async def test_schema_and_time(server: Server) -> None:
    await server.publish()
    prefix = "Failed to deserialize query string: "
    assert told(await server("GET", "/v1/database/foo/schema")) == (400, prefix + "missing field `version`")
    assert told(await server("GET", "/v1/database/foo/schema?version=8")) == (
        400,
        prefix + "unknown variant `8`, expected `9` or `10`",
    )
    assert json_of(await server("GET", "/v1/database/foo/schema?version=10")) == {"version": 10}
    now = json_of(await server("GET", "/v1/database/foo/unstable/timestamp"))
    assert now["__timestamp_micros_since_unix_epoch__"] > 1_700_000_000_000_000


async def test_logs(server: Server) -> None:
    identity = await server.publish()
    answer = await server("GET", "/v1/database/foo/logs?num_lines=3", by=server.owner)
    assert (answer.header("content-type"), answer.header("cache-control")) == ("application/x-ndjson", "no-cache")
    assert answer.chunked
    assert not isinstance(answer.body, bytes)
    assert [piece async for piece in answer.body] == [b'{"level":"Info"}\n']
    assert server.backend.calls[-1] == ("logs", 3, False)
    assert told(await server("GET", "/v1/database/foo/logs", by=server.other)) == (
        403,
        f"{server.other.identity.hex()} is not authorized to perform action on database {identity}: view module logs",
    )
    server.backend.log_closed = False
    head = await server("HEAD", "/v1/database/foo/logs?follow=true", by=server.owner)
    assert head.body == b""
    assert server.backend.log_closed


async def test_module_handlers(server: Server) -> None:
    await server.publish()
    headers = {"authorization": "Bearer bad", "host": "shop.example"}
    answer = await server("POST", "/v1/database/foo/route/e%63ho?a=1", "body", headers=headers)
    uri = "http://shop.example/v1/database/foo/route/e%63ho?a=1"
    assert (answer.status, body_of(answer).decode()) == (201, f"POST {uri} 4")
    assert header_values(answer, "x-shop") == ["one", "two"]
    assert answer.header("spacetime-identity") is None
    assert answer.header("content-length") is None
    assert answer.header("access-control-allow-origin") == "*"
    proxied = {"x-forwarded-proto": "https, http", "x-forwarded-host": "a.example, b", "host": "c"}
    answer = await server("QUERY", "/v1/database/foo/route", headers=proxied)
    assert body_of(answer).decode() == "QUERY https://a.example/v1/database/foo/route 0"
    for path in ("/route/", "/route/echo/"):
        assert told(await server("GET", f"/v1/database/foo{path}")) == (
            404,
            "Database has not registered a handler for this route",
        )
    missing = await server("GET", "/v1/database/nope/route")
    assert told(missing) == (404, "`nope` not found")
    assert missing.header("spacetime-identity") is None


# Subscribe


async def test_upgrade(server: Server) -> None:
    await server.publish()
    wanted = "00ff" * 8
    path = f"/v1/database/foo/subscribe?connection_id={wanted}&compression=None&light=true&confirmed=false"
    answer = await server.answer("GET", path, headers=WEBSOCKET, by=server.owner)
    assert isinstance(answer, Upgrade)
    assert (answer.protocol, answer.confirmed, answer.light, answer.compression) == (
        "v3.bsatn.spacetimedb",
        False,
        True,
        "None",
    )
    assert answer.connection_id.hex() == wanted
    assert answer.claims == server.owner
    headers = dict(answer.headers)
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" == accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    assert headers["sec-websocket-protocol"] == "v3.bsatn.spacetimedb"
    assert headers["spacetime-identity-token"] == server.owner.token
    assert server.backend.calls[-1][0] == "launch"
    plain = await server.answer("GET", "/v1/database/foo/subscribe", headers=WEBSOCKET)
    assert isinstance(plain, Upgrade)
    assert (plain.confirmed, plain.light, plain.compression) == (True, False, "Brotli")
    assert any(plain.connection_id)


NEEDED = "This service requires use of the websocket protocol"


@pytest.mark.parametrize(
    ("target", "changes", "refusal"),
    [
        ("Foo/subscribe", {}, (400, "Invalid URL: invalid characters in database name")),
        (
            "foo/subscribe?compression=gzip",
            {},
            (
                400,
                "Failed to deserialize query string: unknown variant `gzip`, expected one of `None`, `Brotli`, `Gzip`",
            ),
        ),
        (
            "foo/subscribe?connection_id=abc",
            {},
            (
                400,
                'Failed to deserialize query string: invalid value: string "abc", expected a byte array or hex string',
            ),
        ),
        ("foo/subscribe", {"upgrade": "WebSocket"}, (426, NEEDED)),
        ("foo/subscribe", {"connection": "close"}, (426, NEEDED)),
        (
            "foo/subscribe",
            {"sec-websocket-version": "8"},
            (400, "`Sec-WebSocket-Version` header did not include '13'"),
        ),
        ("foo/subscribe", {"sec-websocket-key": ""}, (400, "`Sec-WebSocket-Key` header missing")),
        (
            "nope/subscribe?connection_id=" + "0" * 32,
            {},
            (400, "Invalid connection ID: the all-zeros ConnectionId is reserved."),
        ),
        ("nope/subscribe", {"sec-websocket-protocol": "chat"}, (404, "`nope` not found")),
        ("c2" * 32 + "/subscribe", {}, (404, "No such database.")),
        (
            "foo/subscribe",
            {"sec-websocket-protocol": "chat, V2.bsatn.spacetimedb"},
            (400, "no valid protocol selected"),
        ),
        ("foo/subscribe", {"sec-websocket-protocol": ""}, (400, "no valid protocol selected")),
    ],
)
async def test_upgrade_refusals(server: Server, target: str, changes: dict[str, str], refusal: tuple[int, str]) -> None:
    await server.publish()
    headers = {name: value for name, value in {**WEBSOCKET, **changes}.items() if value}
    answer = await server("GET", f"/v1/database/{target}", headers=headers, by=server.owner)
    assert told(answer) == refusal
    assert answer.header("spacetime-identity") == server.owner.identity.hex()
    if answer.status == 426:
        assert (answer.header("connection"), answer.header("upgrade")) == ("upgrade", "websocket")
    head = await server("HEAD", "/v1/database/foo/subscribe", headers=headers)
    assert told(head) == (405, "")
    assert header_values(head, "allow") == ["GET,HEAD"]


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
