"""`/nodes`."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_empty
from swarmlet.api.filters import NODE_KEYS, parse_filters, select_nodes
from swarmlet.api.listing import in_order, reply_list
from swarmlet.api.query import flag, object_version
from swarmlet.api.render.node import Managers, render_node
from swarmlet.model.node import NodeSpec
from swarmlet.model.parse import parse


async def list_all(call: Call) -> web.Response:
    control = call.engine.control()
    filters = parse_filters(call.query.get("filters", ""), NODE_KEYS)
    view = await call.view(control, hold=True)
    managers = Managers(control.health())
    nodes = await in_order(select_nodes(view.nodes.all(), filters), key=lambda node: node.id)
    return await reply_list(render_node(node, managers) for node in nodes)


async def inspect(call: Call) -> web.Response:
    control = call.engine.control()
    node = control.find_node(await call.view(control), call.name)
    return reply(render_node(node, Managers(control.health())))


async def update(call: Call) -> web.Response:
    control = call.engine.control()
    version = object_version(call.query, "node")
    await control.update_node(call.name, version, parse(NodeSpec, await call.body()))
    return reply_empty()


async def remove(call: Call) -> web.Response:
    control = call.engine.control()
    await control.remove_node(call.name, force=flag(call.query, "force"))
    return reply_empty()


ROUTES: Final = (
    Route("GET", "/nodes", list_all),
    Route("GET", "/nodes/{id}", inspect),
    Route("POST", "/nodes/{id}/update", update),
    Route("DELETE", "/nodes/{id}", remove),
)
