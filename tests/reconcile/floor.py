"""How few tasks of a service may run because of the swarm itself, judged entry by entry: whoever
stops a task that runs well has another of its place running, or is an update that stops first and
keeps to its parallelism, or a user who said so (a drain, a scale-down, a removal)."""

from collections.abc import Iterable, Iterator

from swarmlet.model.change import Event
from swarmlet.model.node import Node, NodeState
from swarmlet.model.on_disconnect import KEEP
from swarmlet.model.service import Service, UpdateConfig
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.disconnect import rule_of
from swarmlet.reconcile.eligibility import Standing, standing_of
from swarmlet.reconcile.instances import instance_of, rows_of
from swarmlet.reconcile.restart import is_node_lost
from swarmlet.reconcile.slots import is_wanted, replicas_of

RUNNING = TaskState.RUNNING
ENDED = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED, TaskState.ORPHANED)


class Floor:
    """`wrongs` is what should not have been."""

    def __init__(self) -> None:
        self.wrongs: list[str] = []
        self.stops = 0  # that were judged
        self._out: dict[str, dict] = {}  # by service: places without a task for an update's sake

    def judge(self, view: View, events: Iterable[Event]) -> None:
        """`view` is as the entry left it."""
        for event in events:
            old, new = event.old, event.new
            if isinstance(old, Task) and isinstance(new, Task):
                self._judge_task(view, old, new)

    def _judge_task(self, view: View, old: Task, new: Task) -> None:
        service = view.services.get(new.service_id)
        if service is None or not _is_judged(view, service):
            self._out.pop(new.service_id, None)
            return
        self._close(view, service)
        if old.desired <= RUNNING < new.desired and is_node_lost(view.nodes.get(new.node_id)):
            self._out.get(service.id, {}).pop(instance_of(new), None)  # gone for another reason
        if _is_told_to_stop(old, new) and not _is_asked_for(view, service, new):
            self.stops += 1
            if not any(_is_up(view, one) for one in _wanted(view, new)):
                self._stopped(view, service, new)

    def _stopped(self, view: View, service: Service, task: Task) -> None:
        place = instance_of(task)
        what = f"{service.name} {place}: {task.id}"
        spec = spec_of(view, service)
        order = (spec.update_config or UpdateConfig()).order
        is_updated = any(one.updated_from for one in _wanted(view, task))
        if task.move_ms and not is_updated:
            if order != "stop-first" and rule_of(view, task) == KEEP:
                self.wrongs.append(f"{what} was moved before another ran")
            return
        config = _config_of(view, service)
        if config.order == "start-first":
            self.wrongs.append(f"{what} was stopped before another ran")
            return
        out = self._out.setdefault(service.id, {})
        out[place] = task.id
        if config.parallelism and len(out) > config.parallelism:
            self.wrongs.append(f"{what} was stopped with {list(out.values())} gone")

    def _close(self, view: View, service: Service) -> None:
        """Forget the places that are up again, are closed, or are without a task for other
        reasons."""
        out = self._out.get(service.id, {})
        for place in list(out):
            rows = list(rows_of(view, service.id, place))
            wanted = [one for one in rows if is_wanted(one)]
            fell = [one for one in rows if one.replaces and one.status.state in ENDED]
            lost = [one for one in wanted if _is_lost(view, one) or _is_out(view, service, one)]
            if not wanted or fell or lost or any(_is_up(view, one) for one in wanted):
                del out[place]


def _is_judged(view: View, service: Service) -> bool:
    spec = spec_of(view, service)
    return replicas_of(spec) is not None or spec.mode.global_ is not None


def _config_of(view: View, service: Service) -> UpdateConfig:
    spec, status = spec_of(view, service), service.update_status
    is_back = status is not None and status.state.startswith("rollback")
    given = spec.rollback_config if is_back else spec.update_config
    return given or UpdateConfig(parallelism=1)


def _is_told_to_stop(old: Task, new: Task) -> bool:
    """Something that ran, and was wanted to, is to stop; it has not ended by itself."""
    return old.desired <= RUNNING < new.desired and old.status.state == RUNNING == new.status.state


def _is_asked_for(view: View, service: Service, task: Task) -> bool:
    """By a user: its place is closed, or its node is to be empty, or is not there."""
    if task.desired >= TaskState.REMOVE:
        return True
    node = view.nodes.get(task.node_id)
    spec = spec_of(view, service)
    is_global = spec.mode.global_ is not None
    if is_global and standing_of(node, spec) not in (Standing.OPEN, Standing.PAUSED):
        return True
    if node is None or not is_node_lost(node):
        return False
    return not _is_gently_drained(view, service, task, node)


def _is_gently_drained(view: View, service: Service, task: Task, node: Node) -> bool:
    """Whether the drain promises that another runs first."""
    if node.status.state == NodeState.DOWN or node.drain is None or node.drain.deadline_ms:
        return False
    order = (spec_of(view, service).update_config or UpdateConfig()).order
    return order != "stop-first" and rule_of(view, task) == KEEP


def _wanted(view: View, task: Task) -> Iterator[Task]:
    for one in rows_of(view, task.service_id, instance_of(task)):
        if one.id != task.id and is_wanted(one):
            yield one


def _is_out(view: View, service: Service, task: Task) -> bool:
    """On a node where a user wants it no more, or nothing for the moment."""
    node, spec = view.nodes.get(task.node_id), spec_of(view, service)
    if spec.mode.global_ is not None:
        return standing_of(node, spec) is not Standing.OPEN
    return bool(task.node_id) and is_node_lost(node)


def _is_up(view: View, task: Task) -> bool:
    return is_wanted(task) and task.status.state == RUNNING and not _is_lost(view, task)


def _is_lost(view: View, task: Task) -> bool:
    node = view.nodes.get(task.node_id)
    return bool(task.node_id) and (node is None or node.status.state == NodeState.DOWN)
