"""What this member says to others of itself, whom it talks to, and what it concludes from refusals.

Implements `handshake.PeerEvents`.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from swarmlet.core.errors import DamagedError, MemberRefusedError
from swarmlet.core.ids import RaftID
from swarmlet.env.frames import REMEDY
from swarmlet.raft.acquaintance import Acquaintance, Acquaintances, Live, Refusals
from swarmlet.raft.driver import Driver, known_members
from swarmlet.raft.hello import CLONED, REMOVED, ROLLED_BACK, STRANGER, Hello, Refusal
from swarmlet.raft.membership import Members

REMEMBER_PERIOD_S: Final = 1.0

_REMEDIES: Final = {
    REMOVED: "Let this node leave (`swarmlet leave --force`) and join again with a manager token.",
    ROLLED_BACK: "This manager joins the group again by itself, as a new member; what it had is "
    "at the others.",
    CLONED: "Stop the other daemon with this identity, or let this node leave "
    "(`swarmlet leave --force`) and join again.",
}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Acquaintance, ...]).decode


class Conversations:
    """One life of one member; `boot` tells it from its others."""

    def __init__(self, driver: Driver, live: Callable[[RaftID], Live | None]) -> None:
        self._driver, self._live = driver, live
        self._boot = int.from_bytes(driver.env.entropy(8), "little") >> 1
        self._known = Acquaintances()
        self._refusals = Refusals()
        self._remembered_s = 0.0

    def begin(self) -> None:
        """Recall what an earlier life knew of the others. Raises DamagedError."""
        heard = self._driver.journal.heard
        try:
            self._known = Acquaintances(_decode(heard) if heard else ())
        except msgspec.DecodeError as error:
            raise DamagedError(
                f"{self._driver.files.directory}/journal cannot be trusted: what it says of other "
                f"members cannot be read: {error}.",
                remedy=REMEDY,
            ) from error

    def look(self) -> None:
        """Once a second, take down how far the others are: hints, with the next batch."""
        driver = self._driver
        now_s = driver.env.clock.mono_s()
        if driver.core.is_removed:
            driver.problem = self._refused(REMOVED, "This manager was removed from the swarm.")
        if now_s - self._remembered_s < REMEMBER_PERIOD_S or driver.is_single():
            return
        self._remembered_s = now_s
        self._learn()
        if self._known.take_news():
            driver.journal.remember(_encode(self._known.hints()))

    def _learn(self) -> None:
        """What the log's progress says of the others at this moment."""
        driver = self._driver
        me = driver.me.raft_id
        others = [one.raft_id for one in driver.members().members if one.raft_id != me]
        for raft_id in others:
            match_index = driver.core.progress(raft_id).match_index
            self._known.acknowledged(raft_id, match_index, driver.core.commit_index)
        leader = driver.leadership.leader
        if leader is not None and leader != me:
            self._known.saw_term(leader, driver.leadership.term)
        self._known.keep(others)

    # PeerEvents

    def hello(self, to: RaftID) -> Hello:
        driver = self._driver
        term, last_index = driver.durable
        commit_index = min(driver.core.commit_index, last_index)
        return Hello(
            sender=driver.me.raft_id,
            receiver=to,
            boot=self._boot,
            term=term,
            last_index=last_index,
            commit_index=commit_index,
            commit_term=driver.journal.term_at(commit_index) or 0,
        )

    def judge(self, hello: Hello, node_id: str) -> Refusal | None:
        driver = self._driver
        self._learn()
        refusal = self._known.judge(
            hello,
            node_id,
            me=driver.me,
            members=self._members(),
            live=self._live(hello.sender),
        ) or self._check_history(hello)
        if refusal is None:
            self._known.saw_term(hello.sender, hello.term)
        return refusal

    def connected(self, raft_id: RaftID, epoch: int) -> None:
        self._refusals.accepted(raft_id)
        self._driver.inbox.connected(raft_id, epoch)

    def disconnected(self, raft_id: RaftID, epoch: int) -> None:
        self._driver.inbox.disconnected(raft_id, epoch)

    def received(self, raft_id: RaftID, epoch: int, frame: bytes) -> None:
        self._driver.inbox.received(raft_id, epoch, frame)

    def refused(self, raft_id: RaftID, refusal: Refusal) -> None:
        driver = self._driver
        term, index = driver.durable
        if refusal.reason == ROLLED_BACK and term >= refusal.term and index >= refusal.index:
            return  # our hello was older than what they know
        if self._refusals.believed(raft_id, refusal, driver.env.clock.mono_s()):
            driver.problem = self._refused(refusal.reason, refusal.sentence)
            driver.wake()

    def _check_history(self, hello: Hello) -> Refusal | None:
        """What is committed is the same everywhere. A disk put back to when it was the only one
        goes on alone, and may come with more than it ever had; it cannot know, and neither side
        ends for the other's word, but no entry of the one may count for the other's."""
        term = self._driver.journal.term_at(hello.commit_index)
        is_committed = hello.commit_index <= self._driver.core.commit_index
        if not is_committed or 0 in (hello.commit_term, term or 0) or term == hello.commit_term:
            return None
        return Refusal(
            reason=STRANGER,
            sentence=f"Members {self._driver.me.raft_id:x} and {hello.sender:x} have committed "
            f"different entries {hello.commit_index}, of terms {term} and {hello.commit_term}: "
            "the data of one of them were put back to when it was alone, and it went on since.",
        )

    def _members(self) -> Members:
        """The newest configuration; of removals only the committed ones, others may be undone."""
        driver = self._driver
        committed = driver.journal.members(as_of=driver.core.commit_index)
        return Members(members=known_members(driver).members, removed=committed.removed)

    def _refused(self, reason: str, sentence: str) -> MemberRefusedError:
        return MemberRefusedError(reason, sentence, remedy=_REMEDIES[reason])
