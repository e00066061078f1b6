"""`/events`: what changes in the swarm, as it changes.

Only the swarm's own objects: containers, images and volumes of a node's engine are its own affair.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web

from swarmlet.api.call import Call, Route, encode_json, stream, tell_age
from swarmlet.api.filters import EVENT_KEYS, OWN_EVENT_KEYS, event_matches, parse_filters
from swarmlet.api.query import time_ns
from swarmlet.api.render.event import render_event
from swarmlet.api.streams import while_read
from swarmlet.core.errors import InvalidArgumentError, NotManagerError, SwarmStateError
from swarmlet.core.limits import NS_PER_S
from swarmlet.model.event_message import EventMessage

if TYPE_CHECKING:
    from swarmlet.manager.event_feed import EventReader

_JSON: Final = "application/json"
_LINES: Final = "application/jsonl"
_SEQUENCE: Final = "application/json-seq"
_OFFERED: Final = (_LINES, "application/x-ndjson", _SEQUENCE)  # the first where nothing is wished
_NAMED_SINCE: Final = (1, 52)
"""Clients before that version are told of one JSON document, whatever they accept."""


def _media_type(call: Call) -> str:
    if call.version < _NAMED_SINCE:
        return _JSON
    accepted = call.request.headers.get("Accept", "")
    return next((kind for kind in _OFFERED if kind in accepted), _LINES)


def _bounds(call: Call) -> tuple[int, int]:
    """`since` and `until` in ns, 0 where absent. Raises InvalidArgumentError."""
    since_ns, until_ns = time_ns(call.query, "since"), time_ns(call.query, "until")
    if until_ns and until_ns < since_ns:
        since, until = call.query.get("since", ""), call.query.get("until", "")
        raise InvalidArgumentError(f"`since` time ({since}) cannot be after `until` time ({until})")
    return since_ns, until_ns


class _Output:
    """One JSON object a line; each begins with RS in a JSON text sequence (RFC 7464)."""

    def __init__(self, kind: str) -> None:
        self.response = stream(kind)
        self._start = b"\x1e" if kind == _SEQUENCE else b""

    async def write(self, message: EventMessage) -> None:
        await self.response.write(self._start + encode_json(render_event(message)) + b"\n")


async def _copy(
    reader: "EventReader", out: _Output, past_ns: tuple[int, int], limit_s: float | None
) -> None:
    """The past where any was asked for, then for `limit_s` what comes; for ever where that is
    None."""
    with suppress(ConnectionError, TimeoutError):  # the client is gone, or `until` has come
        if any(past_ns):
            async for message in reader.past(*past_ns):
                await out.write(message)
        if limit_s is not None and limit_s <= 0:
            return
        async with asyncio.timeout(limit_s):
            async for message in reader:
                await out.write(message)


async def _catch_up(call: Call) -> None:
    """This manager knows by now what any manager knew when it was asked. A node without a swarm,
    and a worker, have nothing to wait for. Raises QuorumLostError."""
    try:
        control = call.engine.control()
    except (SwarmStateError, NotManagerError):
        return
    await call.view(control)


async def _follow(call: Call, keys: frozenset[str], *, with_tasks: bool) -> web.StreamResponse:
    """The head leaves at once; with an `until` that is over, what was kept, and the end."""
    past_ns = _bounds(call)
    until_ns = past_ns[1]
    filters = parse_filters(call.query.get("filters", ""), keys)
    feed, out = call.engine.events, _Output(_media_type(call))
    if any(past_ns):
        await _catch_up(call)
    limit_s = (until_ns - feed.now_ns()) / NS_PER_S if until_ns else None
    wants = partial(event_matches, filters)
    with feed.subscribe(wants, with_past=any(past_ns), with_tasks=with_tasks) as reader:
        tell_age(out.response, call.stale_ms)
        await out.response.prepare(call.request)
        await while_read(call, _copy(reader, out, past_ns, limit_s))
    return out.response


async def follow(call: Call) -> web.StreamResponse:
    """Docker's: the swarm's objects but tasks."""
    return await _follow(call, EVENT_KEYS, with_tasks=False)


async def follow_all(call: Call) -> web.StreamResponse:
    """The same with tasks, and what was done in them."""
    return await _follow(call, OWN_EVENT_KEYS, with_tasks=True)


ROUTES: Final = (Route("GET", "/events", follow), Route("GET", "/swarmlet/v1/events", follow_all))
