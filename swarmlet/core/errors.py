"""The one tree of operating errors; programmer errors are assertions.

    SwarmError
      InvalidArgumentError   400  the request is wrong; sending it again will not help
      FailedPreconditionError 400 the request is right, the cluster's state forbids it
      UnauthorizedError      401  a key or token does not match
      ForbiddenError         403  the caller may not do this
        NodeRemovedError          the swarm does not have its node any more
      NotFoundError          404  no such object
      ConflictError          409  the name or the place is taken
      StaleVersionError      500  somebody wrote first (Docker's status and words for it)
      UnsupportedError       501  not built, or not here; nothing was stored
      UnavailableError       503  not now: no swarm, no leader, locked, not ready
        NotManagerError           this daemon is no manager of a swarm
        SwarmStateError           init, join or leave against the daemon's present state
        NotLeaderError            another member leads (or none)
        QuorumLostError           too few managers answer
        LockedError               the unlock key is needed first
        MemberRefusedError        the group does not have this member any more
        OutcomeUnknownError       proposed, but nobody can say whether it was committed
      DiskFullError          507  the disk has no room; nothing was changed
      UnknownValueError      500  a filter's or option's value nobody knows (Docker's status)
      ListenError            500  the daemon's socket cannot be opened
    DamagedError             500  what is on disk cannot be trusted; the daemon refuses to start on
    it

`code` is for programs, `http_status` for the API, `remedy` tells a person what to try.
Status codes and texts are the Docker Engine API's.
"""

from typing import ClassVar, Final, TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def first_of(group: BaseExceptionGroup[_Error]) -> _Error:
    """The error that came first: the others of a task group are what it cancelled."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


class SwarmError(Exception):
    """What happened and why, in one sentence; `remedy` says what to try, or is empty."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InvalidArgumentError(SwarmError):
    code, http_status = "invalid-argument", 400


class FailedPreconditionError(SwarmError):
    code, http_status = "failed-precondition", 400


class UnauthorizedError(SwarmError):
    code, http_status = "unauthorized", 401


class ForbiddenError(SwarmError):
    code, http_status = "forbidden", 403


class NodeRemovedError(ForbiddenError):
    """The swarm does not have this node any more."""

    code = "node-removed"


_LISTED: Final = ("node", "service", "secret", "config")  # what `swarmlet ... ls` lists


class NotFoundError(SwarmError):
    code, http_status = "not-found", 404

    def __init__(self, kind: str, name: str, remedy: str = "") -> None:
        if not remedy and kind in _LISTED:
            remedy = f"`swarmlet {kind} ls` lists what there is."
        elif not remedy and kind == "task":
            remedy = "`swarmlet service ps SERVICE` lists a service's tasks."
        super().__init__(f"{kind} {name} not found", remedy)


class ConflictError(SwarmError):
    code, http_status = "conflict", 409


class StaleVersionError(SwarmError):
    code, http_status = "out-of-sequence", 500

    def __init__(self, what: str = "") -> None:
        super().__init__(
            "rpc error: code = Unknown desc = update out of sequence",
            remedy=f"Somebody changed {what or 'the object'} meanwhile: read it again and repeat.",
        )


class UnsupportedError(SwarmError):
    code, http_status = "unsupported", 501


class UnavailableError(SwarmError):
    code, http_status = "unavailable", 503


class NotManagerError(UnavailableError):
    code = "not-a-manager"


class SwarmStateError(UnavailableError):
    code = "swarm-state"


class NotLeaderError(UnavailableError):
    """`managers` (host:port) may be asked instead."""

    code = "not-leader"

    def __init__(self, message: str, remedy: str = "", managers: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy)
        self.managers = managers


class QuorumLostError(UnavailableError):
    """Too few managers answer for anything that needs a majority."""

    code = "quorum-lost"


class LockedError(NotManagerError):
    """This manager's data are sealed by the unlock key, which it does not have."""

    code = "locked"


class MemberRefusedError(UnavailableError):
    """The other managers refuse this one as a member: `reason` is "removed", "rolled-back" (it has
    forgotten what it acknowledged) or "cloned" (another runs under its identity)."""

    code = "member-refused"

    def __init__(self, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.reason = reason


class OutcomeUnknownError(UnavailableError):
    """The change may or may not be committed; a retry with the same proposal id applies once."""

    code = "outcome-unknown"


class DiskFullError(SwarmError):
    code, http_status = "disk-full", 507


class DamagedError(SwarmError):
    code, http_status = "damaged", 500


class UnknownValueError(SwarmError):
    code, http_status = "unknown-value", 500


class ListenError(SwarmError):
    code, http_status = "listen", 500


# Docker's sentences for the states of a swarm: tools compare them.


def not_in_swarm() -> NotManagerError:
    return NotManagerError(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
        "to connect this node to swarm and try again.",
        remedy="Start a swarm here with `swarmlet init`, or join one with `swarmlet join`.",
    )


def not_manager_worker() -> NotManagerError:
    return NotManagerError(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster "
        "state. Please run this command on a manager node or promote the current node to a "
        "manager.",
        remedy="`swarmlet info` lists the managers this node knows.",
    )


def certificates_expired() -> NotManagerError:
    return NotManagerError(
        "Swarm certificates have expired. To replace them, leave the swarm and join again.",
        remedy="Leave with `swarmlet leave --force`, then join with a token of the swarm.",
    )


def removed_here(refusal: str) -> NotManagerError:
    """On the removed node itself; `refusal`: what it was told by `node_removed`."""
    return NotManagerError(
        f"This node is not a swarm manager. {refusal}",
        remedy="Let it leave here (`swarmlet leave --force`) and join again with a token.",
    )


def manager_not_ready() -> NotManagerError:
    return NotManagerError(
        "This node is not a swarm manager. Manager is being prepared or has trouble connecting to "
        "the cluster.",
        remedy="Try again in a moment; the daemon's log says what it waits for.",
    )


def swarm_locked() -> LockedError:
    return LockedError(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use "
        '"docker swarm unlock" to unlock it.',
        remedy="`swarmlet unlock` asks for the key; `swarmlet unlock-key` shows it at another "
        "manager.",
    )


def leaving_locked() -> SwarmStateError:
    """`leave` without force on a locked manager."""
    return SwarmStateError(
        "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this "
        "message.",
        remedy="`swarmlet unlock` asks for the key; --force forgets the swarm here, key or no key.",
    )


def already_in_swarm() -> SwarmStateError:
    return SwarmStateError(
        'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and '
        "join another one.",
        remedy="Leave it first: `swarmlet leave`, with --force on the last manager.",
    )


def node_removed(node_id: str) -> NodeRemovedError:
    """Its certificate counts for nothing any more."""
    return NodeRemovedError(
        f"Node {node_id} is not part of this swarm: it was removed.",
        remedy="Let it leave there (`swarmlet leave --force`) and join again with a token.",
    )


def join_takes_longer(cause: str) -> SwarmStateError:
    """`cause`: why, as far as that is known."""
    so_far = f" So far: {cause}" if cause else ""
    return SwarmStateError(
        "Timeout was reached before node joined. The attempt to join the swarm will continue in "
        'the background. Use the "docker info" command to see the current swarm status of your '
        f"node.{so_far}",
        remedy="`swarmlet info` shows how it went; `swarmlet leave` gives it up.",
    )


def not_part_of_swarm() -> SwarmStateError:
    return SwarmStateError("This node is not part of a swarm")


def leaving_erases_swarm() -> SwarmStateError:
    """`leave` without force on the only manager; the blank at the end is Docker's."""
    return SwarmStateError(
        "You are attempting to leave the swarm on a node that is participating as a manager. "
        "Removing the last manager erases all current state of the swarm. Use `--force` to ignore "
        "this message. ",
    )
