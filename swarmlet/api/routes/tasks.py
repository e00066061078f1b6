"""`/tasks`: asked for most, without a pause, by clients that wait for something."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.filters import TASK_KEYS, Filters, parse_filters, select_tasks
from swarmlet.api.listing import in_order, stream_list
from swarmlet.api.logs import stream_logs
from swarmlet.api.render.task import render_task
from swarmlet.model.network import Network
from swarmlet.model.view import View, task_spec_of, task_spec_version_of

if TYPE_CHECKING:
    from swarmlet.manager.control import Control


def _ids_for_names(control: "Control", view: View, filters: Filters) -> Filters:
    """`service` and `node` by id. Raises NotFoundError for one that is not there, as in Docker."""
    finders: dict[str, Callable[[str], str]] = {
        "service": lambda ref: control.find_service(view, ref).id,
        "node": lambda ref: control.find_node(view, ref).id,
    }
    return {
        key: tuple(map(finders[key], values)) if key in finders else values
        for key, values in filters.items()
    }


def _networks(view: View) -> dict[str, Network]:
    return {network.id: network for network in view.networks.all()}


async def list_all(call: Call) -> web.StreamResponse:
    control = call.engine.control()
    filters = parse_filters(call.query.get("filters", ""), TASK_KEYS)
    view = await call.view(control, hold=True)
    selected = select_tasks(view, _ids_for_names(control, view, filters))
    rows = await in_order(selected, key=lambda row: row[0].id)
    specs, networks, now_ms = call.context.specs, _networks(view), control.now_ms()
    del view, selected  # nobody holds it while the client takes its time
    return await stream_list(
        call, (render_task(task, specs.of(row), networks, now_ms=now_ms) for task, row in rows)
    )


async def inspect(call: Call) -> web.Response:
    control = call.engine.control()
    view = await call.view(control)
    task = control.find_task(view, call.name)
    spec = call.context.specs.of(task_spec_version_of(view, task))
    return reply(render_task(task, spec, _networks(view), now_ms=control.now_ms()))


async def logs(call: Call) -> web.StreamResponse:
    control = call.engine.control()
    view = await control.read()
    task = control.find_task(view, call.name)
    container = task_spec_of(view, task).task_template.container_spec
    return await stream_logs(call, control, [task], is_tty=container is not None and container.tty)


ROUTES: Final = (
    Route("GET", "/tasks", list_all),
    Route("GET", "/tasks/{id}", inspect),
    Route("GET", "/tasks/{id}/logs", logs),
)
