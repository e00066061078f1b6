"""The managers of a swarm, for people: who leads, who answers, and what is lost."""

from typing import Final

from swarmlet.cli.client import Object
from swarmlet.cli.format import ago, epoch_s, human_duration

_SMALL: Final = 1  # seconds: what a manager hears of the others is that old while all is well


def group_lines(group: Object, own_id: str, now_s: float) -> list[str]:
    """Lines of `info`, from `/swarmlet/v1/members`."""
    members = sorted(group.get("Members") or [], key=lambda one: (one["Addr"], one["RaftID"]))
    voters = sum(one["IsVoter"] for one in members)
    lines = [
        " Raft Group:",
        f"  Term: {group.get('Term', 0)}",
        f"  Applied Index: {group.get('Applied', 0)}",
        f"  Quorum: {group.get('Quorum', 0)} of {voters}, {group.get('Answering', 0)} answer",
    ]
    if group.get("LostSince"):
        lines.append(f"  Without A Leader Since: {ago(group['LostSince'], now_s)}")
    if stale := _stale(group, now_s):
        lines.append(f"  State As Of: {stale}")
    rows = [(one["Addr"], one["Hostname"], one["NodeID"]) for one in members]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for one, row in zip(members, rows, strict=True):
        cells = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {cells}  {member_state(one, own_id, now_s)}")
    return lines


def member_state(member: Object, own_id: str, now_s: float) -> str:
    """leader, reachable, `unreachable, silent for 12 seconds`, catching up."""
    words = "leader" if member["IsLeader"] else member["Reachability"]
    if not member["IsVoter"]:
        words = "catching up"
    if member.get("SilentSince") and member["Reachability"] == "unreachable":
        silent_s = now_s - epoch_s(member["SilentSince"])
        words += f", silent for {human_duration(silent_s).lower()}"
    return f"{words}, this node" if member["NodeID"] == own_id else words


def _stale(group: Object, now_s: float) -> str:
    as_of = group.get("AsOf") or ""
    return ago(as_of, now_s) if as_of and now_s - epoch_s(as_of) > _SMALL else ""
