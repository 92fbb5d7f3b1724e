"""For tests of modules with pytest: the types of the fixtures. See `plugin` for the fixtures themselves."""

from spacetimedb.testing.clients import Client, ClientFactory, Clock, IdentityFactory
from spacetimedb.testing.host import TestHost
from spacetimedb.testing.subscribers import Subscription

__all__ = ["Client", "ClientFactory", "Clock", "IdentityFactory", "Subscription", "TestHost"]
