"""Why a manager that leaves a swarm has to be forced to: Docker's sentences."""

from typing import TYPE_CHECKING, Final

from swarmlet.core.errors import SwarmStateError, leaving_erases_swarm

if TYPE_CHECKING:
    from swarmlet.store.proposer import GroupHealth

_PARTICIPATES: Final = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
)
_RESTORE: Final = (
    "The only way to restore a swarm that has lost consensus is to reinitialize it with "
    "`--force-new-cluster`. Use `--force` to suppress this message."
)


_DEMOTE: Final = (
    "Demote it first (`swarmlet node demote self`), it leaves as a worker then; with --force it "
    "leaves as a manager, and the others count it no more."
)
_ALONE: Final = (
    "Bring the silent managers back first; with --force this node forgets what it has of the swarm."
)
_WAITS: Final = "`swarmlet info` says what it waits for; --force gives that up."


def leaving_refusal(health: "GroupHealth | None") -> SwarmStateError:
    """`health` None: of a manager that is no member of the Raft group yet, or cannot say."""
    if health is None:
        return _refusal("Doing so may lose the consensus of your swarm. ", _WAITS)
    voters = [one for one in health.members if one.member.is_voter]
    count, reachable = len(voters), sum(one.answers or not one.is_known for one in voters)
    if count <= 1:
        return leaving_erases_swarm()
    remedy = _ALONE if reachable < health.quorum else _DEMOTE
    if reachable - 2 <= count - reachable:  # moby daemon/cluster removingManagerCausesLossOfQuorum
        return _refusal(
            f"Removing this node leaves {reachable - 1} managers out of {count}. Without a Raft "
            "quorum your swarm will be inaccessible. ",
            remedy,
        )
    return _refusal("", remedy)


def _refusal(cause: str, remedy: str) -> SwarmStateError:
    return SwarmStateError(f"{_PARTICIPATES}{cause}{_RESTORE}", remedy)
