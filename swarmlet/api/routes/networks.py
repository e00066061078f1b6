"""`/networks`: the swarm's. Networks of one host are not kept by this daemon."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_empty
from swarmlet.api.filters import NETWORK_KEYS, parse_filters, select_networks
from swarmlet.api.query import strict_flag
from swarmlet.api.render.network import render_network
from swarmlet.core.errors import (
    ForbiddenError,
    NotFoundError,
    NotManagerError,
    UnsupportedError,
)
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.parse import parse


async def list_all(call: Call) -> web.Response:
    """Empty where this node is no manager: there is no network it could name."""
    filters = parse_filters(call.query.get("filters", ""), NETWORK_KEYS)
    try:
        control = call.engine.control()
    except NotManagerError:
        return reply([])
    networks = sorted(select_networks(await call.view(control), filters), key=_order)
    return reply([render_network(network, is_whole=False) for network in networks])


def _order(network: Network) -> tuple[int, str]:
    return network.created_ms, network.id


async def inspect(call: Call) -> web.Response:
    strict_flag(call.query, "verbose")
    if call.query.get("scope", "swarm") not in ("", "swarm"):
        raise NotFoundError("network", call.name)
    try:
        control = call.engine.control()
    except NotManagerError:
        raise NotFoundError("network", call.name) from None
    network = control.find_network(await call.view(control), call.name)
    return reply(render_network(network, is_whole=True))


async def create(call: Call) -> web.Response:
    spec = parse(NetworkSpec, await call.body())
    if spec.driver not in ("", "overlay") or spec.scope == "local":
        raise UnsupportedError(
            f"Networks of one host ({spec.driver or 'local'}) are not kept by this daemon.",
            remedy="Tasks reach each other over the host's own network.",
        )
    try:
        control = call.engine.control()
    except NotManagerError as problem:
        raise ForbiddenError(problem.message, problem.remedy) from None
    network_id = await control.create_network(spec)
    return reply({"Id": network_id, "Warning": ""}, 201)


async def remove(call: Call) -> web.Response:
    try:
        control = call.engine.control()
    except NotManagerError:
        raise NotFoundError("network", call.name) from None
    await control.remove_network(call.name)
    return reply_empty(204)


async def refuse_containers(call: Call) -> web.Response:
    raise UnsupportedError("Containers cannot be connected: this daemon runs tasks of services.")


ROUTES: Final = (
    Route("GET", "/networks", list_all),
    Route("GET", "/networks/", list_all),
    Route("GET", "/networks/{id}", inspect),
    Route("POST", "/networks/create", create),
    Route("DELETE", "/networks/{id}", remove),
    Route("POST", "/networks/{id}/connect", refuse_containers),
    Route("POST", "/networks/{id}/disconnect", refuse_containers),
)
