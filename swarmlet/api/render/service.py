"""Services, with what is known of their endpoint, update and tasks."""

from typing import TYPE_CHECKING

import msgspec

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.api.render.spec import ShownSpec
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.service import (
    EndpointSpec,
    JobStatus,
    PortConfig,
    Service,
    ServiceSpec,
    UpdateStatus,
)

if TYPE_CHECKING:
    from swarmlet.manager.control import ServiceStatus


class VirtualIPJson(ApiStruct, frozen=True, kw_only=True):
    network_id: str = ""
    addr: str = ""


class EndpointJson(ApiStruct, frozen=True, kw_only=True):
    spec: EndpointSpec = always(EndpointSpec())
    ports: list[PortConfig] = []
    virtual_ips: list[VirtualIPJson] = []


class UpdateStatusJson(ApiStruct, frozen=True, kw_only=True):
    state: str = ""
    started_at: str | None = None
    completed_at: str | None = None
    message: str = ""


class ServiceStatusJson(ApiStruct, frozen=True, kw_only=True):
    running_tasks: int = always(0)
    desired_tasks: int = always(0)
    completed_tasks: int = always(0)
    crash_looping_tasks: int = 0


class JobStatusJson(ApiStruct, frozen=True, kw_only=True):
    job_iteration: ObjectVersion = always(ObjectVersion())
    last_execution: str = ""


class ServiceJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    spec: msgspec.Raw
    previous_spec: msgspec.Raw | None = None
    endpoint: EndpointJson = always(EndpointJson())
    update_status: UpdateStatusJson | None = None
    service_status: ServiceStatusJson | None = None
    job_status: JobStatusJson | None = None


def _update_status(status: UpdateStatus | None) -> UpdateStatusJson | None:
    if status is None:
        return None
    return UpdateStatusJson(
        state=status.state,
        started_at=rfc3339(status.started_ms) if status.started_ms else None,
        completed_at=rfc3339(status.completed_ms) if status.completed_ms else None,
        message=status.message,
    )


def _job_status(status: JobStatus | None) -> JobStatusJson | None:
    if status is None:
        return None
    return JobStatusJson(
        job_iteration=ObjectVersion(index=status.iteration),
        last_execution=rfc3339(status.last_execution_ms),
    )


def _service_status(status: "ServiceStatus | None") -> ServiceStatusJson | None:
    if status is None:
        return None
    return ServiceStatusJson(
        running_tasks=status.running,
        desired_tasks=status.desired,
        completed_tasks=status.completed,
        crash_looping_tasks=status.crash_looping,
    )


def _endpoint(service: Service, spec: ServiceSpec) -> EndpointJson:
    if service.endpoint is None:
        return EndpointJson()
    return EndpointJson(
        spec=spec.endpoint_spec or EndpointSpec(),
        ports=list(service.endpoint.ports),
        virtual_ips=[
            VirtualIPJson(network_id=ip.network_id, addr=ip.addr)
            for ip in service.endpoint.virtual_ips
        ],
    )


def render_service(
    service: Service,
    shown: ShownSpec,
    previous: ShownSpec | None,
    *,
    status: "ServiceStatus | None" = None,
    spec_json: msgspec.Raw | None = None,
) -> ServiceJson:
    """`spec_json` prints another spec than the stored one, such as one with defaults."""
    return ServiceJson(
        id=service.id,
        version=ObjectVersion(index=service.version),
        created_at=rfc3339(service.created_ms),
        updated_at=rfc3339(service.updated_ms),
        spec=shown.service if spec_json is None else spec_json,
        previous_spec=None if previous is None else previous.service,
        endpoint=_endpoint(service, shown.of.spec),
        update_status=_update_status(service.update_status),
        service_status=_service_status(status),
        job_status=_job_status(service.job_status),
    )
