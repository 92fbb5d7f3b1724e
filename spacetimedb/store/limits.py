"""What one transaction and one row may hold."""

from __future__ import annotations

from typing import Final

MAX_ROW_BYTES: Final = 16 << 20
"""Longest BSATN of a row. A longer one makes the commit fail with a ReducerError."""

MAX_ROWS_PER_TRANSACTION: Final = 1_000_000
"""Rows that one transaction may insert, update or delete. One more insert raises a ReducerError, and so does a
commit."""

MAX_PENDING_KEYS: Final = 1 << 16
"""Keys that came or went since an index was last scanned in order. With more, the sorted keys are thrown away at commit
and sorted afresh by the next scan."""
