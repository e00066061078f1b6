"""`/swarmlet/v1/services/...`: the specs a service had, the way back, and what an update would do.

Docker's API knows the one spec before the present one, and rolls back to that alone."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.query import object_version, registry_auth
from swarmlet.api.render.revision import render_difference, render_plan, render_revisions
from swarmlet.api.routes.services import is_rollback
from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError
from swarmlet.model.parse import parse
from swarmlet.model.revision import versions_of
from swarmlet.model.service import Service, ServiceSpec, SpecVersion, spec_version_id
from swarmlet.model.view import View

NUMBER_LENGTH_MAX: Final = 18  # digits


def _number(call: Call, name: str) -> int | None:
    """A spec's number; None where it is not given. Raises InvalidArgumentError."""
    text = call.query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_LENGTH_MAX):
        raise InvalidArgumentError(
            f"invalid value for {name}: {text}", remedy="Send a number that the history names."
        )
    return int(text)


async def history(call: Call) -> web.Response:
    """The specs that are kept, newest first, with what each changed."""
    control = call.engine.control()
    view = await call.view(control)
    service = control.find_service(view, call.name)
    return reply(render_revisions(service, versions_of(view, service.id), call.context.specs))


async def difference(call: Call) -> web.Response:
    """How `to` (else the present spec) differs from `from` (else the one before)."""
    control = call.engine.control()
    first, last = _number(call, "from"), _number(call, "to")
    view = await call.view(control)
    service = control.find_service(view, call.name)
    new = _version(view, service, service.spec_version if last is None else last)
    old = _before(view, service, new) if first is None else _version(view, service, first)
    return reply(render_difference(old, new))


def _version(view: View, service: Service, number: int) -> SpecVersion:
    from swarmlet.manager.control import revision_of  # workers do without

    return revision_of(view, service, number)


def _before(view: View, service: Service, new: SpecVersion) -> SpecVersion:
    """What an update came from, else the one before it that is kept."""
    known = view.specs.get(spec_version_id(service.id, service.previous_spec_version))
    if known is not None and new.number == service.spec_version:
        return known
    earlier = [row for row in versions_of(view, service.id) if row.number < new.number]
    if not earlier:
        raise FailedPreconditionError(
            f"service {service.name} has no spec before {new.number}",
            remedy=f"`swarmlet service history {service.name}` lists those that are kept.",
        )
    return earlier[-1]


async def roll_back(call: Call) -> web.Response:
    """As an update with rollback=previous; with `to` back to that spec."""
    control = call.engine.control()
    warnings = await control.roll_back_service(
        call.name,
        object_version(call.query, "service"),
        to=_number(call, "to"),
        registry_auth=registry_auth(call.request.headers) or None,
    )
    return reply({"Warnings": list(warnings) or None})


async def plan(call: Call) -> web.Response:
    """What an update to the spec in the body would do, or with rollback=previous or `to` a
    rollback."""
    control = call.engine.control()
    number = _number(call, "to")
    if number is not None or is_rollback(call):
        return reply(render_plan(await control.plan_service_rollback(call.name, to=number)))
    spec = parse(ServiceSpec, await call.body())
    return reply(render_plan(await control.plan_service_update(call.name, spec)))


ROUTES: Final = (
    Route("GET", "/swarmlet/v1/services/{id}/history", history),
    Route("GET", "/swarmlet/v1/services/{id}/diff", difference),
    Route("POST", "/swarmlet/v1/services/{id}/rollback", roll_back),
    Route("POST", "/swarmlet/v1/services/{id}/plan", plan),
)
