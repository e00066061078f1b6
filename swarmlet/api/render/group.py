"""The Raft group: who is in it, who answers, and what is lost."""

from typing import TYPE_CHECKING

from swarmlet.api.render.common import rfc3339
from swarmlet.api.render.node import reachability
from swarmlet.core.ids import RaftID
from swarmlet.model.base import ApiStruct, always

if TYPE_CHECKING:
    from swarmlet.store.proposer import GroupHealth, MemberHealth


class MemberJson(ApiStruct, frozen=True, kw_only=True):
    """`raft_id` is text: its 63 bits are more than a JSON number keeps everywhere. `silent_since`
    is null of one that answers."""

    raft_id: str = always("")
    node_id: str = always("")
    hostname: str = always("")
    addr: str = always("")
    is_voter: bool = always(True)
    is_leader: bool = always(False)
    reachability: str = always("unknown")
    silent_since: str | None = always(None)


class GroupJson(ApiStruct, frozen=True, kw_only=True):
    """`quorum`: voters that must answer; `answering`: how many do. `lost_since` is null while there
    is a majority; `as_of`: when what this manager knows was sure to be the newest."""

    term: int = always(0)
    applied: int = always(0)
    quorum: int = always(0)
    answering: int = always(0)
    lost_since: str | None = always(None)
    as_of: str | None = always(None)
    members: list[MemberJson] = always([])


def render_group(health: "GroupHealth", term: int, applied: int) -> GroupJson:
    return GroupJson(
        term=term,
        applied=applied,
        quorum=health.quorum,
        answering=health.answering(),
        lost_since=_time(health.lost_since_ms),
        as_of=_time(health.as_of_ms),
        members=[_member(one, health.leader) for one in health.members],
    )


def _member(one: "MemberHealth", leader: RaftID | None) -> MemberJson:
    return MemberJson(
        raft_id=str(one.member.raft_id),
        node_id=one.member.node_id,
        hostname=one.hostname,
        addr=one.member.address,
        is_voter=one.member.is_voter,
        is_leader=one.member.raft_id == leader,
        reachability=reachability(one),
        silent_since=None if one.answers else _time(one.silent_since_ms),
    )


def _time(at_ms: int) -> str | None:
    return rfc3339(at_ms) if at_ms else None
