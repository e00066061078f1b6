"""`/swarmlet/v1/rebalance`: tasks that run well are moved to where the swarm is more even."""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route, reply
from swarmlet.api.query import flag
from swarmlet.api.render.rebalance import render_rebalance


async def begin(call: Call) -> web.Response:
    """`dry-run`: only say what would be done."""
    control = call.engine.control()
    is_dry = flag(call.query, "dry-run")
    moves = await (control.rebalance_moves() if is_dry else control.rebalance())
    return reply(render_rebalance(await control.read(), moves))


ROUTES: Final = (Route("POST", "/swarmlet/v1/rebalance", begin),)
