"""Looks at a program in a process of its own before anything else sees it: import, definition, validation.

Input on standard input: the program. Output on standard output: MessagePack of `Loaded`. A module that raises, loops or
prints does so here.
"""

from __future__ import annotations

import os
import sys

import msgspec


class Loaded(msgspec.Struct):
    """`problem` None: `definition` is the raw module definition as BSATN; else a text for the author."""

    definition: bytes
    problem: str | None


def main() -> None:
    """Entry of the process."""
    output = os.dup(1)
    os.dup2(2, 1)
    result = load(sys.stdin.buffer.read())
    with os.fdopen(output, "wb") as stream:
        stream.write(msgspec.msgpack.encode(result))


def load(program: bytes) -> Loaded:
    """Loads a program in this process."""
    from spacetimedb.hosts.program import ProgramError, load_program
    from spacetimedb.module.errors import ModuleError
    from spacetimedb.schema.raw import encode_raw
    from spacetimedb.schema.validation import ModuleDefErrors, validate

    try:
        raw = load_program(program).describe()
        validate(raw)
    except (ProgramError, ModuleError, ModuleDefErrors) as error:
        return Loaded(b"", str(error))
    return Loaded(encode_raw(raw), None)


if __name__ == "__main__":
    main()
