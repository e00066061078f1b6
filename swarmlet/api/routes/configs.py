"""`/configs`: payloads that may be read back."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_bytes, reply_empty
from swarmlet.api.filters import CONFIG_KEYS, parse_filters, select_configs
from swarmlet.api.query import object_version
from swarmlet.api.render.payload import render_config
from swarmlet.model.config import ConfigSpec
from swarmlet.model.parse import parse


async def create(call: Call) -> web.Response:
    spec = parse(ConfigSpec, await call.body())
    config_id = await call.engine.control().create_config(spec)
    return reply_bytes(b'{"ID":"%b"}' % config_id.encode(), 201)


async def list_all(call: Call) -> web.Response:
    control = call.engine.control()
    filters = parse_filters(call.query.get("filters", ""), CONFIG_KEYS)
    configs = select_configs((await call.view(control)).configs.all(), filters)
    return reply([render_config(config) for config in sorted(configs, key=lambda row: row.id)])


async def inspect(call: Call) -> web.Response:
    control = call.engine.control()
    return reply(render_config(control.find_config(await call.view(control), call.name)))


async def update(call: Call) -> web.Response:
    control = call.engine.control()
    version = object_version(call.query, "config")
    await control.update_config(call.name, version, parse(ConfigSpec, await call.body()))
    return reply_empty()


async def remove(call: Call) -> web.Response:
    await call.engine.control().remove_config(call.name)
    return reply_empty(204)


ROUTES: Final = (
    Route("POST", "/configs/create", create),
    Route("GET", "/configs", list_all),
    Route("GET", "/configs/{id}", inspect),
    Route("POST", "/configs/{id}/update", update),
    Route("DELETE", "/configs/{id}", remove),
)
