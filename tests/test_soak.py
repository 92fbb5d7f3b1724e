"""The short form of the soak (see soak.py)."""

from __future__ import annotations

from server_process import SAMPLES, ServerProcess
from soak import Soak

SECONDS = 4.0


def test_every_cache_equals_the_server(server: ServerProcess) -> None:
    server.publish(SAMPLES / "churn.py", "churn")
    soak = Soak(server.base_url, clients=50, writers=3, seed=1)
    try:
        figures = soak.run(SECONDS)
    finally:
        soak.close()
    assert figures["transactions"] > 20
    assert figures["updates"] > 40
    assert figures["sets"] > 10
