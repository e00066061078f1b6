"""One stay in a swarm as a manager that keeps its state: log, store, manager, agent and node port,
from start to stop."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from swarmlet.api.engine import Forwarder, SwarmState
from swarmlet.ca.external import ExternalSigner
from swarmlet.core.errors import (
    SwarmError,
    UnavailableError,
    leaving_erases_swarm,
    manager_not_ready,
)
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.host import ApiCall, Host, PortPlan
from swarmlet.daemon.node_life import NodeLife, Papers
from swarmlet.daemon.port_keeper import PortKeeper
from swarmlet.env.sealed import SealKeys, seal_key
from swarmlet.manager.bootstrap import Founding, first_changes
from swarmlet.manager.control import Control
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.manager.manager import Manager
from swarmlet.manager.removals import follow_removals
from swarmlet.model.address import parse_address
from swarmlet.raft.engine import Origin, RaftEngine
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.runtime.base import Runtime
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from swarmlet.wire.messages import SwarmInfo

log = logging.getLogger("swarmlet.daemon")

LEADER_WAIT_S: Final = 20.0  # for the first leadership of a new swarm
STOP_WAIT_S: Final = 8.0  # for the last writes; moby gives a manager as long
RENEW_WAIT_S: Final = 20.0  # for an expired certificate, before the port opens with it
RENEW_RETRY_S: Final = 0.2  # until this manager leads and its CA signs


class Membership:
    """Built over what `SwarmFile` and the certificates on disk say; `runtime` runs the tasks;
    `founding` only for a new swarm. Implements `Stay`.
    """

    def __init__(
        self,
        host: Host,
        runtime: Runtime,
        file: SwarmFile,
        founding: Founding | None,
        api: ApiCall,
    ) -> None:
        env, data, papers = host.env, host.data, Papers(host)
        self.file, self._env, self._data, self._founding = file, env, data, founding
        node_id, own = NodeID(file.node_id), papers.own
        member = Member(
            raft_id=RaftID(file.raft_id), node_id=file.node_id, address=file.advertise_addr
        )
        self.store = Store(env)
        self.log = RaftEngine(
            env,
            data.raft,
            SealKeys(current=seal_key(papers.keys.raft_dek)),
            self.store,
            member,
            host.raft_limits,
        )
        self.store.attach(self.log)
        external = ExternalSigner(host.network.exchange, lambda: own.credentials)
        self.manager = Manager(env, self.store, self.log, node_id, all_deciders(), external)
        self._control = Control(
            self.store, self.log, self.manager.logs, env, node_id, external=external
        )
        self.life = NodeLife(
            host,
            runtime,
            papers,
            connector=self.manager.connector(),
            source=self.manager.ca.source_of(node_id),
            on_info=_heard,
        )
        self.agent = self.life.agent
        advertised = parse_address(file.advertise_addr, "AdvertiseAddr")
        self._node_addr = advertised.host
        plan = PortPlan(
            listen=parse_address(file.listen_addr, "ListenAddr"),
            own=own,
            gatekeeper=StoreGatekeeper(self.store, own.identity.cluster_id, env.clock),
            service=self.manager.port,
            api=api,
        )
        self.port = PortKeeper(host.network, plan, advertised, announces=file.announce)
        self._is_ready = False

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Load, lead or follow, serve nodes and tasks."""
        await self.log.start(Origin.RESUME if self._founding is None else Origin.FOUND)
        with follow_removals(self.store, self.port.close_node):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.log.run(), name="raft")
                await self._begin()
                group.create_task(self._control.run(), name="control")
                group.create_task(self.manager.run(), name="manager")
                await self._renew_expired()
                opened, is_new = asyncio.Event(), self._founding is not None
                group.create_task(self.port.run(opened, must_open=is_new), name="port")
                await opened.wait()
                if is_new:
                    self._data.enter_swarm()
                group.create_task(self.life.renewer.run(), name="renewer")
                group.create_task(self.agent.run(), name="agent")
                self._is_ready = True
                on_ready()

    async def registered(self) -> None:
        await self.life.registered()

    def state(self) -> SwarmState:
        members = self.log.members()
        return SwarmState(
            state="active" if self._is_ready else "pending",
            node_id=NodeID(self.file.node_id),
            node_addr=self._node_addr,
            error=self.port.problem,
            managers=tuple((NodeID(one.node_id), one.address) for one in members),
            certificate=self.life.certificate(),
            listen_addr=self.port.listen_addr(),
        )

    def control(self) -> Control:
        if not self._is_ready:
            raise manager_not_ready()
        return self._control

    def forwarder(self) -> Forwarder | None:
        return None

    def leave_refusal(self) -> SwarmError | None:
        return leaving_erases_swarm()

    async def leave(self) -> None:
        await self.life.leave()

    async def stop(self) -> None:
        """Say goodbye, make durable what was proposed and answer it; tasks run on."""
        await self.agent.stop()
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await self.log.stop()
        except TimeoutError:
            log.warning("swarm.stop_slow", extra={"waited_s": STOP_WAIT_S})

    def gauges(self) -> dict[str, float]:
        return {
            **self.manager.gauges(),
            **self.port.gauges(),
            "swarmlet_store_index": float(self.store.view().index),
        }

    def is_at_rest(self) -> bool:
        return self.manager.is_at_rest() and self.agent.is_at_rest()

    async def _begin(self) -> None:
        """Wait for a leader; a new swarm gets its first objects."""
        try:
            async with asyncio.timeout(LEADER_WAIT_S):
                await self._leader()
        except TimeoutError as error:
            if self._founding is None:
                return  # the API says what is missing
            raise UnavailableError(
                "The new swarm's log did not become ready.",
                remedy="The daemon's log says why; the data directory's disk may be very slow.",
            ) from error
        if self._founding is not None:
            await self.store.commit(first_changes(self._founding, self._env.entropy))

    async def _leader(self) -> None:
        async for leadership in self.log.leadership():
            if leadership.is_ready or leadership.leader not in (None, self.file.raft_id):
                return

    async def _renew_expired(self) -> None:
        """A swarm that slept past its certificates wakes by the leader renewing its own first;
        nobody would believe its port before."""
        try:
            async with asyncio.timeout(RENEW_WAIT_S):
                while self.life.is_expired():
                    try:
                        await self.life.renewer.renew()
                    except SwarmError as problem:
                        log.info("certificate.not_yet", extra={"cause": problem.message})
                        await asyncio.sleep(RENEW_RETRY_S)
        except TimeoutError:
            log.warning("certificate.still_expired", extra={"waited_s": RENEW_WAIT_S})


def _heard(info: SwarmInfo) -> None:
    """The store is in this process: there is nothing to learn of the swarm."""
