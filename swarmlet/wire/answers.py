"""What a node port answers, read by the calling side: whether it is one, and what it refuses."""

import asyncio
from functools import cache
from typing import Final

import aiohttp

from swarmlet.core.errors import (
    InvalidArgumentError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
    first_of,
)
from swarmlet.wire.channel import ChannelClosedError, StreamChannel
from swarmlet.wire.forward import PROBLEM_HEADER, PROTOCOL_HEADER, decode_problem
from swarmlet.wire.messages import PROTOCOL_VERSION, StreamFrame, StreamReady, StreamRefused
from swarmlet.wire.node_api import PortProblem
from swarmlet.wire.until_first import until_first

OWN_HEADERS: Final = {PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
"""Of each request."""

ANSWER_SIZE_MAX_B: Final = (
    256 * 1024
)  # a root bundle, a certificate's chain; SwarmKit ca/external.go
READY_TIMEOUT_S: Final = 28.0  # the leader has its own deadlines; a client waits for 30 s
_FIRST_REFUSAL: Final = 400  # HTTP status


class StrangerError(Exception):
    """Whoever answered is no node port; the text says why."""


async def check_answer(answer: aiohttp.ClientResponse) -> None:
    """By the head alone. Raises StrangerError, or the SwarmError that the port answered with."""
    problem = _problem_of(answer)
    if problem is not None:
        answer.close()
        raise problem


def check_leads(answer: aiohttp.ClientResponse) -> None:
    """Of a request that was passed on. Raises NotLeaderError, as the other manager did: it leads no
    more, and has done nothing."""
    text = answer.headers.get(PROBLEM_HEADER, "")
    try:
        problem = decode_problem(text) if text else None
    except InvalidArgumentError:
        return  # whatever it is, the caller gets it as it is
    if problem is not None and problem.code == NotLeaderError.code:
        answer.close()
        raise refusal(problem)


async def read_answer(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises StrangerError where it is larger than any answer."""
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > ANSWER_SIZE_MAX_B:
            raise StrangerError(f"its answer is larger than {ANSWER_SIZE_MAX_B >> 10} KiB")
    return bytes(body)


def refusal(problem: PortProblem) -> SwarmError:
    """The error that the port raised, as its kind on this side."""
    kind = _kinds().get(problem.code, UnavailableError)
    if kind is NotLeaderError:
        return NotLeaderError(problem.message, problem.remedy, problem.managers)
    error = kind.__new__(kind)  # some make their sentence of other arguments
    SwarmError.__init__(error, problem.message, problem.remedy)
    return error


async def until_ready(channel: StreamChannel) -> None:
    """Return once the leader says that the stream begins. Raises what it says is in the way, or
    UnavailableError."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            frame = await _unless_lost(channel)
    except TimeoutError:
        raise UnavailableError("The manager that leads did not open the stream in time.") from None
    except ChannelClosedError as end:
        raise UnavailableError(
            "The connection to the manager that leads was lost before the stream began.",
            remedy="Try again in a moment.",
        ) from end
    if isinstance(frame, StreamRefused):
        problem = PortProblem(
            code=frame.code, message=frame.message, remedy=frame.remedy, managers=frame.managers
        )
        raise refusal(problem)
    if not isinstance(frame, StreamReady):
        raise UnavailableError("The manager that leads did not open the stream.")


async def _unless_lost(channel: StreamChannel) -> StreamFrame:
    """The next frame. Raises ChannelClosedError, also where the other host is gone and has not even
    acknowledged what it was asked: the kernel would try for minutes."""
    frames: list[StreamFrame] = []

    async def take() -> None:
        frames.append(await channel.receive())

    try:
        await until_first(take(), channel.left(or_closed=False))
    except ExceptionGroup as problems:
        raise first_of(problems) from problems
    if not frames:
        raise ChannelClosedError
    return frames[0]


def _problem_of(answer: aiohttp.ClientResponse) -> SwarmError | StrangerError | None:
    theirs = answer.headers.get(PROTOCOL_HEADER, "")
    if not theirs.isdecimal():
        return StrangerError("it answers, but not as a manager does")
    if int(theirs) < PROTOCOL_VERSION - 1:
        return UnavailableError(
            f"{answer.url.authority} speaks protocol {theirs}, which is too old for this node's "
            f"({PROTOCOL_VERSION})",
            remedy="Upgrade swarmlet there first.",
        )
    if answer.status < _FIRST_REFUSAL:
        return None
    try:
        return refusal(decode_problem(answer.headers.get(PROBLEM_HEADER, "")))
    except InvalidArgumentError:
        return StrangerError(f"it answers with HTTP status {answer.status}")


@cache
def _kinds() -> dict[str, type[SwarmError]]:
    """All that a port can raise; asked when the first refusal comes, for rooms add their own."""
    return _kinds_below(SwarmError)


def _kinds_below(base: type[SwarmError]) -> dict[str, type[SwarmError]]:
    found: dict[str, type[SwarmError]] = {}
    for kind in base.__subclasses__():
        if "code" in vars(kind):  # others are known by what they are kinds of
            found[kind.code] = kind
        found |= _kinds_below(kind)
    return found
