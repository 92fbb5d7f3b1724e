"""The control block and the bare regions: layout, attaching by descriptor, words that never tear."""

from __future__ import annotations

import os
import re

import pytest

from spacetimedb.memory import control
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.region import Region

from .processes import LOST_S, Child


def test_the_table_in_the_docstring_is_the_layout() -> None:
    table = dict(re.findall(r"^    (?=\d)(\d+) +([a-z_]+)", control.__doc__ or "", re.MULTILINE))
    assert table[str(control.READERS)] == "reader"
    words = {name: int(word) for word, name in table.items() if int(word) < control.READERS}
    del words["magic"], words["expects_log"]
    assert len(words) > 15
    for name, word in words.items():
        assert getattr(control, name.upper()) == word
    assert control.READERS * 8 + control.READER_SLOTS * control.READER_WORDS * 8 <= control.SIZE


def test_durable_offset() -> None:
    region = Region.private(control.SIZE)
    block = ControlBlock.create(region)
    assert block.durable_offset is None
    block.publish_durable(0, 64)
    assert [block.durable_offset, block.words[control.LOG_RING_POSITION]] == [0, 64]
    block.words[block.reader_word(3, control.READER_PID)] = 12
    assert block.reader(3, control.READER_PID) == 12
    assert block.next_offset == 0
    with pytest.raises(ValueError, match="reader 16"):
        block.reader_word(16, 0)
    with pytest.raises(ValueError, match="no control block"):
        ControlBlock(Region.private(control.SIZE))


def test_words_are_never_torn() -> None:
    region = Region.create(control.SIZE, "test-control")
    ControlBlock.create(region)

    def flip() -> None:
        words = region.words
        for _ in range(400_000):
            words[control.NEXT_OFFSET] = 0x1111111111111111
            words[control.NEXT_OFFSET] = 0xEEEEEEEEEEEEEEEE
        words[control.ACTOR_STATE] = control.STOPPED

    child = Child(flip)
    block = ControlBlock(Region.attach(region.fd))
    seen = set()
    while block.words[control.ACTOR_STATE] != control.STOPPED:
        seen.update([block.words[control.NEXT_OFFSET] for _ in range(1000)])
    assert child.join() == 0
    assert seen <= {0, 0x1111111111111111, 0xEEEEEEEEEEEEEEEE}
    assert len(seen) >= 2


def test_a_region_is_gone_with_its_descriptors() -> None:
    region = Region.create(10_000, "test-region")
    assert region.size % os.sysconf("SC_PAGESIZE") == 0
    other = Region.attach(region.fd)
    region.bytes[5:8] = b"abc"
    assert other.bytes[5:8] == b"abc"
    assert region.halves[2] == 0
    fd = region.fd
    region.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    with pytest.raises(ValueError, match="positive"):
        Region.private(0)


def test_a_discarded_range_reads_as_zeros() -> None:
    for region in (Region.create(1 << 20, "test-region"), Region.private(1 << 20)):
        region.bytes[4096:8192] = b"x" * 4096
        assert region.discard(4096, 4096)
        assert region.bytes[4096:8192] == bytes(4096)


def test_doorbell() -> None:
    for bell in (Doorbell.create(), Doorbell(*os.pipe())):
        os.set_blocking(bell.fd, False)
        assert not bell.clear()
        Doorbell.attach(*bell.fds).ring()
        bell.ring()
        assert bell.wait(LOST_S)
        assert not bell.wait(0.0)
        bell.close()
