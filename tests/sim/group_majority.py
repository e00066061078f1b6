"""How long members of a simulated group take to say that too few of them are there.

A majority is lost while no member that runs reaches, both ways, a majority of those it counts. From
then on every call that needs one must fail within SAID_WITHIN_S, wherever it is made.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

SAID_WITHIN_S = 3.0
SLACK_S = 0.7  # frames under way, and a slow disk
LOCAL = ("rotate",)  # calls that need nobody else


class Member(Protocol):
    """What is looked at of one."""

    name: str
    paused_s: float
    up_since_s: float


class Majority:
    """`look` whenever somebody may have come or gone, `watch` every call."""

    def __init__(
        self,
        now_s: Callable[[], float],
        is_paused: Callable[[str], bool],
        wrong: Callable[[str, str], None],
    ) -> None:
        self._now_s, self._is_paused, self._wrong = now_s, is_paused, wrong
        self.lost_since_s: float | None = None
        self.said = 0  # calls that failed because it was lost
        self._paused_s: dict[str, float] = {}  # of each member, when it was lost
        self._woke_s = 0.0  # when one went on, and answered what had come meanwhile
        self._calls: dict[int, tuple[str, Member, float]] = {}
        self._last = 0

    def look(self, is_there: bool, members: Iterable[Member]) -> None:
        """What is known now; calls that are still open are judged before it is back."""
        if not is_there and self.lost_since_s is None:
            self.lost_since_s = self._now_s()
            self._paused_s = {one.name: one.paused_s for one in members}
        elif is_there and self.lost_since_s is not None:
            for call in self._calls.values():
                self._judge(*call)
            self.lost_since_s = None

    def wakes(self) -> None:
        """A member goes on after a pause: others hear of it once more, whatever it can do now."""
        self._woke_s = self._now_s()

    def begin(self, what: str, member: Member) -> int:
        self._last += 1
        if what not in LOCAL:
            self._calls[self._last] = (what, member, self._now_s())
        return self._last

    def end(self, call: int) -> None:
        found = self._calls.pop(call, None)
        if found is not None and self.lost_since_s is not None:
            self.said += 1
            self._judge(*found)

    def _judge(self, what: str, member: Member, began_s: float) -> None:
        has_slept = self._paused_s.get(member.name) != member.paused_s
        if self.lost_since_s is None or has_slept or self._is_paused(member.name):
            return  # who sleeps says nothing
        known_s = max(self.lost_since_s, member.up_since_s, self._woke_s) + SAID_WITHIN_S
        if self._now_s() > max(known_s, began_s) + SLACK_S:
            self._wrong(
                "late",
                f"{what} at {member.name}, begun at {began_s:.3f}, is open at {self._now_s():.3f}; "
                f"no majority is there since {self.lost_since_s:.3f}",
            )
