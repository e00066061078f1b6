"""Would I win? Asked before a term is begun, so that who cannot win does not depose who leads
(Raft §9.6)."""

from collections.abc import Sequence

from swarmlet.core.ids import RaftID


class PreVotes:
    """At most one round at a time, ours."""

    def __init__(self) -> None:
        self._term, self._until_s = 0, 0.0
        self._granted: set[RaftID] = set()  # asked for membership only, never gone through

    def begin(self, term: int, until_s: float) -> None:
        """Ask for `term`; `until_s` the answers count."""
        self._term, self._until_s = term, until_s
        self._granted.clear()

    def is_open(self, term: int, now_s: float) -> bool:
        return self._term == term and now_s < self._until_s

    def cancel(self) -> None:
        """There is a leader."""
        self._term = 0

    def granted(self, raft_id: RaftID, term: int) -> None:
        if term == self._term:
            self._granted.add(raft_id)

    def is_won(self, term: int, others: Sequence[RaftID]) -> bool:
        """With our own vote. `others`: the voters beside ourselves."""
        votes = 1 + sum(raft_id in self._granted for raft_id in others)
        return self._term == term and votes > (len(others) + 1) // 2
