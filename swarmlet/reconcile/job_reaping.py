"""Which tasks of a job are history beyond the retention limit, a place at a time.

SwarmKit keeps all of them for ever. Here a place keeps as many as a slot of a service does, of all
its iterations together; what an open iteration is decided by always stays.
"""

from collections.abc import Iterator, Sequence

from swarmlet.model.change import Event
from swarmlet.model.job import open_iterations
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Key
from swarmlet.reconcile.instances import Instance, instance_of, key_of
from swarmlet.reconcile.job_index import Place, is_active
from swarmlet.reconcile.job_run import is_global, tasks_at
from swarmlet.reconcile.restart import ended_ms, has_stopped, policy_of
from swarmlet.reconcile.slots import newest


def surplus_of_job(view: View, service: Service, instance: Instance, limit: int) -> list[Task]:
    """The oldest beyond `limit` (negative: none), of those that may go."""
    spec = spec_of(view, service)
    rows = tasks_at(view, service, _place(spec, instance))
    kept = [task for task in rows if task.desired < TaskState.REMOVE]
    if limit < 0 or len(kept) <= max(1, limit):
        return []
    needed = {task.id for task in _needed(service, spec, kept)}
    old = sorted(
        (t for t in kept if t.id not in needed and has_stopped(t) and not is_active(t)),
        key=lambda t: (ended_ms(t), t.created_ms, t.id),
    )
    return old[: len(kept) - max(1, limit)]


def keys_of_closed(event: Event, view: View) -> Iterator[Key]:
    """The slots with tasks of iterations that this change of a service has closed. O(its tasks)."""
    old, new = event.old, event.new
    assert isinstance(old, Service | None)
    assert isinstance(new, Service | None)
    if old is None or new is None or new.job_status is None:
        return
    closed = {*open_iterations(old)} - {*open_iterations(new)}
    for task in view.tasks.scan("service", new.id) if closed else ():
        if task.job_iteration in closed:
            yield key_of(new.id, instance_of(task))


def _place(spec: ServiceSpec, instance: Instance) -> Place:
    """A task of slot 0 is found by its node as well."""
    return instance.node_id if is_global(spec) else instance.slot


def _needed(service: Service, spec: ServiceSpec, kept: Sequence[Task]) -> Iterator[Task]:
    """Of open iterations: what has ended well, the last one, which says why a place is given up,
    and what counts against a limit of attempts."""
    attempts = policy_of(spec.task_template).max_attempts
    for iteration in open_iterations(service):
        own = [task for task in kept if task.job_iteration == iteration]
        yield from (task for task in own if task.status.state == TaskState.COMPLETE)
        if own:
            yield newest(own)
        if attempts:
            yield from sorted(own, key=lambda t: (t.created_ms, t.id))[-attempts - 1 :]
