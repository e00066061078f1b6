"""`/tasks`: asked for most, without a pause, by clients that wait for something."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.filters import TASK_KEYS, Filters, parse_filters, select_tasks
from swarmlet.api.logs import stream_logs
from swarmlet.api.render.task import TaskJson, render_task
from swarmlet.model.network import Network
from swarmlet.model.service import SpecVersion
from swarmlet.model.task import Task
from swarmlet.model.view import View, task_spec_of, task_spec_version_of

if TYPE_CHECKING:
    from swarmlet.manager.control import Control

SLICE_TASKS: Final = 250
"""Tasks printed before the loop breathes: about 5 ms."""


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


async def _render_all(
    call: Call, rows: list[tuple[Task, SpecVersion]], networks: dict[str, Network], now_ms: int
) -> list[TaskJson]:
    """Rows are frozen, so what was selected at one moment may be printed in slices."""
    printed: list[TaskJson] = []
    for start in range(0, len(rows), SLICE_TASKS):
        if start:
            await asyncio.sleep(0)
        printed += [
            render_task(task, call.context.specs.of(row), networks, now_ms=now_ms)
            for task, row in rows[start : start + SLICE_TASKS]
        ]
    return printed


async def list_all(call: Call) -> web.Response:
    control = call.engine.control()
    filters = parse_filters(call.query.get("filters", ""), TASK_KEYS)
    view = await call.view(control)
    selected = select_tasks(view, _ids_for_names(control, view, filters))
    rows = sorted(selected, key=lambda row: row[0].id)
    return reply(await _render_all(call, rows, _networks(view), control.now_ms()))


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
