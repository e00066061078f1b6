"""Which tasks are moved gently: their replacement runs before they stop.

A drain with a plan (`Node.drain`) lets a task run on until another of its slot runs elsewhere, or
until the deadline; one that is moved for balance (`Task.move_ms`) does without a deadline. That is
for tasks that run, of services that may run one more for a moment:

* their on-disconnect is `keep`: the others say that no two of a slot run at once;
* their update order is not stop-first (a service that has no update settings has no order);
* their restart policy grants a successor.

Neither host-mode ports nor a limit of tasks a node stands in the way: the replacement is on another
node by its nature. Where it finds no place for them, or for anything else, the task runs on until
the deadline. Everything else is moved as a plain drain does it: stopped, then started elsewhere.
"""

from swarmlet.model.node import Node, NodeState
from swarmlet.model.on_disconnect import KEEP
from swarmlet.model.service import Service
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.disconnect import NEVER_MS, rule_of
from swarmlet.reconcile.instances import is_bound


def has_plan(node: Node | None) -> bool:
    return node is not None and node.drain is not None and node.spec.availability == "drain"


def is_for_balance(node: Node | None, task: Task) -> bool:
    """Whether nothing but balance wants the task elsewhere."""
    return bool(task.move_ms) and node is not None and node.spec.availability != "drain"


def is_moving(view: View, task: Task) -> bool:
    """Whether the task runs on while its replacement comes, deadline or not: a task of a replicated
    service that runs on a drained node which is not down, or is moved for balance. A task made for
    its node has nowhere to go."""
    node = view.nodes.get(task.node_id)
    if node is None or node.status.state == NodeState.DOWN:
        return False
    if not has_plan(node) and not is_for_balance(node, task):
        return False
    service = view.services.get(task.service_id)
    if service is None or is_bound(spec_of(view, service).mode):
        return False
    return not why_stop_first(view, service, task)


def why_stop_first(view: View, service: Service, task: Task) -> str:
    """Why a task of a replicated service is stopped before its replacement runs; "" if it is
    not."""
    if task.status.state != TaskState.RUNNING:
        return "it does not run"
    if rule_of(view, task) != KEEP:
        return "its on-disconnect says that no two of a slot run at once"
    config = spec_of(view, service).update_config
    if config is not None and config.order == "stop-first":
        return "its update order is stop-first"
    return ""


def deadline_ms(view: View, task: Task) -> int:
    """Until when (wall) it may run on; NEVER_MS where no time is set."""
    node = view.nodes.get(task.node_id)
    plan = None if node is None else node.drain
    return plan.deadline_ms if plan is not None and plan.deadline_ms else NEVER_MS
