"""Liveness: what becomes of a node's status with what is heard of the node, and once its time is
over.

`after` and `down` are the policy, pure; `roll_call` adds what needs more than one node. All times
are ms of one clock that does not jump while it is used.
"""

from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from swarmlet.core.limits import CONDITION_LENGTH_MAX, MS_PER_S
from swarmlet.model.node import NodeState, NodeStatus

LOST_DOWN_AFTER_MS: Final = 3_000  # without a goodbye
FLAPS_MIN: Final = 3  # losses without a goodbye
FLAPS_WINDOW_MS: Final = 10 * 60 * MS_PER_S  # in this time: then a node
FLAPPING_DOWN_AFTER_MS: Final = 30_000  # is waited for as long
FLAPS_KEPT_MAX: Final = 10
RUNTIME_GRACE_MS: Final = 60_000  # for a runtime to come back; a restarted engine needs a few s
UNREGISTERED_GRACE_MS: Final = 10_000  # to try again
NEW_LEADER_GRACE_MS: Final = 10_000  # for agents to find a new leader, or
NEW_LEADER_GRACE_PER_NODE_MS: Final = 5  # this for each, whichever is longer
MANY_HELD_MS: Final = 15_000  # that replacement is held where many were lost at once
ORPHANED_AFTER_MS: Final = 24 * 3_600 * MS_PER_S  # of being down; SwarmKit dispatcher.go

LOST: Final = "the connection to the node was lost"
STOPPED: Final = "the node stopped in order"
HOST_STOPPED: Final = "the node's host was shut down"
LEFT: Final = "the node left in order"
AWAITED: Final = "a new leader waits for the node to register"


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """It opened a session. `problem`: why its runtime can run nothing, or ""."""

    addr: str
    problem: str = ""


class Unregistered(msgspec.Struct, frozen=True, kw_only=True):
    """It came, but its registration could not be written: it may try again."""


class SaidGoodbye(msgspec.Struct, frozen=True, kw_only=True):
    """It stopped in order. `back_in_s`: what it named, 0 for good."""

    back_in_s: float
    is_host_stopping: bool = False


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Its session ended without a goodbye: closed, silent by the kernel's timeout, or without a
    heartbeat. `heard_ms`: when it was last heard of."""

    heard_ms: int


class Troubled(msgspec.Struct, frozen=True, kw_only=True):
    """It has a session, but its runtime can run nothing."""

    problem: str


class Healed(msgspec.Struct, frozen=True, kw_only=True):
    """Its runtime is back."""


Fact: TypeAlias = Registered | Unregistered | SaidGoodbye | Lost | Troubled | Healed


def after(status: NodeStatus, fact: Fact, now_ms: int) -> NodeStatus:
    """The node's status once `fact` is known. A node that is down leaves that only by a session
    with a runtime that works."""
    match fact:
        case Registered():
            return _registered(status, fact, now_ms)
        case Unregistered():
            return _unregistered(status, now_ms)
        case SaidGoodbye():
            return _stopped(status, fact, now_ms)
        case Lost(heard_ms=heard_ms):
            return _lost(status, heard_ms, now_ms)
        case Troubled(problem=problem):
            return _troubled(status, problem, now_ms)
        case Healed():
            return _ready(status, now_ms)


def down(status: NodeStatus, now_ms: int) -> NodeStatus:
    """The same node once its time is over."""
    message = status.message
    if status.state == NodeState.UNKNOWN:
        message = "the node did not register with the new leader"
    elif message.startswith(STOPPED):
        message = "the node did not come back in the time it named"
    elif message.startswith(LOST):
        message = "heartbeat failure"
    turned = _turned(status, NodeState.DOWN, message, now_ms)
    return replace(turned, held_until_ms=status.held_until_ms)


def losses(status: NodeStatus, now_ms: int) -> tuple[int, ...]:
    """When the node was lost without a goodbye in the last ten minutes; a clock that was set since
    counts for none."""
    recent = (at_ms for at_ms in status.lost_ms if now_ms - FLAPS_WINDOW_MS < at_ms <= now_ms)
    return tuple(recent)[-FLAPS_KEPT_MAX:]


def with_loss(status: NodeStatus, now_ms: int) -> NodeStatus:
    """The same, lost once more."""
    return replace(status, lost_ms=(*losses(status, now_ms), now_ms)[-FLAPS_KEPT_MAX:])


def grace_ms(nodes: int) -> int:
    """How long a new leader waits for its nodes."""
    return max(NEW_LEADER_GRACE_MS, NEW_LEADER_GRACE_PER_NODE_MS * nodes)


def _turned(
    status: NodeStatus,
    state: NodeState,
    message: str,
    now_ms: int,
    *,
    down_at_ms: int = 0,
    heard_ms: int | None = None,
) -> NodeStatus:
    is_same = status.state == state and status.since_ms
    return NodeStatus(
        state=int(state),
        message=message[:CONDITION_LENGTH_MAX],
        addr=status.addr,
        since_ms=status.since_ms if is_same else now_ms,
        heard_ms=status.heard_ms if heard_ms is None else heard_ms,
        down_at_ms=down_at_ms,
        held_until_ms=status.held_until_ms if is_same and state == NodeState.DOWN else 0,
        lost_ms=losses(status, now_ms),
    )


def _registered(status: NodeStatus, fact: Registered, now_ms: int) -> NodeStatus:
    if fact.problem:
        return replace(_troubled(status, fact.problem, now_ms), addr=fact.addr)
    return replace(_ready(status, now_ms), addr=fact.addr)


def _ready(status: NodeStatus, now_ms: int) -> NodeStatus:
    times, message = len(losses(status, now_ms)), ""
    if times >= FLAPS_MIN:
        message = f"lost {times} times within ten minutes: {_WAITED_LONGER}"
    return _turned(status, NodeState.READY, message, now_ms, heard_ms=0)


_WAITED_LONGER: Final = (
    f"the next time it counts as down only after {FLAPPING_DOWN_AFTER_MS // MS_PER_S} s"
)


def _stopped(status: NodeStatus, goodbye: SaidGoodbye, now_ms: int) -> NodeStatus:
    if goodbye.is_host_stopping:
        message = HOST_STOPPED
    elif goodbye.back_in_s <= 0:
        message = LEFT
    elif status.state == NodeState.DOWN:
        message = STOPPED
    else:
        message = f"{STOPPED} and is expected back within {goodbye.back_in_s:g} s"
        down_at_ms = now_ms + round(goodbye.back_in_s * MS_PER_S)
        return _turned(
            status,
            NodeState.DISCONNECTED,
            message,
            now_ms,
            down_at_ms=down_at_ms,
            heard_ms=now_ms,
        )
    return _turned(status, NodeState.DOWN, message, now_ms, heard_ms=now_ms)


def _lost(status: NodeStatus, heard_ms: int, now_ms: int) -> NodeStatus:
    """One whose runtime was away already is not waited for longer than for that."""
    if status.state == NodeState.DOWN:
        return _turned(status, NodeState.DOWN, LOST, now_ms, heard_ms=heard_ms)
    lost_ms = with_loss(status, now_ms).lost_ms
    message, down_at_ms = LOST, now_ms + LOST_DOWN_AFTER_MS
    if len(lost_ms) >= FLAPS_MIN:
        message = (
            f"{LOST}, {len(lost_ms)} times within ten minutes: it counts as down only after "
            f"{FLAPPING_DOWN_AFTER_MS // MS_PER_S} s"
        )
        down_at_ms = now_ms + FLAPPING_DOWN_AFTER_MS
    if status.state == NodeState.DISCONNECTED and status.down_at_ms:
        down_at_ms = max(now_ms, min(down_at_ms, status.down_at_ms))
    turned = _turned(
        status,
        NodeState.DISCONNECTED,
        message,
        now_ms,
        down_at_ms=down_at_ms,
        heard_ms=heard_ms,
    )
    return replace(turned, lost_ms=lost_ms)


def _troubled(status: NodeStatus, problem: str, now_ms: int) -> NodeStatus:
    """No new tasks, and its own run elsewhere after a grace that neither another problem nor
    another session renews."""
    if status.state == NodeState.DOWN:
        return _turned(status, NodeState.DOWN, problem, now_ms, heard_ms=now_ms)
    down_at_ms = now_ms + RUNTIME_GRACE_MS
    if status.state == NodeState.DISCONNECTED and status.down_at_ms:
        begun_ms = min(status.since_ms, now_ms)
        down_at_ms = max(begun_ms + RUNTIME_GRACE_MS, min(status.down_at_ms, down_at_ms))
    return _turned(
        status,
        NodeState.DISCONNECTED,
        problem,
        now_ms,
        down_at_ms=down_at_ms,
        heard_ms=now_ms,
    )


def _unregistered(status: NodeStatus, now_ms: int) -> NodeStatus:
    if status.state == NodeState.DOWN:
        return status
    return _turned(
        status,
        NodeState.DISCONNECTED,
        "the node could not be registered",
        now_ms,
        down_at_ms=now_ms + UNREGISTERED_GRACE_MS,
        heard_ms=now_ms,
    )


def held(status: NodeStatus, until_ms: int, lost: int, of: int, now_ms: int) -> NodeStatus:
    """The node stays what it is until then: many were lost at once, and it may be the network."""
    message = LOST if status.state == NodeState.UNKNOWN else status.message
    turned = _turned(
        status,
        NodeState.DISCONNECTED,
        f"{message}; {lost} of {of} nodes were lost at once: replacement is held for "
        f"{MANY_HELD_MS // MS_PER_S} s, then goes on a few at a time",
        now_ms,
        down_at_ms=max(status.down_at_ms, until_ms),
    )
    return replace(turned, held_until_ms=until_ms)


def awaited(status: NodeStatus, now_ms: int, nodes: int) -> NodeStatus:
    """What a new leader makes of a status another left: everyone has time to find it, also where
    its clock is another one. Whoever was waited for is not waited for much longer."""
    state, grace = status.state, grace_ms(nodes)
    if state == NodeState.DOWN:
        is_known = 0 < status.since_ms <= now_ms
        return status if is_known else replace(status, since_ms=now_ms)
    if state != NodeState.DISCONNECTED:
        turned = _turned(status, NodeState.UNKNOWN, AWAITED, now_ms, down_at_ms=now_ms + grace)
        return replace(turned, since_ms=now_ms)
    span_ms = max(grace, status.down_at_ms - status.since_ms)
    left_ms = min(max(grace, status.down_at_ms - now_ms), span_ms)
    held_ms = min(max(0, status.held_until_ms - now_ms), MANY_HELD_MS)
    down_at_ms = now_ms + max(left_ms, held_ms)
    return replace(
        status,
        since_ms=min(max(status.since_ms, down_at_ms - span_ms), now_ms),  # no leader waits longer
        down_at_ms=down_at_ms,
        held_until_ms=now_ms + held_ms if status.held_until_ms else 0,
    )


def is_loss(status: NodeStatus) -> bool:
    """Whether the node went without a goodbye."""
    return status.state == NodeState.UNKNOWN or status.message.startswith(LOST)


def alarm_ms(status: NodeStatus) -> int | None:
    """When time alone changes it."""
    if status.state == NodeState.DOWN:
        return status.since_ms + ORPHANED_AFTER_MS if status.since_ms else None
    if status.state == NodeState.READY:
        is_shown = status.message and len(status.lost_ms) >= FLAPS_MIN
        return status.lost_ms[-FLAPS_MIN] + FLAPS_WINDOW_MS if is_shown else None
    return status.down_at_ms or None


def shifted(status: NodeStatus, by_ms: int) -> NodeStatus:
    """The same on a clock that was set by so much."""

    def moved(at_ms: int) -> int:
        return max(1, at_ms + by_ms) if at_ms else 0

    return replace(
        status,
        since_ms=moved(status.since_ms),
        heard_ms=moved(status.heard_ms),
        down_at_ms=moved(status.down_at_ms),
        held_until_ms=moved(status.held_until_ms),
        lost_ms=tuple(map(moved, status.lost_ms)),
    )
