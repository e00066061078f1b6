"""A manager whose data are locked: it is in its swarm, takes no part in it, and waits for the key.

Its tasks run on without it; nothing that ended meanwhile is started again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from swarmlet.api.engine import Forwarder, SwarmState
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.unlock_key import WrongKeyError
from swarmlet.core.errors import SwarmError, leaving_locked, swarm_locked
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.model.address import parse_address

log = logging.getLogger("swarmlet.daemon")


class LockedNode:
    """Implements `Stay` over the swarm's file alone: nothing else can be read."""

    def __init__(self, file: SwarmFile) -> None:
        self.file = file

    def check(self, files: NodeFiles, unlock_key: bytes) -> None:
        """Read with this key from now on. Raises WrongKeyError: then it is as locked as before."""
        try:
            files.unlock(unlock_key)
        except WrongKeyError:
            log.warning("swarm.unlock_refused")
            raise

    async def run(self, on_ready: Callable[[], None]) -> None:
        on_ready()
        await asyncio.Event().wait()

    async def registered(self) -> None:
        """It will not be, before it is unlocked."""

    def state(self) -> SwarmState:
        """No node id, as Docker: it is the certificate's to say."""
        return SwarmState(
            state="locked",
            node_addr=parse_address(self.file.advertise_addr, "AdvertiseAddr").host,
            error=swarm_locked().message,
        )

    def control(self) -> NoReturn:
        raise swarm_locked()

    def forwarder(self) -> Forwarder | None:
        return None

    def leave_refusal(self) -> SwarmError | None:
        return leaving_locked()

    async def leave(self) -> None:
        """What the runtime has of this swarm is swept once the swarm is forgotten."""

    async def stop(self, *, is_host_stopping: bool = False) -> None:
        """There is nobody to say goodbye to."""

    def gauges(self) -> dict[str, float]:
        return {}

    def is_at_rest(self) -> bool:
        return True
