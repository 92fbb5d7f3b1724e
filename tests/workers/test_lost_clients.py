"""Clients whose connection is lost while large answers for them are gathered: nobody else notices."""

from __future__ import annotations

import struct

import pytest
from link_rig import Rig
from test_one_off_pages import PROGRAM, ten_rows_are_large

__all__ = ["ten_rows_are_large"]


@pytest.mark.parametrize("answers", [1, 2, 3])
async def test_the_connection_is_lost_before_the_answers_are_gathered(answers: int) -> None:
    rig = Rig(PROGRAM)
    caller, losing, other = rig.client(), rig.client(), rig.client()
    caller.call("fill", struct.pack("<II", 0, 30))
    rig.turn()
    other.subscribe(1, "SELECT * FROM things")
    rig.turn()
    for number in range(answers):
        losing.subscribe(number, "SELECT * FROM things", f"SELECT * FROM things WHERE id > {number}")
    caller.call("fill", struct.pack("<II", 30, 1))
    rig.link.post()
    rig.actor.turn()
    rig.publish()
    losing.lose()
    rig.turn()
    rig.turn()
    assert rig.link.fault is None
    assert losing.client.number not in rig.link.clients
    assert not rig.lane.slices._jobs
    other.take()
    assert len(other.bags[1]) == 31


async def test_the_connection_is_lost_with_messages_before_the_answer() -> None:
    rig = Rig(PROGRAM)
    caller, losing = rig.client(), rig.client()
    caller.call("fill", struct.pack("<II", 0, 30))
    rig.turn()
    losing.subscribe(1, "SELECT * FROM things")
    rig.turn()
    losing.take()
    rig.link.outbox.tell(losing.client, b"\1")
    losing.subscribe(2, "SELECT * FROM things WHERE id > 1")
    losing.lose()
    while rig.slice():
        pass
    assert rig.link.fault is None
    assert losing.client.number not in rig.link.clients


async def test_a_large_answer_is_let_go_of_when_it_has_been_sent() -> None:
    rig = Rig(PROGRAM)
    caller, reader = rig.client(), rig.client()
    caller.call("fill", struct.pack("<II", 0, 30))
    rig.turn()
    reader.subscribe(1, "SELECT * FROM things")
    rig.turn()
    rig.turn()
    reader.take()
    assert len(reader.bags[1]) == 30
    gathered = [part for _, _, parts in rig.link.subscriptions._large._gathering.values() for part in parts]
    assert gathered
    assert all(len(part.parts) == 1 for part in gathered)
