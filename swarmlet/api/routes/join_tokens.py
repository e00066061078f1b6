"""`/swarmlet/v1/join-tokens`: join tokens beside the two that every swarm has."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply, reply_empty
from swarmlet.api.render.join_token import JoinTokenCreatedJson, render_join_token
from swarmlet.model.join_token import JoinTokenSpec
from swarmlet.model.parse import parse


async def create(call: Call) -> web.Response:
    spec = parse(JoinTokenSpec, await call.body())
    created = await call.engine.control().create_join_token(spec)
    return reply(JoinTokenCreatedJson(id=created.id, token=created.token), 201)


async def list_all(call: Call) -> web.Response:
    control = call.engine.control()
    tokens = control.join_tokens(await call.view(control))
    return reply([render_join_token(row, state) for row, state in tokens])


async def remove(call: Call) -> web.Response:
    await call.engine.control().remove_join_token(call.name)
    return reply_empty(204)


ROUTES: Final = (
    Route("GET", "/swarmlet/v1/join-tokens", list_all),
    Route("POST", "/swarmlet/v1/join-tokens", create),
    Route("DELETE", "/swarmlet/v1/join-tokens/{id}", remove),
)
