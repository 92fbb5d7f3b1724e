"""Loading a Python program: from the bytes that were published to a `Module` whose functions can be called.

A program is the UTF-8 source of one file, or a zip archive of one file or of a package: `__init__.py` at its top or in
one folder, or a manifest there that names another main file (`manifest.py`). Files keep the names they have in the
archive in tracebacks and in the log; bare source is `module.py`. It is loaded under the import name `module`; its own
files import each other relatively or under that name.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import io
import linecache
import sys
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from spacetimedb.hosts.manifest import FILE_NAME, Manifest, read_manifest, runs_on
from spacetimedb.hosts.policy import ALLOWED_IMPORTS, ON_DEMAND, check_imports, imported
from spacetimedb.module import Module
from spacetimedb.module.errors import BudgetExceeded, ModuleError, Problem
from spacetimedb.module.mounting import descendants

PROGRAM_NAME: Final = "module"
"""Import name of every loaded program, and the name of its logger."""
MAX_PROGRAM_BYTES: Final = 64 << 20
MAX_UNPACKED_BYTES: Final = 256 << 20


TEST_HOST: Final = "spacetimedb.testing.host"
"""What `from spacetimedb import TestHost` loads."""
_LATE_IMPORTS: Final = (
    *("_strptime", "calendar", "collections.abc", "encodings.idna", "encodings.punycode", "importlib.machinery"),
    *("encodings.utf_16", "encodings.utf_16_le", "encodings.utf_16_be", "encodings.utf_32", "encodings.utf_8_sig"),
    *("encodings.ascii", "encodings.latin_1", "encodings.cp1252", "encodings.hex_codec", "encodings.base64_codec"),
    *("encodings.cp437", "encodings.unicode_escape", "linecache", "traceback", "tokenize"),
)
"""Parts of Python that its functions import when they are first called."""
_LATE_PARTS: Final = {
    "numpy": ("numpy.random", "numpy.linalg", "numpy.fft", "numpy.ma", "numpy.polynomial", "numpy.typing"),
}
"""The same of other libraries."""


class ProgramError(Exception):
    """The program cannot be loaded. The text is meant for its author: what is wrong, in which file and line."""


def libraries_of(program: bytes) -> set[str]:
    """The libraries that are not part of Python and that this program imports. Empty for what cannot be read."""
    try:
        names = {name for source in _files(program)[0].values() for _, name in imported(source)}
    except (ProgramError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = {name.partition(".")[0] for name in names} & ON_DEMAND
    return found | {TEST_HOST} if names & {"spacetimedb.*", "spacetimedb.TestHost"} else found


def load_libraries(names: Iterable[str]) -> None:
    """Imports all that a program may, and needs later without saying so: once confined a process reads no files.

    Of what is not part of Python only `names`, as far as it is installed.
    """
    for name in sorted({*(ALLOWED_IMPORTS - ON_DEMAND), *_LATE_IMPORTS, *names}):
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # the program's own import says so
        for part in _LATE_PARTS.get(name, ()):
            try:
                importlib.import_module(part)
            except ImportError:
                pass


def load_program(program: bytes, print_line: Callable[[str], None] | None = None) -> Module:
    """Imports the program and returns its one `Module`.

    `print_line` receives what module code prints. A program that was loaded before under the same name is forgotten,
    its functions go on working. Raises ProgramError.
    """
    files, main = _files(program)
    problems: list[Problem] = []
    for path, source in files.items():
        try:
            problems += check_imports(source, path, PROGRAM_NAME)
        except SyntaxError as error:
            raise ProgramError(f"{path}:{error.lineno}: {error.msg}") from None
    if problems:
        raise ProgramError(str(ModuleError(problems)))
    for name in [n for n in sys.modules if n == PROGRAM_NAME or n.startswith(PROGRAM_NAME + ".")]:
        del sys.modules[name]
    finder = _Finder(files, main, print_line)
    sys.meta_path.insert(0, finder)
    try:
        namespace = importlib.import_module(PROGRAM_NAME)
        # A package's files are imported while it loads or never: nothing is found later, in the middle of a call.
    except ModuleError as error:
        raise ProgramError(str(error)) from None
    except BudgetExceeded:
        raise
    except BaseException as error:
        raise ProgramError(_explain(error, files)) from None
    finally:
        sys.meta_path.remove(finder)
    modules = {id(v): v for v in vars(namespace).values() if isinstance(v, Module)}
    inner = {id(mounted) for module in modules.values() for _, mounted in descendants(module)}
    modules = {key: module for key, module in modules.items() if key not in inner}
    if len(modules) != 1:
        found = "none" if not modules else f"{len(modules)}"
        raise ProgramError(f"{main}: a program has exactly one `m = Module()` at its top level; found {found}")
    return next(iter(modules.values()))


def _files(program: bytes) -> tuple[dict[str, str], str]:
    """Path -> source of every Python file of the program, and the path of its main file."""
    if not program.strip():
        raise ProgramError("the program is empty")
    if len(program) > MAX_PROGRAM_BYTES:
        raise ProgramError(f"the program has {len(program)} bytes, at most {MAX_PROGRAM_BYTES} are accepted")
    if program.startswith(b"\0asm"):
        raise ProgramError("the program is WebAssembly; this server runs modules written in Python")
    if not program.startswith(b"PK\x03\x04"):
        try:
            return {"module.py": program.decode()}, "module.py"
        except UnicodeDecodeError as error:
            raise ProgramError(f"the program is neither Python source in UTF-8 nor a zip archive: {error}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise ProgramError(f"the archive unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            names = archive.namelist()
            files = {n: archive.read(n).decode() for n in names if n.endswith(".py")}
            manifests = {n: archive.read(n).decode() for n in names if n.rpartition("/")[2] == FILE_NAME}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise ProgramError(f"the archive cannot be read: {error}") from None
    if manifests:
        path = min(manifests, key=_depth)
        manifest = _manifest(path, manifests[path])
        if manifest.entry is not None:
            main = path.removesuffix(FILE_NAME) + manifest.entry
            if main not in files:
                raise ProgramError(f"{path}: `entry` names {manifest.entry!r}, which is no Python file of the package")
            return files, main
    mains = sorted((n for n in files if n.rpartition("/")[2] == "__init__.py"), key=_depth)
    if not mains and len(files) == 1:
        mains = list(files)
    if not mains:
        raise ProgramError(f"the archive has no __init__.py (or {FILE_NAME} with an `entry`)")
    return files, mains[0]


def _manifest(path: str, text: str) -> Manifest:
    try:
        manifest = read_manifest(text)
        if not runs_on(manifest.python, sys.version_info[:3]):
            running = ".".join(map(str, sys.version_info[:3]))
            raise ValueError(f"the module is written for Python {manifest.python}; this server runs {running}")
    except ValueError as error:
        raise ProgramError(f"{path}: {error}") from None
    return manifest


def _depth(path: str) -> int:
    return path.count("/")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `module` and its submodules from sources in memory."""

    def __init__(self, files: dict[str, str], main: str, print_line: Callable[[str], None] | None) -> None:
        self._root = main[: main.rfind("/") + 1]
        self._main = main
        self._files = files
        self._print = print_line

    def _path(self, fullname: str) -> tuple[str, bool] | None:
        if fullname == PROGRAM_NAME:
            return self._main, len(self._files) > 1 or self._main.endswith("__init__.py")
        base = self._root + fullname.removeprefix(PROGRAM_NAME + ".").replace(".", "/")
        for path, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
            if path in self._files:
                return path, is_package
        return None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PROGRAM_NAME:
            return None
        found = self._path(fullname)
        if found is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=found[0], is_package=found[1])

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        found = self._path(module.__name__)
        assert found is not None
        path = found[0]
        source = self._files[path]
        linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
        module.__file__ = path
        if self._print is not None:
            module.__dict__["print"] = _printer(self._print)
        exec(compile(source, path, "exec"), module.__dict__)


def _printer(print_line: Callable[[str], None]) -> Callable[..., None]:
    def print_(*values: object, sep: str = " ", end: str = "", **_ignored: object) -> None:
        print_line(sep.join(map(str, values)) + end)

    return print_


def _explain(error: BaseException, files: dict[str, str]) -> str:
    """The exception with the frames that lie in the program."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    lines = [f'  File "{f.filename}", line {f.lineno}, in {f.name}\n    {f.line}\n' for f in frames]
    last = "".join(traceback.format_exception_only(error))
    return "the module cannot be loaded:\n" + "".join(lines) + last.rstrip()
