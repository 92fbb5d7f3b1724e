"""The requests that upstream's command (2.8.3) makes, in its order and with its parameters; it says nothing on the way.

What the answers hold in detail is in the recorded pairs of test_vectors.py; here it is that every step goes through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from server_process import ServerProcess
from session_client import SessionClient

from spacetimedb.cli.api import Answer, Server
from spacetimedb.protocol import v2_client as v2

MODULE = b"""
from spacetimedb import Module, Pk, ProcedureContext, ReducerContext, Row, u32

m = Module()


@m.table(public=True)
class Item(Row):
    id: Pk[u32]
    name: str


@m.reducer
def add(ctx: ReducerContext, id: u32, name: str) -> None:
    ctx.db[Item].insert(Item(id=id, name=name))


@m.procedure
def twice(ctx: ProcedureContext, number: u32) -> u32:
    return 2 * number
"""
WIDER = MODULE.replace(b"    name: str\n\n", b"    name: str\n    likes: u32 = 0\n\n", 1)
NARROWER = MODULE.replace(b"    name: str\n\n", b"\n", 1).replace(b", name=name", b"")
AGENT = {"user-agent": "spacetimedb-cli/2.8.3"}
JSON = {"content-type": "application/json"}
NONE: Mapping[str, str] = {}


class Command:
    """What the command sends: `accept: */*`, a token or none."""

    def __init__(self, server: ServerProcess) -> None:
        self.base_url = server.base_url
        token = Server(server.base_url, None).request("POST", "/v1/identity", authorized=False).json()
        self.identity, self.token = token["identity"], token["token"]
        self._api = Server(server.base_url, self.token)

    def send(
        self, line: str, body: bytes | None = None, headers: Mapping[str, str] = NONE, *, token: bool = True
    ) -> Answer:
        """`METHOD TARGET`."""
        method, target = line.split(" ")
        return self._api.request(method, target, body=body, headers={"accept": "*/*", **headers}, authorized=token)


@pytest.fixture(scope="module")
def command(server: ServerProcess) -> Command:
    return Command(server)


def test_a_database_from_publish_to_delete(command: Command) -> None:
    db = "official-command"
    prepare = f"POST /v1/database/{db}/pre_publish?pretty_print_style=AnsiColor&host_type=Wasm"
    assert command.send("GET /v1/ping", token=False).ok
    assert command.send("GET /v1/identity/public-key", token=False).text.startswith("-----BEGIN PUBLIC KEY-----")
    assert command.send(prepare, MODULE).status == 404
    made = command.send(f"PUT /v1/database/{db}?host_type=Wasm", MODULE).json()["Success"]
    assert (made["op"], made["domain"]) == ("created", db)
    identity = made["database_identity"]

    plan = command.send(prepare, MODULE).json()["AutoMigrate"]
    assert plan["break_clients"] is False
    again = f"PUT /v1/database/{db}?token={plan['token']}&policy=BreakClients&host_type=Wasm"
    assert command.send(again, MODULE).json()["Success"]["op"] == "updated"
    plan = command.send(prepare, WIDER).json()["AutoMigrate"]
    assert (plan["break_clients"], "\x1b[" in plan["migrate_plan"]) == (True, True)
    wider = f"PUT /v1/database/{db}?token={plan['token']}&policy=BreakClients&host_type=Wasm"
    assert command.send(wider, WIDER).json()["Success"]["op"] == "updated"
    assert "ManualMigrate" in command.send(prepare, NARROWER).json()
    cleared = command.send(f"PUT /v1/database/{db}?clear=true&host_type=Js", MODULE).json()["Success"]
    assert (cleared["op"], cleared["database_identity"]) == ("updated", identity)

    assert command.send(f"GET /v1/database/{db}/identity", token=False).text.strip() == identity
    assert command.send("GET /v1/database/official-nobody/identity", token=False).status == 404
    schema = command.send(f"GET /v1/database/{identity}/schema?version=10", headers=AGENT).json()
    assert any("Tables" in section for section in schema["sections"])
    called = command.send(f"POST /v1/database/{identity}/call/add", b'[1, "plum"]', JSON | AGENT)
    assert (called.status, called.body) == (200, b"")
    twice = command.send(f"POST /v1/database/{identity}/call/twice", b"[21]", JSON | AGENT)
    assert json.loads(twice.text) == 42
    wrong = command.send(f"POST /v1/database/{identity}/call/add", b"[1]", JSON | AGENT)
    assert wrong.status == 400
    for query in ("", "?confirmed=false"):
        rows = command.send(f"POST /v1/database/{identity}/sql{query}", b"SELECT * FROM item", headers=AGENT).json()[0][
            "rows"
        ]
        assert rows == [[1, "plum"]]
    for query in ("follow=false", "num_lines=5&follow=false"):
        lines = command.send(f"GET /v1/database/{identity}/logs?{query}").text.splitlines()
        assert all("ts" in json.loads(line) for line in lines)

    call = {"name": "call", "arguments": {"reducer": "add", "args": [2, "fig"]}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    reply = command.send(f"POST /v1/database/{identity}/mcp", json.dumps(message).encode(), JSON | AGENT).json()
    assert reply["result"] == {"content": [{"text": "reducer 'add' committed", "type": "text"}], "isError": False}
    call["arguments"] = {"reducer": "twice", "args": [1]}
    reply = command.send(f"POST /v1/database/{identity}/mcp", json.dumps(message).encode(), JSON | AGENT).json()
    assert reply["result"]["content"][0]["text"] == "no such reducer", "procedures are not for this tool"
    silent = command.send("POST /v1/mcp", b'{"jsonrpc":"2.0","method":"notifications/initialized"}', JSON | AGENT)
    assert (silent.status, silent.body) == (202, b"")

    token = {"Authorization": f"Bearer {command.token}"}
    session = SessionClient(command.base_url, identity, ["v3.bsatn.spacetimedb"], "compression=None", token)
    assert session.protocol == "v3.bsatn.spacetimedb"
    assert isinstance(session.receive(), v2.InitialConnection)
    session.send(v2.subscribe(1, 1, ["SELECT * FROM item"]))
    applied = session.receive()
    assert isinstance(applied, v2.SubscribeApplied)
    assert [table.table for table in applied.tables] == ["item"]

    assert command.send(f"GET /v1/identity/{command.identity}/databases", token=False).json()["identities"] == [
        identity
    ]
    assert command.send(f"GET /v1/database/{identity}/names", token=False).json()["names"] == [db]
    renamed = command.send(f"PUT /v1/database/{db}/names", b'["official-renamed"]', JSON)
    assert renamed.ok, renamed.text
    assert command.send(f"POST /v1/database/{identity}/lock").ok
    assert not command.send(f"DELETE /v1/database/{identity}").ok
    assert command.send(f"POST /v1/database/{identity}/unlock").ok
    assert command.send(f"DELETE /v1/database/{identity}").ok
    assert session.receive_all()[1].code == 1001


def test_others(command: Command, server: ServerProcess) -> None:
    nameless = command.send("POST /v1/database?host_type=Wasm", MODULE).json()["Success"]
    assert (nameless["op"], nameless["domain"]) == ("created", None)
    identity = nameless["database_identity"]
    other = Command(server)
    refused = other.send(
        f"POST /v1/database/{identity}/pre_publish?pretty_print_style=AnsiColor&host_type=Wasm", MODULE
    )
    assert refused.status == 403
    assert command.send(f"DELETE /v1/database/{identity}").ok
    assert other.send(f"GET /v1/identity/{other.identity}/databases", token=False).json()["identities"] == []
