"""How a node stands that tasks hang on: not ready, and until when it is waited for."""

from swarmlet.model.node import NODE_STATE_NAMES, Node, NodeState
from swarmlet.model.task import Task
from swarmlet.model.view import View
from swarmlet.reconcile.disconnect import NEVER_MS, leaves_ms, rule_of
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


def on_absent_node(view: View, task: Task, node: Node, now_ms: int) -> Reason:
    """Of a task that should run on a node that is not ready."""
    status = node.status
    code, then, until_ms = _what_then(view, task, node, now_ms)
    return Reason(
        code=code,
        sentence="; ".join(filter(None, (state_sentence(node, now_ms), then))) + ".",
        remedy=f"`swarmlet node why {name_of(node)}`",
        since_ms=status.since_ms,
        until_ms=until_ms,
        node_id=node.id,
        error=status.message,
    )


def _what_then(view: View, task: Task, node: Node, now_ms: int) -> tuple[str, str, int]:
    """A code, what becomes of the task, and when."""
    status, rule, leaves = node.status, rule_of(view, task), leaves_ms(view, task)
    if leaves >= NEVER_MS:
        words = "nothing takes its place until the node is back, drained or removed (never-replace)"
        return "never-replace", words, 0
    if status.state == NodeState.DOWN and leaves > now_ms:
        words = f"it is replaced in {left(leaves, now_ms)}, once its agent has surely stopped it"
        return "stop-after", f"{words} (stop-after {rule.stop_after_s:g} s)", leaves
    if status.state == NodeState.DOWN:
        return "node-down", "a replacement is on its way", 0
    code = "held" if status.held_until_ms else f"node-{NODE_STATE_NAMES[status.state]}"
    words, until_ms = waited_for(node, now_ms), max(status.down_at_ms, status.held_until_ms)
    if leaves > until_ms:
        after = f"it is replaced in {left(leaves, now_ms)} at the earliest"
        words = f"{words}, and {after} (stop-after {rule.stop_after_s:g} s)"
    return code, words, until_ms
