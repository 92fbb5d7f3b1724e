"""Notices: whole contents or none."""

from __future__ import annotations

import pytest

from spacetimedb.memory.notice import Notice
from spacetimedb.memory.region import Region


def test_what_is_put_is_read() -> None:
    region = Region.private(4096)
    writer, reader = Notice(region, 3, 10), Notice(region, 3, 10)
    assert reader.get() == b""
    for content in (b"a", b"x" * writer.room, b"", b"bcd"):
        writer.put(content)
        assert reader.get() == content
    with pytest.raises(ValueError, match="65 bytes do not fit into a notice of 64"):
        writer.put(bytes(65))
    assert reader.get() == b"bcd"
    assert not any(region.words[13:]), "nothing is written behind it"


def test_what_a_dead_writer_left_is_not_read() -> None:
    region = Region.private(4096)
    notice = Notice(region, 0, 10)
    notice.put(b"one")
    region.words[0] += 1  # it died while it wrote
    assert notice.get() == b""
    notice.put(b"two")
    assert notice.get() == b"two"
    region.words[1] = 1 << 40
    assert notice.get() == b""
