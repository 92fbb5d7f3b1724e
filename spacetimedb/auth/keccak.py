"""Keccak-256: the hash of programs and migration tokens.

The original Keccak submission, not SHA3-256: both use Keccak-f[1600] with a rate of 136 bytes, but here the padding
begins with 0x01 (SHA3: 0x06) and ends with 0x80.

OpenSSL knows it as KECCAK-256 from version 3.2 on and is used where it does. The fallback keeps the 25 lanes of 64 bits
in 25 local integers and runs a permutation function generated once with all five steps of a round unrolled: lanes are
named, rotations are constants, and nothing is indexed. It hashes about 0.7 MB a second.
"""

from __future__ import annotations

import hashlib
import linecache
import struct
from collections.abc import Callable
from typing import Final

RATE: Final = 136
"""Bytes absorbed per permutation."""
_ROUNDS: Final = 24

_Lanes = tuple[int, ...]


def _round_constants() -> list[int]:
    """The 24 constants of step iota, from the linear feedback shift register x^8 + x^6 + x^5 + x^4 + 1."""
    constants = []
    register = 1
    for _ in range(_ROUNDS):
        constant = 0
        for power in range(7):
            if register & 1:
                constant |= 1 << ((1 << power) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return constants


def _rotations() -> dict[tuple[int, int], int]:
    """How far step rho turns each lane (x, y)."""
    turns = {(0, 0): 0}
    x, y = 1, 0
    for step in range(24):
        turns[x, y] = (step + 1) * (step + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return turns


def _permutation_source() -> str:
    """Source of `permute(lanes, block) -> lanes`: XOR the 17 lanes of a block in, then run the 24 rounds.

    Lane (x, y) is the local `a{x + 5 * y}`.
    """
    names = [f"a{index}" for index in range(25)]
    block = [f"m{index}" for index in range(RATE // 8)]
    lines = ["def permute(lanes, block):", f"    {', '.join(names)} = lanes", f"    {', '.join(block)} = block"]
    lines += [f"    a{index} ^= m{index}" for index in range(len(block))]
    lines.append("    for constant in CONSTANTS:")
    for x in range(5):
        lines.append(f"        c{x} = " + " ^ ".join(f"a{x + 5 * y}" for y in range(5)))
    for x in range(5):
        after = f"c{(x + 1) % 5}"
        lines.append(f"        d{x} = c{(x + 4) % 5} ^ ((({after} << 1) | ({after} >> 63)) & M)")
    turns = _rotations()
    for (x, y), turn in sorted(turns.items()):
        target = f"b{y + 5 * ((2 * x + 3 * y) % 5)}"
        lane = f"a{x + 5 * y} ^ d{x}"
        if turn:
            lines += [f"        t = {lane}", f"        {target} = ((t << {turn}) & M) | (t >> {64 - turn})"]
        else:
            lines.append(f"        {target} = {lane}")
    for y in range(5):
        for x in range(5):
            one, two = f"b{(x + 1) % 5 + 5 * y}", f"b{(x + 2) % 5 + 5 * y}"
            # (~one & two) without negative numbers
            lines.append(
                f"        a{x + 5 * y} = b{x + 5 * y} ^ (two & (one ^ two))".replace("two", two).replace("one", one)
            )
    lines += ["        a0 ^= constant", f"    return ({', '.join(names)})", ""]
    return "\n".join(lines)


def _generate() -> Callable[[_Lanes, _Lanes], _Lanes]:
    source = _permutation_source()
    file = "<generated keccak permutation>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    space: dict[str, object] = {"CONSTANTS": tuple(_round_constants()), "M": (1 << 64) - 1}
    exec(compile(source, file, "exec"), space)
    permute: Callable[[_Lanes, _Lanes], _Lanes] = space["permute"]  # type: ignore[assignment]
    return permute


_BLOCK: Final = struct.Struct(f"<{RATE // 8}Q")
_DIGEST: Final = struct.Struct("<4Q")
_permute: Callable[[_Lanes, _Lanes], _Lanes] | None = None


def keccak256_pure(data: bytes) -> bytes:
    """Keccak-256 in Python alone."""
    global _permute
    permute = _permute
    if permute is None:
        permute = _permute = _generate()
    padding = bytearray(RATE - len(data) % RATE)
    padding[0] = 0x01
    padding[-1] |= 0x80
    lanes: _Lanes = (0,) * 25
    whole = len(data) - len(data) % RATE
    for at in range(0, whole, RATE):
        lanes = permute(lanes, _BLOCK.unpack_from(data, at))
    lanes = permute(lanes, _BLOCK.unpack(data[whole:] + padding))
    return _DIGEST.pack(*lanes[:4])


def keccak256(data: bytes) -> bytes:
    """The 32 bytes of Keccak-256 of `data`."""
    try:
        return hashlib.new("keccak-256", data).digest()
    except ValueError:
        return keccak256_pure(data)
