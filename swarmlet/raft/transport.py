"""The way to the other members, between PySyncObj and whatever carries frames.

PySyncObj calls `send` with its dict messages and is called back for what comes in. A peer is known
by its raft id; who it is was proved by the connection, never by what a message says.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from swarmlet.core.ids import RaftID

Message: TypeAlias = dict[str, Any]
Callback: TypeAlias = Callable[..., None]


class Peers(Protocol):
    """What carries messages to other members. Never blocks; rather loses than queues for ever."""

    def send(self, to: RaftID, message: Message) -> bool:
        """Whether the message was taken; not whether it arrives."""
        ...


class NoPeers:
    """The group of one: there is nobody to send to."""

    def send(self, to: RaftID, message: Message) -> bool:
        raise AssertionError(f"a message to {to:x}, and this member is alone: {message['type']}")


class Transport:
    """Quacks as pysyncobj.transport.Transport, whence the camel humps."""

    ready = True

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def tryGetReady(self) -> None:
        """Nothing to do: connections come and go by themselves."""

    def send(self, node: Any, message: Message) -> bool:  # noqa: ANN401 - a PySyncObj Node
        return self._peers.send(node.id, message)

    def addNode(self, node: Any) -> None:  # noqa: ANN401 - a PySyncObj Node
        """Nothing to do: the configuration follows the log."""

    def dropNode(self, node: Any) -> None:  # noqa: ANN401 - a PySyncObj Node
        """Nothing to do: the configuration follows the log."""

    def destroy(self) -> None:
        """Nothing to do: the engine owns the connections."""

    def setOnMessageReceivedCallback(self, callback: Callback) -> None:
        self.on_message = callback

    def setOnNodeConnectedCallback(self, callback: Callback) -> None:
        self.on_connected = callback

    def setOnNodeDisconnectedCallback(self, callback: Callback) -> None:
        self.on_disconnected = callback

    def setOnReadonlyNodeConnectedCallback(self, callback: Callback) -> None:
        self.on_learner_connected = callback

    def setOnReadonlyNodeDisconnectedCallback(self, callback: Callback) -> None:
        self.on_learner_disconnected = callback

    def setOnUtilityMessageCallback(self, message: str, callback: Callback) -> None:
        """Refused: members are changed by the log alone, never by a peer's word."""
