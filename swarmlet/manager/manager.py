"""The manager: puts the store's shells together; what they do is decided elsewhere."""

import asyncio
from collections.abc import Iterable
from typing import Final

from swarmlet.ca.signing import SwarmAuthority
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Env
from swarmlet.manager.admission import Admission
from swarmlet.manager.ca_server import CertificateServer
from swarmlet.manager.control.base import no_external_ca
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.gatekeeper import Standing
from swarmlet.manager.group import Group
from swarmlet.manager.herald import Herald
from swarmlet.manager.leader import Component, Leader
from swarmlet.manager.log_broker import LogBroker
from swarmlet.manager.loop import ControlLoop
from swarmlet.manager.members import Members
from swarmlet.manager.port import ManagerPort, Rooms, Ties, Whereabouts
from swarmlet.manager.root_rotation import RootRotator
from swarmlet.manager.stream_broker import StreamBroker
from swarmlet.reconcile.base import Decider
from swarmlet.store.proposer import RaftLog
from swarmlet.store.store import Store
from swarmlet.wire.channel import (
    AgentChannel,
    AgentConnector,
    LogSink,
    StreamChannel,
    memory_channel,
    memory_stream,
)

_ALONE: Final = Ties()


class Manager:
    """One manager's node. `logs` serves readers and `port` other nodes; everything else runs only
    while this one leads."""

    def __init__(
        self,
        env: Env,
        store: Store,
        log: RaftLog,
        node_id: NodeID,
        deciders: Iterable[Decider],
        ties: Ties = _ALONE,
    ) -> None:
        self._node_id, self._log = node_id, log
        authority = SwarmAuthority(env, ties.external or no_external_ca())
        turnstile = asyncio.Lock()
        self._loops = tuple(ControlLoop(decider, store, env, turnstile) for decider in deciders)
        self.dispatcher = Dispatcher(store, env, node_id, log.members)
        self.logs = LogBroker(store, self.dispatcher, env)
        self.streams = StreamBroker(store, self.dispatcher, env)
        self.streams.serve_logs = self.logs.serve
        self.ca = CertificateServer(store, env, authority)
        self._rotator = RootRotator(store, env)
        group = Group(log, self.dispatcher.tell_members)
        self.members = Members(store, group, node_id)
        admission = Admission(store, group, env, node_id, ties.dial_back)
        signing = (self.ca, self._rotator)
        parts: tuple[Component, ...] = (
            *self._loops,
            self.dispatcher,
            self.logs,
            self.streams,
            *signing,
            self.members,
            Herald(store, log, node_id),
        )
        self._leader = Leader(parts, log, env)
        whereabouts = Whereabouts(log, self._leader, node_id, env)
        rooms = Rooms(
            ca=self.ca,
            dispatcher=self.dispatcher,
            logs=self.logs,
            streams=self.streams,
            admission=admission,
        )
        self.port = ManagerPort(store, env.clock, whereabouts, rooms, ties)

    async def run(self) -> None:
        """Until the log ends or this is cancelled."""
        await self._leader.run()

    def connector(self) -> AgentConnector:
        """How the agent in this very process reaches its manager."""
        return _Connector(self, self._node_id)

    def is_at_rest(self) -> bool:
        """Whether this manager leads and nothing is left to decide or to tell."""
        loops_rest = all(loop.is_at_rest() for loop in self._loops)
        ca_rests = self.ca.is_at_rest() and self._rotator.is_at_rest() and self.members.is_at_rest()
        return self._leader.is_leading and loops_rest and ca_rests and self.dispatcher.is_at_rest()

    def standing(self) -> Standing:
        """What its store is good for: the gatekeeper's question."""
        if self._leader.is_leading:
            return Standing.LEADS
        return Standing.ALONE if self._log.leadership_now().leader is None else Standing.FOLLOWS

    def gauges(self) -> dict[str, float]:
        """Numbers for /metrics."""
        numbers = {**self._leader.gauges(), **self.dispatcher.gauges(), **self.logs.gauges()}
        numbers |= {**self.streams.gauges(), **self.ca.gauges(), **self._rotator.gauges()}
        for loop in self._loops:
            numbers.update(loop.gauges())
        return numbers

    def own_addr(self) -> str:
        """The host part of this member's address, "" where it has none."""
        for member in self._log.members():
            if member.node_id == self._node_id:
                return member.address.rpartition(":")[0].strip("[]")
        return ""


class _Connector:
    """Channels in memory. Nothing is shared: messages are encoded on the way."""

    def __init__(self, manager: Manager, node_id: NodeID) -> None:
        self._manager, self._node_id = manager, node_id

    async def open_session(self) -> AgentChannel:
        near, far = memory_channel()
        self._manager.dispatcher.open_session(far, self._node_id, self._manager.own_addr())
        return near

    async def open_log_stream(self, subscription: str) -> LogSink:
        return self._manager.logs.open_stream(self._node_id, subscription)

    async def open_stream(self, stream_id: str) -> StreamChannel:
        near, far = memory_stream()
        self._manager.streams.bring(far, self._node_id, stream_id)
        return near
