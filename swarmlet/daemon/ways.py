"""The ways of a node to its swarm's managers: in the process while this one leads, else over TLS,
with the one that leads before all others."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from swarmlet.agent.remote import RemoteConnector
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import CertificateSource, RemoteAuthority
from swarmlet.core.errors import UnauthorizedError
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Env
from swarmlet.wire.channel import (
    AgentChannel,
    AgentConnector,
    LogSink,
    NodeLink,
    RaftChannel,
    StreamChannel,
)
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import ManagerAddr, TaskStreamAsk
from swarmlet.wire.node_api import (
    CertificateStatus,
    SnapshotAnswer,
    SnapshotHead,
    UnlockKeyAnswer,
)
from swarmlet.wire.remotes import Remotes

if TYPE_CHECKING:
    from swarmlet.manager.stream_broker import StreamBroker


class Present(Protocol):
    """What of a manager is in this process at this moment."""

    def local_connector(self) -> AgentConnector | None:
        """None where this manager does not lead."""
        ...

    def local_authority(self) -> CertificateSource | None:
        """None where this manager does not lead."""
        ...

    def known_leader(self) -> str:
        """Where another manager leads, as far as that is known; else ""."""
        ...


class KnownManagers(Remotes):
    """Managers but this one. Whoever leads, as far as this node's own log says, is asked first."""

    def __init__(
        self, env: Env, own: ManagerAddr, managers: Iterable[ManagerAddr], present: Present
    ) -> None:
        self._own, self._present = own, present
        super().__init__(env.rng, managers)

    def replace(self, managers: Iterable[ManagerAddr]) -> None:
        super().replace(
            one
            for one in managers
            if one.addr != self._own.addr and one.node_id != self._own.node_id
        )

    def choose(self, avoid: str = "") -> ManagerAddr:
        leader = self._present.known_leader()
        if leader not in ("", avoid):
            return ManagerAddr(node_id=NodeID(""), addr=leader)
        return super().choose(avoid)


class Connector:
    """How this node's agent reaches a manager; implements `AgentConnector`. `doubt` hears of a
    manager that was not believed: its root may be newer than ours."""

    def __init__(
        self,
        link: NodeLink,
        own: OwnIdentity,
        remotes: Remotes,
        present: Present,
        doubt: Callable[[], None],
    ) -> None:
        self._remote = RemoteConnector(link, own, remotes)
        self._present, self._doubt = present, doubt
        self._distant: AgentChannel | None = None

    async def open_session(self) -> AgentChannel:
        self._distant = None
        local = self._present.local_connector()
        if local is not None:
            return await local.open_session()
        try:
            self._distant = await self._remote.open_session()
        except UnauthorizedError:
            self._doubt()
            raise
        return self._distant

    async def open_log_stream(self, subscription: str) -> LogSink:
        """To the manager of the session."""
        local = self._present.local_connector()
        if self._distant is None and local is not None:
            return await local.open_log_stream(subscription)
        return await self._remote.open_log_stream(subscription)

    async def open_stream(self, stream_id: str) -> StreamChannel:
        """To the manager of the session."""
        local = self._present.local_connector()
        if self._distant is None and local is not None:
            return await local.open_stream(stream_id)
        return await self._remote.open_stream(stream_id)

    def come_home(self) -> None:
        """This manager leads from now on: a session with another is of no use any more."""
        if self._distant is not None:
            self._distant.close()
            self._distant = None


class Authority:
    """Who signs this node's certificates; implements `CertificateSource`."""

    def __init__(
        self, link: NodeLink, own: OwnIdentity, remotes: Remotes, present: Present
    ) -> None:
        self._remote, self._present = RemoteAuthority(link, own, remotes), present

    async def request(self, csr_pem: bytes) -> str:
        return await self._source().request(csr_pem)

    async def status(self, node_id: str) -> CertificateStatus:
        return await self._source().status(node_id)

    async def root(self) -> bytes:
        return await self._source().root()

    async def unlock_key(self, credentials: Credentials) -> UnlockKeyAnswer:
        return await self._source().unlock_key(credentials)

    def _source(self) -> CertificateSource:
        return self._present.local_authority() or self._remote


class TaskStreams:
    """Streams into tasks, for the callers of this manager: its own while it leads, else the
    leader's; implements `manager.control.base.TaskStreams`. `leader_addr` as of a `PortService`.
    """

    def __init__(
        self,
        link: NodeLink,
        own: OwnIdentity,
        broker: "StreamBroker",
        leader_addr: Callable[[], str | None],
    ) -> None:
        self._link, self._own = link, own
        self._broker, self._leader_addr = broker, leader_addr

    async def open(self, ask: TaskStreamAsk) -> StreamChannel:
        addr = self._leader_addr()
        if addr is None:
            return await self._broker.open(ask)
        return await self._link.open_task_stream(addr, ask, self._own.credentials)


class OwnDialer:
    """Reaches other members with what this node shows and trusts at each moment; implements
    `raft.peers.Dialer`."""

    def __init__(self, link: NodeLink, own: OwnIdentity) -> None:
        self._link, self._own = link, own

    async def open(self, addr: str) -> RaftChannel:
        return await self._link.open_raft(addr, self._own.credentials)

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes]
    ) -> SnapshotAnswer:
        return await self._link.send_snapshot(addr, head, chunks, self._own.credentials)
