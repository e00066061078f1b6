"""What a leader sends to each member of its log, and how far ahead of the answers.

In place of PySyncObj's own sending, which splits, pickles and repeats what is under way. A member
is probed with one Append at a time until one fits; from then on as much is under way as the window
has room for. What is proved to be there (`match`) stays with PySyncObj, which commits by it.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from swarmlet.core.ids import RaftID
from swarmlet.raft.journal import Journal
from swarmlet.raft.messages import BATCH_SIZE_B, Append, Appended, Rejected, SentEntry, Standing
from swarmlet.raft.transport import Transport

WINDOW_B: Final = 4 * BATCH_SIZE_B  # under way to one member
WINDOW_APPENDS: Final = 256  # the same, counted
_ENTRY_B: Final = 16  # what an entry takes beside its command


class Head(NamedTuple):
    """What all Appends of a round have in common."""

    term: int
    commit_index: int
    read: int
    standings: tuple[Standing, ...] = ()


@dataclass(slots=True)
class _Peer:
    next_index: int
    is_probing: bool = True
    is_asked: bool = False  # a probe is under way
    is_behind: bool = False  # needs a snapshot, for all we know
    read: int = 0  # newest round it was sent
    sent: deque[tuple[int, int]] = field(default_factory=deque)  # last index and bytes, unanswered
    sent_b: int = 0

    def probe(self, next_index: int) -> None:
        self.next_index, self.is_probing, self.is_asked = next_index, True, False
        self.sent.clear()
        self.sent_b = 0

    def is_full(self) -> bool:
        if self.is_probing:
            return self.is_asked
        return self.sent_b >= WINDOW_B or len(self.sent) >= WINDOW_APPENDS


class Replication:
    """One leader's. Knows the members that it was told to `follow`, and no others."""

    def __init__(self, journal: Journal, transport: Transport) -> None:
        self._journal, self._transport = journal, transport
        self._peers: dict[RaftID, _Peer] = {}

    def begin(self) -> None:
        """A term of ours begins: nothing is known of anybody."""
        for raft_id in self._peers:
            self._peers[raft_id] = _Peer(self._journal.entries[-1][1] + 1)

    def follow(self, raft_ids: Iterable[RaftID]) -> None:
        """These are the other members now; what is known of one that stays is kept."""
        before, end = self._peers, self._journal.entries[-1][1] + 1
        self._peers = {i: before.get(i) or _Peer(end) for i in raft_ids}

    def reconnected(self, raft_id: RaftID, match: int) -> None:
        """A new connection: what was under way is lost."""
        peer = self._peers.get(raft_id)
        if peer is not None:
            peer.probe(match + 1 if match else self._journal.entries[-1][1] + 1)

    def behind(self) -> tuple[RaftID, ...]:
        """Connected members whose next entry is no longer in the log, sorted."""
        is_open = self._transport.is_open
        return tuple(sorted(i for i, p in self._peers.items() if p.is_behind and is_open(i)))

    def send(self, head: Head, *, is_beat: bool) -> None:
        """What is new, to everybody; where `is_beat`, at least a heartbeat."""
        for raft_id in sorted(self._peers):
            if self._transport.is_open(raft_id):
                self._send_to(raft_id, self._peers[raft_id], head, is_beat)

    def appended(self, raft_id: RaftID, answer: Appended) -> None:
        """Raises ValueError where it speaks of what we do not have."""
        if answer.index > self._journal.entries[-1][1]:
            raise ValueError(f"entry {answer.index} is stored, and there is none yet")
        peer = self._peers[raft_id]
        peer.is_probing = peer.is_asked = peer.is_behind = False
        peer.next_index = max(peer.next_index, answer.index + 1)
        while peer.sent and peer.sent[0][0] <= answer.index:
            peer.sent_b -= peer.sent.popleft()[1]

    def rejected(self, raft_id: RaftID, answer: Rejected, match: int) -> None:
        """Go back to where the member says, never behind what it has proved to hold.

        An answer to anything but the newest probe is old: following it would undo a step back (two
        such answers in turn kept a member from ever catching up).
        """
        peer, first = self._peers[raft_id], self._journal.entries[0][1]
        if answer.prev_index == 0:
            is_news = peer.next_index <= first
        elif peer.is_probing:
            is_news = answer.prev_index == peer.next_index - 1
        else:
            is_news = answer.prev_index > match
        if is_news:
            end = self._journal.entries[-1][1] + 1
            peer.probe(max(match + 1, min(answer.next_index, end)))

    def _send_to(self, raft_id: RaftID, peer: _Peer, head: Head, is_beat: bool) -> None:
        first, last = self._journal.entries[0][1], self._journal.entries[-1][1]
        is_owed = is_beat or peer.read < head.read
        peer.read = head.read
        if peer.next_index <= first:
            is_owed, peer.is_behind = is_owed or not peer.is_behind, True
            if is_owed:
                self._transport.put(raft_id, _append(head, 0, 0))
            return
        while peer.next_index <= last and not peer.is_full():
            self._send_batch(raft_id, peer, head)
            is_owed = False
        if is_owed or (peer.is_probing and not peer.is_asked):
            peer.is_asked, prev = True, peer.next_index - 1
            self._transport.put(raft_id, _append(head, prev, self._journal.term_at(prev) or 0))

    def _send_batch(self, raft_id: RaftID, peer: _Peer, head: Head) -> None:
        prev = peer.next_index - 1
        entries, size_b = self._batch(peer.next_index)
        prev_term = self._journal.term_at(prev) or 0
        self._transport.put(raft_id, _append(head, prev, prev_term, entries))
        peer.next_index += 0 if peer.is_probing else len(entries)
        peer.is_asked = True
        if not peer.is_probing:
            peer.sent.append((prev + len(entries), size_b))
            peer.sent_b += size_b

    def _batch(self, index: int) -> tuple[tuple[SentEntry, ...], int]:
        """Entries from `index` on, up to BATCH_SIZE_B and the one that crosses it."""
        entries: list[SentEntry] = []
        size_b, held = 0, self._journal.entries
        for at in range(index - held[0][1], len(held)):
            command, _, term = held[at]
            entries.append((command, term))
            size_b += len(command) + _ENTRY_B
            if size_b >= BATCH_SIZE_B:
                break
        return tuple(entries), size_b


def _append(
    head: Head, prev_index: int, prev_term: int, entries: tuple[SentEntry, ...] = ()
) -> Append:
    return Append(
        head.term,
        prev_index,
        prev_term,
        head.commit_index,
        head.read,
        entries,
        head.standings,
    )
