"""Who may publish: give this server programs to run.

Whoever holds the server's private key always may: a command of the user who runs the server signs a token with the
claim PUBLISHER_CLAIM for itself. By default identities that the server issued to a program on its own machine may, too:
their tokens carry the claim from the beginning. Otherwise it is up to a list of identities, or anyone.

The claim counts only in a token that this server's key signed and that no foreign issuer had a hand in.
"""

from __future__ import annotations

from typing import Final

import msgspec

PUBLISHER_CLAIM: Final = "spacetimedb_publisher"
BY_KEY: Final = "key"
"""Value of the claim in a token that somebody with access to the private key signed."""
BY_PLACE: Final = "local"
"""Value of the claim in a token that was issued to a program on the server's machine."""
PUBLISHER_TOKEN_SECONDS: Final = 600
"""Life of a token that a command signs for itself."""


class Publishers(msgspec.Struct, frozen=True, array_like=True):
    """The rule of one server, beside the holder of its key."""

    identities: frozenset[bytes] = frozenset()
    local: bool = False
    anyone: bool = False

    def allow(self, identity: bytes, claim: object) -> bool:
        """Whether somebody with this identity, and this value of the claim (None without it), may publish."""
        return self.anyone or claim == BY_KEY or (self.local and claim == BY_PLACE) or identity in self.identities
