"""The network of a real host: TLS over sockets, discovery by multicast DNS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web

from swarmlet.ca.identity import identify
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.daemon.addresses import Addresses
from swarmlet.daemon.host import Port, PortPlan
from swarmlet.env.base import Env
from swarmlet.model.address import Address
from swarmlet.wire import discovery
from swarmlet.wire.client import TlsLink
from swarmlet.wire.forward import Origin
from swarmlet.wire.outgoing import exchange
from swarmlet.wire.reception import PortParts
from swarmlet.wire.routes import API_PREFIX
from swarmlet.wire.server import NodePort
from swarmlet.wire.tls import Trust


class HostNetwork:
    """Implements `NodeNetwork`."""

    def __init__(self, env: Env, addresses: Addresses) -> None:
        self._env, self._addresses = env, addresses
        self.link, self.exchange = TlsLink(), exchange

    def plan_port(self, plan: PortPlan) -> Port:
        return _TlsPort(self._env, plan, self.link)

    @asynccontextmanager
    async def announce(
        self, at: Address, cluster_id: ClusterID, node_id: NodeID
    ) -> AsyncIterator[None]:
        found = await self._env.blocking(partial(self._addresses.resolve, at.host))
        async with discovery.announce([found], at.port, cluster_id=cluster_id, node_id=node_id):
            yield

    async def find(self) -> list[str]:
        return await discovery.find()

    async def pass_on(
        self, addr: str, request: web.Request, own: OwnIdentity
    ) -> web.StreamResponse:
        path = API_PREFIX + request.rel_url.raw_path_qs
        origin = Origin(identity=own.identity, source="")  # so that it is not passed on again
        return await self.link.forward(
            addr, request, path, origin=origin, credentials=own.credentials
        )

    async def close(self) -> None:
        await self.link.close()


class _TlsPort:
    """A port whose certificate and root are the node's own of each moment."""

    def __init__(self, env: Env, plan: PortPlan, link: TlsLink) -> None:
        self._own, self._trust = plan.own, Trust(plan.own.credentials)
        parts = PortParts(
            identify=lambda chain: identify(chain, env.clock.wall_ms()),
            gatekeeper=plan.gatekeeper,
            service=plan.service,
            api=plan.api,
            forward=link.forward,
        )
        self._port = NodePort(plan.listen, self._trust, parts, env.clock)
        self.opened = self._port.opened

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._port.run(), name="node-port")
            group.create_task(self._follow(), name="trust")

    def close_node(self, node_id: NodeID) -> None:
        self._port.close_node(node_id)

    def gauges(self) -> dict[str, float]:
        return self._port.gauges()

    async def _follow(self) -> None:
        while True:
            self._trust.replace(await self._own.changed(self._trust.credentials))
