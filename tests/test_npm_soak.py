"""The short form of the soak of the official client (see npm/builder_soak.mjs)."""

from __future__ import annotations

from server_process import SAMPLES, ServerProcess
from soak import official_client

SECONDS = 4.0


def test_every_cache_of_the_official_client_equals_the_server(server: ServerProcess) -> None:
    server.publish(SAMPLES / "churn.py", "npm-churn")
    figures = official_client(server, "npm-churn", SECONDS, clients=20, writers=2, seed=1)
    assert figures["transactions"] > 20
    assert figures["subscriptions"] > 20
    assert figures["row_changes"] > 1000
