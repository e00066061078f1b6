"""The door: versions, routes and errors of every request."""

import logging
import re
from typing import Final

from aiohttp import web

from swarmlet.api.call import (
    API_VERSION,
    API_VERSION_MIN,
    BODY_SIZE_MAX_B,
    Call,
    Context,
    reply_empty,
    reply_error,
    reply_problem,
    version_text,
)
from swarmlet.api.engine import Engine
from swarmlet.api.router import RouteTable, path_parts
from swarmlet.api.routes import ROUTES
from swarmlet.core.errors import InvalidArgumentError, OutcomeUnknownError, SwarmError

log = logging.getLogger("swarmlet.api")

_VERSION: Final = re.compile(r"v[0-9.]{1,16}", re.ASCII)


def build_app(engine: Engine) -> web.Application:
    """The whole API in front of `engine`. Streams end when the application shuts down."""
    context = Context(engine=engine)
    door = _Door(context)
    app = web.Application(client_max_size=BODY_SIZE_MAX_B)
    app.router.add_route("*", r"/{path:[\s\S]*}", door.answer)  # a line's end may be in there

    async def end_streams(_: web.Application) -> None:
        context.stopping.set()

    app.on_shutdown.append(end_streams)
    return app


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


class _Door:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._routes = RouteTable(ROUTES)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Every request's answer; nothing is raised but what ends the connection."""
        try:
            return await self._dispatch(request)
        except SwarmError as problem:
            return reply_problem(problem)
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

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
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
        handler, names = found
        return await handler(Call(request, self._context, version, names))
