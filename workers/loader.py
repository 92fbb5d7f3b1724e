"""Looks at a program in a process of its own before anything else sees it: import, definition, validation.

Input on standard input: MessagePack of `messages.Load`. Output on standard output: MessagePack of `messages.Loaded`. A
module that raises, loops or prints does so here. The process confines itself before it runs the first line of it.

It is usually started before there is anything to load, and then does all that every program needs: what is left to do
afterwards is what an author waits for.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import msgspec

from spacetimedb.hosts.program import ProgramError, libraries_of, load_libraries, load_program
from spacetimedb.module.errors import ModuleError
from spacetimedb.schema.raw import encode_raw
from spacetimedb.schema.validation import ModuleDefErrors, validate
from spacetimedb.types.algebraic import encode_type
from spacetimedb.workers.messages import Load, Loaded
from spacetimedb.workers.sandbox import NotConfined, confine

OUT_OF_MEMORY: Final = "the module wants more memory than a database may have (`spacetime start --memory-mb`)"


def main() -> None:
    """Entry of the process."""
    output = os.dup(1)
    os.dup2(2, 1)
    load_libraries(())
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    libraries = libraries_of(order.program)
    if libraries:
        load_libraries(libraries)
    try:
        confine(order.confinement)
    except NotConfined:
        pass  # the supervisor has said so
    try:
        result = load(order.program)
    except MemoryError:
        result = Loaded(b"", OUT_OF_MEMORY)
    result.libraries = sorted(libraries)
    data = memoryview(msgspec.msgpack.encode(result))
    while data:
        data = data[os.write(output, data) :]


def load(program: bytes) -> Loaded:
    """Loads a program in this process."""
    try:
        module = load_program(program)
        raw = module.describe()
        validate(raw)
    except (ProgramError, ModuleError, ModuleDefErrors) as error:
        return Loaded(b"", str(error))
    migrations = [(spec.table, encode_type(spec.row_type), spec.name) for spec in module.migrations]
    return Loaded(encode_raw(raw), None, not_durable=list(module.not_durable), migrations=migrations)


if __name__ == "__main__":
    main()
