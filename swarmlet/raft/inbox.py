"""Frames of other members on their way to the core."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from swarmlet.core.ids import RaftID
from swarmlet.raft.core import Core

log = logging.getLogger("swarmlet.raft")

INBOX_MAX_B: Final = 64 * 1024 * 1024  # of frames that wait for the disk; as much as proposals may


class _Frame(NamedTuple):
    """From whom, over the connection of which epoch, what."""

    sender: RaftID
    epoch: int
    data: bytes


class Inbox:
    """Frames wait for the next round: what they put into the journal must not count before it is
    durable. Connections come and go at once."""

    core: Core

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._frames: deque[_Frame] = deque()
        self._size_b = 0
        self._rejected: set[tuple[RaftID, int]] = set()  # connections that sent nonsense

    def connected(self, raft_id: RaftID, epoch: int) -> None:
        self.core.connected(raft_id, epoch)
        self._wake()

    def disconnected(self, raft_id: RaftID, epoch: int) -> None:
        self._rejected.discard((raft_id, epoch))
        self.core.disconnected(raft_id, epoch)
        self._wake()

    def received(self, raft_id: RaftID, epoch: int, frame: bytes) -> None:
        """Raises ValueError: the connection must be closed."""
        if (raft_id, epoch) in self._rejected:
            raise ValueError("an earlier frame could not be understood")
        if self._size_b + len(frame) > INBOX_MAX_B:
            raise ValueError(f"{self._size_b} bytes wait for the disk")
        self._frames.append(_Frame(raft_id, epoch, frame))
        self._size_b += len(frame)
        self._wake()

    def take_in(self) -> None:
        """Give the core all that came."""
        while self._frames:
            frame = self._frames.popleft()
            self._size_b -= len(frame.data)
            try:
                self.core.receive(*frame)
            except ValueError as error:
                log.warning(
                    "raft.bad_frame",
                    extra={"raft_id": f"{frame.sender:x}", "problem": str(error)},
                )
                self._rejected.add((frame.sender, frame.epoch))
                self.core.disconnected(frame.sender, frame.epoch)
