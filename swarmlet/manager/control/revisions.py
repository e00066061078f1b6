"""A service's earlier specs: which are kept, how they differ, and the way back to one."""

from msgspec.structs import replace

from swarmlet.core.errors import FailedPreconditionError, NotFoundError
from swarmlet.manager.control.base import check_version, worked_out
from swarmlet.manager.control.services import ServiceVerbs, changed_spec
from swarmlet.model.change import Change
from swarmlet.model.job import is_job
from swarmlet.model.revision import back_to
from swarmlet.model.schedule import with_update
from swarmlet.model.service import (
    Service,
    ServiceSpec,
    SpecVersion,
    UpdateStatus,
    spec_version_id,
)
from swarmlet.model.update_status import ROLLBACK_ASKED, ROLLBACK_STARTED
from swarmlet.model.view import View, spec_of
from swarmlet.reconcile.plan import Plan, plan_update


class RevisionVerbs(ServiceVerbs):
    """Writes service rows and their spec versions, as ServiceVerbs does."""

    async def roll_back_service(
        self,
        ref: str,
        version: int,
        *,
        to: int | None = None,
        registry_auth: str | None = None,
    ) -> tuple[str, ...]:
        """Warnings. Make the previous spec the current one again, or with `to` the one of that
        number; what it is rolled back from becomes the previous one, so that rolling back twice
        changes nothing. Its credentials come back with it, unless others are given. All of the
        spec comes back, replicas and update settings too.

        Raises FailedPreconditionError where there is no previous spec or `to` is the current one,
        NotFoundError where `to` is not kept, and what an update raises.
        """
        view = await self.read()
        service = self.find_service(view, ref)
        target = previous_of(view, service) if to is None else revision_of(view, service, to)
        if to == service.spec_version:
            raise FailedPreconditionError(
                f"service {service.name} has spec {to} now",
                remedy=f"`swarmlet service history {service.name}` lists those before it.",
            )
        check_version(version, service.version, f"service {ref}")
        spec = self._accepted(view, target.spec)
        auth = target.registry_auth if registry_auth is None else registry_auth
        target = replace(target, spec=spec, registry_auth=auth)
        changes = _rolled_back(view, service, target, self._env.clock.wall_ms())
        await self._commit_spec(f"service {ref}", changes, service.id, spec)
        return ()

    async def plan_service_update(self, ref: str, spec: ServiceSpec) -> Plan:
        """What updating the service to `spec` would do, at this very moment; refused as the update
        would be. Writes nothing."""
        view = await self.read(hold=True)
        service = self.find_service(view, ref)
        new = self._accepted(view, changed_spec(spec_of(view, service), spec))
        return await worked_out(plan_update(view, service, new, self.now_ms()))

    async def plan_service_rollback(self, ref: str, *, to: int | None = None) -> Plan:
        """The same of a rollback."""
        view = await self.read(hold=True)
        service = self.find_service(view, ref)
        target = previous_of(view, service) if to is None else revision_of(view, service, to)
        new = self._accepted(view, target.spec)
        return await worked_out(plan_update(view, service, new, self.now_ms(), is_rollback=True))


def previous_of(view: View, service: Service) -> SpecVersion:
    """The spec that a rollback brings back. Raises FailedPreconditionError where there is none."""
    row = view.specs.get(spec_version_id(service.id, service.previous_spec_version))
    if row is None:
        raise FailedPreconditionError(f"service {service.id} does not have a previous spec")
    return row


def revision_of(view: View, service: Service, number: int) -> SpecVersion:
    """The spec of this number. Raises NotFoundError where it is not kept."""
    row = view.specs.get(spec_version_id(service.id, number))
    if row is None:
        raise NotFoundError(
            "spec",
            f"{number} of service {service.name}",
            remedy=f"`swarmlet service history {service.name}` lists those that are kept.",
        )
    return row


def _rolled_back(view: View, service: Service, target: SpecVersion, now_ms: int) -> list[Change]:
    """A job has no tasks to update: it begins its next iteration, unless it has a schedule."""
    row = replace(service, previous_spec_version=service.spec_version)
    if is_job(target.spec.mode):
        row = with_update(row, spec_of(view, service), target.spec, now_ms)
        return back_to(view, row, target, status=None, cause=ROLLBACK_ASKED)
    status = UpdateStatus(state=ROLLBACK_STARTED, started_ms=now_ms, message=ROLLBACK_ASKED)
    return back_to(view, row, target, status=status, cause=ROLLBACK_ASKED)
