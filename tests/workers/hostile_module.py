"""A module that means harm: every reducer tries something that a module must not do. Published by
`test_hostile_modules.py`; the import rules are got around on purpose, as a hostile author would."""

from collections import deque
from itertools import count
from typing import Any

from spacetimedb import Module, Pk, ProcedureContext, ReducerContext, ReducerError, Row, auto_inc, u32, u64

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


def host_object(kind: str) -> Any:
    """An object of the process that a module is not given. They are frozen: the collector does not list them."""
    gc = __import__("gc")
    gc.unfreeze()
    (found,) = (found for found in gc.get_objects() if type(found).__name__ == kind)
    return found


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
        os.posix_spawn("/bin/true", ["true"], {})
    elif what == "kill the parent":
        os.kill(os.getppid(), 9)
    elif what == "kill by signal owner":
        fcntl = __import__("fcntl")
        for fd in range(3, 30):
            fcntl.fcntl(fd, 8, os.getppid())
    elif what == "send descriptors":
        array, fds = __import__("array"), range(3, 60)
        for fd in fds:
            try:
                sock = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue
            if sock.family == socket.AF_UNIX:
                sock.sendmsg([b"\xff"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd] * 8))])
    elif what == "memory that does not count":
        __import__("mmap").mmap(-1, 1 << 30)
    elif what == "a stack that does not count":
        mmap = __import__("mmap")
        mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100)
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
    host_object("RingWriter").append_batch([bytes(size)])


@m.reducer
def publish_garbage_silently(ctx: ReducerContext) -> None:
    """No reader is woken for it, so it is found by whoever looks next."""
    host_object("RingWriter").append_batch([bytes(64)])
    while True:
        pass


HEAD_WORDS = 512
"""More than what stands at the beginning of a ring or mailbox: positions and flags."""


def scribble(words: memoryview) -> None:
    words[:] = memoryview(b"\xff" * words.nbytes).cast("Q")


@m.reducer
def lie(ctx: ReducerContext, what: str) -> None:
    """Messages of the right form at the wrong time."""
    messages = __import__("sys").modules["spacetimedb.workers.messages"]
    actor = host_object("TransactionActor")
    if what == "row counts":
        for _ in range(80):
            actor._channel.send(messages.RowCounts(1 << 60, {}))
            __import__("time").sleep(0.01)
    elif what == "slow readers":
        for _ in range(20):
            for reader in range(5):
                actor._channel.send(messages.SlowReader(reader))
    elif what == "dropped readers":
        for slot in range(1, 5):
            actor._ring.deactivate(slot)
    elif what == "control block":
        scribble(actor._control.words)
    elif what == "mailboxes":
        for region in actor._mailbox_regions.values():
            scribble(region.words[:HEAD_WORDS])
    elif what == "ring":
        scribble(actor._ring._region.words[:HEAD_WORDS])
    elif what == "answers":
        for _ in range(5):
            actor._channel.send(messages.ActorFailed("a lie"))


@m.reducer
def environment(ctx: ReducerContext) -> None:
    raise ReducerError(" ".join(sorted(__import__("os").environ)))


@m.procedure
def spin(ctx: ProcedureContext) -> u64:
    n = 0
    while n >= 0:
        n += 1
    return 0
