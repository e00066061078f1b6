"""Linearizable reads without a write: read index (Raft §6.4), at the leader and at the others.

A read round is a number that the leader's Appends carry and the answers echo. Once a majority has
echoed it, the leader led after the round began, and its commit index of then is what a read needs.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from swarmlet.core.ids import RaftID

ReadAnswer: TypeAlias = Callable[[int | None], None]
"""The index a linearizable read needs, or None where nobody can say any more."""

READS_MAX: Final = 10_000  # that wait at one member; more are answered at once: None
REQUESTS_MAX: Final = 16  # of one member that its leader has not answered; later reads wait


class ReadRounds:
    """The leader's."""

    def __init__(self) -> None:
        self.newest = 0  # sequence of the last round; never used twice by one boot of a member
        self._waiting: list[ReadAnswer] = []
        self._rounds: deque[tuple[int, int, list[ReadAnswer]]] = deque()  # sequence, index, whose
        self._echoed: dict[RaftID, int] = {}

    def ask(self, done: ReadAnswer) -> None:
        """For the next round."""
        if len(self._waiting) >= READS_MAX:
            done(None)
        else:
            self._waiting.append(done)

    def open(self, commit_index: int) -> None:
        """Begin a round for all that wait. The commit index must be of the leader's own term."""
        if self._waiting:
            self.newest += 1
            self._rounds.append((self.newest, commit_index, self._waiting))
            self._waiting = []

    def echoed(self, raft_id: RaftID, sequence: int) -> None:
        """Raises ValueError where there was no such round yet."""
        if sequence > self.newest:
            raise ValueError(f"an echo of read round {sequence}, and the newest is {self.newest}")
        self._echoed[raft_id] = max(self._echoed.get(raft_id, 0), sequence)

    def settle(self, others: Sequence[RaftID]) -> None:
        """Answer what a majority has confirmed. `others`: the voters beside the leader itself."""
        echoes = sorted((self._echoed.get(i, 0) for i in others), reverse=True)
        needed = (len(others) + 1) // 2
        confirmed = echoes[needed - 1] if needed else self.newest
        while self._rounds and self._rounds[0][0] <= confirmed:
            _, index, dones = self._rounds.popleft()
            for done in dones:
                done(index)

    def fail(self) -> None:
        """Leadership is gone: nobody can say."""
        waiting, self._waiting = self._waiting, []
        rounds, self._rounds = self._rounds, deque()
        self._echoed = {}
        for done in [done for _, _, dones in rounds for done in dones] + waiting:
            done(None)


class ReadRequests:
    """A follower's, to its leader."""

    def __init__(self) -> None:
        self._newest = 0
        self._waiting: list[ReadAnswer] = []
        self._asked: dict[int, list[ReadAnswer]] = {}

    def ask(self, done: ReadAnswer) -> None:
        """For the next request."""
        if len(self._waiting) >= READS_MAX:
            done(None)
        else:
            self._waiting.append(done)

    def request(self) -> int | None:
        """The number of a request to send now, for all that wait."""
        if not self._waiting or len(self._asked) >= REQUESTS_MAX:
            return None
        self._newest += 1
        self._asked[self._newest], self._waiting = self._waiting, []
        return self._newest

    def answered(self, number: int, index: int | None) -> None:
        """An answer that comes twice, or to nothing, changes nothing."""
        for done in self._asked.pop(number, ()):
            done(index)

    def fail(self) -> None:
        """The leader is gone, or another one is there: nobody can say."""
        waiting, self._waiting = self._waiting, []
        asked, self._asked = self._asked, {}
        for done in [done for dones in asked.values() for done in dones] + waiting:
            done(None)
