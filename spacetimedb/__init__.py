"""SpacetimeDB in Python: a relational database that is also the server.

Importing this package gives what a module's author needs, and `TestHost` to run a module in a test.
"""

from typing import TYPE_CHECKING, Any

from spacetimedb.module import *  # noqa: F403
from spacetimedb.module import __all__ as _module_names

if TYPE_CHECKING:
    from spacetimedb.hosts.test_host import TestHost

__all__ = [*_module_names, "TestHost"]


def __getattr__(name: str) -> Any:
    """`TestHost` brings the whole database with it, so it is imported when it is asked for."""
    if name == "TestHost":
        from spacetimedb.hosts.test_host import TestHost

        return TestHost
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
