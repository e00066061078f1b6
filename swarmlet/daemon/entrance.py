"""What stands behind a manager's node port at each moment: nothing but who it is while it is on its
way into the Raft group, the manager once its log is open."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import manager_not_ready
from swarmlet.core.identity import Identity
from swarmlet.env.base import Clock
from swarmlet.manager.gatekeeper import CertificateGatekeeper
from swarmlet.manager.hello import hello_of
from swarmlet.wire.channel import AgentChannel, AskedStream, RaftChannel, StreamChannel
from swarmlet.wire.node_api import (
    CertificateRequest,
    CertificateStatus,
    CertificateTicket,
    MemberGrant,
    MemberRequest,
    PortHello,
    SnapshotAnswer,
    SnapshotHead,
    UnlockKeyAnswer,
)
from swarmlet.wire.port import LogSource, PortService
from swarmlet.wire.routes import PortRoute

if TYPE_CHECKING:
    from swarmlet.daemon.membership import Membership


class _StreamEntrance:
    """Implements `wire.port.StreamService`."""

    async def take_stream(self, channel: StreamChannel, peer: Identity, stream_id: str) -> None:
        await self._manager().take_stream(channel, peer, stream_id)

    async def serve_task_stream(self, channel: AskedStream, peer: Identity) -> None:
        await self._manager().serve_task_stream(channel, peer)

    def _manager(self) -> PortService:
        raise NotImplementedError


class Entrance(_StreamEntrance):
    """Implements `wire.port.PortService`. `member` is set while there is one whose
    log is open."""

    def __init__(self, own: OwnIdentity, clock: Clock) -> None:
        self._own, self._clock = own, clock
        self.stranger = CertificateGatekeeper(own.identity.cluster_id, clock)
        self.member: Membership | None = None

    def hello(self) -> PortHello:
        identity = self._own.identity
        return hello_of(identity.node_id, identity.cluster_id, self._clock)

    def root_pem(self) -> bytes:
        member = self.member
        if member is None:
            return self._own.credentials.root_pem
        return member.manager.port.root_pem()

    def leader_addr(self) -> str | None:
        return self._manager().leader_addr()

    async def request_certificate(
        self, request: CertificateRequest, peer: Identity | None, source: str
    ) -> CertificateTicket:
        return await self._manager().request_certificate(request, peer, source)

    async def certificate_status(self, node_id: str, source: str) -> CertificateStatus:
        return await self._manager().certificate_status(node_id, source)

    async def serve_session(self, channel: AgentChannel, peer: Identity, source: str) -> None:
        await self._manager().serve_session(channel, peer, source)

    async def take_logs(self, source: LogSource, peer: Identity, subscription: str) -> None:
        await self._manager().take_logs(source, peer, subscription)

    async def serve_raft(self, channel: RaftChannel, peer: Identity) -> None:
        await self._manager().serve_raft(channel, peer)

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer: Identity
    ) -> SnapshotAnswer:
        return await self._manager().take_snapshot(head, chunks, peer)

    async def join_members(
        self, request: MemberRequest, peer: Identity, source: str
    ) -> MemberGrant:
        return await self._manager().join_members(request, peer, source)

    async def leave_members(self, request: MemberRequest, peer: Identity) -> None:
        await self._manager().leave_members(request, peer)

    async def unlock_key(self, peer: Identity) -> UnlockKeyAnswer:
        return await self._manager().unlock_key(peer)

    def _manager(self) -> PortService:
        """Raises NotManagerError where this node is no member of the Raft group yet."""
        if self.member is None:
            raise manager_not_ready()
        return self.member.manager.port


class EntranceGate:
    """Implements `Gatekeeper`: before there is a member, callers are judged by their certificates
    alone, and learn who this is."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    def admit(self, peer: Identity | None, route: PortRoute) -> None:
        member = self._entrance.member
        gatekeeper = self._entrance.stranger if member is None else member.gatekeeper
        gatekeeper.admit(peer, route)
