"""Who belongs to the group: a fold over the log, committed or not (Raft §4.1).

The configuration in force is the newest in snapshot and journal, never an argument or a file beside
them. A raft id that was removed never comes back; a learner is a member that does not vote.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlet.core.ids import RaftID
from swarmlet.store.proposer import Member, MemberChange

ADD_LEARNER = "add-learner"
PROMOTE = "promote"
REMOVE = "remove"
SET_ADDRESS = "set-address"
VERBS: Final = (ADD_LEARNER, PROMOTE, REMOVE, SET_ADDRESS)

encode_change = msgspec.msgpack.Encoder().encode
decode_change = msgspec.msgpack.Decoder(MemberChange).decode


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration. `members` is sorted by raft id; `removed` only grows."""

    members: tuple[Member, ...] = ()
    removed: tuple[RaftID, ...] = ()

    def member(self, raft_id: RaftID) -> Member | None:
        return next((m for m in self.members if m.raft_id == raft_id), None)

    def voters(self) -> tuple[RaftID, ...]:
        return tuple(m.raft_id for m in self.members if m.is_voter)

    def after(self, change: MemberChange) -> "Members":
        """The configuration behind `change`; the same where the change does not fit (a replay)."""
        raft_id = change.member.raft_id
        known = self.member(raft_id)
        if change.verb == ADD_LEARNER and known is None and raft_id not in self.removed:
            return self._with(msgspec.structs.replace(change.member, is_voter=False))
        if known is None:
            return self
        if change.verb == PROMOTE:
            return self._with(msgspec.structs.replace(known, is_voter=True))
        if change.verb == SET_ADDRESS:
            return self._with(msgspec.structs.replace(known, address=change.member.address))
        if change.verb == REMOVE:
            rest = tuple(m for m in self.members if m.raft_id != raft_id)
            return Members(members=rest, removed=(*self.removed, raft_id))
        return self

    def after_all(self, changes: Iterable[MemberChange]) -> "Members":
        members = self
        for change in changes:
            members = members.after(change)
        return members

    def _with(self, member: Member) -> "Members":
        others = (m for m in self.members if m.raft_id != member.raft_id)
        ordered = tuple(sorted((*others, member), key=lambda m: m.raft_id))
        return Members(members=ordered, removed=self.removed)
