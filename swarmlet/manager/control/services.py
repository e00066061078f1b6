"""Services: created, updated, removed. Their tasks are the orchestrator's."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnknownValueError,
    UnsupportedError,
)
from swarmlet.core.ids import ServiceID
from swarmlet.manager.control.base import ControlBase, check_version
from swarmlet.model.change import Change, Create, Exists, Guard, PortFree, Remove, Update
from swarmlet.model.config import Config
from swarmlet.model.container import ContainerSpec
from swarmlet.model.defaults import normal_service
from swarmlet.model.names import made_up_name
from swarmlet.model.network import Network
from swarmlet.model.revision import next_number
from swarmlet.model.schedule import status_at_first, with_update
from swarmlet.model.secret import Secret
from swarmlet.model.service import (
    NetworkAttachmentConfig,
    PortConfig,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
    spec_version_id,
)
from swarmlet.model.unsupported import refuse_service
from swarmlet.model.update_status import is_at_rest
from swarmlet.model.validate_service import check_service
from swarmlet.model.view import View, spec_version

AUTH_FROM_SPEC = ("", "spec")
AUTH_FROM_PREVIOUS = "previous-spec"


class ServiceCreated(msgspec.Struct, frozen=True, kw_only=True):
    id: ServiceID
    warnings: tuple[str, ...] = ()


class ServiceVerbs(ControlBase):
    """Writes service rows and their spec versions; the reaper removes versions nobody needs."""

    async def create_service(self, spec: ServiceSpec, *, registry_auth: str = "") -> ServiceCreated:
        """`registry_auth`: X-Registry-Auth as the client gave it, for the nodes that pull."""
        service_id = ServiceID(self._new_id())
        if not spec.name:
            spec = replace(spec, name=made_up_name(service_id))
        check_service(spec)
        normal = self._accepted(await self.read(), normal_service(spec))
        job = status_at_first(normal, self._env.clock.wall_ms())
        changes = [
            Create(obj=_spec_version(service_id, 1, normal, registry_auth)),
            Create(obj=Service(id=service_id, name=normal.name, job_status=job)),
        ]
        await self._commit_spec(f"service {spec.name}", changes, service_id, normal)
        return ServiceCreated(id=service_id)

    async def update_service(
        self,
        ref: str,
        version: int,
        spec: ServiceSpec,
        *,
        registry_auth: str | None = None,
        auth_from: str = "spec",
    ) -> tuple[str, ...]:
        """Warnings. Where no `registry_auth` is given, that of the present spec stays ("spec"), or
        that of the spec before it comes back ("previous-spec"). A spec and credentials that mean
        the same as the present ones make no new version of them, but the row is written all the
        same: Docker's clients see the version move with every update. Only where the update before
        this one is under way or paused do they make one: it goes on with the slots that are left.
        Every update of a job begins its next iteration, unless the job has a schedule.
        """
        view = await self.read()
        service = self.find_service(view, ref)
        old = spec_version(view, service.id, service.spec_version)
        new = changed_spec(old.spec, spec)
        check_version(version, service.version, f"service {ref}")
        new = self._accepted(view, new)
        if registry_auth is None:
            registry_auth = _kept_auth(view, service, auth_from)
        service = with_update(service, old.spec, new, self._env.clock.wall_ms())
        changes = _update(view, service, old, replace(old, spec=new, registry_auth=registry_auth))
        await self._commit_spec(f"service {ref}", changes, service.id, new)
        return ()

    async def remove_service(self, ref: str) -> None:
        """Its tasks are shut down by the orchestrator."""
        row = self.find_service(await self.read(), ref)
        await self._commit(f"service {ref}", [Remove(table=Service, id=row.id)])

    async def _commit_spec(
        self, what: str, changes: Sequence[Change], service_id: ServiceID, spec: ServiceSpec
    ) -> None:
        """What it refers to may be removed at this very moment: that is said as it is before."""
        try:
            await self._commit(what, changes, guards_of(service_id, spec))
        except NotFoundError:
            check_references(await self.read(), spec)
            raise

    def _accepted(self, view: View, spec: ServiceSpec) -> ServiceSpec:
        """The spec with networks as ids, once all it refers to is there and all it asks for can
        be done."""
        check_references(view, spec)
        refuse_service(spec)
        task = spec.task_template
        networks = [self._attachment(view, network) for network in task.networks]
        return replace(spec, task_template=replace(task, networks=networks))

    def _attachment(self, view: View, wanted: NetworkAttachmentConfig) -> NetworkAttachmentConfig:
        network = _network(view, wanted.target)
        if network is None:
            raise UnknownValueError(
                f"network {wanted.target} not found", remedy="Use --network host, or none."
            )
        if network.spec.ingress:
            raise InvalidArgumentError(
                f"service cannot be explicitly attached to the ingress network {network.spec.name}"
            )
        if not network.predefined:
            raise UnsupportedError(
                "networks other than host are not supported in services yet",
                remedy="Use --network host, or none.",
            )
        return replace(wanted, target=network.id)


def _network(view: View, target: str) -> Network | None:
    """By id or name; no prefixes here: a spec is to mean the same tomorrow."""
    return view.networks.get(target) or next(view.networks.scan("name", target.lower()), None)


# What a spec refers to ---------------------------------------------------------------------------
def check_references(view: View, spec: ServiceSpec) -> None:
    """Secrets and configs exist under the name the spec gives with their id."""
    container = spec.task_template.container_spec or ContainerSpec()
    secrets = {one.secret_id: one.secret_name for one in container.secrets}
    configs = {one.config_id: one.config_name for one in container.configs}
    _check_known("secret", secrets, {i: _name_of(view.secrets.get(i)) for i in secrets})
    _check_known("config", configs, {i: _name_of(view.configs.get(i)) for i in configs})


def _name_of(row: Secret | Config | None) -> str | None:
    return row.spec.name if row is not None else None


def _check_known(kind: str, wanted: dict[str, str], there: dict[str, str | None]) -> None:
    missing = [name for row_id, name in wanted.items() if there[row_id] != name]
    if missing:
        words = kind if len(missing) == 1 else f"{kind}s"
        raise InvalidArgumentError(
            f"{words} not found: {', '.join(missing)}", remedy=f"Create the {words} first."
        )


def guards_of(service_id: str, spec: ServiceSpec) -> list[Guard]:
    """All that has to be there still, or free still, when a spec is committed."""
    task = spec.task_template
    container = task.container_spec or ContainerSpec()
    ports = spec.endpoint_spec.ports if spec.endpoint_spec is not None else []
    return [
        *_exist(Secret, (one.secret_id for one in container.secrets)),
        *_exist(Config, (one.config_id for one in container.configs)),
        *_exist(Network, (one.target for one in task.networks)),
        *(_port_free(service_id, port) for port in ports if port.published_port),
    ]


def _port_free(service_id: str, port: PortConfig) -> PortFree:
    return PortFree(
        service_id=service_id,
        protocol=port.protocol,
        port=port.published_port,
        mode=port.publish_mode,
    )


def _exist(table: type, ids: Iterable[str]) -> list[Guard]:
    return [Exists(table=table, id=row_id) for row_id in dict.fromkeys(ids)]


# Updates -----------------------------------------------------------------------------------------
def changed_spec(old: ServiceSpec, new: ServiceSpec) -> ServiceSpec:
    """The new spec in the form it is stored in. Raises InvalidArgumentError, and UnsupportedError
    where an update cannot bring it."""
    check_service(new)
    normal = normal_service(new)
    _refuse_other_kind(old, normal)
    return normal


def _refuse_other_kind(old: ServiceSpec, new: ServiceSpec) -> None:
    """What a service is called and which mode it has are for life."""
    if new.name != old.name:
        raise UnsupportedError(
            "renaming services is not supported",
            remedy="Create a service of the new name and remove this one.",
        )
    if _mode(old.mode) != _mode(new.mode):
        raise UnsupportedError(
            "service mode change is not allowed",
            remedy="Create a service of the new mode and remove this one.",
        )


def _mode(mode: ServiceMode) -> tuple[bool, ...]:
    given = (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)
    return tuple(one is not None for one in given)


def _kept_auth(view: View, service: Service, auth_from: str) -> str:
    if auth_from in AUTH_FROM_SPEC:
        return spec_version(view, service.id, service.spec_version).registry_auth
    if auth_from != AUTH_FROM_PREVIOUS:
        raise UnknownValueError(
            f"unsupported registryAuthFrom value {auth_from}",
            remedy="It is spec or previous-spec.",
        )
    if not service.previous_spec_version:
        raise FailedPreconditionError(f"service {service.id} does not have a previous spec")
    return spec_version(view, service.id, service.previous_spec_version).registry_auth


def _update(view: View, service: Service, old: SpecVersion, new: SpecVersion) -> list[Change]:
    """`new` is `old` with what the update brings."""
    row = replace(service, update_status=None, previous_spec_version=service.spec_version)
    if new == old and is_at_rest(service):
        return [Update(obj=row, seen=service.version)]
    number = next_number(view, service)
    row = replace(row, spec_version=number)
    return [  # the row first: of two updates at once, the later is told that it is stale
        Update(obj=row, seen=service.version),
        Create(obj=_spec_version(service.id, number, new.spec, new.registry_auth)),
    ]


def _spec_version(
    service_id: ServiceID, number: int, spec: ServiceSpec, registry_auth: str
) -> SpecVersion:
    return SpecVersion(
        id=spec_version_id(service_id, number),
        service_id=service_id,
        number=number,
        spec=spec,
        registry_auth=registry_auth,
    )
