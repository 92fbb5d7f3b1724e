"""Identity derivation and Keccak-256 against known values."""

from __future__ import annotations

import pytest

from spacetimedb.auth.identity import derive_identity
from spacetimedb.auth.keccak import keccak256, keccak256_pure


@pytest.mark.parametrize(
    ("issuer", "subject", "identity"),
    [
        ("example.com", "123", "c200ef884364c1a99be0298dc68f2004e6b97c09d1b1658b7db22f51fb662059"),
        ("localhost", "test-subject", "c200b3ce65d91b79ecfb7d881cd65bf8da2f647d590af1474ad19faa7aa87e38"),
        (
            "localhost",
            "00000000-0000-4000-8000-000000000000",
            "c200085d8c451325cc207f963918b762072fff5388fca7006b89f4a2a7d3ee5e",
        ),
    ],
)
def test_identity(issuer: str, subject: str, identity: str) -> None:
    assert derive_identity(issuer, subject).hex() == identity


@pytest.mark.parametrize("hash_function", [keccak256, keccak256_pure])
@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"testing", "5f16f4c7f149ac4f9510d9cf8cf384038ad348b3bcdc01915f95de12df9d1b02"),
    ],
)
def test_keccak(hash_function: object, data: bytes, digest: str) -> None:
    assert callable(hash_function)
    assert hash_function(data).hex() == digest


@pytest.mark.parametrize("size", [134, 135, 136, 137, 271, 272, 1000])
def test_keccak_block_borders(size: int) -> None:
    """Same sponge as SHA3-256: with its padding byte the permutation must give the standard library's digest."""
    import hashlib

    from spacetimedb.auth import keccak

    data = bytes(index & 255 for index in range(size))
    keccak256_pure(b"")
    permute = keccak._permute
    assert permute is not None
    padding = bytearray(136 - size % 136)
    padding[0] = 0x06
    padding[-1] |= 0x80
    lanes: tuple[int, ...] = (0,) * 25
    padded = data + padding
    for at in range(0, len(padded), 136):
        lanes = permute(lanes, keccak._BLOCK.unpack_from(padded, at))
    assert keccak._DIGEST.pack(*lanes[:4]) == hashlib.sha3_256(data).digest()
    assert len(keccak256_pure(data)) == 32
