"""From fragments that changed to the bytes that clients get: one update per audience, sets by id, tables by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from spacetimedb.subscriptions.query import AnyFragment, Audience
from spacetimedb.subscriptions.wire import alone_head, set_head, u32

Update = tuple[bytes, Collection[int]]
"""(BSATN array<QuerySetUpdate>, the clients that get it). The clients are live: use them before the next change."""

Affected = tuple[AnyFragment, bytes]
"""A fragment that changed, and its TableUpdateRows."""

_ONE: Final = u32(1)


def update_groups(affected: list[Affected]) -> list[Update]:
    """The updates of a commit. Audiences for which the same changed in the same sets share one bytes object."""
    if not affected:
        return []
    if len(affected) == 1:
        return _alone(*affected[0])
    return _together(affected)


def _alone(fragment: AnyFragment, block: bytes) -> list[Update]:
    """One fragment alone changed."""
    out: list[Update] = []
    updates: dict[tuple[int, ...], bytes] = {}
    for audience, numbers in fragment.query.audiences.items():
        update = updates.get(numbers)
        if update is None:
            update = updates[numbers] = _assemble([(fragment, block, numbers)])
        out.append((update, audience.clients))
    return out


def _together(affected: list[Affected]) -> list[Update]:
    """Several fragments changed."""
    first: dict[Audience, int] = {}
    more: dict[Audience, list[int]] = {}
    for position, (fragment, _) in enumerate(affected):
        for audience in fragment.query.audiences:
            if audience in first:
                more.setdefault(audience, [first[audience]]).append(position)
            else:
                first[audience] = position
    out: list[Update] = []
    updates: dict[tuple[object, ...], bytes] = {}
    for audience, position in first.items():
        if audience not in more:
            fragment, block = affected[position]
            numbers = fragment.query.audiences[audience]
            update = updates.get((position, numbers))
            if update is None:
                update = updates[position, numbers] = _assemble([(fragment, block, numbers)])
            out.append((update, audience.clients))
            continue
        positions = more[audience]
        parts = [(*affected[at], affected[at][0].query.audiences[audience]) for at in positions]
        key = tuple([(at, numbers) for at, (_, _, numbers) in zip(positions, parts, strict=True)])
        update = updates.get(key)
        if update is None:
            update = updates[key] = _assemble(parts)
        out.append((update, audience.clients))
    return out


def _assemble(parts: list[tuple[AnyFragment, bytes, tuple[int, ...]]]) -> bytes:
    """array<QuerySetUpdate> of (fragment, its rows, the query sets it is in)."""
    if len(parts) == 1 and len(parts[0][2]) == 1:
        fragment, block, (number,) = parts[0]
        return b"".join((alone_head(number), fragment.name, _ONE, block))
    name, numbers = parts[0][0].name, parts[0][2]
    if len(numbers) == 1 and all(part[2] == numbers and part[0].name == name for part in parts):
        blocks = [block for _, block, _ in parts]
        return b"".join((alone_head(numbers[0]), name, u32(len(blocks)), *blocks))
    sets: dict[int, dict[bytes, list[bytes]]] = {}
    for fragment, block, numbers in parts:
        for number in numbers:
            sets.setdefault(number, {}).setdefault(fragment.name, []).append(block)
    out = [u32(len(sets))]
    for number in sorted(sets):
        tables = sets[number]
        out.append(set_head(number, len(tables)))
        # Names start with their length; the order is that of the names alone.
        for name in sorted(tables, key=_after_length):
            out += (name, u32(len(tables[name])), *tables[name])
    return b"".join(out)


def _after_length(name: bytes) -> bytes:
    return name[4:]
