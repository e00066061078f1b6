"""Why a job is where it is: how far its iteration has come, then what of it neither runs nor is
done."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from swarmlet.model.job import job_status_of, open_iterations
from swarmlet.model.service import Service, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.base import Steps
from swarmlet.reconcile.job_index import Place, is_active, is_on_node
from swarmlet.reconcile.job_run import is_global, place_of
from swarmlet.reconcile.jobs import completions_of, concurrency_of
from swarmlet.reconcile.slots import newest
from swarmlet.reconcile.why.answers import Groups, Reason, ServiceWhy, Verdict, service_answer
from swarmlet.reconcile.why.everywhere import reach_of, reach_reasons
from swarmlet.reconcile.why.schedules import again, schedule_reasons
from swarmlet.reconcile.why.tasks import Sight, failed_lately, is_running, reason_of
from swarmlet.reconcile.why.words import counted, span

SLICE_TASKS: Final = 250
"""Tasks explained before others have a turn."""


class _Iteration(msgspec.Struct, frozen=True, kw_only=True):
    """An open iteration: its tasks that are not leaving, by place."""

    number: int
    places: Mapping[Place, Sequence[Task]]

    def count(self, state: TaskState) -> int:
        return sum(any(t.status.state == state for t in tasks) for tasks in self.places.values())

    def last_words(self) -> Iterator[tuple[Task, Sequence[Task]]]:
        """What each place that is not done comes down to, with the tasks there."""
        for tasks in self.places.values():
            if any(task.status.state == TaskState.COMPLETE for task in tasks):
                continue
            active = sorted(filter(is_active, tasks), key=lambda task: task.id)
            yield (active[0] if active else newest(tasks)), tasks


class _Found(msgspec.Struct, kw_only=True):
    """Of a job's tasks: which open iterations they make, and what is on nodes of those before."""

    iterations: list[_Iteration]
    stopping: int


def explain_job(view: View, service: Service, now_ms: int) -> Steps[ServiceWhy]:
    """All of it, in time linear in its tasks, and in the nodes of a global job."""
    sight, spec = Sight(view, now_ms), spec_of(view, service)
    found = yield from _look(view, service, spec)
    words = [word for iteration in found.iterations for word in iteration.last_words()]
    shown = [(task, slot) for task, slot in words if not is_running(view, task)]
    yield from sight.prepare(task for task, _ in shown)
    waiting, lately = Groups(), Groups(is_over=True)
    for number, (task, slot) in enumerate(shown, 1):
        if number % SLICE_TASKS == 0:
            yield
        waiting.add(sight.ref(task), reason_of(sight, task, slot))
    named = {task.id for task, _ in shown}
    for number, (_, slot) in enumerate(words, 1):
        if number % SLICE_TASKS == 0:
            yield
        for task in slot:
            if task.id not in named and failed_lately(task, now_ms):
                lately.add(sight.ref(task), reason_of(sight, task, slot))
    reasons = [*_how_far(service, spec, found, now_ms), *schedule_reasons(service, spec, now_ms)]
    if is_global(spec):
        reach = yield from reach_of(view, spec)
        reasons += reach_reasons(reach, len(reach.open_ids) + len(words))
    active = sum(is_active(task) for task, _ in words)
    return service_answer(service, (len(words) - len(shown), active), reasons, (waiting, lately))


def _look(view: View, service: Service, spec: ServiceSpec) -> Steps[_Found]:
    places: dict[int, dict[Place, list[Task]]] = {n: {} for n in open_iterations(service)}
    stopping = 0
    for number, task in enumerate(view.tasks.scan("service", service.id), 1):
        if number % SLICE_TASKS == 0:
            yield
        if task.job_iteration not in places:
            stopping += is_on_node(task)
        elif task.desired < TaskState.REMOVE:
            places[task.job_iteration].setdefault(place_of(spec, task), []).append(task)
    iterations = [
        _Iteration(number=number, places={place: found[place] for place in sorted(found)})
        for number, found in places.items()
    ]
    return _Found(iterations=iterations, stopping=stopping)


def _how_far(service: Service, spec: ServiceSpec, found: _Found, now_ms: int) -> Iterator[Reason]:
    if not is_global(spec) and not (concurrency_of(spec) and completions_of(spec)):
        yield Reason(
            code="scaled-to-zero",
            sentence="It may run no task at all.",
            remedy=f"`swarmlet service update --replicas 1 --max-concurrent 1 {service.name}`",
            verdict=Verdict.WELL,
        )
        return
    status = job_status_of(service)
    for iteration in found.iterations:
        since_ms = status.last_execution_ms if iteration.number == status.iteration else 0
        yield _standing(service, spec, iteration, since_ms, now_ms)
    if found.stopping:
        tasks = counted(found.stopping, "task")
        yield Reason(
            code="stopping-before",
            sentence=f"{tasks} of iterations that are over have yet to stop, and count among those "
            "that may run at once for a minute.",
            verdict=Verdict.WELL,
        )


def _standing(
    service: Service, spec: ServiceSpec, iteration: _Iteration, since_ms: int, now_ms: int
) -> Reason:
    done = iteration.count(TaskState.COMPLETE)
    total = len(iteration.places) if is_global(spec) else completions_of(spec)
    given_up = sum(not is_active(task) for task, _ in iteration.last_words())
    began = f" began {span(now_ms - since_ms)} ago:" if since_ms else ":"
    sentence = f"Iteration {iteration.number}{began} {done} of {counted(total, 'task')} done"
    if not given_up:
        code = "complete" if done == total else "in-progress"
        return Reason(code=code, sentence=f"{sentence}.", since_ms=since_ms, verdict=Verdict.WELL)
    return Reason(
        code="given-up",
        sentence=f"{sentence}, and {given_up} given up.",
        remedy=f"`swarmlet service {again(spec)} {service.name}` begins the next iteration",
        since_ms=since_ms,
    )
