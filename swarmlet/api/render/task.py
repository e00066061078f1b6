"""Tasks: the listing that is asked for most, so it prints its spec ready-made."""

import msgspec

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.api.render.network import AttachedNetworkJson, render_attached_network
from swarmlet.api.render.spec import ShownSpec
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.crash_loop import restart_note
from swarmlet.model.job import is_job
from swarmlet.model.network import Network
from swarmlet.model.service import GenericResource, PortConfig
from swarmlet.model.task import STATE_NAMES, Task


class ContainerStatusJson(ApiStruct, frozen=True, kw_only=True):
    container_id: str = always("")
    pid: int = always(0)
    exit_code: int = always(0)


class PortStatusJson(ApiStruct, frozen=True, kw_only=True):
    ports: list[PortConfig] = []


class TaskStatusJson(ApiStruct, frozen=True, kw_only=True):
    timestamp: str
    state: str
    message: str = ""
    err: str = ""
    container_status: ContainerStatusJson | None = None
    port_status: PortStatusJson = always(PortStatusJson())


class AttachmentJson(ApiStruct, frozen=True, kw_only=True):
    network: AttachedNetworkJson
    addresses: list[str] = []


class TaskJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    labels: dict[str, str] = always({})
    spec: msgspec.Raw
    service_id: str = ""
    slot: int = 0
    node_id: str = ""
    status: TaskStatusJson
    desired_state: str = ""
    networks_attachments: list[AttachmentJson] = []
    generic_resources: list[GenericResource] = []
    job_iteration: ObjectVersion | None = None
    volumes: list[str] | None = always(None)


_NO_PORTS = PortStatusJson()


def _status(task: Task, now_ms: int) -> TaskStatusJson:
    status = task.status
    has_run = status.container_id or status.pid or status.exit_code
    return TaskStatusJson(
        timestamp=rfc3339(status.at_ms),
        state=STATE_NAMES[status.state],
        message=status.message,
        err=status.err or (restart_note(task, now_ms) if task.short_runs or task.attempt else ""),
        container_status=ContainerStatusJson(
            container_id=status.container_id, pid=status.pid, exit_code=status.exit_code
        )
        if has_run
        else None,
        port_status=PortStatusJson(ports=list(status.ports)) if status.ports else _NO_PORTS,
    )


def render_task(
    task: Task, shown: ShownSpec, networks: dict[str, Network], *, now_ms: int
) -> TaskJson:
    """`networks` by id: attachments to others are left out, for nothing can be said of them. A task
    of a crash loop says so where Docker's clients show errors, unless it has one of its own."""
    return TaskJson(
        id=task.id,
        version=ObjectVersion(index=task.version),
        created_at=rfc3339(task.created_ms),
        updated_at=rfc3339(task.updated_ms),
        spec=shown.task,
        service_id=task.service_id,
        slot=task.slot,
        node_id=task.node_id,
        status=_status(task, now_ms),
        desired_state=STATE_NAMES[task.desired],
        networks_attachments=[
            AttachmentJson(
                network=render_attached_network(networks[attached.network_id]),
                addresses=list(attached.addresses),
            )
            for attached in task.networks
            if attached.network_id in networks
        ],
        generic_resources=list(task.generic_resources),
        job_iteration=ObjectVersion(index=task.job_iteration)
        if is_job(shown.of.spec.mode)
        else None,
    )
