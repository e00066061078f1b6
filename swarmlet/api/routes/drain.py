"""`/swarmlet/v1/nodes/{id}/drain`: a node's tasks run elsewhere before they stop here."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.query import flag
from swarmlet.api.render.drain import DrainSpec, render_drain, render_moves
from swarmlet.model.parse import parse


async def begin(call: Call) -> web.Response:
    """`dry-run`: only say what would be done."""
    control = call.engine.control()
    spec = parse(DrainSpec, await call.body())
    if flag(call.query, "dry-run"):
        moves = await control.drain_moves(call.name)
    else:
        moves = await control.drain_node(call.name, deadline_ns=spec.deadline_ns)
    view = await control.read()
    return reply(render_moves(view, control.find_node(view, call.name), moves))


async def look(call: Call) -> web.Response:
    control = call.engine.control()
    view = await call.view(control)
    node = control.find_node(view, call.name)
    from swarmlet.reconcile.drain import left_on  # workers do without

    return reply(render_drain(node, left_on(view, node)))


ROUTES: Final = (
    Route("POST", "/swarmlet/v1/nodes/{id}/drain", begin),
    Route("GET", "/swarmlet/v1/nodes/{id}/drain", look),
)
