"""Run with `pytest`: no server needed. The fixtures come with spacetimedb."""

import pytest
from module import Guest, Message, write

from spacetimedb import ReducerError
from spacetimedb.testing import ClientFactory, TestHost


def test_everybody_sees_what_was_written(client: ClientFactory) -> None:
    ann, bob = client("ann"), client("bob")
    seen = bob.subscribe("SELECT * FROM message")
    ann.call(write, "Ann", "Hello")
    assert [(message.name, message.text) for message in seen.rows(Message)] == [("Ann", "Hello")]


def test_an_empty_text_is_refused(db: TestHost, client: ClientFactory) -> None:
    with pytest.raises(ReducerError, match="write something"):
        client("ann").call(write, "Ann", "  ")
    assert db.db[Message].count() == 0


def test_guests_come_and_go(db: TestHost, client: ClientFactory) -> None:
    ann = client("ann")
    assert db.db[Guest].count() == 1
    ann.disconnect()
    assert db.db[Guest].count() == 0
