"""A notice: bytes that one process replaces now and then, and others read whole without waiting for it.

Layout (u64 words, native order)

    word 0     version: odd while the writer is at it
    word 1     length of the content in bytes
    word 2..   the content

The writer makes the version odd, writes, and makes it even again; who finds the same even version before and after has
read one content. A writer that dies in between leaves an odd version: nothing stands there until the next `put`.
"""

from __future__ import annotations

from typing import Final

from .region import Region, publish_fence

_HEAD_WORDS: Final = 2
_ATTEMPTS: Final = 3
_LARGEST: Final = (1 << 64) - 1


class Notice:
    """`size` words of a region from word `first` on."""

    def __init__(self, region: Region, first: int, size: int) -> None:
        self._words = region.words
        self._bytes = region.bytes
        self._first = first
        self._start = 8 * (first + _HEAD_WORDS)
        self.room = 8 * (size - _HEAD_WORDS)
        """Bytes of the longest content."""

    def put(self, content: bytes) -> None:
        """Replaces the content. Raises ValueError if it is longer than `room`."""
        if len(content) > self.room:
            raise ValueError(f"{len(content)} bytes do not fit into a notice of {self.room}")
        words, first, start = self._words, self._first, self._start
        version = (words[first] | 1) % _LARGEST
        words[first] = version
        publish_fence()
        words[first + 1] = len(content)
        self._bytes[start : start + len(content)] = content
        publish_fence()
        words[first] = version + 1

    def get(self) -> bytes:
        """The content; empty if there is none, or one was being written at every attempt."""
        words, first, start = self._words, self._first, self._start
        for _ in range(_ATTEMPTS):
            version = words[first]
            publish_fence()
            length = words[first + 1]
            if version % 2 or length > self.room:
                continue
            content = self._bytes[start : start + length]
            publish_fence()
            if words[first] == version:
                return content
        return b""
