"""For tests of modules with pytest: the types of the fixtures. See `plugin` for the fixtures themselves."""

from spacetimedb.hosts.test_clients import Subscription
from spacetimedb.hosts.test_host import TestHost
from spacetimedb.testing.clients import Client, ClientFactory, Clock, IdentityFactory

__all__ = ["Client", "ClientFactory", "Clock", "IdentityFactory", "Subscription", "TestHost"]
