"""Lists of many rows: looked through and printed a few milliseconds at a time, so that the manager
has its other turns in between."""

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final, TypeVar

from aiohttp import web

from swarmlet.api.call import Call, encode_json, reply_bytes, stream, tell_age

log = logging.getLogger("swarmlet.api")

T = TypeVar("T")

TURN_MAX_S: Final = 0.004
SORTED_ROWS: Final = 2_000  # in one go: a millisecond
PIECE_B: Final = 1 << 20  # printed before it is sent, where more follows
STALL_TIMEOUT_S: Final = 30.0  # for a client to read a piece: the rows are in memory until then


class _Turn:
    """How long others have waited for theirs."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._end_s = self._time() + TURN_MAX_S

    async def may_end(self) -> None:
        """Let the others have theirs where it is time."""
        if self._time() >= self._end_s:
            await asyncio.sleep(0)
            self._end_s = self._time() + TURN_MAX_S


async def in_order(rows: Iterable[T | None], key: Callable[[T], str]) -> Iterator[T]:
    """All of `rows`, which are of a view that is held, but for None; merged as they are taken."""
    turn, parts, part = _Turn(), list[list[T]](), list[T]()
    for row in rows:
        if row is not None:
            part.append(row)
        if len(part) == SORTED_ROWS:
            parts.append(sorted(part, key=key))
            part = []
        await turn.may_end()
    return heapq.merge(*parts, sorted(part, key=key), key=key)


async def reply_list(rows: Iterable[object | None]) -> web.Response:
    """A list of what `rows` gives, which is of a view that is held; None is a breath."""
    return reply_bytes(b"[" + b",".join([piece async for piece in _printed(rows)]) + b"]")


async def stream_list(call: Call, rows: Iterable[object | None]) -> web.StreamResponse:
    """The same for a list that may be too long to have in memory: sent as it is printed. `rows`
    need no view, for a client may take its time."""
    pieces = _printed(rows)
    piece, following = await anext(pieces, b""), await anext(pieces, b"")
    if not following:
        return reply_bytes(b"[" + piece + b"]")
    out = stream("application/json")
    tell_age(out, call.stale_ms)
    await out.prepare(call.request)
    try:
        await _write(out, b"[" + piece)
        while following:
            await _write(out, b"," + following)
            following = await anext(pieces, b"")
        await out.write_eof(b"]\n")
    except (ConnectionError, TimeoutError):  # the client has left, or reads no more
        _cut_off(call)
    except Exception:
        # The head is sent: a list that is cut off is all that can tell of it.
        log.exception("api.list_failed", extra={"path": call.request.path})
        _cut_off(call)
    return out


async def _write(out: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALL_TIMEOUT_S):
        await out.write(data)


def _cut_off(call: Call) -> None:
    if call.request.transport is not None:
        call.request.transport.abort()


async def _printed(rows: Iterable[object | None]) -> AsyncIterator[bytes]:
    """Rows with commas between them, in pieces of PIECE_B or a little more."""
    turn, printed, size_b = _Turn(), list[bytes](), 0
    for row in rows:
        if row is not None:
            printed.append(encode_json(row))
            size_b += len(printed[-1])
        if size_b >= PIECE_B:
            yield b",".join(printed)
            printed, size_b = [], 0
        await turn.may_end()
    if printed:
        yield b",".join(printed)
