"""The way of an agent to managers on other hosts."""

from collections.abc import Callable

from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.errors import NotLeaderError, SwarmError, UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.wire.channel import (
    AgentChannel,
    ChannelClosedError,
    LogSink,
    NodeLink,
    StreamChannel,
)
from swarmlet.wire.messages import ManagerAddr, Message
from swarmlet.wire.remotes import Remotes


class RemoteConnector:
    """Chooses among the managers a node knows, and remembers how each did. Logs go to the manager
    the session is with. `remotes` is replaced by whoever hears SwarmInfo."""

    def __init__(self, link: NodeLink, own: OwnIdentity, remotes: Remotes) -> None:
        self._link, self._own, self._remotes = link, own, remotes
        self._with, self._avoid = "", ""
        self._named: tuple[str, ...] = ()  # by a manager that does not lead

    async def open_session(self) -> AgentChannel:
        """Whoever does not lead names who does: that one is asked at once.

        Raises UnavailableError where the chosen manager does not answer, UnauthorizedError and
        ForbiddenError where it refuses this node, or is not the swarm's.
        """
        try:
            return await self._open(self._choose())
        except NotLeaderError:
            if not self._named:
                raise
        return await self._open(self._choose())

    async def _open(self, addr: str) -> AgentChannel:
        try:
            channel = await self._link.open_session(addr, self._own.credentials)
        except NotLeaderError as refusal:
            self._learn(addr, refusal.managers)
            raise
        except SwarmError:
            self._failed(addr)
            raise
        self._remotes.observe(addr, ok=True)
        self._with, self._avoid = addr, ""
        return _Watched(channel, lambda: self._failed(addr))

    async def open_log_stream(self, subscription: str) -> LogSink:
        """Raises as `open_session`, and UnavailableError without a session."""
        if not self._with:
            raise UnavailableError("This node has no session with a manager.")
        return await self._link.open_log_stream(self._with, subscription, self._own.credentials)

    async def open_stream(self, stream_id: str) -> StreamChannel:
        """Raises as `open_log_stream`."""
        if not self._with:
            raise UnavailableError("This node has no session with a manager.")
        return await self._link.open_stream(self._with, stream_id, self._own.credentials)

    def _choose(self) -> str:
        """Whoever was named by the manager asked last, else by weight."""
        if self._named:
            addr, self._named = self._named[0], self._named[1:]
            return addr
        return self._remotes.choose(avoid=self._avoid).addr

    def _learn(self, addr: str, managers: tuple[str, ...]) -> None:
        """The manager at `addr` does not serve sessions; these may."""
        self._avoid = addr
        self._named = tuple(one for one in managers if one != addr)
        known = self._remotes.all()
        new = [one for one in self._named if all(one != manager.addr for manager in known)]
        if new:
            learnt = (ManagerAddr(node_id=NodeID(""), addr=one) for one in new)
            self._remotes.replace((*known, *learnt))

    def _failed(self, addr: str) -> None:
        self._remotes.observe(addr, ok=False)
        self._avoid = addr


class _Watched:
    """A session's channel that tells when the manager ended it."""

    def __init__(self, channel: AgentChannel, on_loss: Callable[[], None]) -> None:
        self._channel, self._on_loss = channel, on_loss
        self._is_over = False

    async def send(self, message: Message) -> None:
        await self._channel.send(message)

    async def receive(self) -> Message:
        try:
            return await self._channel.receive()
        except ChannelClosedError:
            if not self._is_over:
                self._is_over = True
                self._on_loss()
            raise

    def close(self) -> None:
        self._is_over = True
        self._channel.close()
