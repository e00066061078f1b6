"""What Raft must not forget: term, vote, entries, members. Used in memory, kept sealed on disk.

The engine changes the memory side, `Journal`, and takes what is new as a `Batch`; `JournalFile`
makes it durable, one frame and one fsync for all that came together. They may work at the same
time: a batch shares nothing that changes.
Records on disk are lists of the operations below; the first of a file is always `Base`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from swarmlet.core.errors import DamagedError, DiskFullError
from swarmlet.core.ids import RaftID
from swarmlet.env.frames import REMEDY
from swarmlet.env.sealed import Sealed, SealedLog
from swarmlet.raft.membership import Members, decode_change
from swarmlet.store.proposer import MemberChange

PURPOSE: Final = b"swarmlet raft journal"
REGULAR, NO_OP, MEMBERSHIP = b"\x00", b"\x01", b"\x02"  # open a command, as PySyncObj numbers them
REWRITE_RECORD_B: Final = 256 * 1024  # entries of a rewritten file are gathered to about this size
LOW_FREE_B: Final = 2 * 1024 * 1024  # below this much free room, more is taken ahead

Entry: TypeAlias = tuple[bytes, int, int]
"""Command, index, term: in PySyncObj's order."""


class _Op(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class Base(_Op, frozen=True, tag="base"):
    """Whose journal this is, and the configuration before its first entry."""

    raft_id: RaftID
    members: Members


class Added(_Op, frozen=True, tag="add"):
    command: bytes
    index: int
    term: int


class Cut(_Op, frozen=True, tag="cut"):
    """Entries from `index` on are gone: another leader's replace them."""

    index: int


class Voted(_Op, frozen=True, tag="vote"):
    term: int
    vote: int | None


class Committed(_Op, frozen=True, tag="commit"):
    """A hint: rides along with the next batch, and may be old."""

    index: int


class Installed(_Op, frozen=True, tag="install"):
    """A snapshot took the place of all entries; these are its last ones."""

    members: Members
    entries: tuple[Entry, ...]


class Heard(_Op, frozen=True, tag="heard"):
    """What is remembered of the other members (raft.acquaintance): a hint as well."""

    table: bytes


Op: TypeAlias = Base | Added | Cut | Voted | Committed | Installed | Heard

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Op]).decode


class Whole(NamedTuple):
    """All of a journal at one moment."""

    members: Members
    entries: list[Entry]
    term: int
    vote: int | None
    commit_index: int
    heard: bytes


class Batch(NamedTuple):
    """What must become durable together: `ops`, or instead of them the `whole` file anew."""

    ops: list[Op]
    whole: Whole | None


class Journal:
    """The memory side. Quacks as pysyncobj.journal.Journal, whence the camel humps."""

    def __init__(self, members: Members) -> None:
        self.base_members = members  # before the first entry
        self.newest_members = members  # committed or not
        self.entries: list[Entry] = []
        self.size_b = 0  # of the commands
        self.term = 0
        self.vote: int | None = None
        self.commit_index = 1
        self.is_dirty = False
        self.heard = b""  # of the other members; see `remember`
        self._is_heard_new = False
        self._ops: list[Op] = []
        self._must_rewrite = False

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None where the journal does not reach."""
        at = index - self.entries[0][1] if self.entries else -1
        return self.entries[at][2] if 0 <= at < len(self.entries) else None

    def members(self, as_of: int) -> Members:
        """The configuration as of an entry."""
        return self.base_members.after_all(_changes(e for e in self.entries if e[1] <= as_of))

    @property
    def last_index(self) -> int:
        return self.entries[-1][1] if self.entries else 0

    def last_two(self, index: int) -> tuple[Entry, ...]:
        """The entries at `index` and before it, as far as they are here."""
        at = index - self.entries[0][1] if self.entries else -1
        return tuple(self.entries[max(0, at - 1) : at + 1]) if at >= 0 else ()

    def take(self) -> Batch | None:
        """What must reach the disk before anybody is told; None if there is nothing."""
        if not self.is_dirty:
            return None
        if self._is_heard_new:
            self._ops.append(Heard(self.heard))
        batch = Batch(ops=self._ops, whole=self._whole() if self._must_rewrite else None)
        self._ops, self.is_dirty = [], False
        self._must_rewrite = self._is_heard_new = False
        return batch

    def compact(self, index: int, *, keep: int = 0, keep_size_b: int = 0) -> None:
        """Forget the entries below `index` - 1, which a durable snapshot holds.

        The entry at `index` and the one before stay: the next is checked against them. So do `keep`
        more, for members that are slightly behind, as far as they have no more than `keep_size_b`.
        """
        gone = index - 1 - self.entries[0][1]
        while gone > 0 and keep > 0 and len(self.entries[gone - 1][0]) <= keep_size_b:
            gone, keep = gone - 1, keep - 1
            keep_size_b -= len(self.entries[gone][0])
        if gone <= 0:
            return
        assert gone < len(self.entries), "a snapshot is never newer than the journal"
        self.base_members = self.members(as_of=self.entries[gone][1] - 1)
        self.size_b -= _size_b(self.entries[:gone])
        del self.entries[:gone]
        self._must_rewrite = self.is_dirty = True

    def install(self, members: Members, entries: Sequence[Entry]) -> None:
        """Begin anew behind a snapshot: `entries` are its last, `members` are as of the very last.

        Folding these entries over those members again changes nothing.
        """
        self._install(members, entries)
        self._note(Installed(members, tuple(entries)))
        self._must_rewrite = True

    def remember(self, heard: bytes) -> None:
        """Keep this of the other members: with the next batch, worth no fsync of its own."""
        self._is_heard_new = self._is_heard_new or heard != self.heard
        self.heard = heard

    def rewrite(self) -> None:
        """Write the whole file anew with the next batch."""
        self._must_rewrite = self.is_dirty = True

    # What PySyncObj calls

    def add(self, command: bytes, idx: int, term: int) -> None:
        assert not self.entries or idx == self.entries[-1][1] + 1, "a log has no holes"
        self._add((command, idx, term))
        self._note(Added(command, idx, term))

    def deleteEntriesFrom(self, position: int) -> None:
        """Cut off the entries from this position on. A committed one never: the member stops."""
        if position < len(self.entries):
            index = self.entries[position][1]
            assert index > self.commit_index, "a committed entry is never taken back"
            self._cut(position)
            self._note(Cut(index))

    def setCurrentTerm(self, term: int, vote: int | None) -> None:
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._note(Voted(term, vote))

    def getCurrentTerm(self) -> int:
        return self.term

    def getVotedForNodeId(self) -> int | None:
        return self.vote

    def setRaftCommitIndex(self, index: int) -> None:
        if index != self.commit_index:
            self.commit_index = index
            self._ops.append(Committed(index))  # worth no fsync of its own

    def getRaftCommitIndex(self) -> int:
        """Never beyond the end: the hint may have outlived what it speaks of."""
        return min(self.commit_index, self.entries[-1][1]) if self.entries else 1

    def onOneSecondTimer(self) -> None:
        """Nothing to do: the commit index rides along with the batches."""

    def __getitem__(self, position: Any) -> Any:  # noqa: ANN401 - an entry, or a slice of them
        return self.entries[position]

    def __len__(self) -> int:
        return len(self.entries)

    def _destroy(self) -> None:
        """Nothing to do: the engine closes the file."""

    # Shared with the file side

    def _note(self, op: Op) -> None:
        self._ops.append(op)
        self.is_dirty = True

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.size_b += len(entry[0])
        self.newest_members = self.newest_members.after_all(_changes((entry,)))

    def _install(self, members: Members, entries: Sequence[Entry]) -> None:
        self.base_members = self.newest_members = members
        self.entries[:], self.size_b = (), 0
        for entry in entries:
            self._add(entry)
        self.commit_index = self.entries[-1][1]

    def _cut(self, position: int) -> None:
        self.size_b -= _size_b(self.entries[position:])
        del self.entries[position:]
        self.newest_members = self.base_members.after_all(_changes(self.entries))

    def _whole(self) -> Whole:
        return Whole(
            members=self.base_members,
            entries=list(self.entries),
            term=self.term,
            vote=self.vote,
            commit_index=self.getRaftCommitIndex(),
            heard=self.heard,
        )

    def replayed(self, op: Op) -> str:
        """Take an operation as read from disk; says what is wrong with it, or nothing."""
        match op:
            case Base():
                return "it begins twice"
            case Added(command, index, term):
                if self.entries and index != self.entries[-1][1] + 1:
                    return f"entry {index} follows entry {self.entries[-1][1]}"
                self._add((command, index, term))
            case Cut(index):
                if not self.entries or not self.entries[0][1] < index <= self.entries[-1][1]:
                    return f"it cuts at entry {index}, which it does not hold"
                self._cut(index - self.entries[0][1])
            case Voted(term, vote):
                self.term, self.vote = term, vote
            case Committed(index):
                self.commit_index = index
            case Installed(members, entries):
                self._install(members, entries)
            case Heard(table):
                self.heard = table
        return ""


class JournalFile:
    """The disk side; every method blocks.

    Each raises DiskFullError (nothing was written: try again) or OSError (the content is unknown).
    """

    def __init__(self, log: SealedLog, raft_id: RaftID) -> None:
        self._log, self._raft_id = log, raft_id
        self.free_b = 0  # bytes that the next batches are sure to find room for; read by the loop

    def create(self, members: Members) -> Journal:
        """An empty journal, durable."""
        journal = Journal(members)
        self._log.rewrite(self._records(journal._whole()))
        self.free_b = self._log.free_b
        return journal

    def load(self) -> Journal:
        """The journal as it is on disk. Raises DamagedError, also where it is another member's."""
        journals: list[Journal] = []

        def take(records: Sequence[bytes]) -> None:
            for op in self._ops(records):
                if journals:
                    self._check(journals[0].replayed(op))
                else:
                    journals.append(self._begun(op))

        self._log.replay_into(take)
        self._check("" if journals else "it has no first record")
        return journals[0]

    def write(self, batch: Batch) -> None:
        """Durable on return. Where there is no room to shorten the file, it goes on as it is."""
        self.writing(batch)()

    def writing(self, batch: Batch) -> Callable[[], None]:
        """`write`, sealed already: what is left for a thread that may block has little to compute,
        for only one of them and the loop can. Nothing else of this file may come in between."""
        if batch.whole is not None:
            return partial(self._write_shortened, batch)
        return partial(self._append, self._log.seal([_encode(batch.ops)]))

    def _write_shortened(self, batch: Batch) -> None:
        if batch.whole is None or not self._rewritten(batch.whole):
            self._append(self._log.seal([_encode(batch.ops)]))
        self.free_b = self._log.free_b

    def _append(self, sealed: Sealed) -> None:
        self._log.write(sealed)
        if self._log.free_b < LOW_FREE_B:
            self._make_room_ahead()
        self.free_b = self._log.free_b

    def write_whole(self, batch: Batch) -> None:
        """As `write`, but with the whole file anew or not at all."""
        assert batch.whole is not None, "a rewrite was asked for"
        self._log.rewrite(self._records(batch.whole))
        self.free_b = self._log.free_b

    def make_room(self, size_b: int) -> None:
        self._log.make_room(size_b)
        self.free_b = self._log.free_b

    def close(self) -> None:
        self._log.close()

    def _rewritten(self, whole: Whole) -> bool:
        try:
            self._log.rewrite(self._records(whole))
        except DiskFullError:
            return False
        return True

    def _make_room_ahead(self) -> None:
        try:
            self._log.make_room(LOW_FREE_B)
        except DiskFullError:
            return  # noticed again, and said, by the first proposal that needs the room

    def _records(self, whole: Whole) -> Iterator[bytes]:
        begin = Base(self._raft_id, whole.members)
        voted, committed = Voted(whole.term, whole.vote), Committed(whole.commit_index)
        yield _encode([begin, voted, committed, Heard(whole.heard)])
        yield from (_encode(piece) for piece in _pieces(whole.entries))

    def _ops(self, records: Sequence[bytes]) -> Iterator[Op]:
        for record in records:
            try:
                yield from _decode(record)
            except msgspec.DecodeError as error:
                raise self._damaged(f"a record cannot be read: {error}") from error

    def _begun(self, op: Op) -> Journal:
        if not isinstance(op, Base):
            raise self._damaged("it does not begin with its first record")
        if op.raft_id != self._raft_id:
            raise self._damaged(f"it is of member {op.raft_id:x}, and this is {self._raft_id:x}")
        return Journal(op.members)

    def _check(self, problem: str) -> None:
        if problem:
            raise self._damaged(problem)

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self._log.path} cannot be trusted: {what}.", remedy=REMEDY)


def _size_b(entries: Iterable[Entry]) -> int:
    return sum(len(entry[0]) for entry in entries)


def _pieces(entries: list[Entry]) -> Iterator[list[Op]]:
    piece: list[Op] = []
    size_b = 0
    for command, index, term in entries:
        piece.append(Added(command, index, term))
        size_b += len(command)
        if size_b >= REWRITE_RECORD_B:
            yield piece
            piece, size_b = [], 0
    if piece:
        yield piece


def _changes(entries: Iterable[Entry]) -> Iterator[MemberChange]:
    return (decode_change(e[0][1:]) for e in entries if e[0][:1] == MEMBERSHIP)
