"""Who of the group answers, and the sentence where too few do."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from swarmlet.core.errors import NotLeaderError, QuorumLostError
from swarmlet.core.ids import RaftID
from swarmlet.core.limits import MS_PER_S
from swarmlet.store.proposer import GroupHealth, Member, MemberHealth

NAMED_MAX: Final = 4  # silent managers in one sentence; the others are counted
DAY_S: Final = 24 * 3_600


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard of a member: how long ago, and for how long it is listened for."""

    member: Member
    silent_s: float | None  # None: never heard
    listened_s: float
    hostname: str = ""
    is_open: bool = True  # it could be heard: connected to us, or known by way of the leader


def quorum_of(voters: int) -> int:
    """How many of so many voters are a majority."""
    return voters // 2 + 1


def newest_of_majority(heard_s: Iterable[float], voters: int) -> float:
    """When a majority had last been heard: one of them at that moment, the others since."""
    ordered = sorted(heard_s, reverse=True)
    return ordered[min(quorum_of(voters), len(ordered)) - 1]


def judged(sign: Sign, now_ms: int, patience_s: float) -> MemberHealth:
    """`patience_s`: who was silent for longer does not answer."""
    silent_s = sign.listened_s if sign.silent_s is None else sign.silent_s
    answers = sign.silent_s is not None and sign.is_open and silent_s <= patience_s
    return MemberHealth(
        member=sign.member,
        answers=answers,
        silent_since_ms=0 if answers else now_ms - int(silent_s * MS_PER_S),
        is_known=sign.silent_s is not None or sign.listened_s > patience_s,
        hostname=sign.hostname,
    )


def leaderless(health: GroupHealth, now_ms: int) -> QuorumLostError | NotLeaderError:
    """Why nothing that needs a majority can be done, in one sentence."""
    voters = [one for one in health.members if one.member.is_voter]
    answering = health.answering()
    if answering >= health.quorum:
        return NotLeaderError(
            f"The managers have no leader at the moment: {answering} of {len(voters)} answer and "
            "one of them has to be elected.",
            remedy="Try again in a moment.",
        )
    silent = [one for one in voters if not one.answers]
    return QuorumLostError(
        f"{answering} of {len(voters)} managers {'answers' if answering == 1 else 'answer'}, and "
        f"{health.quorum} are needed: {_silent(silent, now_ms)}.",
        remedy="Start the silent managers again, unlock those that are locked (`swarmlet unlock`), "
        "or restore their network. If they are lost for good, run `swarmlet init "
        "--force-new-cluster` on a manager that is left: it goes on alone with what it has.",
    )


def _silent(silent: Sequence[MemberHealth], now_ms: int) -> str:
    named = [
        f"{one.hostname or one.member.node_id} ({one.member.address}) has been silent for "
        f"{_span(max(0, now_ms - one.silent_since_ms) // MS_PER_S)}"
        for one in silent[:NAMED_MAX]
    ]
    if len(silent) > NAMED_MAX:
        named.append(f"{len(silent) - NAMED_MAX} more are silent")
    return ", ".join(named)


def _span(seconds: int) -> str:
    for unit_s, word in ((DAY_S, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s} {word}"
    return f"{seconds} s"


def leader_address(members: Iterable[Member], leader: RaftID | None) -> tuple[str, ...]:
    """Where to go instead: the leader's address, if it is known."""
    return tuple(one.address for one in members if one.raft_id == leader)
