"""What stands behind the node port: filled by the manager, called by `wire.server` and by the
simulation's network alike."""

from collections.abc import AsyncIterator
from typing import Protocol

from swarmlet.core.identity import Identity
from swarmlet.wire.channel import AgentChannel, AskedStream, RaftChannel, StreamChannel
from swarmlet.wire.messages import LogBatch
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
from swarmlet.wire.routes import PortRoute


class Gatekeeper(Protocol):
    """Decides who may call what; the certificate's signature is already verified."""

    def admit(self, peer: Identity | None, route: PortRoute) -> None:
        """Judges role, cluster, dates, removal and demotion. Raises UnauthorizedError,
        ForbiddenError."""
        ...


class LogSource(Protocol):
    """The manager's end of a log stream."""

    async def receive(self) -> LogBatch:
        """Raises ChannelClosedError."""
        ...

    def close(self) -> None: ...


class StreamService(Protocol):
    """The part of `PortService` that is about streams into tasks."""

    async def take_stream(self, channel: StreamChannel, peer: Identity, stream_id: str) -> None:
        """A node's end of a stream it was asked for, until that ends. Raises NotFoundError,
        ForbiddenError."""
        ...

    async def serve_task_stream(self, channel: AskedStream, peer: Identity) -> None:
        """A stream for a caller of another manager, until it ends. Raises NotLeaderError before
        anything is said; every other refusal is a StreamRefused."""
        ...


class PortService(StreamService, Protocol):
    """`source` is the caller's address (of the node itself where a manager forwards)."""

    def hello(self) -> PortHello: ...

    def root_pem(self) -> bytes:
        """The bundle that join tokens name by its digest."""
        ...

    def leader_addr(self) -> str | None:
        """None where this manager leads; else where calls for the leader go. Raises
        UnavailableError where nobody knows."""
        ...

    async def request_certificate(
        self, request: CertificateRequest, peer: Identity | None, source: str
    ) -> CertificateTicket:
        """Take down a join (by token) or a renewal (by the peer's certificate). Raises
        InvalidArgumentError, UnauthorizedError, ForbiddenError, UnavailableError."""
        ...

    async def certificate_status(self, node_id: str, source: str) -> CertificateStatus:
        """Waits a few seconds while the certificate is not signed yet. Raises NotFoundError."""
        ...

    async def serve_session(self, channel: AgentChannel, peer: Identity, source: str) -> None:
        """Until the session ends. Raises NotLeaderError before the first message where another
        manager must be asked."""
        ...

    async def take_logs(self, source: LogSource, peer: Identity, subscription: str) -> None:
        """Read a node's log stream to its end. Raises NotFoundError, ForbiddenError."""
        ...

    async def serve_raft(self, channel: RaftChannel, peer: Identity) -> None:
        """Another member's connection, until it ends. Raises ForbiddenError, UnavailableError."""
        ...

    async def take_snapshot(
        self, head: SnapshotHead, chunks: AsyncIterator[bytes], peer: Identity
    ) -> SnapshotAnswer:
        """Take another member's state in place of one's own, where that is further. Raises
        ForbiddenError, UnavailableError, DiskFullError."""
        ...

    async def join_members(
        self, request: MemberRequest, peer: Identity, source: str
    ) -> MemberGrant:
        """Let the caller into the Raft group, as a learner to begin with. Raises
        FailedPreconditionError where its address does not answer as this node, UnavailableError."""
        ...

    async def leave_members(self, request: MemberRequest, peer: Identity) -> None:
        """Take the caller out of the Raft group. Raises FailedPreconditionError where the rest
        would have no quorum, UnavailableError."""
        ...

    async def unlock_key(self, peer: Identity) -> UnlockKeyAnswer: ...
