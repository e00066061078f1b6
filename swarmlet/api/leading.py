"""Calls that only the manager that leads can answer, whichever manager is asked.

One that does not lead passes them on, once. Who gets a call that was passed on and does not lead
refuses it, with nothing done; so does a leader that is no more before it has proposed anything.
Such a refusal is not the client's affair: for as long as an election takes the call is made again,
and the client sees a pause. What may have been proposed is never repeated here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from swarmlet.api.call import BODY_SIZE_MAX_B, READS, Call, Handler
from swarmlet.api.engine import Engine, Forwarder
from swarmlet.core.errors import (
    NotLeaderError,
    OutcomeUnknownError,
    SwarmError,
    UnavailableError,
    first_of,
)
from swarmlet.core.ids import RaftID

if TYPE_CHECKING:
    from swarmlet.manager.control import Control

PAUSE_S: Final = 2.5
"""A client waits that long for an election at most: by then the log says that a majority is lost,
within a moment more (`SENTENCE_S`)."""

SENTENCE_S: Final = 0.3
AGAIN_MIN_S: Final = 0.02  # between two tries; doubles
AGAIN_MAX_S: Final = 0.25
LEFT_CHECK_PERIOD_S: Final = 0.1  # how soon it is noticed that the manager asked does not lead
ANSWER_WAIT_S: Final = 0.5  # for its answer from then on: it may have made the change

_Answer = TypeVar("_Answer")


async def answer_as_leader(call: Call, handler: Handler) -> web.StreamResponse:
    """The answer of this manager if it leads, else the leader's. Raises SwarmError."""
    if call.engine.forwarder() is not None:
        await call.raw()  # to be sent more than once, if need be

    async def attempt() -> web.StreamResponse:
        forwarder = call.engine.forwarder()
        return await (handler(call) if forwarder is None else pass_on(call, forwarder))

    return await while_electing(call, attempt)


async def while_electing(call: Call, attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """`attempt`, again as long as nobody leads, an election's time at most. Raises its error, or
    QuorumLostError."""
    loop = asyncio.get_running_loop()
    ends_s, pause_s = loop.time() + PAUSE_S, AGAIN_MIN_S
    while True:
        try:
            return await attempt()
        except UnavailableError as problem:
            if loop.time() > ends_s or not is_nothing_done(problem):
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_MAX_S)
        await _settle(call.engine.control(), ends_s + SENTENCE_S)


async def _settle(control: "Control", until_s: float) -> None:
    """Wait for somebody to lead. Raises QuorumLostError; all else shows at the next try."""
    try:
        async with asyncio.timeout_at(until_s):
            await control.read()
    except (TimeoutError, NotLeaderError):
        return


def is_nothing_done(problem: UnavailableError) -> bool:
    """Whether a call that failed so can be repeated: it was not proposed, or not even sent."""
    unsent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    return isinstance(problem, NotLeaderError) or _is_caused_by(problem, *unsent)


def _is_cut_off(problem: BaseException) -> bool:
    """Whether the connection broke once the call was on its way."""
    is_sent = isinstance(problem, UnavailableError) and not is_nothing_done(problem)
    return is_sent and _is_caused_by(problem, aiohttp.ClientError)


def _is_caused_by(problem: BaseException, *kinds: type[BaseException]) -> bool:
    cause: BaseException | None = problem
    while cause is not None and not isinstance(cause, kinds):
        cause = cause.__cause__
    return cause is not None


async def pass_on(call: Call, forwarder: Forwarder) -> web.StreamResponse:
    """The leader's answer. Raises what `Forwarder.pass_on` does; OutcomeUnknownError where the
    leader stops being it, and does not answer any more, before it has said anything."""
    request = await _repeatable(call.request)
    control = call.engine.control()
    watch = _until_left(control, request, control.leadership().leader)
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch, name="leader")
            response = await forwarder.pass_on(request)
            watching.cancel()
            return response
    except BaseExceptionGroup as problems:
        problem = first_of(problems)
    if isinstance(problem, _LeaderLeftError) or _is_cut_off(problem):
        problem = _unanswered(call)
    raise problem


class _LeaderLeftError(Exception):
    """The manager that was asked leads no more and has not answered."""


async def _until_left(control: "Control", request: web.Request, asked: RaftID | None) -> None:
    """Returns once the answer has begun. Raises _LeaderLeftError."""
    left_s = 0.0
    while not request.writer.output_size:
        await asyncio.sleep(LEFT_CHECK_PERIOD_S)
        leader = control.leadership().leader
        asked = asked or leader
        left_s = left_s + LEFT_CHECK_PERIOD_S if leader != asked else 0.0
        if left_s >= ANSWER_WAIT_S and not request.writer.output_size:
            raise _LeaderLeftError


def _unanswered(call: Call) -> SwarmError:
    """What to say of a call that was sent to a leader that fell silent."""
    if call.request.method in READS:
        return NotLeaderError("The manager that led does not answer.", remedy="Try again.")
    return OutcomeUnknownError(
        "The change was sent to the manager that led, which does not answer: it is not known "
        "whether it was made.",
        remedy="Look at the object before you repeat the request.",
    )


def explained(problem: SwarmError, engine: Engine) -> SwarmError:
    """A change of unknown outcome with why nobody can say, where that is a lost majority."""
    if not isinstance(problem, OutcomeUnknownError):
        return problem
    try:
        lost = engine.control().problem(after_s=0)
    except SwarmError:  # it is no manager any more
        return problem
    if lost is None:
        return problem
    remedy = " ".join(filter(None, (problem.remedy, lost.remedy)))
    return OutcomeUnknownError(f"{problem.message} {lost.message}", remedy=remedy)


async def _repeatable(request: web.Request) -> web.Request:
    """The same request with its body from the beginning, however often that was sent."""
    body = await request.read()
    loop = asyncio.get_running_loop()
    payload = aiohttp.StreamReader(request.protocol, BODY_SIZE_MAX_B, loop=loop)
    if body:
        payload.feed_data(body)
    payload.feed_eof()
    message = RawRequestMessage(
        method=request.method,
        path=request.raw_path,
        version=request.version,
        headers=_plain(request.headers),
        raw_headers=request.raw_headers,
        should_close=not request.keep_alive,
        compression=None,
        upgrade=False,
        chunked=False,
        url=request.rel_url,
    )
    return web.Request(
        message, payload, request.protocol, request.writer, request.task, loop,
        client_max_size=BODY_SIZE_MAX_B,
    )  # fmt: skip


def _plain(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """Of a body that is decoded already."""
    if hdrs.CONTENT_ENCODING not in headers:
        return headers
    mine = CIMultiDict(headers)
    for name in (hdrs.CONTENT_ENCODING, hdrs.CONTENT_LENGTH):
        mine.popall(name, None)
    return CIMultiDictProxy(mine)
