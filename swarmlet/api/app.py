"""The door: versions, routes and errors of every request."""

import logging
import re
from functools import partial
from typing import Final

from aiohttp import web
from yarl import URL

from swarmlet.api.call import (
    API_VERSION,
    API_VERSION_MIN,
    BODY_SIZE_MAX_B,
    Call,
    Context,
    Route,
    reply_empty,
    reply_error,
    reply_problem,
    tell_age,
    version_text,
)
from swarmlet.api.engine import Engine
from swarmlet.api.leading import answer_as_leader, explained, while_electing
from swarmlet.api.router import RouteTable, path_parts
from swarmlet.api.routes import ROUTES
from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    NotLeaderError,
    OutcomeUnknownError,
    SwarmError,
)
from swarmlet.wire.forward import passed_on_once

log = logging.getLogger("swarmlet.api")

_VERSION: Final = re.compile(r"v[0-9.]{1,16}", re.ASCII)


def _requested_version(part: str) -> tuple[int, int]:
    """`v1.41` is (1, 41). Raises InvalidArgumentError outside of what is spoken here."""
    text = part[1:]
    numbers = [int(number or 0) for number in text.split(".")[:2]] + [0]
    version = (numbers[0], numbers[1])
    if version < API_VERSION_MIN:
        raise InvalidArgumentError(
            f"client version {text} is too old. Minimum supported API version is "
            f"{version_text(API_VERSION_MIN)}, please upgrade your client to a newer version"
        )
    if version > API_VERSION:
        raise InvalidArgumentError(
            f"client version {text} is too new. Maximum supported API version is "
            f"{version_text(API_VERSION)}"
        )
    return version


class Door:
    """What answers the API's requests, of clients and of other managers. `stop` ends streams."""

    def __init__(self, engine: Engine) -> None:
        self._context = Context(engine=engine)
        self._routes = RouteTable(ROUTES)

    def stop(self) -> None:
        self._context.stopping.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request's answer; nothing is raised but what ends the connection."""
        return await self._answer(request, is_forwarded=False)

    async def answer_forwarded(self, request: web.Request, raw_path: str) -> web.StreamResponse:
        """The same for what another manager passed on: of the swarm alone, never passed on again.
        `raw_path` begins with a slash, its query is the request's. Raises NotLeaderError where this
        manager does not lead, and has done nothing."""
        query = request.rel_url.raw_query_string
        url = URL(f"{raw_path}?{query}" if query else raw_path, encoded=True)
        asked = request.clone(rel_url=url, client_max_size=BODY_SIZE_MAX_B)
        return await self._answer(asked, is_forwarded=True)

    async def _answer(self, request: web.Request, *, is_forwarded: bool) -> web.StreamResponse:
        try:
            return await self._dispatch(request, is_forwarded)
        except SwarmError as problem:
            if is_forwarded and isinstance(problem, NotLeaderError):
                raise
            return reply_problem(explained(problem, self._context.engine))
        except TimeoutError:
            return reply_problem(
                OutcomeUnknownError(
                    "The change was proposed, but it is not known whether it was committed.",
                    remedy="Look at the object before you repeat the request.",
                )
            )
        except web.HTTPRequestEntityTooLarge:
            return reply_error(f"the request's body is larger than {BODY_SIZE_MAX_B} bytes", 413)
        except Exception:
            if request.transport is None:  # the client is gone: nobody reads what is said now
                return reply_empty()
            # One broken request must not end the daemon, and its traceback is not for clients.
            log.exception(
                "api.request_failed", extra={"method": request.method, "path": request.path}
            )
            return reply_error("internal error: see the daemon's log", 500)

    async def _dispatch(self, request: web.Request, is_forwarded: bool) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return reply_empty()
        parts = path_parts(request.rel_url.raw_path)
        prefix = ""
        if len(parts) > 1 and _VERSION.fullmatch(parts[0]):
            prefix, parts = parts[0], parts[1:]
        found = self._routes.find(request.method, parts)
        if found is None:
            return reply_error("page not found", 404)
        version = _requested_version(prefix) if prefix else API_VERSION
        route, names = found
        call = Call(request, self._context, version, names)
        if is_forwarded:
            return await self._answer_manager(call, route)
        if route.is_local:
            return await route.handler(call)
        if route.is_for_leader():
            return await answer_as_leader(call, route.handler)
        return await while_electing(call, partial(_answer_here, call, route))

    async def _answer_manager(self, call: Call, route: Route) -> web.StreamResponse:
        """Who passed this on waits for a leader, if need be; it is not passed on again."""
        if route.is_local:
            raise ForbiddenError(f"{call.request.path} is answered by a node's own daemon alone")
        if self._context.engine.forwarder() is not None:
            raise passed_on_once()
        return await _answer_here(call, route)


async def _answer_here(call: Call, route: Route) -> web.StreamResponse:
    response = await route.handler(call)
    tell_age(response, call.stale_ms)
    return response


def build_app(engine: Engine, door: Door | None = None) -> web.Application:
    """The whole API in front of `engine`. Streams end when the application shuts down."""
    door = door or Door(engine)
    app = web.Application(client_max_size=BODY_SIZE_MAX_B)
    app.router.add_route("*", r"/{path:[\s\S]*}", door.answer)  # a line's end may be in there

    async def end_streams(_: web.Application) -> None:
        door.stop()

    app.on_shutdown.append(end_streams)
    return app
