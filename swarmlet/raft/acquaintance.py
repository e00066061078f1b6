"""What a member remembers of the others, and whom it talks to. Pure: no clock, no connection.

A member that acknowledged an entry has it for ever, once it is committed; a term it has used is
never taken back. Whoever comes back with less lost its disk's newest state, or had it put back, and
could vote twice: it must not go on as that member (Raft §5.2 and §5.4 lean on nothing being lost).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlet.core.ids import RaftID
from swarmlet.raft.hello import (
    CLONED,
    RAFT_PROTOCOL,
    REMOVED,
    ROLLED_BACK,
    STRANGER,
    WRONG_MEMBER,
    Hello,
    Refusal,
)
from swarmlet.raft.membership import Members
from swarmlet.store.proposer import Member

CLONE_SILENCE_S: Final = 1.5
"""A boot that was heard within this time is alive; another of the same member is then a clone."""

CLONE_REFUSED_S: Final = 10.0
"""Refused as a clone for so long by one peer, a member takes it as true."""


class Acquaintance(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Of one member: the highest term it has used, and the highest index it acknowledged that is
    committed. Both only grow."""

    raft_id: RaftID
    term: int = 0
    index: int = 0


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The connection there is to a member: of which boot, and how long ago it was heard."""

    boot: int
    silent_s: float


class Acquaintances:
    """What one member knows of all others. `hints` are of an earlier life: all of them still hold,
    so a member that kept only some of them judges more mildly, never wrongly."""

    def __init__(self, hints: Iterable[Acquaintance] = ()) -> None:
        self._known: dict[RaftID, Acquaintance] = {}
        self._news: dict[RaftID, None] = {}
        for hint in hints:
            self._learn(hint)
        self._news.clear()

    def of(self, raft_id: RaftID) -> Acquaintance:
        return self._known.get(raft_id) or Acquaintance(raft_id=raft_id)

    def saw_term(self, raft_id: RaftID, term: int) -> None:
        """It has this term on its disk: its hello said so, or its vote, or it leads in it (not: it
        asked for a pre-vote)."""
        if term > self.of(raft_id).term:
            self._learn(Acquaintance(raft_id=raft_id, term=term))

    def acknowledged(self, raft_id: RaftID, match_index: int, commit_index: int) -> None:
        """It has all up to `match_index`, as its leader knows, and the log was committed up to
        `commit_index` at most when the leader knew that: an old match beside a newer commit index
        would accuse a member whose entries another leader has replaced since."""
        index = min(match_index, commit_index)
        if index > self.of(raft_id).index:
            self._learn(Acquaintance(raft_id=raft_id, index=index))

    def keep(self, raft_ids: Iterable[RaftID]) -> None:
        """Forget all others: ids are never used again."""
        kept = frozenset(raft_ids)
        for raft_id in [each for each in self._known if each not in kept]:
            del self._known[raft_id]
            self._news.pop(raft_id, None)

    def hints(self) -> tuple[Acquaintance, ...]:
        """All that is known, by raft id: what a new journal begins with."""
        return tuple(self._known[raft_id] for raft_id in sorted(self._known))

    def take_news(self) -> tuple[Acquaintance, ...]:
        """What is known better than when this was asked last, by raft id; later hints of a member
        add to earlier ones, in whatever order they are read."""
        news = tuple(self._known[raft_id] for raft_id in sorted(self._news))
        self._news.clear()
        return news

    def judge(
        self, hello: Hello, node_id: str, *, me: Member, members: Members, live: Live | None
    ) -> Refusal | None:
        """Whether to talk to the one who says `hello` and whose certificate names `node_id`.

        `members` is the configuration in force; its `removed` must be committed, for what is not
        may be undone. An id that nobody removed is let in though it is not known: this member may
        be behind.
        """
        return (
            _check_address(hello, node_id, me)
            or _check_member(hello, node_id, members)
            or _check_boot(hello, live)  # a copy that is behind is no less of one
            or self._check_memory(hello)
        )

    def _check_memory(self, hello: Hello) -> Refusal | None:
        known = self.of(hello.sender)
        if hello.term >= known.term and hello.last_index >= known.index:
            return None
        return Refusal(
            reason=ROLLED_BACK,
            sentence=f"Member {hello.sender:x} had reached entry {known.index} and term "
            f"{known.term}, and comes back with entry {hello.last_index} and term {hello.term}: "
            "its data were put back to an older state.",
            term=known.term,
            index=known.index,
        )

    def _learn(self, news: Acquaintance) -> None:
        known = self.of(news.raft_id)
        self._known[news.raft_id] = Acquaintance(
            raft_id=news.raft_id,
            term=max(known.term, news.term),
            index=max(known.index, news.index),
        )
        self._news[news.raft_id] = None


def _check_address(hello: Hello, node_id: str, me: Member) -> Refusal | None:
    if abs(hello.protocol - RAFT_PROTOCOL) > 1:
        return Refusal(
            reason=STRANGER,
            sentence=f"This manager's Raft protocol is {RAFT_PROTOCOL}, the other's "
            f"{hello.protocol}: upgrade the older one.",
        )
    if hello.receiver != me.raft_id or hello.sender == me.raft_id:
        return Refusal(
            reason=WRONG_MEMBER,
            sentence=f"Node {node_id} as member {hello.sender:x} looks for member "
            f"{hello.receiver:x}; here is {me.raft_id:x}.",
        )
    return None


def _check_member(hello: Hello, node_id: str, members: Members) -> Refusal | None:
    if hello.sender in members.removed:
        return Refusal(
            reason=REMOVED,
            sentence=f"Member {hello.sender:x} was removed from the managers of this swarm.",
        )
    member = members.member(hello.sender)
    if member is not None and member.node_id != node_id:
        return Refusal(
            reason=WRONG_MEMBER,
            sentence=f"Member {hello.sender:x} is node {member.node_id}, and the certificate is "
            f"of node {node_id}.",
        )
    return None


def _check_boot(hello: Hello, live: Live | None) -> Refusal | None:
    if live is None or live.boot == hello.boot or live.silent_s > CLONE_SILENCE_S:
        return None
    return Refusal(
        reason=CLONED,
        sentence=f"Member {hello.sender:x} runs already, from another start: two daemons have the "
        "same identity.",
    )


class Refusals:
    """What peers say against this member, until it believes them."""

    def __init__(self) -> None:
        self._cloned_since_s: dict[RaftID, float] = {}

    def accepted(self, peer: RaftID) -> None:
        """This peer talks to us."""
        self._cloned_since_s.pop(peer, None)

    def believed(self, peer: RaftID, refusal: Refusal, now_s: float) -> bool:
        """Whether `refusal` is the end of this member. Removed and rolled back at once: one peer
        that knows is enough. Cloned only after a while, for the connection of a life before may
        outlast that life; one peer again, for two of us could each find somebody to vote for."""
        if refusal.reason in (REMOVED, ROLLED_BACK):
            return True
        if refusal.reason != CLONED:
            return False
        return now_s - self._cloned_since_s.setdefault(peer, now_s) >= CLONE_REFUSED_S
