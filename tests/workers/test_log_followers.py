"""Who follows a module log gets every line once: those of the file, then those of the ring."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from spacetimedb.workers.reader.http.backend import _stream


@pytest.mark.parametrize("shown", [0, 1, 2, 5])
async def test_every_line_comes_once(shown: int) -> None:
    """Lines 2 and 3 were published while the follower waited for the file, which has them already."""
    send, receive = trio.open_memory_channel[bytes](10)
    link: Any = SimpleNamespace(log_followers={send})
    for lines in (b"2\n", b"3\n4\n", b"5\n", b"2\n"):
        send.send_nowait(lines)
    send.close()
    pieces = [piece async for piece in _stream(link, b"0\n1\n2\n3\n", send, receive, shown)]
    first = [b"0\n", b"1\n", b"2\n", b"3\n"][4 - min(shown, 4) :]
    assert b"".join(pieces).splitlines(keepends=True) == [*first, b"4\n", b"5\n", b"2\n"]
    assert b"" not in pieces, "an empty piece would end the answer"
    assert not link.log_followers
