"""Users of the shared server; each test gets its own, and databases with names of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess
from smoketest import User


@pytest.fixture
def new_user(server: ServerProcess, tmp_path: Path) -> Iterator[Callable[[], User]]:
    """Makes users with identities of their own."""
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
