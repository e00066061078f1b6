"""What the daemon says of itself, whatever its node's life is at."""

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from swarmlet.api.engine import EngineFacts, Forwarder, SwarmState
from swarmlet.core.errors import UnsupportedError, not_in_swarm
from swarmlet.daemon.gauges import Gauges
from swarmlet.daemon.host import Host
from swarmlet.daemon.joining import Attempt
from swarmlet.daemon.stay import Stay
from swarmlet.manager.event_feed import EventFeed
from swarmlet.runtime.base import Registries, Runtime

if TYPE_CHECKING:
    from swarmlet.manager.control import Control


class EngineAnswers:
    """The half of `api.engine.Engine` that changes nothing; the other is `engine.DaemonEngine`,
    which alone writes what is read here."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._env, self._data = host.env, host.data
        self._runtime: Runtime = host.runtime
        self.events = EventFeed(host.env.clock)
        self._stay: Stay | None = None
        self._attempt: Attempt | None = None
        self._failure = ""  # of the last join, where nobody waited for its answer
        self._changing = asyncio.Lock()
        self.stopped = asyncio.Event()
        self.process = Gauges()

    @property
    def facts(self) -> EngineFacts:
        """The host's, with what the present runtime says of itself now."""
        described = self._runtime.describe()
        generic = list(self._host.generic_resources)
        described = replace(
            described, resources=replace(described.resources, generic_resources=generic)
        )
        return replace(
            self._host.facts,
            runtime=described,
            runtimes=(described.name,),
            runtime_problem=self._runtime.condition.problem,
        )

    def swarm_state(self) -> SwarmState:
        if self._attempt is not None:
            return SwarmState(state="pending", error=self._attempt.problem)
        if self._stay is not None:
            return self._stay.state()
        if self._failure:
            return SwarmState(state="error", error=self._failure)
        return SwarmState(state="pending" if self._changing.locked() else "inactive")

    def control(self) -> "Control":
        if self._stay is None or self._attempt is not None:
            raise not_in_swarm()
        return self._stay.control()

    def forwarder(self) -> Forwarder | None:
        return None if self._stay is None else self._stay.forwarder()

    async def distribution(self, name: str, auth: str) -> bytes:
        if not isinstance(self._runtime, Registries):
            raise UnsupportedError(
                f"The {self._runtime.name} runtime of this node has no images, so it asks no "
                "registry.",
                remedy="Use --no-resolve-image, or the image host.",
            )
        return await self._runtime.distribution(name, auth)

    def gauges(self) -> dict[str, float]:
        stay = {} if self._stay is None else self._stay.gauges()
        return {**self.process.read(), **stay}

    def is_at_rest(self) -> bool:
        """Whether nothing happens here until somebody asks or a task ends."""
        return self._stay is None or self._stay.is_at_rest()
