"""What must hold of a group of managers at every step, whatever happens to them.

`GroupTruth` looks at a member whenever it has moved, and at nothing twice: it remembers up to where
it looked. The log's own promises (one leader a term, equal entries at equal index and term, what is
committed stays) are judged from the members' journals; the store's (equal state at equal index, a
proposal applied once, nothing acknowledged lost) from what they apply; the clients' from what they
were told.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from swarmlet.model.change import Event
from swarmlet.raft.journal import MEMBERSHIP
from swarmlet.raft.membership import decode_change
from swarmlet.store.codec import proposal_id_of
from swarmlet.store.store import Store
from tests.sim.group_history import NEVER, Call, why_not_linearizable

TOLD_MAX = 400


class ViolationError(AssertionError):
    """Something does not hold."""


class Looked:
    """Up to where one life of a member was looked at."""

    __slots__ = ("applied", "chain", "commit", "index", "state", "term")

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()
        self.index = self.term = 0  # the last journal entry looked at
        self.commit = self.applied = 0
        self.chain = b""


class GroupTruth:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.told: deque[str] = deque(maxlen=TOLD_MAX)
        self.on_tell: Callable[[str], object] = lambda _line: None
        self.digest = hashlib.sha256()
        self.problem = ""
        self.leaders: dict[int, int] = {}  # by term: a raft id
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}  # (index, term): what, after
        self.committed: dict[int, tuple[int, bytes]] = {}  # by index: term and command
        self.committed_in: dict[int, int] = {}  # by index: the term of who first knew
        self.commit_index = 1
        self.states: dict[int, bytes] = {}  # by applied index: digest of all that was applied
        self.kept: dict[int, int] = {}  # by applied index: how many events the history has
        self.events: dict[int, bytes] = {}
        self.proposals: dict[int, int] = {}  # that had an effect: at which index
        self.rows: dict[str, list[tuple[int, str]]] = {}  # by name: (index, value) of each write
        self.calls: dict[int, Call] = {}  # by when they began
        self.moment = 0
        self.finished_index = 0  # the newest index that a finished call has told
        self.owners: dict[int, str] = {}  # by raft id: its node
        self.removed: set[int] = set()  # only asked whether it has one

    def tell(self, now_s: float, what: str) -> None:
        line = f"{now_s:9.4f} {what}"
        self.told.append(line)
        self.on_tell(line)
        self.digest.update(line.encode())

    def wrong(self, kind: str, what: str) -> None:
        """The first is remembered and raised at the end of the turn."""
        self.problem = self.problem or f"{kind}: {what}"

    # The log, as members hold it ------------------------------------------------------------------

    def look(self, name: str, raft_id: int, engine: Any, looked: Looked) -> bool:
        """Whether something has changed."""
        driver = engine._driver
        journal, core = driver.journal, driver.core
        entries = journal.entries
        last = entries[-1] if entries else (b"", 0, 0)
        is_leader, commit = core.is_leader, core.commit_index
        state = (core.term, is_leader, last[1], last[2], commit)
        if state == looked.state:
            return False
        was_leader = bool(looked.state) and looked.state[:2] == state[:2]
        looked.state = state
        if entries and (last[1], last[2]) != (looked.index, looked.term):
            self._look_at_entries(name, entries, looked)
            if is_leader:
                open_ones = entries[max(0, commit + 1 - entries[0][1]) :]
                self._look_at_changes(name, open_ones, core.term)
        if commit > looked.commit:
            self._look_at_commits(name, core.term, entries, commit, looked)
        if is_leader and not was_leader:
            self._look_at_leader(name, raft_id, core.term, journal)
        return True

    def _look_at_entries(self, name: str, entries: Sequence[Any], looked: Looked) -> None:
        base = entries[0][1]
        at = looked.index - base
        if not (0 <= at < len(entries) and entries[at][2] == looked.term):
            at = max(0, min(at, len(entries), max(0, looked.commit - base)))  # cut and grown again
        before = entries[at - 1][2] if at > 0 else -1
        for command, index, term in entries[at:]:
            known = self.entries.get((index, term))
            if known is None or (known[1] == -1 and known[0] == command):
                self.entries[index, term] = (command, before)
            elif known[0] != command or (before != -1 and known[1] != before):
                self.wrong("log matching", f"{name} holds another entry {index} of term {term}")
            before = term
        looked.index, looked.term = entries[-1][1], entries[-1][2]

    def _look_at_changes(self, name: str, open_ones: Sequence[Any], term: int) -> None:
        """A leader takes in no change of members while another is not committed."""
        changes = [e for e in open_ones if e[0][:1] == MEMBERSHIP]
        if changes and changes[-1][2] != term:
            return  # all are of leaders before it
        if len(changes) > 1:
            self.wrong("changes", f"{name} has two changes of members under way")

    def _look_at_commits(
        self, name: str, term: int, entries: Sequence[Any], commit: int, looked: Looked
    ) -> None:
        base = entries[0][1] if entries else 0
        for index in range(max(looked.commit + 1, base), commit + 1):
            if index - base >= len(entries):
                self.wrong("commit", f"{name} says {index} is committed, and does not hold it")
                break
            command, _, of_term = entries[index - base]
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (of_term, command)
                self.committed_in[index] = term
                self._look_at_change(index, command)
            elif known[0] != of_term or known[1] != command:
                self.wrong(
                    "committed changed",
                    f"{name} has committed entry {index} of term {of_term}, others of {known[0]}",
                )
        looked.commit = commit
        self.commit_index = max(self.commit_index, commit)

    def _look_at_change(self, index: int, command: bytes) -> None:
        if command[:1] != MEMBERSHIP:
            return
        change = decode_change(command[1:])
        raft_id, node_id = change.member.raft_id, change.member.node_id
        if change.verb == "remove":
            self.removed.add(raft_id)
        elif change.verb == "add-learner":
            owner = self.owners.setdefault(raft_id, node_id)
            if owner != node_id:
                self.wrong("raft id", f"{raft_id:x} is of {owner} and of {node_id}")
        self.counts[f"committed {change.verb}"] += 1

    def _look_at_leader(self, name: str, raft_id: int, term: int, journal: Any) -> None:
        self.counts["elections"] += 1
        known = self.leaders.setdefault(term, raft_id)
        if known != raft_id:
            self.wrong("election", f"{name} leads in term {term}, and {known:x} does")
        for index in (self.commit_index, self.commit_index - 1):
            found = self.committed.get(index)
            if found is None or self.committed_in[index] >= term:
                continue  # a late winner of an older term is right, and old entries count later
            held = journal.term_at(index)
            is_compacted = journal.entries and index < journal.entries[0][1]
            if held != found[0] and not is_compacted:
                self.wrong("leader completeness", f"{name} leads in {term} without entry {index}")

    # The state ------------------------------------------------------------------------------------

    def applied(
        self,
        name: str,
        index: int,
        entry: bytes,
        events: Sequence[Event],
        looked: Looked,
        kept: int,
    ) -> None:
        """A member applied an entry, with these effects; its history has `kept` events by now."""
        if self.kept.setdefault(index, kept) != kept:
            self.wrong("history", f"{name} has {kept} events at {index}, not {self.kept[index]}")
        if index <= looked.applied:
            self.wrong("apply", f"{name} applied {index} after {looked.applied}")
        chain = hashlib.blake2b(entry, key=looked.chain, digest_size=16)
        for event in events:
            new = event.new
            chain.update(f"{event.id} {None if new is None else new.version}".encode())
        looked.chain, looked.applied = chain.digest(), index
        known = self.states.get(index)
        if known is None:
            self.states[index] = looked.chain
            self._applied_first(index, entry, events)
        elif known != looked.chain:
            self.wrong("state", f"{name} has another state than others at index {index}")

    def _applied_first(self, index: int, entry: bytes, events: Sequence[Event]) -> None:
        proposal_id = proposal_id_of(entry)
        if not events:
            return
        first = self.proposals.setdefault(proposal_id, index)
        if first != index:
            self.wrong("applied twice", f"proposal {proposal_id} at {first} and at {index}")
        for event in events:
            row = event.new
            if row is not None:
                self.rows.setdefault(row.id, []).append((index, value_of(row)))

    def restored(self, name: str, store: Store, looked: Looked) -> None:
        """A member took its state from a snapshot."""
        index = store.index
        looked.applied = index
        if index == 0:
            return
        known = self.states.get(index)
        if known is None:
            self.wrong("snapshot", f"{name} restored a state of {index}, which nobody had")
            return
        looked.chain = known
        if len(store.history) != self.kept[index]:
            self.wrong("history", f"{name} restored another history at {index}")
        held = {row.id: (row.version, value_of(row)) for row in store.view().configs.all()}
        for row_id, writes in self.rows.items():
            newest = next((w for w in reversed(writes) if w[0] <= index), None)
            if held.pop(row_id, None) != newest:
                self.wrong("snapshot", f"{name} restored a wrong row {row_id} at {index}")
        if held:
            self.wrong("snapshot", f"{name} restored rows that nobody wrote: {sorted(held)}")

    # What clients were told -----------------------------------------------------------------------

    def begin(self, key: str, value: str | None, *, is_read: bool) -> tuple[Call, int]:
        """A call, and what its answer may not be older than. A write counts from now on."""
        self.moment += 1
        call = Call(key, value, is_read, self.moment)
        if not is_read:
            self.calls[self.moment] = call
        return call, self.finished_index

    def refused(self, call: Call) -> None:
        """A write was said not to be done, and not to be done later."""
        self.calls.pop(call.begin, None)

    def acknowledged(self, call: Call, proposal_id: int, index: int, floor: int) -> None:
        """A write was said to be done at this index."""
        self.counts["acknowledged"] += 1
        self._finish(call, index, floor)
        if self.proposals.get(proposal_id) != index:
            at = self.proposals.get(proposal_id)
            self.wrong("acknowledged", f"a write is said to be at {index}, and is at {at}")
        if index <= floor:
            self.wrong("order", f"a write at {index} began after one at {floor} had ended")
        if index not in self.committed:
            self.wrong("acknowledged", f"entry {index} is acknowledged and not committed")

    def read(self, call: Call, index: int, floor: int) -> None:
        self.counts["reads"] += 1
        self._finish(call, index, floor)
        self.calls[call.begin] = call
        if index < floor:
            self.wrong("stale read", f"a read at {index} began after {floor} was told")

    def _finish(self, call: Call, index: int, floor: int) -> None:
        self.moment += 1
        call.end = self.moment
        self.finished_index = max(self.finished_index, index)

    def check_history(self) -> None:
        """Whether what clients saw is what registers do, by itself."""
        wrong = why_not_linearizable(self.calls.values())
        if wrong:
            self.wrong("linearizability", wrong)

    # A new group of one ---------------------------------------------------------------------------

    def forced(self, entries: Sequence[Any], term: int) -> None:
        """A member goes on alone, with what it has: what others had beyond it is gone, as operators
        are told. What was said before is judged now, and what follows by itself."""
        self.check_history()
        last = entries[-1][1]
        kept = min(last, self.commit_index)
        for index in [i for i in self.committed if i > kept]:
            del self.committed[index]
        self.counts["entries given up"] += self.commit_index - kept
        self.commit_index = kept
        for index in [i for i in self.states if i > kept]:
            del self.states[index]
            del self.kept[index]
        for proposal_id in [p for p, i in self.proposals.items() if i > kept]:
            del self.proposals[proposal_id]
        for row_id, writes in list(self.rows.items()):
            self.rows[row_id] = [w for w in writes if w[0] <= kept]
            if not self.rows[row_id]:
                del self.rows[row_id]
        self.leaders = {t: raft_id for t, raft_id in self.leaders.items() if t <= term}
        self._begin_anew()

    def _begin_anew(self) -> None:
        """What rows hold is known; any other write of before may yet come to light."""
        old, self.calls, self.finished_index = self.calls, {}, 0
        current = {row_id: writes[-1][1] for row_id, writes in self.rows.items()}
        for call in old.values():
            if not call.is_read:
                self.moment += 2
                is_there = current.get(call.key) == call.value
                call.begin, call.end = self.moment, self.moment + 1 if is_there else NEVER
                self.calls[self.moment] = call


def value_of(row: Any) -> str:
    """What a client wrote."""
    return row.spec.data.decode()
