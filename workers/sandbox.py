"""What the process that runs a module may do once it has confined itself: compute, and talk over what it holds already.

`confine` is called after everything that the process needs is loaded and open, and before the first line of module
code. From then on, and for good:

* a seccomp filter (Linux on x86-64 and ARM64) answers every system call that is not on a short list with EPERM: no
  files are opened, no sockets made, no descriptors sent away, no processes started or signalled, no memory made
  executable, none taken that the limit does not count. What is left is reading and writing descriptors that are open,
  memory, threads, time and random bytes;
* an audit hook (everywhere) refuses the same things with a text that a module's author understands. It is for
  accidents: code that means harm finds ways around it, not around the filter;
* limits: private memory of `memory_bytes` (Linux: RLIMIT_DATA), beyond which an allocation raises MemoryError; no core
  dumps.

The filter is a classic BPF program over `struct seccomp_data`: u32 system call number, u32 architecture, u64
instruction pointer, six u64 arguments. The first rule that fits decides.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from typing import Any, Final

import msgspec

_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_SET_MODE_FILTER: Final = 1
_TSYNC: Final = 1
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

# Plain system calls by number, then those that are looked at more closely; one table per architecture.
_X86_64: Final = {
    "audit": 0xC000003E,
    "seccomp": 317,
    "free": (
        *(0, 1, 3, 5, 7, 8, 11, 12, 13, 14, 15, 19, 20, 23, 24, 25, 28, 35, 36, 38, 39, 44, 45, 47, 48),
        # read write close fstat poll lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn readv writev select
        # sched_yield mremap madvise nanosleep getitimer setitimer getpid sendto recvfrom recvmsg shutdown
        *(51, 55, 60, 96, 97, 98, 100, 102, 104, 107, 108, 110, 131, 186, 202, 204, 219, 228, 229, 230, 231),
        # getsockname getsockopt exit gettimeofday getrlimit getrusage times getuid getgid geteuid getegid getppid
        # sigaltstack gettid futex sched_getaffinity restart_syscall clock_gettime clock_getres clock_nanosleep
        # exit_group
        *(270, 271, 273, 318, 324, 334),
        # pselect6 ppoll set_robust_list getrandom membarrier rseq
    ),
    "mmap": 9,
    "mprotect": 10,
    "ioctl": 16,
    "clone": 56,
    "fcntl": 72,
    "tgkill": 234,
    "prlimit64": 302,
    "clone3": 435,
}
_AARCH64: Final = {
    "audit": 0xC00000B7,
    "seccomp": 277,
    "free": (
        *(57, 62, 63, 64, 65, 66, 72, 73, 80, 93, 94, 98, 99, 101, 102, 103, 113, 114, 115, 123, 124, 128),
        # close lseek read write readv writev pselect6 ppoll fstat exit exit_group futex
        # set_robust_list nanosleep getitimer setitimer clock_gettime clock_getres clock_nanosleep sched_getaffinity
        # sched_yield restart_syscall
        *(132, 134, 135, 139, 153, 163, 165, 169, 172, 173, 174, 175, 176, 177, 178),
        # sigaltstack rt_sigaction rt_sigprocmask rt_sigreturn times getrlimit getrusage gettimeofday getpid getppid
        # getuid geteuid getgid getegid gettid
        *(204, 206, 207, 209, 210, 212, 214, 215, 216, 233, 278, 283, 293),
        # getsockname sendto recvfrom getsockopt shutdown recvmsg brk munmap mremap madvise getrandom
        # membarrier rseq
    ),
    "mmap": 222,
    "mprotect": 226,
    "ioctl": 29,
    "clone": 220,
    "fcntl": 25,
    "tgkill": 131,
    "prlimit64": 261,
    "clone3": 435,
}
_TABLES: Final[dict[str, dict[str, Any]]] = {"x86_64": _X86_64, "aarch64": _AARCH64}

_PROT_EXEC: Final = 4
_MAP_SHARED: Final = 0x01
_MAP_ANONYMOUS: Final = 0x20
_MAP_GROWSDOWN: Final = 0x100
_CLONE_THREAD: Final = 0x10000
_FIONBIO: Final = 0x5421
_HARMLESS_FCNTL: Final = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; others can make the kernel signal any process."""


class Confinement(msgspec.Struct, array_like=True, frozen=True):
    """What a process that runs modules is held to. `memory_bytes` 0: no limit."""

    is_wanted: bool = True
    memory_bytes: int = 0


class NotConfined(Exception):
    """The system does not let this process confine itself; the text says why."""


def why_not() -> str | None:
    """Why there is no system call filter here, None if there is. Changes nothing."""
    if sys.platform != "linux":
        return f"{sys.platform} has no system call filter"
    if platform.machine() not in _TABLES or sys.maxsize < 1 << 32:
        return f"there is no system call filter for {platform.machine()}"
    table = _TABLES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    # A filter at no address: EFAULT says that the kernel would look at one.
    libc.syscall(ctypes.c_long(table["seccomp"]), ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER), ctypes.c_ulong(0), None)
    if ctypes.get_errno() not in (errno.EFAULT, errno.EACCES):
        return f"the kernel refuses system call filters ({os.strerror(ctypes.get_errno())})"
    return None


def confine(confinement: Confinement) -> None:
    """Confines this process and all its threads, for good. Raises NotConfined, after the limits are set."""
    limit_memory(confinement.memory_bytes)
    if not confinement.is_wanted:
        return
    problem = why_not()
    if problem is None:
        table = _TABLES[platform.machine()]
        _install(table["seccomp"], _program(table, os.getpid()))
    _guard.is_on = True
    if not _guard.is_installed:
        _guard.is_installed = True
        sys.addaudithook(_guard.refuse)
    if problem is not None:
        raise NotConfined(problem)


def limit_memory(size: int) -> None:
    """No core dumps; private memory of so many bytes at most (0: as much as there is)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _install(number: int, program: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotConfined(f"the kernel refuses no_new_privs ({os.strerror(ctypes.get_errno())})")
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    result = libc.syscall(
        ctypes.c_long(number), ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER), ctypes.c_ulong(_TSYNC), filter_
    )
    if result:
        raise NotConfined(f"the kernel refuses the system call filter ({os.strerror(ctypes.get_errno())})")


# -- the filter

_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4


def _argument(index: int) -> int:
    """Offset of the low half of an argument (little-endian machines)."""
    return 16 + 8 * index


def _statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _program(table: dict[str, Any], pid: int) -> bytes:
    """The whole filter. `pid`: the only process that may be signalled, this one."""
    allow, refuse = _statement(_RETURN, _ALLOW), _statement(_RETURN, _ERRNO | errno.EPERM)
    rules = [_statement(_LOAD, _ARCHITECTURE), _statement(_EQUAL, table["audit"], 1, 0), refuse]
    rules.append(_statement(_LOAD, _NUMBER))
    for number in table["free"]:
        rules += [_statement(_EQUAL, number, 0, 1), allow]
    # Answered as by a kernel that lacks it: the C library then uses clone, whose flags can be seen.
    rules += [_statement(_EQUAL, table["clone3"], 0, 1), _statement(_RETURN, _ERRNO | errno.ENOSYS)]

    def checked(name: str, argument: int, test: list[bytes]) -> None:
        """`test` decides about the low half of an argument and returns in any case."""
        block = [_statement(_LOAD, _argument(argument)), *test]
        rules.extend([_statement(_EQUAL, table[name], 0, len(block)), *block])

    def one_of(*values: int) -> list[bytes]:
        return [part for value in values for part in (_statement(_EQUAL, value, 0, 1), allow)] + [refuse]

    no_bit = [_statement(_ANY_BIT, _PROT_EXEC, 0, 1), refuse, allow]
    # Memory that RLIMIT_DATA does not count: stacks, and what is shared without a file.
    flags = [
        *(_statement(_LOAD, _argument(3)), _statement(_ANY_BIT, _MAP_GROWSDOWN, 0, 1), refuse),
        *(_statement(_ANY_BIT, _MAP_ANONYMOUS, 1, 0), allow, _statement(_ANY_BIT, _MAP_SHARED, 0, 1), refuse, allow),
    ]
    checked("mmap", 2, [_statement(_ANY_BIT, _PROT_EXEC, 0, 1), refuse, *flags])
    checked("mprotect", 2, no_bit)
    checked("clone", 0, [_statement(_ANY_BIT, _CLONE_THREAD, 0, 1), allow, refuse])
    checked("fcntl", 1, one_of(*_HARMLESS_FCNTL))
    checked("ioctl", 1, one_of(_FIONBIO))
    checked("tgkill", 0, one_of(pid))
    # Limits may be read; both halves of the pointer to a new one are 0.
    high = [_statement(_LOAD, _argument(2) + 4), _statement(_EQUAL, 0, 0, 1), allow, refuse]
    checked("prlimit64", 2, [_statement(_EQUAL, 0, 0, len(high)), *high, refuse])
    return b"".join([*rules, refuse])


# -- the audit hook


class _Guard:
    """Refuses, with a text for the author, what a module has no business with."""

    def __init__(self) -> None:
        self.is_on = False
        self.is_installed = False

    def refuse(self, event: str, _arguments: tuple[object, ...]) -> None:
        """The hook. Called for many events, so what is harmless is found out fast."""
        if event in _REFUSED and self.is_on:
            raise PermissionError(errno.EPERM, f"a module may not {_REFUSED[event]}")


_guard: Final = _Guard()


def _refused() -> dict[str, str]:
    texts = {
        "open files": "open os.listdir os.scandir os.truncate os.rename os.remove os.mkdir os.rmdir os.link os.symlink "
        "os.chmod os.chown os.utime os.chdir os.chflags os.getxattr os.setxattr os.removexattr os.listxattr glob.glob "
        "shutil.copyfile shutil.copytree shutil.move shutil.rmtree shutil.unpack_archive shutil.make_archive "
        "tempfile.mkstemp tempfile.mkdtemp sqlite3.connect",
        "open sockets": "socket.__new__ socket.bind socket.connect socket.getaddrinfo socket.gethostbyname "
        "socket.gethostbyaddr socket.getnameinfo socket.getservbyname socket.sendto urllib.Request ftplib.connect "
        "http.client.connect smtplib.connect imaplib.open poplib.connect",
        "start processes": "os.fork os.forkpty os.exec os.posix_spawn os.spawn os.startfile os.system subprocess.Popen "
        "pty.spawn",
        "signal processes": "os.kill os.killpg signal.pthread_kill",
        "use C functions": "ctypes.dlopen ctypes.dlsym ctypes.dlsym/handle ctypes.call_function ctypes.cdata "
        "ctypes.string_at ctypes.wstring_at ctypes.cdata/buffer",
        "lift its limits": "resource.setrlimit resource.prlimit",
    }
    return {event: text for text, events in texts.items() for event in events.split()}


_REFUSED: Final[dict[str, str]] = _refused()


def describe(confinement: Confinement) -> str:
    """What is in force, for whoever starts the server."""
    parts = []
    problem = why_not() if confinement.is_wanted else "--no-sandbox"
    if problem is None:
        parts.append("no files, sockets, processes or signals (seccomp)")
    elif confinement.is_wanted:
        parts.append(f"import rules and audit hook only, {problem}")
    else:
        parts.append("import rules only (--no-sandbox)")
    if confinement.memory_bytes and sys.platform == "linux":
        parts.append(f"{confinement.memory_bytes >> 20} MiB of memory each")
    elif confinement.memory_bytes:
        parts.append(f"no limit of memory ({sys.platform})")
    return "modules: " + ", ".join(parts)
