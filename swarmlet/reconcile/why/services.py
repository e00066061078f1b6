"""Why a service is as it is: what holds for all of it, then its tasks that do not run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from swarmlet.model.job import is_job
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.slots import is_wanted, newest, replicas_of
from swarmlet.reconcile.why.answers import Groups, Reason, ServiceWhy, Verdict, service_answer
from swarmlet.reconcile.why.everywhere import Reach, reach_of, reach_reasons
from swarmlet.reconcile.why.jobs import explain_job
from swarmlet.reconcile.why.moves import move_reasons
from swarmlet.reconcile.why.tasks import Sight, failed_lately, is_running, reason_of
from swarmlet.reconcile.why.words import counted, span

SLICE_TASKS: Final = 250
"""Tasks explained before others have a turn."""

Slots = Mapping[tuple[int, str], Sequence[Task]]


def explain_service(view: View, service: Service, now_ms: int) -> Steps[ServiceWhy]:
    """All of it, in time linear in its tasks, and in those of the nodes where it asks for room."""
    sight, spec = Sight(view, now_ms), spec_of(view, service)
    if is_job(spec.mode):
        return (yield from explain_job(view, service, now_ms))
    slots = yield from _slots(view, service)
    reach = None if spec.mode.global_ is None else (yield from reach_of(view, spec))
    meant = slots if reach is None else _meant(slots, reach)
    running, shown = yield from _look(view, slots, meant)
    waiting, lately = Groups(), Groups(is_over=True)
    yield from sight.prepare(task for task, _ in shown)
    for number, (task, slot) in enumerate(shown, 1):
        if number % SLICE_TASKS == 0:
            yield
        waiting.add(sight.ref(task), reason_of(sight, task, slot))
    named = {task.id for task, _ in shown}
    for number, slot in enumerate(slots.values(), 1):
        if number % SLICE_TASKS == 0:
            yield
        for task in slot:
            if task.id not in named and failed_lately(task, now_ms):
                lately.add(sight.ref(task), reason_of(sight, task, slot))
    wanted = _wanted(spec, meant, reach)
    reasons = list(_own_reasons(service, spec, sight.now_ms, wanted, len(meant)))
    reasons += move_reasons(view, shown, service.name)
    if reach is not None:
        reasons += reach_reasons(reach, wanted)
    return service_answer(service, (running, wanted), reasons, (waiting, lately))


def _slots(view: View, service: Service) -> Steps[Slots]:
    """Its tasks that are not leaving, by slot, or by node where they have none."""
    found: dict[tuple[int, str], list[Task]] = {}
    for number, task in enumerate(view.tasks.scan("service", service.id), 1):
        if task.desired < TaskState.REMOVE:
            place = (task.slot, "" if task.slot else task.node_id)
            found.setdefault(place, []).append(task)
        if number % SLICE_TASKS == 0:
            yield
    return {place: found[place] for place in sorted(found)}


def _look(
    view: View, slots: Slots, meant: Slots
) -> Steps[tuple[int, list[tuple[Task, Sequence[Task]]]]]:
    """In how many slots a task runs; and the tasks that are in question, each with its slot."""
    running, shown = 0, list[tuple[Task, Sequence[Task]]]()
    for number, (place, slot) in enumerate(slots.items(), 1):
        if number % SLICE_TASKS == 0:
            yield
        running += any(is_running(view, task) for task in slot)
        if place in meant:
            shown += ((task, slot) for task in _in_question(view, slot))
    return running, shown


def _in_question(view: View, slot: Sequence[Task]) -> Iterator[Task]:
    """The tasks of a slot that should run and do not; where none should, the last that did."""
    wanted = [task for task in slot if is_wanted(task) or task.desired == TaskState.COMPLETE]
    for task in sorted(wanted, key=lambda task: task.id):
        is_done = task.desired == TaskState.COMPLETE == task.status.state
        if not is_done and not is_running(view, task):
            yield task
    if not wanted:
        yield newest(slot)


def _meant(slots: Slots, reach: Reach) -> Slots:
    """Of a global service: the places where something is wanted, or would be."""
    open_ids = dict.fromkeys(reach.open_ids)
    return {
        place: slot
        for place, slot in slots.items()
        if place[1] in open_ids or any(map(is_wanted, slot))
    }


def _wanted(spec: ServiceSpec, meant: Slots, reach: Reach | None) -> int:
    """How many tasks should run."""
    replicas = replicas_of(spec)
    if replicas is not None:
        return replicas
    open_ids = () if reach is None else reach.open_ids
    return len(meant) + sum((0, node_id) not in meant for node_id in open_ids)


def _own_reasons(
    service: Service, spec: ServiceSpec, now_ms: int, wanted: int, slots: int
) -> Iterator[Reason]:
    if not wanted and replicas_of(spec) == 0:
        yield Reason(
            code="scaled-to-zero",
            sentence="It is scaled to 0: nothing should run.",
            remedy=f"`swarmlet service scale {service.name}=1`",
            verdict=Verdict.WELL,
        )
    yield from _update(service, now_ms)
    if wanted > slots:
        missing = counted(wanted - slots, "task")
        yield Reason(code="too-few", sentence=f"{missing} more will be made.")
    elif slots > wanted:
        surplus = counted(slots - wanted, "task")
        yield Reason(code="too-many", sentence=f"{surplus} too many will be stopped.")


def _update(service: Service, now_ms: int) -> Iterator[Reason]:
    """How its update stands, where it is not over."""
    status = service.update_status
    if status is None or status.state in ("completed", "rollback_completed"):
        return
    kind = "rollback" if status.state.startswith("rollback") else "update"
    since_ms = status.started_ms
    if status.state.endswith("paused"):
        yield Reason(
            code=f"{kind}-paused",
            sentence=f"Its {kind} is paused: {status.message}.",
            remedy=f"put right what failed, then `swarmlet service update --force {service.name}`",
            since_ms=since_ms,
            error=status.message,
        )
        return
    age = span(now_ms - since_ms)
    yield Reason(
        code=f"{kind}-in-progress", sentence=f"Its {kind} began {age} ago.", since_ms=since_ms
    )
