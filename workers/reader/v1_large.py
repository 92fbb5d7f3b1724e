"""Rows of large tables in answers to v1 clients: a marker stands for them until the message is encoded, then they are
put in its place as they were gathered, so that nothing long is encoded or copied at once.

The marker is a row list of one row of random bytes. In v1.bsatn it is exchanged for the row list, which is that of v2;
in v1.json, where it is a string, for the JSON texts of the rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from spacetimedb.protocol.v1 import Table
from spacetimedb.subscriptions.large_rows import LargeRows
from spacetimedb.subscriptions.wire import row_list_of
from spacetimedb.types.layout import Buffer

MARKER_BYTES: Final = 32
TEXTS_AT_ONCE: Final = 256
"""Rows that are made JSON before others have their turn."""
_json: Final = msgspec.json.Encoder().encode


def _marker_text(data: Buffer, at: int) -> tuple[str, int]:
    return bytes(data[at : at + MARKER_BYTES]).decode(), at + MARKER_BYTES


class Marked:
    """Rows that are gathered, or will be, and what stands for them. `large`: see `subscriptions.large_rows`."""

    def __init__(self, large: LargeRows, table: Table, is_text: bool) -> None:
        self.large = large
        self.name = large.parts[0]
        self.table = Table(table.table_id, table.name, table.row_type)
        """The table as the encoder sees it."""
        self.table.object_text = _marker_text
        marker = secrets.token_hex(MARKER_BYTES // 2).encode()
        self.rows = row_list_of([marker])
        """The row list that is encoded."""
        self._hole = b'"' + marker + b'"' if is_text else self.rows
        self._texts: list[bytes] = []
        self._text = table.object_text
        self.steps: Iterator[None] = self._make_texts() if is_text else iter(())
        """What is to be done once the rows are gathered."""
        self._is_text = is_text

    def _make_texts(self) -> Iterator[None]:
        text = self._text
        for data in self.large.parts[2:]:
            at = 0
            while at < len(data):
                texts: list[bytes] = []
                while at < len(data) and len(texts) < TEXTS_AT_ONCE:
                    one, at = text(data, at)
                    texts.append(_json(one))
                self._texts += [b",", b",".join(texts)] if self._texts else [b",".join(texts)]
                yield

    def put_into(self, message: Sequence[bytes]) -> list[bytes]:
        """The parts of a message, with the rows instead of the marker."""
        out: list[bytes] = []
        for part in message:
            before, found, behind = part.partition(self._hole)
            out.append(before)
            if found:
                out += self._texts if self._is_text else self.large.parts[1:]
                out.append(behind)
        return out
