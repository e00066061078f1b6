"""What all streams share: their frames, what they say of a problem, and that they end with their
client and with the server."""

import asyncio
import logging
import select
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Final

from swarmlet.api.call import Call
from swarmlet.core.errors import SwarmError, first_of
from swarmlet.wire.until_first import until_first

log = logging.getLogger("swarmlet.api")

GONE_CHECK_PERIOD_S: Final = 0.5
"""How soon a stream ends after the client left it while nothing is written."""

SYSTEM_ERROR: Final = 3
"""The stream number whose payload clients print as an error before they end."""

RAW: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"

_MULTIPLEXED_SINCE: Final = (1, 42)
_FRAME: Final = struct.Struct(">BxxxI")


def frame(number: int, payload: bytes) -> bytes:
    """Docker's stdcopy: stream number (1 stdout, 2 stderr), three zeros, size, payload."""
    return _FRAME.pack(number, len(payload)) + payload


def output_type(call: Call, *, is_tty: bool) -> str:
    """What an output is called: older clients are told of a raw stream, but get frames too."""
    return RAW if is_tty or call.version < _MULTIPLEXED_SINCE else MULTIPLEXED


@asynccontextmanager
async def saying_problems(say: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
    """Behind a head that is sent only the stream itself can tell of a problem: `say` gets its
    sentence. That the client has left (ConnectionError) is none; what nobody foresaw is in the log.
    """
    messages: list[str] = []
    try:
        yield
    except* ConnectionError:
        pass
    except* SwarmError as problems:
        messages.append(first_of(problems).message)
    except* Exception:
        # The head is sent, and one broken stream must not end the daemon.
        log.exception("api.stream_failed")
        messages.append("internal error: see the daemon's log")
    with suppress(ConnectionError):
        for message in messages[:1]:
            await say(message)


async def while_read(call: Call, *works: Coroutine[object, object, None]) -> None:
    """Run `works` until the first of them is done, the client has left or the server stops."""
    await until_first(*works, _wait_until_gone(call))


async def _wait_until_gone(call: Call) -> None:
    while not call.context.stopping.is_set():
        transport = call.request.transport
        if transport is None or transport.is_closing() or _is_hung_up(transport):
            return
        try:
            async with asyncio.timeout(GONE_CHECK_PERIOD_S):
                await call.context.stopping.wait()
        except TimeoutError:
            continue


def _is_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the other side has closed both ways. A loop that has read a half-close, or is told
    to read no more, does not notice what comes after it."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP and POLLERR are told unasked
    return bool(poll.poll(0))
