"""Fixtures for tests against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

ServerFactory = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that do not harm it. Every test publishes under a name of its own."""
    running = ServerProcess(tmp_path_factory.mktemp("server")).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts servers with options of `ServerProcess`, for tests that kill or restart them; all end with the test."""
    started: list[ServerProcess] = []

    def start(**options: Any) -> ServerProcess:
        root = tmp_path / f"server{len(started)}"
        root.mkdir()
        started.append(ServerProcess(root, **options))
        return started[-1].start()

    yield start
    for process in started:
        process.kill()
