"""Why a task of a job is no longer wanted: its iteration is over, or its place is done."""

from collections.abc import Sequence

from swarmlet.model.job import is_job, job_status_of, open_iterations
from swarmlet.model.service import ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.instances import siblings_of
from swarmlet.reconcile.job_run import job_policy_of, place_of, tasks_at
from swarmlet.reconcile.restart import Policy, ended_ms, policy_of
from swarmlet.reconcile.why.answers import Reason, Verdict
from swarmlet.reconcile.why.words import span


def rows_beside(view: View, task: Task) -> list[Task]:
    """All tasks of the task's slot, or of its node where that is its place; itself among them."""
    service = view.services.get(task.service_id)
    if service is not None and is_job(spec_of(view, service).mode):
        return tasks_at(view, service, place_of(spec_of(view, service), task))
    return list(siblings_of(view, task))


def slot_of(view: View, task: Task) -> list[Task]:
    """The tasks of its slot that are not leaving; of a global service those of its node; of a job
    those of its iteration alone."""
    rows = (one for one in rows_beside(view, task) if one.desired < TaskState.REMOVE)
    return [one for one in rows if one.job_iteration == task.job_iteration]


def restart_policy_of(spec: ServiceSpec) -> Policy:
    """The policy a task lives by."""
    return job_policy_of(spec) if is_job(spec.mode) else policy_of(spec.task_template)


def why_over(view: View, task: Task, slot: Sequence[Task], now_ms: int) -> Reason | None:
    """Of a task of a job that is not wanted; None where it is the last word of its place, or the
    service is no job."""
    service = view.services.get(task.service_id)
    if service is None or not is_job(spec_of(view, service).mode):
        return None
    began_ms = job_status_of(service).last_execution_ms
    if task.job_iteration not in open_iterations(service):
        present = job_status_of(service).iteration
        return Reason(
            code="iteration-over",
            sentence=f"It is of iteration {task.job_iteration}, which is over: "
            f"iteration {present} began {span(now_ms - began_ms)} ago.",
            since_ms=began_ms,
            verdict=Verdict.WELL,
        )
    done = next((one for one in slot if one.status.state == TaskState.COMPLETE), None)
    if done is None or done.id == task.id:
        return None
    return Reason(
        code="done",
        sentence=f"Is not needed: task {done.id} has done its work.",
        since_ms=ended_ms(done),
        task_id=done.id,
        verdict=Verdict.WELL,
    )
