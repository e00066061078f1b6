"""A node that joined: its agent and certificate; as a manager also a port behind which calls are
passed on to the manager that leads. It keeps no copy of the swarm's state."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from aiohttp import web

from swarmlet.agent.remote import RemoteConnector
from swarmlet.api.engine import Forwarder, SwarmState
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import RemoteAuthority
from swarmlet.core.errors import (
    DiskFullError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
    certificates_expired,
    leaving_manager,
    manager_not_ready,
    not_manager_worker,
)
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import NS_PER_S
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.host import ApiCall, Host, NodeNetwork, PortPlan
from swarmlet.daemon.node_life import NodeLife, Papers
from swarmlet.daemon.port_keeper import PortKeeper
from swarmlet.manager.control import Control
from swarmlet.manager.gatekeeper import CertificateGatekeeper
from swarmlet.manager.port import ForwardingPort
from swarmlet.model.address import Address, parse_address
from swarmlet.model.duration import format_duration
from swarmlet.runtime.base import Runtime
from swarmlet.wire.channel import AgentChannel, AgentConnector, LogSink
from swarmlet.wire.messages import SwarmInfo
from swarmlet.wire.remotes import Remotes

log = logging.getLogger("swarmlet.daemon")

STOP_WAIT_S: Final = 8.0  # for the goodbye
TELL_AFTER_S: Final = 30.0  # without a session: longer than a manager takes to restart
KEEP_RETRY_S: Final = 10.0  # between tries to write down whom to ask
NO_COPY: Final = (
    "This manager keeps no copy of the swarm's state: it passes calls on to the one that leads, "
    "and does not stand in for it."
)


class JoinedNode:
    """Built over what the swarm's file and the certificates on disk say. Its role is what its
    certificate says, and may change while it runs."""

    def __init__(
        self, host: Host, runtime: Runtime, file: SwarmFile, api: ApiCall, *, is_new: bool = False
    ) -> None:
        """`is_new`: a manager whose port cannot be opened does not become one."""
        self.file, self._host, self._api, self._is_new = file, host, api, is_new
        papers = Papers(host)
        self._own, link = papers.own, host.network.link
        self._managers = host.data.managers()
        self._remotes = Remotes(host.env.rng, self._managers)
        self.life = NodeLife(
            host,
            runtime,
            papers,
            connector=_Doubting(RemoteConnector(link, papers.own, self._remotes), self._doubt),
            source=RemoteAuthority(link, papers.own, self._remotes),
            on_info=self._learn,
        )
        self._forwarder = _Forwarder(host.network, papers.own, self._remotes)
        self._heard = asyncio.Event()  # a manager took this node in, in this life
        self._news = asyncio.Event()  # of managers that are not written down yet
        self._port: PortKeeper | None = None

    async def run(self, on_ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            opened = asyncio.Event()
            group.create_task(self._keep_port(opened), name="node-port")
            await opened.wait()
            group.create_task(self.life.renewer.run(), name="renewer")
            group.create_task(self._keep_managers(), name="managers")
            group.create_task(self.life.agent.run(), name="agent")
            on_ready()

    async def registered(self) -> None:
        await self.life.registered()

    async def joined(self) -> None:
        """Return once a manager took this node in."""
        await self._heard.wait()

    def state(self) -> SwarmState:
        problem, is_ready = self._problem(), self._heard.is_set()
        is_refused = problem is not None and not self.life.agent.is_registered()
        return SwarmState(
            state="error" if is_refused else "active" if is_ready else "pending",
            node_id=NodeID(self.file.node_id),
            node_addr=parse_address(self.file.advertise_addr, "AdvertiseAddr").host,
            error=problem.message
            if problem is not None
            else self._waits_for() or self._port_problem(),
            managers=tuple((one.node_id, one.addr) for one in self._remotes.all()),
            certificate=self.life.certificate(),
            warnings=(NO_COPY,) if self._is_manager() else (),
            listen_addr="" if self._port is None else self._port.listen_addr(),
        )

    def control(self) -> Control:
        if self._is_lost():
            raise certificates_expired()
        raise manager_not_ready() if self._is_manager() else not_manager_worker()

    def forwarder(self) -> Forwarder | None:
        return self._forwarder if self._is_manager() else None

    def leave_refusal(self) -> SwarmError | None:
        return leaving_manager() if self._is_manager() and self._problem() is None else None

    async def leave(self) -> None:
        await self.life.leave()

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await self.life.agent.stop()
        except TimeoutError:
            log.warning("swarm.stop_slow", extra={"waited_s": STOP_WAIT_S})

    def gauges(self) -> dict[str, float]:
        port = {} if self._port is None else self._port.gauges()
        return {**self.life.agent.gauges(), **port}

    def is_at_rest(self) -> bool:
        return self.life.agent.is_at_rest()

    # Inside

    def _is_manager(self) -> bool:
        return self._own.identity.role == "manager"

    def _problem(self) -> SwarmError | None:
        """Why the swarm does not know this node any more, as far as that is known."""
        if self._is_lost():
            return certificates_expired()
        refusal = self.life.agent.refusal
        return UnavailableError(refusal) if refusal else None

    def _is_lost(self) -> bool:
        """Whether the certificate has expired, and is not renewed."""
        return self.life.is_expired() and bool(self.life.renewer.problem)

    def _waits_for(self) -> str:
        """Why no manager has taken this node in, in this life or for long."""
        agent = self.life.agent
        alone_s, problem = int(agent.alone_s()), agent.problem
        if problem and alone_s >= TELL_AFTER_S:
            alone = format_duration(alone_s * NS_PER_S)
            return f"This node has had no session with a manager for {alone}: {problem}"
        return "" if self._heard.is_set() else problem

    def _port_problem(self) -> str:
        return "" if self._port is None else self._port.problem

    def _doubt(self) -> None:
        self.life.renewer.doubt_root()

    def _learn(self, info: SwarmInfo) -> None:
        self._heard.set()
        self._remotes.replace(info.managers)
        if info.managers and info.managers != self._managers:
            self._managers = info.managers
            self._news.set()

    async def _keep_managers(self) -> None:
        """Write down whom to ask, for the next life of this daemon."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                write = partial(self._host.data.write_managers, self._managers)
                await self._host.env.blocking(write)
            except (DiskFullError, OSError) as problem:
                log.warning("swarm.managers_not_kept", extra={"cause": str(problem)})
                self._news.set()
                await asyncio.sleep(KEEP_RETRY_S)

    async def _keep_port(self, opened: asyncio.Event) -> None:
        """Listen while the certificate says manager."""
        while True:
            if not self._is_manager():
                opened.set()
                await self._role_changes()
                continue
            keeper = PortKeeper(
                self._host.network,
                self._port_plan(),
                self._advertised,
                announces=self.file.announce,
            )
            self._port = keeper
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(keeper.run(opened, must_open=self._is_new))
                await self._role_changes()
                serving.cancel()
            self._port = None

    async def _role_changes(self) -> None:
        role = self._own.identity.role
        while self._own.identity.role == role:
            await self._own.changed(self._own.credentials)

    def _port_plan(self) -> PortPlan:
        identity, clock = self._own.identity, self._host.env.clock
        return PortPlan(
            listen=parse_address(self.file.listen_addr, "ListenAddr"),
            own=self._own,
            gatekeeper=CertificateGatekeeper(identity.cluster_id, clock),
            service=ForwardingPort(self._own, self._remotes, clock),
            api=self._api,
        )

    @property
    def _advertised(self) -> Address:
        return parse_address(self.file.advertise_addr, "AdvertiseAddr")


class _Doubting:
    """A connector that tells where a manager was not believed: its root may be newer than ours."""

    def __init__(self, connector: AgentConnector, doubt: Callable[[], None]) -> None:
        self._connector, self._doubt = connector, doubt

    async def open_session(self) -> AgentChannel:
        try:
            return await self._connector.open_session()
        except UnauthorizedError:
            self._doubt()
            raise

    async def open_log_stream(self, subscription: str) -> LogSink:
        return await self._connector.open_log_stream(subscription)


class _Forwarder:
    """Implements `Forwarder` for a manager that has joined."""

    def __init__(self, network: NodeNetwork, own: OwnIdentity, remotes: Remotes) -> None:
        self._network, self._own, self._remotes = network, own, remotes

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        addr = self._remotes.choose().addr
        with self._observed(addr):
            return await self._network.pass_on(addr, request, self._own.credentials)

    async def read(self, path: str) -> bytes:
        addr = self._remotes.choose().addr
        with self._observed(addr):
            return await self._network.read_api(addr, path, self._own.credentials)

    @contextmanager
    def _observed(self, addr: str) -> Iterator[None]:
        try:
            yield
        except UnavailableError as error:
            self._remotes.observe(addr, ok=False)
            raise UnavailableError(
                f"The manager that leads cannot be asked: {error.message}",
                remedy=f"Is its daemon running? {NO_COPY}",
            ) from error
        self._remotes.observe(addr, ok=True)
