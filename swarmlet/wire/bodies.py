"""The bodies of requests at the node port: small ones read whole, snapshots part by part.

A snapshot is a row of parts, each with its length before it (four bytes, little-endian): the head,
then the chunks; an empty part is its end, so that one that broke off is told from a whole one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from swarmlet.core.errors import InvalidArgumentError, SwarmError
from swarmlet.core.limits import FRAME_SIZE_MAX_B
from swarmlet.env.base import Blocking
from swarmlet.wire.node_api import SnapshotHead

BODY_SIZE_MAX_B: Final = 64 * 1024
"""Of a call that is read whole."""

BODY_TIMEOUT_S: Final = 10.0

PART_SIZE_MAX_B: Final = FRAME_SIZE_MAX_B
"""Of a snapshot's head and of each of its chunks; the whole has no bound but the disk's."""

PART_TIMEOUT_S: Final = 30.0
"""For the next part to come; how long the receiver took with the one before does not count."""

_LENGTH_B: Final = 4
_T = TypeVar("_T")


class TooLargeError(SwarmError):
    code, http_status = "too-large", 413


class TooSlowError(SwarmError):
    code, http_status = "too-slow", 408


def too_large(bound_b: int) -> TooLargeError:
    return TooLargeError(f"the request's body is larger than {bound_b} bytes")


def check_length(request: web.BaseRequest) -> None:
    """Raises TooLargeError by what the head says."""
    if (request.content_length or 0) > BODY_SIZE_MAX_B:
        raise too_large(BODY_SIZE_MAX_B)


async def read_body(request: web.BaseRequest, kind: type[_T]) -> _T:
    """Raises InvalidArgumentError, TooLargeError, TooSlowError."""
    check_length(request)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                body += part
                if len(body) > BODY_SIZE_MAX_B:
                    raise too_large(BODY_SIZE_MAX_B)
    except TimeoutError as error:
        raise TooSlowError(
            f"The request's body did not come within {BODY_TIMEOUT_S:g} s."
        ) from error
    except web.RequestPayloadError as error:
        raise InvalidArgumentError("The request's body is broken.") from error
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("The request cannot be read.") from error


async def snapshot_parts(
    head: SnapshotHead, chunks: Iterable[bytes], blocking: Blocking
) -> AsyncIterator[bytes]:
    """The body of a snapshot; the chunks are made by `blocking`, one when it is wanted."""
    yield _part(msgspec.msgpack.encode(head))
    source = iter(chunks)
    while (chunk := await blocking(lambda: next(source, None))) is not None:
        if chunk:
            yield _part(chunk)
    yield bytes(_LENGTH_B)


async def read_snapshot_head(request: web.BaseRequest) -> SnapshotHead:
    """Raises InvalidArgumentError, TooLargeError, TooSlowError."""
    try:
        return msgspec.msgpack.decode(await _read_part(request), type=SnapshotHead)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("The snapshot's head cannot be read.") from error


async def snapshot_chunks(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """What follows the head; nothing more is read from the connection than is taken here. Ends
    with the snapshot's end. Raises as `read_snapshot_head`, also midway."""
    while chunk := await _read_part(request):
        yield chunk


def _part(content: bytes) -> bytes:
    assert len(content) <= PART_SIZE_MAX_B, f"a part of a snapshot has {len(content)} bytes"
    return len(content).to_bytes(_LENGTH_B, "little") + content


async def _read_part(request: web.BaseRequest) -> bytes:
    try:
        async with asyncio.timeout(PART_TIMEOUT_S):
            size_b = int.from_bytes(await request.content.readexactly(_LENGTH_B), "little")
            if size_b > PART_SIZE_MAX_B:
                raise TooLargeError(
                    f"a part of the snapshot is larger than {PART_SIZE_MAX_B} bytes"
                )
            return await request.content.readexactly(size_b)
    except TimeoutError as error:
        raise TooSlowError(
            f"The snapshot's next part did not come within {PART_TIMEOUT_S:g} s."
        ) from error
    except (asyncio.IncompleteReadError, web.RequestPayloadError, OSError) as error:
        raise InvalidArgumentError("The snapshot broke off before its end.") from error
