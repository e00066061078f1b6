"""What leaves for the other members and when: between PySyncObj and whatever carries frames.

Appends leave at the next `flush`, while the journal is still being written; everything else says
something about the journal and leaves by `release`, once that is durable. A message belongs to the
connection that was open when it was put together: it is dropped with it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from swarmlet.core.ids import RaftID
from swarmlet.raft.messages import Appended, Message, Vote, VoteRequest, encode_frame, size_b

Callback: TypeAlias = Callable[..., None]
Send: TypeAlias = Callable[[RaftID, int, bytes], None]
"""To whom, over the connection of which epoch, what. Never blocks."""

FRAME_GOAL_B: Final = 2 * 1024 * 1024  # a message that crosses it is the frame's last
FRAME_MESSAGES: Final = 1_024  # in one frame, at most
HELD_MAX: Final = 1_024  # messages for one peer while the journal cannot be written


class Transport:
    """Quacks as pysyncobj.transport.Transport, whence the camel humps."""

    ready = True

    def __init__(self, send: Send) -> None:
        self._send = send
        self._epochs: dict[RaftID, int] = {}
        self._free: dict[RaftID, list[Message]] = {}
        self._held: dict[RaftID, list[Message]] = {}

    # Connections

    def open(self, raft_id: RaftID, epoch: int) -> bool:
        """Whether this is news: a newer epoch replaces an older one, never the other way."""
        if epoch <= self._epochs.get(raft_id, -1):
            return False
        self._forget(raft_id)
        self._epochs[raft_id] = epoch
        return True

    def close(self, raft_id: RaftID, epoch: int) -> bool:
        """Whether it was the one in use."""
        if not self.is_open(raft_id, epoch):
            return False
        self._forget(raft_id)
        del self._epochs[raft_id]
        return True

    def is_open(self, raft_id: RaftID, epoch: int | None = None) -> bool:
        """Whether there is a connection, and where an epoch is given, this one."""
        known = self._epochs.get(raft_id)
        return known is not None and epoch in (None, known)

    def epoch(self, raft_id: RaftID) -> int | None:
        """Of the connection in use."""
        return self._epochs.get(raft_id)

    # Messages

    def put(self, to: RaftID, message: Message) -> None:
        """Leaves at the next `flush`."""
        if to in self._epochs:
            self._free.setdefault(to, []).append(message)

    def hold(self, to: RaftID, message: Message) -> None:
        """Leaves once the journal, as it is now, is durable."""
        if to not in self._epochs:
            return
        held = self._held.setdefault(to, [])
        last = held[-1] if held else None
        if isinstance(message, Appended) and isinstance(last, Appended):
            held[-1] = _both(last, message)
        else:
            held.append(message)
        if len(held) > HELD_MAX:
            del held[0]  # answers to a peer that asks on while our disk is full: the newest count

    def flush(self) -> None:
        """Send what need not wait, peer by peer in the order of their ids."""
        free, self._free = self._free, {}
        for to in sorted(free):
            epoch = self._epochs.get(to)
            if epoch is None:
                continue
            for frame in _frames(free[to]):
                self._send(to, epoch, frame)

    def release(self) -> None:
        """The journal is durable: send everything."""
        held, self._held = self._held, {}
        for to in sorted(held):
            self._free.setdefault(to, []).extend(held[to])
        self.flush()

    def _forget(self, raft_id: RaftID) -> None:
        self._free.pop(raft_id, None)
        self._held.pop(raft_id, None)

    # What PySyncObj calls

    def send(self, node: Any, message: dict[str, Any]) -> bool:  # noqa: ANN401 - a PySyncObj Node
        """Votes are PySyncObj's. What answers an Append, the core says itself; all else (chunks,
        snapshots, forwarded commands) has no way to another member."""
        kind, term = message["type"], message.get("term", 0)
        if kind == "request_vote":
            last_index, last_term = message["last_log_index"], message["last_log_term"]
            self.hold(node.id, VoteRequest(term, last_index, last_term))
        elif kind == "response_vote":
            self.hold(node.id, Vote(term))
        elif kind != "next_node_idx":
            raise AssertionError(f"PySyncObj sends {kind} by itself")
        return True

    def tryGetReady(self) -> None:
        """Nothing to do: connections come and go by themselves."""

    def setOnMessageReceivedCallback(self, callback: Callback) -> None:
        """Not needed: the core hands in what it has looked at."""

    setOnNodeConnectedCallback = setOnMessageReceivedCallback
    setOnNodeDisconnectedCallback = setOnMessageReceivedCallback
    setOnReadonlyNodeConnectedCallback = setOnMessageReceivedCallback
    setOnReadonlyNodeDisconnectedCallback = setOnMessageReceivedCallback

    def setOnUtilityMessageCallback(self, message: str, callback: Callback) -> None:
        """Refused: members are changed by the log alone, never by a peer's word."""


def _both(older: Appended, newer: Appended) -> Appended:
    """Two answers in one: what they say only grows within a term."""
    if older.term != newer.term:
        return newer
    return Appended(newer.term, max(older.index, newer.index), max(older.read, newer.read))


def _frames(messages: list[Message]) -> Iterator[bytes]:
    part: list[Message] = []
    size = 0
    for message in messages:
        part.append(message)
        size += size_b(message)
        if size >= FRAME_GOAL_B or len(part) >= FRAME_MESSAGES:
            yield encode_frame(part)
            part, size = [], 0
    if part:
        yield encode_frame(part)
