"""The pytest plugin; pytest finds it where spacetimedb is installed.

    module     the Module under test: ini option `spacetimedb_module`, or module.py beside the test, or the only other
               file there that makes one. A test file or a conftest.py may define its own fixture of this name
    db         a fresh `TestHost` of it for every test
    client     client("ann"): a connected client
    identity   identity("ann")
    clock      the virtual time: `advance`, `fire`, `now`

With the ini option `spacetimedb_check_determinism` every reducer runs twice, and both runs must do the same.

A test that fails keeps its database below pytest's cache directory, as a commit log and as JSON lines; the report says
where. The plugin imports the database only when a test asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from spacetimedb.module import Module
    from spacetimedb.testing import Client, ClientFactory, Clock, IdentityFactory, TestHost

_KEPT = pytest.StashKey["TestHost"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the ini options."""
    parser.addini("spacetimedb_module", "file, package or import name of the SpacetimeDB module under test", default="")
    parser.addini("spacetimedb_check_determinism", "run every reducer twice and compare", type="bool", default=False)


@pytest.fixture(scope="session")
def _modules() -> dict[tuple[str, Path], Module]:
    return {}


@pytest.fixture
def module(request: pytest.FixtureRequest, _modules: dict[tuple[str, Path], Module]) -> Module:
    """The module under test."""
    from spacetimedb.testing.find import NoModule, find_module

    wanted = str(request.config.getini("spacetimedb_module"))
    key = wanted, request.path.parent
    if key not in _modules:
        try:
            _modules[key] = find_module(wanted, request.config.rootpath, request.path)
        except NoModule as error:
            why = str(error)
        else:
            why = ""
        if why:  # outside of the except, or pytest would show it twice
            pytest.fail(why, pytrace=False)
    return _modules[key]


@pytest.fixture
def db(request: pytest.FixtureRequest, module: Module) -> TestHost:
    """A fresh database of the module, `init` included."""
    from spacetimedb.testing import TestHost

    host = TestHost(module, check_determinism=bool(request.config.getini("spacetimedb_check_determinism")))
    request.node.stash[_KEPT] = host
    return host


@pytest.fixture
def identity(db: TestHost) -> IdentityFactory:
    """Identities by name."""
    return db.identity


@pytest.fixture
def client(db: TestHost) -> ClientFactory:
    """Connected clients by name."""
    from spacetimedb.testing import Client

    def connect(name: str, claims: Mapping[str, object] | None = None) -> Client:
        return Client(db, name, claims)

    return connect


@pytest.fixture
def clock(db: TestHost) -> Clock:
    """The time of the database."""
    from spacetimedb.testing import Clock

    return Clock(db)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Keeps the database of a test that failed."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    host = item.stash.get(_KEPT, None)
    if host is not None and call.when == "teardown":
        del item.stash[_KEPT]  # pytest keeps its items to the end: a database each is too much
    if host is None or call.when != "call" or not report.failed:
        return
    cache = item.config.cache
    if cache is None:
        return  # pytest runs with -p no:cacheprovider
    place = cache.mkdir("spacetimedb") / re.sub(r"[^\w.-]+", "_", item.nodeid)[-150:]
    try:
        host.save(place)
    except Exception as error:
        report.sections.append(("spacetimedb", f"the database could not be kept: {error}"))
        return
    lines = [f"database kept in {place}", f'reopen it with TestHost.open(module, "{place}")']
    tables = {path.stem: sum(1 for _ in path.open()) for path in sorted((place / "tables").iterdir())}
    lines += [f"  {name}: {count} rows" for name, count in tables.items()]
    lines += [f"  log: {line['level']} {line['message']}" for line in host.log[-5:]]
    report.sections.append(("spacetimedb", "\n".join(lines)))
