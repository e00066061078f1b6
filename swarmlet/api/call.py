"""One request as a handler sees it, and the answers a handler gives."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy, MultiDictProxy

from swarmlet.api.engine import Engine
from swarmlet.api.query import flag
from swarmlet.api.render.spec import ShownSpecs
from swarmlet.core.errors import InvalidArgumentError, SwarmError
from swarmlet.core.version import VERSION
from swarmlet.model.view import View

if TYPE_CHECKING:
    from swarmlet.manager.control import Control

API_VERSION: Final = (1, 52)
API_VERSION_MIN: Final = (1, 24)

BODY_SIZE_MAX_B: Final = 4 * 1024 * 1024
"""Of a request: a config of 1,000 KiB in base64, with room; the log refuses more anyway."""


def version_text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


COMMON_HEADERS: Final = {
    "Api-Version": version_text(API_VERSION),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Docker/{VERSION} (linux)",
}


def _headers(more: dict[str, str]) -> CIMultiDictProxy[str]:
    """Frozen, so that aiohttp copies them instead of adding to them."""
    return CIMultiDictProxy(CIMultiDict({**COMMON_HEADERS, **more}))


_PLAIN: Final = _headers({})
_JSON: Final = _headers({"Content-Type": "application/json"})

STALE_HEADER: Final = "Swarmlet-Stale-Ms"
"""Of an answer to a request with `?stale=1`: how long ago it was sure to be the newest."""

encode_json = msgspec.json.Encoder(order="deterministic").encode
"""Fields stand as their struct has them, the keys of maps are sorted: as Go does both."""


@dataclass(slots=True)
class Context:
    """What every call shares. `stopping` is set when the server ends: streams end by themselves."""

    engine: Engine
    specs: ShownSpecs = field(default_factory=ShownSpecs)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Call:
    """`names` are the parts of the path that the route leaves open, decoded, in order."""

    request: web.Request
    context: Context
    version: tuple[int, int]
    names: tuple[str, ...]
    stale_ms: int | None = None  # how old the view was that was given, where it may be old

    @property
    def engine(self) -> Engine:
        return self.context.engine

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def query(self) -> MultiDictProxy[str]:
        return self.request.rel_url.query

    async def view(self, control: "Control", *, hold: bool = False) -> View:
        """The swarm's state for an answer to this request: its newest, or with `?stale=1` what this
        manager knows, of which the answer says how old it may be; with `hold` it stays as it is
        across awaits. Raises QuorumLostError."""
        if not flag(self.query, "stale"):
            return await control.read(hold=hold)
        self.stale_ms = control.stale_ms()
        return await control.read(stale=True, hold=hold)

    async def raw(self) -> bytes:
        """The request's body, whatever it is. Raises InvalidArgumentError: it cannot be read."""
        try:
            return await self.request.read()
        except web.RequestPayloadError as problem:
            raise InvalidArgumentError(f"the request's body cannot be read: {problem}") from None

    async def body(self) -> bytes:
        """The request's body, empty where there is none. Raises InvalidArgumentError where it is
        not said to be JSON, as Docker's CheckForJSON does, or cannot be read."""
        raw = await self.raw()
        kind = self.request.headers.get("Content-Type", "")
        if kind == "application/json" or (not kind and not raw):
            return raw
        if not kind:
            raise InvalidArgumentError("malformed Content-Type header (): mime: no media type")
        if self.request.content_type != "application/json":
            raise InvalidArgumentError(
                f"unsupported Content-Type header ({kind}): must be 'application/json'"
            )
        return raw


READS: Final = ("GET", "HEAD")

Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` without a version: `{name}` stands for one part, `{name*}` for one or more.
    `is_local`: about this very daemon, so that no other can answer it."""

    method: str
    path: str
    handler: Handler
    is_local: bool = False

    def is_for_leader(self) -> bool:
        """Whether another manager passes it on: changes."""
        return not self.is_local and self.method not in READS


def reply_bytes(body: bytes, status: int = 200) -> web.Response:
    """JSON that is already encoded; ends in a newline as Docker's does."""
    return web.Response(body=body + b"\n", status=status, headers=_JSON)


def reply(value: object, status: int = 200) -> web.Response:
    return reply_bytes(encode_json(value), status)


def reply_empty(status: int = 200) -> web.Response:
    return web.Response(status=status, headers=_PLAIN)


def tell_age(response: web.StreamResponse, stale_ms: int | None) -> None:
    """Of an answer from a view that may be old."""
    if stale_ms is not None and not response.prepared:
        response.headers[STALE_HEADER] = str(stale_ms)


def reply_text(text: str, headers: dict[str, str]) -> web.Response:
    return web.Response(body=text.encode(), headers=_headers(headers))


def reply_error(message: str, status: int, **more: str) -> web.Response:
    """`message` may repeat bytes of the request that are no UTF-8."""
    message = message.encode(errors="replace").decode()
    return reply(
        {"message": message, **{name: text for name, text in more.items() if text}}, status
    )


def reply_problem(problem: SwarmError) -> web.Response:
    """Docker's clients print `message`; ours adds what `remedy` says, and knows `code`."""
    return reply_error(
        problem.message, problem.http_status, remedy=problem.remedy, code=problem.code
    )


def stream(kind: str) -> web.StreamResponse:
    """An answer whose head leaves as soon as it is prepared."""
    return web.StreamResponse(headers=_headers({"Content-Type": kind}))
