"""What stands behind a manager's node port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import ForbiddenError, NotLeaderError, UnavailableError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import LEADERLESS_S
from swarmlet.env.base import Clock, Env
from swarmlet.manager.admission import Admission, DialBack
from swarmlet.manager.ca_server import CertificateServer
from swarmlet.manager.dispatcher import Dispatcher
from swarmlet.manager.hello import hello_of
from swarmlet.manager.leader import Leader
from swarmlet.manager.log_broker import LogBroker
from swarmlet.manager.stream_broker import StreamBroker
from swarmlet.manager.stream_port import StreamPort, check_leads
from swarmlet.model.cluster import Cluster
from swarmlet.model.view import cluster_of
from swarmlet.raft.health import leaderless
from swarmlet.store.proposer import Member, RaftLog
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel, RaftChannel
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
from swarmlet.wire.port import LogSource

GREETINGS_PER_S: Final = 700  # sessions that a leader can begin, measured
AGAIN: Final = "Try again in a moment."


class Whereabouts:
    """Who leads, as this member of the Raft group knows it."""

    def __init__(self, log: RaftLog, leader: Leader, node_id: NodeID, env: Env) -> None:
        self._log, self._leader, self._env = log, leader, env
        self._waiting = 0
        self.node_id = node_id

    def leader_addr(self) -> str | None:
        """None where this manager leads. Raises UnavailableError where nobody is known to: with
        which managers answer, and which do not."""
        if self._leader.is_leading:
            return None
        members, leader = self._log.members(), self._log.leadership_now().leader
        for member in members:
            if member.raft_id == leader:
                return self._addr_of(member)
        if not members:
            raise NotLeaderError("This manager does not know the others yet.", remedy=AGAIN)
        raise leaderless(self._log.health(), self._env.clock.wall_ms())

    async def settled(self) -> str | None:
        """The same, once that is known; waits as long as an election usually takes. Those who
        waited go one by one: the next leader would have to greet them all at once. Raises
        UnavailableError."""
        try:
            return self.leader_addr()
        except UnavailableError:
            self._waiting += 1
        try:
            async with asyncio.timeout(LEADERLESS_S):
                await self._known()
            await asyncio.sleep(self._env.rng.random() * self._waiting / GREETINGS_PER_S)
        except TimeoutError:
            pass  # said by the next line
        finally:
            self._waiting -= 1
        return self.leader_addr()

    async def _known(self) -> None:
        while True:
            await self._leader.changed()
            with suppress(UnavailableError):
                self.leader_addr()
                return

    def _addr_of(self, member: Member) -> str:
        if member.node_id == self.node_id:
            raise NotLeaderError("This manager is about to lead.", remedy=AGAIN)
        return member.address


class PeerService(Protocol):
    """The Raft room's end of what other members say: `raft.engine.RaftEngine`."""

    async def serve_peer(self, channel: RaftChannel) -> None:
        """Another member's connection, until it ends."""
        ...

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer_node_id: NodeID
    ) -> SnapshotAnswer: ...


async def _unreachable(addr: str) -> PortHello:
    raise UnavailableError(f"this manager calls no other, so not {addr}")


class Ties(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager needs that is not to be the only one: who it is by its certificate, its Raft
    engine, how to ask another port for its hello, and external CAs."""

    own: OwnIdentity | None = None
    peers: PeerService | None = None
    dial_back: DialBack = _unreachable
    external: ExternalSigner | None = None


class Rooms(msgspec.Struct, frozen=True, kw_only=True):
    """What of the manager answers calls."""

    ca: CertificateServer
    dispatcher: Dispatcher
    logs: LogBroker
    streams: StreamBroker
    admission: Admission


class ManagerPort(StreamPort):
    """Implements `wire.port.PortService`, from the first moment of a manager whose store is empty
    still: it says who it is and takes what other members send; what needs the store is
    Unavailable."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        whereabouts: Whereabouts,
        rooms: Rooms,
        ties: Ties,
    ) -> None:
        super().__init__(rooms.streams, whereabouts.leader_addr)
        self._store, self._clock, self._where = store, clock, whereabouts
        self._ca, self._admission, self._ties = rooms.ca, rooms.admission, ties
        self._dispatcher, self._logs = rooms.dispatcher, rooms.logs
        self.node_id = whereabouts.node_id

    def hello(self) -> PortHello:
        own = self._ties.own
        cluster_id = self._cluster().id if own is None else own.identity.cluster_id
        return hello_of(self.node_id, cluster_id, self._clock)

    def root_pem(self) -> bytes:
        own = self._ties.own
        if own is not None and not len(self._store.view().clusters):
            return own.credentials.root_pem
        return self._cluster().root_ca.cert_pem

    def leader_addr(self) -> str | None:
        return self._where.leader_addr()

    async def request_certificate(
        self, request: CertificateRequest, peer: Identity | None, source: str
    ) -> CertificateTicket:
        return await self._ca.request(request, peer, source)

    async def certificate_status(self, node_id: str, source: str) -> CertificateStatus:
        return await self._ca.status(node_id, source)

    async def serve_session(self, channel: AgentChannel, peer: Identity, source: str) -> None:
        check_leads(await self._where.settled())
        await self._dispatcher.serve(channel, peer.node_id, source)

    async def take_logs(self, source: LogSource, peer: Identity, subscription: str) -> None:
        check_leads(self.leader_addr())
        await self._logs.take(source, peer.node_id, subscription)

    async def serve_raft(self, channel: RaftChannel, peer: Identity) -> None:
        if channel.node_id != peer.node_id:
            raise ForbiddenError("The connection is another node's.")
        await self._group().serve_peer(channel)

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer: Identity
    ) -> SnapshotAnswer:
        return await self._group().take_snapshot(head, chunks, peer.node_id)

    async def join_members(
        self, request: MemberRequest, peer: Identity, source: str
    ) -> MemberGrant:
        return await self._admission.join(request, peer, source)

    async def leave_members(self, request: MemberRequest, peer: Identity) -> None:
        await self._admission.leave(request, peer)

    async def unlock_key(self, peer: Identity) -> UnlockKeyAnswer:
        self._cluster()
        return self._ca.unlock_key()

    def _group(self) -> PeerService:
        if self._ties.peers is None:
            raise UnavailableError("This manager takes part in no group.", remedy=AGAIN)
        return self._ties.peers

    def _cluster(self) -> Cluster:
        view = self._store.view()
        if not len(view.clusters):
            raise UnavailableError(
                "This manager does not have the swarm's state yet.",
                remedy=f"{AGAIN} It is brought up to date by the manager that leads.",
            )
        return cluster_of(view)
