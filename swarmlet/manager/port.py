"""What stands behind a manager's node port."""

from typing import Final

from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import NotFoundError, NotLeaderError, UnavailableError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Clock
from swarmlet.manager.ca_server import CertificateServer
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.leader import Leader
from swarmlet.manager.log_broker import LogBroker
from swarmlet.model.view import cluster_of
from swarmlet.store.proposer import Member, RaftLog
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.messages import PROTOCOL_VERSION
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    PortHello,
)
from swarmlet.wire.port import LogSource
from swarmlet.wire.remotes import Remotes

AGAIN: Final = "Try again in a moment."


class Whereabouts:
    """Who leads, as this member of the Raft group knows it."""

    def __init__(self, log: RaftLog, leader: Leader, node_id: NodeID) -> None:
        self._log, self._leader, self.node_id = log, leader, node_id

    def leader_addr(self) -> str | None:
        """None where this manager leads. Raises UnavailableError where nobody is known to."""
        if self._leader.is_leading:
            return None
        seen = self._leader.leadership
        for member in self._log.members():
            if seen is not None and member.raft_id == seen.leader:
                return self._addr_of(member)
        raise UnavailableError(
            "No manager leads the swarm now.", remedy=f"{AGAIN} It may have lost its quorum."
        )

    def _addr_of(self, member: Member) -> str:
        if member.node_id == self.node_id:
            raise UnavailableError("This manager is about to lead.", remedy=AGAIN)
        return member.address


class ManagerPort:
    """Of a manager with a store: implements `wire.port.PortService`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        whereabouts: Whereabouts,
        *,
        ca: CertificateServer,
        dispatcher: Dispatcher,
        logs: LogBroker,
    ) -> None:
        self._store, self._clock, self._where = store, clock, whereabouts
        self._ca, self._dispatcher, self._logs = ca, dispatcher, logs
        self.node_id = whereabouts.node_id

    def hello(self) -> PortHello:
        cluster_id = cluster_of(self._store.view()).id
        return _hello(self.node_id, cluster_id, self._clock)

    def root_pem(self) -> bytes:
        return self._ca.root_pem()

    def leader_addr(self) -> str | None:
        return self._where.leader_addr()

    async def request_certificate(
        self, request: CertificateRequest, peer: Identity | None, source: str
    ) -> CertificateTicket:
        return await self._ca.request(request, peer, source)

    async def certificate_status(self, node_id: str, source: str) -> CertificateStatus:
        return await self._ca.status(node_id, source)

    async def serve_session(self, channel: AgentChannel, peer: Identity, source: str) -> None:
        _check_leads(self.leader_addr())
        await self._dispatcher.serve(channel, peer.node_id, source)

    async def take_logs(self, source: LogSource, peer: Identity, subscription: str) -> None:
        _check_leads(self.leader_addr())
        await self._logs.take(source, peer.node_id, subscription)


class ForwardingPort:
    """Of a manager that keeps no store: everything goes to the managers it knows of."""

    def __init__(self, own: OwnIdentity, remotes: Remotes, clock: Clock) -> None:
        self._own, self._remotes, self._clock = own, remotes, clock

    def hello(self) -> PortHello:
        identity = self._own.identity
        return _hello(identity.node_id, identity.cluster_id, self._clock)

    def root_pem(self) -> bytes:
        return self._own.credentials.root_pem

    def leader_addr(self) -> str | None:
        """Raises UnavailableError where this node knows nobody."""
        return self._remotes.choose().addr

    async def request_certificate(
        self, _request: CertificateRequest, _peer: Identity | None, _source: str
    ) -> CertificateTicket:
        raise self._elsewhere()

    async def certificate_status(self, _node_id: str, _source: str) -> CertificateStatus:
        raise self._elsewhere()

    async def serve_session(self, _channel: AgentChannel, _peer: Identity, _source: str) -> None:
        raise self._elsewhere()

    async def take_logs(self, _source: LogSource, _peer: Identity, subscription: str) -> None:
        raise NotFoundError("log subscription", subscription, "Ask the manager of the session.")

    def _elsewhere(self) -> NotLeaderError:
        return NotLeaderError(
            "This manager keeps no copy of the swarm's state.",
            remedy="Ask the manager that leads.",
            managers=tuple(manager.addr for manager in self._remotes.all()),
        )


def _hello(node_id: str, cluster_id: str, clock: Clock) -> PortHello:
    return PortHello(
        protocol=PROTOCOL_VERSION, node_id=node_id, cluster_id=cluster_id, now_ms=clock.wall_ms()
    )


def _check_leads(leader_addr: str | None) -> None:
    """Sessions and their logs are not passed on: an agent goes to the leader itself."""
    if leader_addr is not None:
        raise NotLeaderError(
            "This manager does not lead the swarm.",
            remedy="Ask the manager that leads.",
            managers=(leader_addr,),
        )
