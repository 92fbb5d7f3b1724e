"""`TestHost`: a module's database inside a test, without server, sockets or waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import msgspec

from spacetimedb.module import Db, Identity, Module, ReducerContext, ViewContext

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Changes(msgspec.Struct, Generic[R]):
    """What a call did to one table."""

    inserts: list[R]
    deletes: list[R]


class Delta(dict[Any, Any]):
    """What a call changed, by table."""

    def __getitem__(self, table: type[R]) -> Changes[R]:
        raise NotImplementedError


class TestHost:
    """Runs a module in the test's own process."""

    db: Db

    def __init__(self, module: Module) -> None:
        self.module = module

    def connect(self, who: Identity) -> None:
        raise NotImplementedError

    def disconnect(self, who: Identity) -> None:
        raise NotImplementedError

    def call(
        self, who: Identity, reducer: Callable[Concatenate[ReducerContext, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> Delta:
        raise NotImplementedError

    def view(self, view: Callable[[ViewContext], T], who: Identity | None = None) -> T:
        raise NotImplementedError

    def advance(self, seconds: float) -> None:
        raise NotImplementedError

    def restart(self, crash: bool = False) -> None:
        raise NotImplementedError
