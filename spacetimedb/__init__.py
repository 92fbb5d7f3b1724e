"""SpacetimeDB in Python: a relational database that is also the server.

This package gives what a module's author needs, and `TestHost` to run a module in a test. Nothing of it is imported
before it is asked for: programs that only need one of the packages below this one pay for that one alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # without `__all__`: mypy understands no other than a literal one, and would export what that lists
    from spacetimedb.module import *  # noqa: F403
    from spacetimedb.testing.host import TestHost as TestHost
else:  # unseen by type checkers: to them a name that is not here is a mistake

    def __getattr__(name: str) -> Any:
        """What authors import, and `__all__`; kept in this module's names once it is there."""
        if name == "TestHost":
            value = importlib.import_module("spacetimedb.testing.host").TestHost
        else:
            module = importlib.import_module("spacetimedb.module")
            if name == "__all__":
                value = [*module.__all__, "TestHost"]
            elif name in module.__all__:
                value = getattr(module, name)
            else:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
