"""A module that means harm: every reducer tries something that a module must not do. Published by
`test_hostile_modules.py`; the import rules are got around on purpose, as a hostile author would."""

from collections import deque
from itertools import count

from spacetimedb import Module, Pk, ProcedureContext, ReducerContext, Row, auto_inc, u32, u64

m = Module()
KEPT: list[bytes] = []


@m.table(public=True)
class Entry(Row):
    id: Pk[u64] = auto_inc()
    value: u32


@m.reducer
def add(ctx: ReducerContext, value: u32) -> None:
    ctx.db[Entry].insert(Entry(value=value))


def without_guard() -> None:
    """The audit hook is Python: somebody who wants to can switch it off. What is left is the kernel's refusal."""
    __import__("sys").modules["spacetimedb.workers.sandbox"]._guard.is_on = False


@m.reducer
def attempt(ctx: ReducerContext, what: str, is_guarded: bool) -> None:
    ctx.db[Entry].insert(Entry(value=666))
    if not is_guarded:
        without_guard()
    os, socket = __import__("os"), __import__("socket")
    if what == "read a file":
        os.open("/etc/passwd", os.O_RDONLY)
    elif what == "open a file":
        open("/etc/passwd").close()
    elif what == "write a file":
        open("/tmp/written-by-a-module", "w").close()
    elif what == "list a folder":
        os.listdir("/")
    elif what == "look at a file":
        os.stat("/etc/passwd")
    elif what == "open a socket":
        socket.socket()
    elif what == "resolve a name":
        socket.getaddrinfo("localhost", 80)
    elif what == "fork":
        os.fork()
    elif what == "exec":
        os.execv("/bin/true", ["true"])
    elif what == "spawn":
        __import__("subprocess").run(["true"])
    elif what == "kill the parent":
        os.kill(os.getppid(), 9)
    elif what == "kill by signal owner":
        fcntl = __import__("fcntl")
        for fd in range(3, 30):
            fcntl.fcntl(fd, 8, os.getppid())
    elif what == "lift the limits":
        resource = __import__("resource")
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))
    else:
        raise ValueError(what)


@m.reducer
def loop(ctx: ReducerContext) -> None:
    ctx.db[Entry].insert(Entry(value=666))
    while True:
        pass


@m.reducer
def swallow(ctx: ReducerContext) -> None:
    ctx.db[Entry].insert(Entry(value=666))
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


@m.reducer
def recurse(ctx: ReducerContext) -> None:
    ctx.db[Entry].insert(Entry(value=666))
    recurse(ctx)


@m.reducer
def leave(ctx: ReducerContext) -> None:
    raise SystemExit(1)


@m.reducer
def allocate(ctx: ReducerContext) -> None:
    ctx.db[Entry].insert(Entry(value=666))
    pieces = []
    while True:
        pieces.append(b"x" * (1 << 20))


@m.reducer
def keep(ctx: ReducerContext) -> None:
    while True:
        KEPT.append(b"x" * (1 << 20))


@m.reducer
def block(ctx: ReducerContext) -> None:
    ctx.db[Entry].insert(Entry(value=666))
    deque(count(), maxlen=0)


@m.reducer
def crash(ctx: ReducerContext) -> None:
    without_guard()
    __import__("ctypes").string_at(1)


@m.reducer
def write_everywhere(ctx: ReducerContext) -> None:
    os = __import__("os")
    for fd in range(1, 40):
        try:
            os.write(fd, b"\xff" * 64)
        except OSError:
            pass


@m.reducer
def publish_garbage(ctx: ReducerContext, size: u32) -> None:
    gc = __import__("gc")
    for found in gc.get_objects():
        if type(found).__name__ == "RingWriter":
            found.append_batch([bytes(size)])


@m.procedure
def spin(ctx: ProcedureContext) -> u64:
    n = 0
    while n >= 0:
        n += 1
    return 0
