"""What one transaction and one row may hold."""

from __future__ import annotations

from typing import Final

MAX_ROW_BYTES: Final = 16 << 20
"""Longest BSATN of a row. A longer one makes the commit fail with a ReducerError."""

MAX_ROWS_PER_TRANSACTION: Final = 1_000_000
"""Rows that one transaction may touch beyond the number of rows that its tables have already: new ones, in other words,
also if they are deleted again. One more insert into the same table raises a ReducerError, and so does a commit when
several tables together have more. Clearing and filling again a table of any size is no problem."""

MAX_PENDING_KEYS: Final = 1 << 16
"""Keys that came or went since an index was last scanned in order. With more, the sorted keys are thrown away at commit
and sorted afresh by the next scan."""
