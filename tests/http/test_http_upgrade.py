"""What is decided before a connection becomes a WebSocket."""

from __future__ import annotations

import pytest
from fake_server import WEBSOCKET, Server, header_values, told

from spacetimedb.http.upgrade import Upgrade, accept_key


@pytest.fixture
def server() -> Server:
    return Server()


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
