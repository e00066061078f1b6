"""This node's certificate and trust as they are now; a renewal replaces both at once."""

import asyncio

from swarmlet.core.identity import Identity
from swarmlet.wire.credentials import Credentials


class OwnIdentity:
    """Read by everything that dials or accepts, at each connection; replaced by the renewer."""

    def __init__(self, credentials: Credentials, identity: Identity) -> None:
        self.credentials, self.identity = credentials, identity
        self._changed = asyncio.Event()

    def replace(self, credentials: Credentials, identity: Identity) -> None:
        """The files on disk say so already."""
        self.credentials, self.identity = credentials, identity
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, seen: Credentials) -> Credentials:
        """The present credentials, once they are not `seen`."""
        while self.credentials is seen:
            await self._changed.wait()
        return self.credentials
