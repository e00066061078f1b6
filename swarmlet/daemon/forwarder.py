"""The way of the API's calls to the manager that leads."""

from collections.abc import Callable

from aiohttp import web

from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import NotLeaderError
from swarmlet.daemon.host import NodeNetwork


class LeaderForwarder:
    """Implements `api.engine.Forwarder`. `leader` is the address of the other manager that leads,
    "" where none is known to."""

    def __init__(self, network: NodeNetwork, own: OwnIdentity, leader: Callable[[], str]) -> None:
        self._network, self._own, self._leader = network, own, leader

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        addr = self._leader()
        if not addr:
            raise NotLeaderError(
                "No manager is known to lead the swarm now.", remedy="Try again in a moment."
            )
        return await self._network.pass_on(addr, request, self._own)
