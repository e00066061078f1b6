"""Runs of jobs that somebody asks for."""

from typing import Final

from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError, StaleVersionError
from swarmlet.manager.control.base import ControlBase
from swarmlet.model.change import Exists, Update
from swarmlet.model.job import is_job, job_status_of
from swarmlet.model.job_history import MANUAL, going_on
from swarmlet.model.schedule import ALLOW, schedule_of
from swarmlet.model.service import JobRun, Service, ServiceSpec
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.schedules import is_run_in_the_way, run_now

TRIES_MAX: Final = 10  # against others who write the service's row at the same moment


class JobRunVerbs(ControlBase):
    """Begins iterations, and writes the history of a job's runs with them."""

    async def run_job(self, ref: str) -> int:
        """Begin a run now; its iteration. What goes on is treated as the schedule's concurrency
        says, and replaced where the job has no schedule.

        Raises InvalidArgumentError for what is no job, FailedPreconditionError where a run that
        goes on is in the way.
        """
        for _ in range(TRIES_MAX):
            view = await self.read()
            service = self.find_service(view, ref)
            _check_may_run(service, spec_of(view, service))
            after = self._begun(view, service)
            update = Update(obj=after, seen=service.version)
            try:
                await self._commit(
                    f"service {ref}", [update], [Exists(table=Service, id=service.id)]
                )
            except StaleVersionError:
                continue  # a fire, the end of a run, or another user's update
            return job_status_of(after).iteration
        raise StaleVersionError(f"service {ref}")

    def _begun(self, view: View, service: Service) -> Service:
        return run_now(view, service, JobRun(trigger=MANUAL), self._env.clock.wall_ms())


def _check_may_run(service: Service, spec: ServiceSpec) -> None:
    name = service.name
    if not is_job(spec.mode):
        raise InvalidArgumentError(
            f"service {name} is no job: its tasks run all the time",
            remedy=f"To start them anew: `swarmlet service update --force {name}`.",
        )
    if not is_run_in_the_way(service, spec):
        return
    schedule = schedule_of(spec)
    runs = ", ".join(str(run.iteration) for run in going_on(service))
    if schedule is not None and schedule.concurrency == ALLOW:
        raise FailedPreconditionError(
            f"runs {runs} of service {name} go on, and no more may go on at once",
            remedy="Wait until one has ended.",
        )
    raise FailedPreconditionError(
        f"run {runs} of service {name} goes on, and its schedule forbids another beside it",
        remedy=f"Wait until it has ended: `swarmlet service runs {name}`.",
    )
