"""A program whose sums have more variants takes over while the reader is in the middle of something: rows of the new
types are read by the new types everywhere."""

from __future__ import annotations

from link_rig import Rig
from test_pauses import GROWN, JOIN, PROGRAM, call, everything_is_large, overtake, settle

__all__ = ["everything_is_large"]


async def test_while_a_subscription_waits_for_rows_that_are_looked_up() -> None:
    rig = Rig(PROGRAM)
    caller, reader = rig.client(), rig.client()
    call(caller, "fill", 20)
    rig.turn()
    reader.subscribe(1, JOIN)
    rig.actor.run_program(GROWN)
    rig.publish()
    for _ in range(4):
        rig.turn()
    overtake(rig, "touch", 2, 1000)
    overtake(rig, "shift", 9, 0, 1000)
    overtake(rig, "touch", 9, 2000)
    settle(rig, reader)
    assert len(reader.bags[1]) == 5


async def test_an_index_that_is_kept_for_queries() -> None:
    rig = Rig(PROGRAM)
    caller, reader = rig.client(), rig.client()
    call(caller, "fill", 20)
    rig.turn()
    text = "SELECT * FROM things WHERE id = 3"
    for _ in range(4):
        assert len(reader.wanted(text)) == 1
    assert rig.link.tables.built
    rig.actor.run_program(GROWN)
    rig.publish()
    overtake(rig, "touch", 3, 1000)
    overtake(rig, "touch", 4, 1000)
    rig.turn()
    assert rig.link.tables.built
    ((_, row),) = reader.wanted(text)
    assert row[:5] == b"\x02" + (1000).to_bytes(4, "little")
