"""How a node stands that tasks hang on: not ready, and until when it is waited for."""

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import MS_PER_S
from swarmlet.model.node import NODE_STATE_NAMES, Node, NodeState
from swarmlet.model.on_disconnect import KEEP, OnDisconnect, on_disconnect_of
from swarmlet.model.service import ServiceSpec
from swarmlet.reconcile.liveness import FLAPS_MIN, losses
from swarmlet.reconcile.why.answers import Reason
from swarmlet.reconcile.why.words import left, name_of, span


def state_sentence(node: Node, now_ms: int) -> str:
    """w2 is disconnected for 12 s (the connection was lost), last heard of 14 s ago."""
    status = node.status
    text = f"{name_of(node)} {_IS[status.state]}"
    if status.since_ms:
        text += f" for {span(now_ms - status.since_ms)}"
    if status.message:
        text += f" ({status.message})"
    if status.heard_ms and status.state != NodeState.READY:
        text += f", last heard of {span(now_ms - status.heard_ms)} ago"
    return text


_IS = {
    int(NodeState.UNKNOWN): "has not been heard of by this leader",
    int(NodeState.DOWN): "is down",
    int(NodeState.READY): "is ready",
    int(NodeState.DISCONNECTED): "is disconnected",
}


def waited_for(node: Node, now_ms: int) -> str:
    """Until when a node that is not ready is waited for; "" of one that is down or ready."""
    status = node.status
    if status.state not in (NodeState.UNKNOWN, NodeState.DISCONNECTED):
        return ""
    if status.held_until_ms > now_ms:
        return (
            f"it is held for {left(status.held_until_ms, now_ms)} more because many nodes were "
            "lost at once"
        )
    if status.held_until_ms:
        return (
            "many nodes were lost at once: they count as down a few at a time, unless back before"
        )
    if status.down_at_ms > now_ms:
        return f"it counts as down in {left(status.down_at_ms, now_ms)} unless it is back before"
    return "it counts as down any moment now, unless it is back before" if status.down_at_ms else ""


def is_flapping(node: Node, now_ms: int) -> bool:
    """Whether it was lost so often lately that it is waited for longer."""
    return len(losses(node.status, now_ms)) >= FLAPS_MIN


def policy_of(spec: ServiceSpec) -> OnDisconnect:
    """The service's way on a disconnect; a label of an older program that says none is none."""
    try:
        return on_disconnect_of(spec)
    except InvalidArgumentError:
        return KEEP


def on_absent_node(node: Node, spec: ServiceSpec, now_ms: int) -> Reason:
    """Of a task that should run on a node that is not ready."""
    status, policy = node.status, policy_of(spec)
    state = NODE_STATE_NAMES[status.state]
    until_ms = max(status.down_at_ms, status.held_until_ms)
    if policy.never_replace:
        then = "nobody takes its place until the node is back, drained or removed (never-replace)"
        code, until_ms = "never-replace", 0
    elif policy.stop_after_s and status.state == NodeState.DOWN:
        then = _stop_after_words(policy)
        code, until_ms = "stop-after", _stopped_ms(node, policy)
    elif status.state == NodeState.DOWN:
        then, code = "a replacement is on its way", "node-down"
    else:
        code = "held" if status.held_until_ms else f"node-{state}"
        then = waited_for(node, now_ms)
        if policy.stop_after_s:
            then = f"{then}, and {_stop_after_words(policy)}" if then else _stop_after_words(policy)
    return Reason(
        code=code,
        sentence="; ".join(filter(None, (state_sentence(node, now_ms), then))) + ".",
        remedy=f"`swarmlet node why {name_of(node)}`",
        since_ms=status.since_ms,
        until_ms=until_ms,
        node_id=node.id,
        error=status.message,
    )


def _stop_after_words(policy: OnDisconnect) -> str:
    after = span(round(policy.stop_after_s * MS_PER_S))
    return f"its node stops it {after} after losing the managers, and it is replaced no earlier"


def _stopped_ms(node: Node, policy: OnDisconnect) -> int:
    lost_ms = node.status.heard_ms or node.status.since_ms
    return lost_ms + round(policy.stop_after_s * MS_PER_S) if lost_ms else 0
