"""What was proposed and is not yet answered, bounded in number and in bytes."""

import asyncio
from functools import partial
from typing import Final, TypeAlias

from swarmlet.core.errors import (
    NotLeaderError,
    OutcomeUnknownError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.limits import PROPOSAL_TIMEOUT_S
from swarmlet.raft.hardening import (
    MISSING_LEADER,
    NOT_LEADER,
    REQUEST_DENIED,
    SUCCESS,
    Answer,
)

OVERHEAD_B: Final = 64  # of an entry in the journal: its index, term and framing, rounded up

Place: TypeAlias = tuple[asyncio.Future[int], int, float]
"""Who waits, bytes in the journal, until when (the loop's clock)."""


def outcome_unknown(cause: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"The change was proposed, but {cause} before it was known to be stored.",
        remedy="Look whether it is there before you repeat it.",
    )


def not_leader(managers: tuple[str, ...] = ()) -> NotLeaderError:
    return NotLeaderError(
        "This manager does not lead the swarm at the moment, so it cannot write.",
        remedy="Try again in a moment; after a start, a manager first has to win an election.",
        managers=managers,
    )


class DeniedError(UnavailableError):
    """The log takes no change of its members at this moment."""

    def __init__(self) -> None:
        super().__init__(
            "Another change of the managers is not stored yet.", remedy="Try again in a moment."
        )


def _no_room() -> UnavailableError:
    return UnavailableError(
        f"The disk had no room for the change for {PROPOSAL_TIMEOUT_S:g} s; nothing was changed.",
        remedy="Make room on the disk of this manager.",
    )


class Proposals:
    """Each is answered once: with its index, or with an error when `fail_all` says so or the time
    for a call is over.

    A caller that went away is not missed; its proposal goes on and counts until it is settled.
    One timer watches all: one each would cost as much as the rest of a proposal.
    """

    def __init__(self, count_max: int, size_max_b: int) -> None:
        self._count_max, self._size_max_b = count_max, size_max_b
        self._open: dict[int, Place] = {}
        self._waiting: list[Place] = []  # for room on the disk
        self._last = self.size_b = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def check(self, entry: bytes) -> int:
        """Bytes the entry takes in the journal. Raises UnavailableError where too much waits."""
        size_b = len(entry) + OVERHEAD_B
        count = len(self._open) + len(self._waiting)
        if count >= self._count_max or self.size_b + size_b > self._size_max_b:
            raise UnavailableError(
                f"{count} changes ({self.size_b} bytes) wait to be stored, and no more are taken.",
                remedy="Try again in a moment; if it stays so, this manager's disk is too slow.",
            )
        return size_b

    def open(self, size_b: int) -> tuple[asyncio.Future[int], Answer]:
        """A place for one proposal: what to wait for, and how the engine answers."""
        place = self._place(size_b)
        self._last += 1
        self._open[self._last] = place
        self.size_b += size_b
        return place[0], partial(self._settle, self._last)

    def wait_for_room(self, size_b: int) -> asyncio.Future[int]:
        place = self._place(size_b)
        self._waiting.append(place)
        return place[0]

    @property
    def wanted_b(self) -> int:
        """Room that those who wait for it need, beside what is already proposed; 0 if none wait."""
        return self.size_b + sum(size for _, size, _ in self._waiting) if self._waiting else 0

    def room_found(self, error: SwarmError | None = None) -> None:
        """Let those who wait for room look again, or tell them why there is none."""
        waiting, self._waiting = self._waiting, []
        for future, _, _ in waiting:
            _answer(future, error or 0)

    def fail_all(self, cause: str) -> None:
        """Nobody can say any more what becomes of the open proposals."""
        places, self._open, self.size_b = self._open, {}, 0
        for future, _, _ in places.values():
            _answer(future, outcome_unknown(cause))
        self.room_found(not_leader())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _place(self, size_b: int) -> Place:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        until_s = loop.time() + PROPOSAL_TIMEOUT_S
        if self._timer is None:
            self._timer = loop.call_at(until_s, self._expire)
        return loop.create_future(), size_b, until_s

    def _expire(self) -> None:
        """Answer those whose time is over; then watch the next."""
        assert self._loop is not None, "a place was made"
        now_s, self._timer = self._loop.time(), None
        for future, _, until_s in self._open.values():
            if until_s <= now_s:
                _answer(future, outcome_unknown(f"{PROPOSAL_TIMEOUT_S:g} s went by"))
        late = [place for place in self._waiting if place[2] <= now_s]
        self._waiting = [place for place in self._waiting if place[2] > now_s]
        for future, _, _ in late:
            _answer(future, _no_room())
        left = [place[2] for place in self._open.values() if not place[0].done()]
        left += [place[2] for place in self._waiting]
        if left:
            self._timer = self._loop.call_at(min(left), self._expire)

    def _settle(self, number: int, index: int | None, reason: int) -> None:
        future, size_b, _ = self._open.pop(number, (None, 0, 0.0))
        self.size_b -= size_b
        if future is None:
            return
        if reason == SUCCESS and index is not None:
            _answer(future, index)
        elif reason in (NOT_LEADER, MISSING_LEADER):
            _answer(future, not_leader())
        elif reason == REQUEST_DENIED:
            _answer(future, DeniedError())
        else:
            _answer(future, outcome_unknown("another leader was elected"))


def _answer(future: asyncio.Future[int], outcome: int | SwarmError) -> None:
    if future.done():
        return
    if isinstance(outcome, SwarmError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
