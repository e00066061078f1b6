"""Jobs: services whose tasks run to their end, an iteration at a time.

An iteration begins when the service is created (number 0), with every update, and with every fire
of a schedule; `JobStatus` in the service's row says which one it is, `Task.job_iteration` which one
a task belongs to. Tasks of iterations that are no longer open are stopped and removed.
"""

from typing import Final

from msgspec.structs import replace

from swarmlet.model.service import JobStatus, Service, ServiceMode

BESIDE_MAX: Final = 10
"""Earlier iterations that may still be open beside the last one."""


def is_job(mode: ServiceMode) -> bool:
    return mode.replicated_job is not None or mode.global_job is not None


def job_status_of(service: Service) -> JobStatus:
    """A job's status; one that was stored without any is in its first iteration."""
    return service.job_status or JobStatus()


def open_iterations(service: Service) -> tuple[int, ...]:
    """The iterations whose tasks are wanted, ascending; the last one is the job's present one,
    unless it waits for the first fire of its schedule."""
    status = job_status_of(service)
    return status.earlier if status.is_idle else (*status.earlier, status.iteration)


def first_iteration(now_ms: int) -> JobStatus:
    """What a new job begins with; `now_ms` is wall time, as below."""
    return JobStatus(last_execution_ms=now_ms)


def no_iteration_yet() -> JobStatus:
    """What a new job with a schedule begins with: iteration 1 will be its first run."""
    return JobStatus(is_idle=True)


def next_iteration(service: Service, now_ms: int, *, is_beside: bool = False) -> Service:
    """The job's row with a new iteration begun: commit it as
    `Update(obj=next_iteration(service, now_ms), seen=service.version)`, alone or with a new spec.

    What still runs of the iterations before is stopped; with `is_beside` they go on to their end
    beside the new one, the oldest of more than BESIDE_MAX excepted. The orchestrator of jobs takes
    an earlier iteration off the row once nothing of it is left to do (`JobStatus.earlier`).
    """
    status = job_status_of(service)
    earlier = open_iterations(service)[-BESIDE_MAX:] if is_beside else ()
    begun = JobStatus(iteration=status.iteration + 1, last_execution_ms=now_ms, earlier=earlier)
    return replace(service, job_status=begun)
