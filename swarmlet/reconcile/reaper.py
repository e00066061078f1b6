"""The reaper: removes tasks that are done with, old history, and spec versions nobody refers to.

SwarmKit's task reaper (manager/orchestrator/taskreaper), a slot at a time and without its timer;
of a global service a node at a time. Keys: ("slot", service id, number), ("node", service id, node
id) and ("specs", service id).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from swarmlet.core.limits import ENTRY_CHANGES_MAX, MS_PER_S, TASK_HISTORY_RETENTION
from swarmlet.model.change import Event, Remove
from swarmlet.model.cluster import Cluster
from swarmlet.model.job import is_job
from swarmlet.model.revision import kept_from, versions_of
from swarmlet.model.service import Service, SpecVersion, spec_version_id
from swarmlet.model.task import Task, TaskState
from swarmlet.model.update_status import is_updating
from swarmlet.model.view import View, cluster_of, spec_of
from swarmlet.reconcile.base import REST, Decision, Key, Moment
from swarmlet.reconcile.instances import Instance, instance_in, instance_of, key_of, rows_of
from swarmlet.reconcile.job_reaping import keys_of_closed, surplus_of_job
from swarmlet.reconcile.restart import ended_ms, policy_of
from swarmlet.reconcile.slots import newest

SPEC_GRACE_MS: Final = 60 * MS_PER_S
"""A spec version stays this long after the service's last change: longer than any proposal is under
way (PROPOSAL_TIMEOUT_S), so a task decided upon before that change still finds its spec."""


class ReaperDecider:
    """Removes task and spec version rows; writes nothing else. Keeps no index."""

    name: Final = "reaper"
    tables: Final = frozenset({Task, Service, Cluster})

    def start(self, view: View) -> Iterator[Key]:
        for service in view.services.all():
            yield "specs", service.id
        for spec in view.specs.all():
            yield "specs", spec.service_id
        for task in view.tasks.all():
            yield _slot_key(task)

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """A task that came, stopped or is to be removed: its slot. A service's change, the end of a
        version's last task: its specs. A new retention limit: all slots. The end of an update: the
        slots it tried; of a job's iteration: those it had."""
        if event.table is Task:
            return _keys_of_task(event, view)
        if event.table is Service:
            ended = (*_ended_update(event, view), *keys_of_closed(event, view))
            return [("specs", event.id), *ended]
        if event.table is Cluster and _limit(event.old) != _limit(event.new):
            return _all_slots(view)
        return ()

    def decide(self, view: View, key: Key, moment: Moment) -> Decision:
        if key[0] == "specs":
            return _reap_specs(view, key[1], moment)
        return _reap_slot(view, key[1], instance_in(key))


def _limit(row: object) -> int:
    """Tasks kept a slot, by a cluster's row; negative: all."""
    given = None
    if isinstance(row, Cluster):
        given = row.spec.orchestration.task_history_retention_limit
    return TASK_HISTORY_RETENTION if given is None else given


def _all_slots(view: View) -> dict[Key, None]:
    return {_slot_key(task): None for task in view.tasks.all()}


def _slot_key(task: Task) -> Key:
    return key_of(task.service_id, instance_of(task))


def _keys_of_task(event: Event, view: View) -> Iterator[Key]:
    old, new = event.old, event.new
    assert isinstance(old, Task | None)
    assert isinstance(new, Task | None)
    if new is None:
        assert old is not None
        if not view.tasks.count("spec", spec_version_id(old.service_id, old.spec_version)):
            yield "specs", old.service_id
    elif old is None or old.desired != new.desired or _is_idle(old) != _is_idle(new):
        yield _slot_key(new)


def _ended_update(event: Event, view: View) -> Iterator[Key]:
    old, new = event.old, event.new
    assert isinstance(old, Service | None)
    assert isinstance(new, Service | None)
    if old is None or new is None or not is_updating(old):
        return
    if is_updating(new) and old.spec_version == new.spec_version:  # else it was turned back
        return
    for task in view.tasks.scan("spec", spec_version_id(old.id, old.spec_version)):
        if task.updated_from:
            yield _slot_key(task)


def _is_idle(task: Task) -> bool:
    """Whether no node has anything to do for the task: never assigned, or ended."""
    return task.status.state < TaskState.ASSIGNED or task.status.state >= TaskState.COMPLETE


def _reap_slot(view: View, service_id: str, slot: Instance) -> Decision:
    service = view.services.get(service_id)
    tasks = list(rows_of(view, service_id, slot))
    leaving = [t for t in tasks if service is None or t.desired >= TaskState.REMOVE]
    doomed = [task for task in leaving if _is_idle(task)]
    if service is not None and is_job(spec_of(view, service).mode):
        doomed += surplus_of_job(view, service, slot, _limit(cluster_of(view)))
    elif service is not None:
        doomed += _history(view, service, [t for t in tasks if t.desired < TaskState.REMOVE])
    return _removal(doomed)


def _history(view: View, service: Service, tasks: Sequence[Task]) -> list[Task]:
    """The oldest tasks of a slot beyond the retention limit. The newest always stays: it tells why
    a slot that is not restarted counts as done. While an update runs its own tasks stay too: they
    tell what was tried and what failed."""
    retention = _retention(view, service)
    if retention < 0 or len(tasks) <= max(1, retention):
        return []
    last = newest(tasks)
    old = sorted(
        (t for t in tasks if t is not last and _is_history(t) and not _is_needed(service, t)),
        key=lambda t: (ended_ms(t), t.created_ms, t.id),
    )
    return old[: len(tasks) - max(1, retention)]


def _is_history(task: Task) -> bool:
    """Whether a task has ended, or will never run."""
    if task.status.state < TaskState.ASSIGNED:
        return task.desired > TaskState.RUNNING
    return task.status.state >= TaskState.COMPLETE and task.desired > TaskState.RUNNING


def _is_needed(service: Service, task: Task) -> bool:
    is_own = task.updated_from != 0 and task.spec_version == service.spec_version
    return is_own and is_updating(service)


def _retention(view: View, service: Service) -> int:
    """The cluster's limit; one more than max_attempts where the service has that, because the
    attempts made are counted from the tasks that are kept."""
    attempts = policy_of(spec_of(view, service).task_template).max_attempts
    return attempts + 1 if attempts else _limit(cluster_of(view))


def _reap_specs(view: View, service_id: str, moment: Moment) -> Decision:
    service = view.services.get(service_id)
    unused = _unused_specs(view, service_id, service)
    if not unused:
        return REST
    if service is not None and moment.now_ms < service.updated_ms + SPEC_GRACE_MS:
        return Decision(wake_at_ms=service.updated_ms + SPEC_GRACE_MS)
    return _removal(unused)


def _unused_specs(view: View, service_id: str, service: Service | None) -> list[SpecVersion]:
    """Those that nobody refers to, beside the last REVISIONS_KEPT of a service that is there."""
    versions = versions_of(view, service_id)
    if not versions:
        return []
    used: tuple[int, ...] = ()
    if service is not None:
        used = (service.spec_version, service.previous_spec_version)
        versions = [spec for spec in versions if spec.number < kept_from(versions)]
    return [
        spec
        for spec in versions
        if spec.number not in used and not view.tasks.count("spec", spec.id)
    ]


def _removal(rows: Iterable[Task | SpecVersion]) -> Decision:
    ordered = sorted(rows, key=lambda row: row.id)
    changes = tuple(
        Remove(table=type(row), id=row.id, seen=row.version)
        for row in islice(ordered, ENTRY_CHANGES_MAX)
    )
    return Decision(changes=changes, has_more=len(ordered) > len(changes))
