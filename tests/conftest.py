"""Fixtures for tests against a real server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import REACHABLE_HOST, ServerProcess
from smoketest import User

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in the background of a shell; the processes of the tests would inherit it, and Ctrl-C is tested, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Runs of mypy on what tests write share what they know of the standard library and of this package.
os.environ.setdefault("MYPY_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".mypy_cache"))

ServerFactory = Callable[..., ServerProcess]
LONGEST = (
    "test_kill_loop.py",
    "test_failures.py",
    "test_dashboard.py",
    "test_kill.py",
    "test_loadtest.py",
    "test_demo_page.py",
    "test_safe_publishing.py",
    "test_smoke_owners.py",
    "test_hostile_text.py",
    "test_hostile_clients.py",
    "test_hostile_modules.py",
    "test_first_steps.py",
    "test_pytest_plugin.py",
    "test_server_snapshots.py",
    "test_smoke_changes.py",
    "test_typing.py",
    "test_dev.py",
    "test_backup.py",
    "test_crash_points.py",
    "test_broken_disk.py",
    "test_random_databases.py",
    "test_bots.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: at the end of a run with several processes none waits for another."""
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that do not harm it. Every test publishes under a name of its own."""
    options = ["--outbound-http-to", REACHABLE_HOST]
    running = ServerProcess(tmp_path_factory.mktemp("server"), options=options).start()
    try:
        yield running
    finally:
        running.stop()


TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def npm_database(server: ServerProcess) -> str:
    """The module that clients are tested against, published once; every test has rows of its own in it."""
    server.publish(TESTS / "npm" / "module.py", "npm-client")
    return "npm-client"


@pytest.fixture(scope="session")
def probe_database(server: ServerProcess) -> str:
    """The module of the recorded sessions, for tests of clients; every test has rows of its own in it."""
    server.publish(TESTS / "vectors" / "websocket" / "sessions" / "probe.py", "probe-client")
    return "probe-client"


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


@pytest.fixture
def new_user(server: ServerProcess, tmp_path: Path) -> Iterator[Callable[[], User]]:
    """Makes users of the shared server's command line, with identities of their own."""
    users: list[User] = []

    def make() -> User:
        users.append(User(server, tmp_path / f"user{len(users)}"))
        return users[-1]

    yield make
    for user in users:
        user.leave()


@pytest.fixture
def user(new_user: Callable[[], User]) -> User:
    return new_user()
