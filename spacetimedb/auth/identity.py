"""Identities derived from who a token is about.

    h    = BLAKE3-256(utf8(issuer + "|" + subject))[:26]
    chk  = BLAKE3-256(C2 00 h)[:4]
    id32 = C2 00 chk h            big-endian: its hex is the text form

The checksum is never verified on input: any 32 bytes are an identity.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from spacetimedb.types.special import Identity

_PREFIX: Final = b"\xc2\x00"


def derive_identity(issuer: str, subject: str) -> Identity:
    """The identity of `subject` as `issuer` knows it."""
    # A JWT can hold lone surrogates (\\ud800 escapes); they are no UTF-8, so they are replaced like any decoder would.
    tail = blake3(f"{issuer}|{subject}".encode("utf-8", "replace")).digest(26)
    checksum = blake3(_PREFIX + tail).digest(4)
    return Identity((_PREFIX + checksum + tail)[::-1])
