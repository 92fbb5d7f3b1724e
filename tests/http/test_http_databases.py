"""Publishing, naming, locking and deleting databases, and the routes that work in one."""

from __future__ import annotations

import pytest
from fake_server import JSON_TYPE, Server, body_of, header_values, json_of, told

from spacetimedb.auth.tokens import Claims
from spacetimedb.http.backend import CallKind, CallOutcome, MigrationPlan
from spacetimedb.http.messages import Response


@pytest.fixture
def server() -> Server:
    return Server()


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
