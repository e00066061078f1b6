"""`/secrets`: payloads that never come back."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_bytes, reply_empty
from swarmlet.api.filters import SECRET_KEYS, parse_filters, select_secrets
from swarmlet.api.query import object_version
from swarmlet.api.render.payload import render_secret
from swarmlet.model.parse import parse
from swarmlet.model.secret import SecretSpec


async def create(call: Call) -> web.Response:
    spec = parse(SecretSpec, await call.body())
    secret_id = await call.engine.control().create_secret(spec)
    return reply_bytes(b'{"ID":"%b"}' % secret_id.encode(), 201)


async def list_all(call: Call) -> web.Response:
    control = call.engine.control()
    filters = parse_filters(call.query.get("filters", ""), SECRET_KEYS)
    secrets = select_secrets((await call.view(control)).secrets.all(), filters)
    return reply([render_secret(secret) for secret in sorted(secrets, key=lambda row: row.id)])


async def inspect(call: Call) -> web.Response:
    control = call.engine.control()
    return reply(render_secret(control.find_secret(await call.view(control), call.name)))


async def update(call: Call) -> web.Response:
    control = call.engine.control()
    version = object_version(call.query, "secret")
    await control.update_secret(call.name, version, parse(SecretSpec, await call.body()))
    return reply_empty()


async def remove(call: Call) -> web.Response:
    await call.engine.control().remove_secret(call.name)
    return reply_empty(204)


ROUTES: Final = (
    Route("POST", "/secrets/create", create),
    Route("GET", "/secrets", list_all),
    Route("GET", "/secrets/{id}", inspect),
    Route("POST", "/secrets/{id}/update", update),
    Route("DELETE", "/secrets/{id}", remove),
)
