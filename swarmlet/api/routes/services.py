"""`/services`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_empty
from swarmlet.api.filters import SERVICE_KEYS, parse_filters, select_services
from swarmlet.api.listing import in_order, reply_list
from swarmlet.api.logs import stream_logs
from swarmlet.api.query import object_version, registry_auth, strict_flag
from swarmlet.api.render.service import ServiceJson, render_service
from swarmlet.api.render.spec import spec_json
from swarmlet.core.errors import UnknownValueError
from swarmlet.model.defaults import with_defaults
from swarmlet.model.parse import parse
from swarmlet.model.service import Service, ServiceSpec, spec_version_id
from swarmlet.model.task import Task
from swarmlet.model.view import View, spec_of, spec_version

if TYPE_CHECKING:
    from swarmlet.manager.control import ServiceStatus, ServiceStatuses


def _render(
    call: Call,
    view: View,
    service: Service,
    *,
    status: "ServiceStatus | None" = None,
    spec: msgspec.Raw | None = None,
) -> ServiceJson:
    specs = call.context.specs
    before = service.previous_spec_version
    previous = view.specs.get(spec_version_id(service.id, before)) if before else None
    return render_service(
        service,
        specs.of(spec_version(view, service.id, service.spec_version)),
        None if previous is None else specs.of(previous),
        status=status,
        spec_json=spec,
    )


async def create(call: Call) -> web.Response:
    auth = registry_auth(call.request.headers)
    spec = parse(ServiceSpec, await call.body())
    created = await call.engine.control().create_service(spec, registry_auth=auth)
    return reply({"ID": created.id, "Warnings": list(created.warnings) or None}, 201)


async def list_all(call: Call) -> web.Response:
    control = call.engine.control()
    filters = parse_filters(call.query.get("filters", ""), SERVICE_KEYS)
    with_status = strict_flag(call.query, "status")
    statuses = control.statuses if with_status else None  # before the view, to miss no change
    view = await call.view(control, hold=True)
    rows = (
        (service, spec_version(view, service.id, service.spec_version))
        for service in view.services.all()
    )
    found = await in_order(select_services(rows, filters), key=lambda row: row[0].id)
    services = (service for service, _ in found)
    return await reply_list(_print_all(call, view, services, statuses, control.now_ms()))


def _print_all(
    call: Call,
    view: View,
    services: Iterable[Service],
    statuses: "ServiceStatuses | None",
    now_ms: int,
) -> Iterator[ServiceJson | None]:
    """None is a breath; `statuses` are given where they are asked for."""
    for service in services:
        status = (yield from statuses.of(view, service, now_ms)) if statuses is not None else None
        yield _render(call, view, service, status=status)


async def inspect(call: Call) -> web.Response:
    control = call.engine.control()
    with_all = strict_flag(call.query, "insertDefaults")
    view = await call.view(control)
    service = control.find_service(view, call.name)
    spec = spec_json(with_defaults(spec_of(view, service))) if with_all else None
    return reply(_render(call, view, service, spec=spec))


async def update(call: Call) -> web.Response:
    control = call.engine.control()
    version = object_version(call.query, "service")
    auth = registry_auth(call.request.headers) or None
    spec = parse(ServiceSpec, await call.body())
    if is_rollback(call):  # Docker's clients send a spec with it all the same
        warnings = await control.roll_back_service(call.name, version, registry_auth=auth)
    else:
        auth_from = call.query.get("registryAuthFrom", "")
        warnings = await control.update_service(
            call.name, version, spec, registry_auth=auth, auth_from=auth_from
        )
    return reply({"Warnings": list(warnings) or None})


def is_rollback(call: Call) -> bool:
    """What `rollback` asks for. Raises UnknownValueError."""
    rollback = call.query.get("rollback", "")
    if rollback not in ("", "none", "previous"):
        raise UnknownValueError(
            f"unrecognized rollback option {rollback}", remedy="It is none or previous."
        )
    return rollback == "previous"


async def remove(call: Call) -> web.Response:
    await call.engine.control().remove_service(call.name)
    return reply_empty()


def _order(task: Task) -> tuple[int, str, str]:
    return task.slot, task.node_id, task.id


async def logs(call: Call) -> web.StreamResponse:
    control = call.engine.control()
    view = await control.read()
    service = control.find_service(view, call.name)
    container = spec_of(view, service).task_template.container_spec
    tasks = sorted(view.tasks.scan("service", service.id), key=_order)
    is_tty = container is not None and container.tty
    return await stream_logs(call, control, tasks, (service.id,), is_tty=is_tty)


ROUTES: Final = (
    Route("GET", "/services", list_all),
    Route("POST", "/services/create", create),
    Route("GET", "/services/{id}", inspect),
    Route("POST", "/services/{id}/update", update),
    Route("DELETE", "/services/{id}", remove),
    Route("GET", "/services/{id}/logs", logs),
)
