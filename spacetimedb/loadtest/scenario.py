"""Scenarios: Python files whose public async functions of one parameter are what bots do.

`start(bot)` runs once when a bot has connected, every other public function is a task. A bot picks a task by weight,
runs it, thinks, and picks again. Module-level names: DATABASE (default of --database), MODULE (the module whose
classes and functions are used, imported), THINK (seconds, or a pair: from, to).
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from ..client.schema import Schema
    from .bot import Bot

Think = tuple[float, float]
Play = Callable[["Bot"], Awaitable[object]]
F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__loadtest_task__"


class ScenarioError(Exception):
    """The scenario cannot be used; the text says why and where."""


class Task(msgspec.Struct, frozen=True):
    """Something bots do. `think`: seconds of pause behind it, evenly between the two; None: the scenario's."""

    name: str
    play: Play
    weight: float = 1.0
    think: Think | None = None


class Scenario(msgspec.Struct, frozen=True):
    """What bots do. `module`: what `client.trio.connect` takes as types, None: the server's schema."""

    name: str
    tasks: tuple[Task, ...]
    start: Play | None = None
    think: Think = (0.0, 0.0)
    database: str | None = None
    module: ModuleType | Schema | None = None


def task(*, weight: float = 1.0, think: float | Think | None = None) -> Callable[[F], F]:
    """Marks a task: how often it is chosen in proportion to others, and the pause behind it in seconds."""

    def mark(function: F) -> F:
        setattr(function, _MARK, (weight, think))
        return function

    return mark


def load_scenario(path: Path) -> Scenario:
    """Runs a scenario's file; its folder is searched by its imports. ScenarioError."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ScenarioError(f"{path}: there is no such Python file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ScenarioError(f"{path}: {type(error).__name__}: {error}") from error
    return _scenario(path, module)


def _scenario(path: Path, module: ModuleType) -> Scenario:
    found = vars(module)
    tasks, start = [], None
    for name, value in found.items():
        own = inspect.iscoroutinefunction(value) and value.__module__ == module.__name__
        if name.startswith("_") or not own or (len(inspect.signature(value).parameters) != 1 and not _marked(value)):
            continue
        if name == "start":
            start = value
            continue
        weight, think = _marked(value) or (1.0, None)
        if not weight > 0:
            raise ScenarioError(f"{path}: {name}: weight must be above 0, not {weight}")
        tasks.append(Task(name, value, float(weight), None if think is None else _pause(path, think)))
    if not tasks and start is None:
        raise ScenarioError(f"{path}: there is no `async def` with the one parameter `bot`: bots have nothing to do")
    own_module = found.get("MODULE")
    if own_module is not None and not isinstance(own_module, ModuleType):
        raise ScenarioError(f"{path}: MODULE must be an imported Python module, not {own_module!r}")
    think = _pause(path, found.get("THINK", 0.0))
    return Scenario(path.stem, tuple(tasks), start, think, found.get("DATABASE"), own_module)


def _marked(function: object) -> tuple[float, float | Think | None] | None:
    mark: tuple[float, float | Think | None] | None = getattr(function, _MARK, None)
    return mark


def _pause(path: Path, think: object) -> Think:
    pair = think if isinstance(think, tuple) and len(think) == 2 else (think, think)
    try:
        low, high = float(pair[0]), float(pair[1])  # type: ignore[arg-type]
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not 0 <= low <= high:
        raise ScenarioError(f"{path}: a think time is seconds, or (from, to), not {think!r}")
    return low, high
