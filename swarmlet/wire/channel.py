"""The seams between nodes: message channels, which sockets or the simulation fill."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import (
    LogBatch,
    Message,
    StreamFrame,
    TaskStreamAsk,
    decode_frame,
    decode_message,
    encode,
)
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

RAFT_QUEUE_MAX_B: Final = 64 * 1024 * 1024
"""Of frames that wait to be written on a Raft channel; beyond, it is closed."""

RAFT_QUEUE_FRAMES_MAX: Final = 65_536

STREAM_QUEUE_FRAMES_MAX: Final = 8  # of a stream in a process, each STREAM_DATA_MAX_B at most


class ChannelClosedError(UnavailableError):
    """The other side went away, or this side closed."""

    code = "channel-closed"

    def __init__(self) -> None:
        super().__init__("The connection between agent and manager is closed.")


class AgentChannel(Protocol):
    """One side of a session: ordered, bounded, message by message."""

    async def send(self, message: Message) -> None:
        """Waits while the other side is slow. Raises ChannelClosedError."""
        ...

    async def receive(self) -> Message:
        """Raises ChannelClosedError once all that was sent before the close is read."""
        ...

    def close(self) -> None: ...


class AgentConnector(Protocol):
    """How an agent reaches a manager."""

    async def open_session(self) -> AgentChannel:
        """Raises UnavailableError where no manager answers."""
        ...

    async def open_log_stream(self, subscription: str) -> "LogSink":
        """A connection of its own for bulk. Raises UnavailableError."""
        ...

    async def open_stream(self, stream_id: str) -> "StreamChannel":
        """A connection of its own for a stream into a task that the manager asked for. Raises
        UnavailableError, NotFoundError where nobody waits for it any more, ForbiddenError."""
        ...


class LogSink(Protocol):
    """The agent's end of a log stream: waits while the reader is slow."""

    async def send(self, batch: LogBatch) -> None: ...

    def close(self) -> None: ...


class StreamChannel(Protocol):
    """One side of a stream into a task, ordered, bounded, frame by frame; closing tells the other
    side that nobody is there any more."""

    async def send(self, frame: StreamFrame) -> None:
        """Waits while the other side is slow. Raises ChannelClosedError."""
        ...

    async def receive(self) -> StreamFrame:
        """Raises ChannelClosedError once all that was sent before the close is read."""
        ...

    async def left(self, *, or_closed: bool = True) -> None:
        """Return once the other side has closed or is lost, also while nobody reads what it sent.
        Without `or_closed` once it is lost: there may be much to read still."""
        ...

    def close(self) -> None:
        """What was sent before has a second to go out."""
        ...


class AskedStream(StreamChannel, Protocol):
    """The leader's side of a stream that another manager passes on."""

    async def ask(self) -> TaskStreamAsk:
        """What comes before all frames, once. Raises ChannelClosedError."""
        ...


class RaftChannel(Protocol):
    """One connection between two members of the Raft group, ordered, frame by frame. Who is at the
    other end, its certificate has proved: `node_id`."""

    node_id: NodeID

    def send(self, frame: bytes) -> bool:
        """Never waits: False where the connection is closed, or too much of it is queued (then it
        is closed: frames of a channel are never left out)."""
        ...

    async def write(self) -> None:
        """Carry what `send` took, until the channel is closed; whoever serves the channel runs this
        beside `receive`. Raises nothing of its own."""
        ...

    async def receive(self) -> bytes:
        """Raises ChannelClosedError."""
        ...

    def close(self) -> None:
        """Nothing is taken or read any more; what was sent before has a second to go out."""
        ...


class StreamLink(Protocol):
    """The part of `NodeLink` that is about streams into tasks."""

    async def open_stream(
        self, addr: str, stream_id: str, credentials: Credentials
    ) -> StreamChannel:
        """The agent's end of a stream that the manager at `addr` asked for."""
        ...

    async def open_task_stream(
        self, addr: str, ask: TaskStreamAsk, credentials: Credentials
    ) -> StreamChannel:
        """From a manager to the one that leads: a stream that is ready. Raises besides what the
        leader says is in the way; after NotLeaderError nothing was done."""
        ...


class NodeLink(StreamLink, Protocol):
    """How a node reaches a manager's port at `addr` (host:port): TLS in production, memory in the
    simulation. `credentials` are what is shown and trusted in this one call, so that a renewed
    certificate counts from the next call on.

    Every call raises UnavailableError where nobody answers in time, UnauthorizedError where the
    answering side is no manager of the swarm that `credentials` trust, and the port's own refusal
    as the SwarmError it is.
    """

    async def hello(self, addr: str) -> PortHello:
        """Whoever answers: nothing is verified."""
        ...

    async def root(self, addr: str) -> bytes:
        """The root bundle this address shows to anybody; nothing is verified: compare digests."""
        ...

    async def request_certificate(
        self, addr: str, request: CertificateRequest, credentials: Credentials
    ) -> CertificateTicket:
        """A join where the request has a token, else a renewal (then the manager's certificate may
        be expired too)."""
        ...

    async def certificate_status(
        self, addr: str, node_id: str, credentials: Credentials
    ) -> CertificateStatus: ...

    async def open_session(self, addr: str, credentials: Credentials) -> AgentChannel: ...

    async def open_log_stream(
        self, addr: str, subscription: str, credentials: Credentials
    ) -> LogSink: ...

    async def open_raft(self, addr: str, credentials: Credentials) -> RaftChannel:
        """To another manager; its certificate may be expired (all of a swarm that slept are, until
        its new leader has renewed them)."""
        ...

    async def send_snapshot(
        self, addr: str, head: SnapshotHead, chunks: Iterable[bytes], credentials: Credentials
    ) -> SnapshotAnswer:
        """A state machine as a whole, on a connection of its own; chunks are taken off the loop."""
        ...

    async def join_members(
        self, addr: str, request: MemberRequest, credentials: Credentials
    ) -> MemberGrant:
        """Ask the leader to become a member of the Raft group."""
        ...

    async def leave_members(
        self, addr: str, request: MemberRequest, credentials: Credentials
    ) -> None:
        """Ask the leader to be one no more. Raises FailedPreconditionError where the rest would
        have no quorum."""
        ...

    async def unlock_key(self, addr: str, credentials: Credentials) -> UnlockKeyAnswer:
        """The swarm's unlock key, for a manager about to write its own key file."""
        ...


_M = TypeVar("_M")


class _MemoryEnd(Generic[_M]):
    """One of two connected ends in a process. Everything is encoded on the way."""

    def __init__(self, decode: Callable[[bytes], _M], queue_max: int) -> None:
        self._decode, self._queue_max = decode, queue_max
        self._inbox: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._is_closed = False
        self.other = self

    async def send(self, message: _M) -> None:
        frame = encode(message)
        assert len(frame) <= FRAME_SIZE_MAX_B, f"{type(message).__name__} of {len(frame)} bytes"
        other = self.other
        while len(other._inbox) >= other._queue_max and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        if self._is_closed:
            raise ChannelClosedError
        other._inbox.append(frame)
        other._changed.set()

    async def receive(self) -> _M:
        while not self._inbox:
            if self._is_closed:
                raise ChannelClosedError
            self._changed.clear()
            await self._changed.wait()
        frame = self._inbox.popleft()
        self.other._changed.set()
        if self._is_closed:
            self._changed.set()  # it may have been the last
        return self._decode(frame)

    def close(self) -> None:
        for end in (self, self.other):
            end._is_closed = True
            end._changed.set()


class MemoryChannel(_MemoryEnd[Message]):
    """One end of an in-process session."""

    def __init__(self, queue_max: int = 64) -> None:
        super().__init__(decode_message, queue_max)


class MemoryStream(_MemoryEnd[StreamFrame]):
    """One end of an in-process stream into a task."""

    def __init__(self, queue_max: int = STREAM_QUEUE_FRAMES_MAX) -> None:
        super().__init__(decode_frame, queue_max)

    async def left(self, *, or_closed: bool = True) -> None:
        """A process does not lose itself: without `or_closed` only the end of all is one."""
        while not self._is_closed or (self._inbox and not or_closed):
            self._changed.clear()
            await self._changed.wait()


def memory_channel() -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected ends."""
    near, far = MemoryChannel(), MemoryChannel()
    near.other, far.other = far, near
    return near, far


def memory_stream() -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends."""
    near, far = MemoryStream(), MemoryStream()
    near.other, far.other = far, near
    return near, far
