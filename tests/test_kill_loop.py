"""The kill loop's short form (the long one: scripts/soak_kill.py), and the checker itself."""

from __future__ import annotations

import pytest
import trio
from conftest import ServerFactory
from patience import PATIENCE_S
from soak_kill import Client, Soak, Violation, check_entries

from spacetimedb.cli.session import SessionLost, open_session

KILLS = 50
SEED = 7


async def test_fifty_kills(start_server: ServerFactory) -> None:
    server = start_server(options=["--snapshot-mb", "0.05"])
    soak = Soak(server, 8, SEED)
    await soak.run(KILLS)
    print(soak.report())
    assert soak.killed == KILLS
    assert all(client.states > 10 for client in soak.clients)
    server.stop()


def client_of(*appends: tuple[int, int, bool]) -> Client:
    """A client with appends (connection, last one confirmed before, confirmed)."""
    client = Client(0)
    for value, (connection, before, confirmed) in enumerate(appends):
        client.connection_of[value], client.before[value] = connection, before
        if confirmed:
            client.confirmed.add(value)
    return client


def test_the_checker_finds_what_is_wrong() -> None:
    client = client_of((1, -1, True), (1, -1, False), (2, 0, True), (2, 0, True))
    for fine in ([0, 1, 2, 3], [0, 2, 3], [0, 2, 1, 3]):
        check_entries([client], fine)
    for values, what in (
        ([0, 1, 2], "missing"),
        ([0, 1, 2, 3, 3], "twice"),
        ([0, 1, 3, 2], "that it followed"),
        ([2, 0, 3], "confirmed earlier"),
        ([0, 2, 3, 77], "nobody asked"),
    ):
        with pytest.raises(Violation, match=what):
            check_entries([client], values)


async def test_a_session_notices_the_end_during_the_handshake(nursery: trio.Nursery) -> None:
    """What happens to whoever connects to a reader that is killed at that moment."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    listeners = await nursery.start(trio.serve_tcp, hang_up, 0)
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(PATIENCE_S), pytest.raises(SessionLost, match="during the handshake"):
        async with open_session(f"http://localhost:{port}", "any"):
            pass
