"""A request passed on to another manager, and its answer passed back, as they come."""

import asyncio
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from swarmlet.wire.answers import OWN_HEADERS
from swarmlet.wire.forward import FORWARDED_HEADER, Origin, encode_origin
from swarmlet.wire.tls import MANAGER_NAME
from swarmlet.wire.until_first import until_first

HEAD_TIMEOUT_S: Final = 40.0  # to the answer's head: a write may take 20 s, an upload as long
BODY_TIMEOUT_S: Final = 40.0  # from there to its end, where it says how long it is
GONE_CHECK_PERIOD_S: Final = 0.5  # how soon a stream ends after its reader left
_OWN_WAY: Final = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION,
        hdrs.EXPECT,
        hdrs.HOST,
        hdrs.KEEP_ALIVE,
        hdrs.PROXY_AUTHENTICATE,
        hdrs.PROXY_AUTHORIZATION,
        hdrs.TE,
        hdrs.TRAILER,
        hdrs.TRANSFER_ENCODING,
        hdrs.UPGRADE,
        FORWARDED_HEADER,
    )
)
"""Between two hosts only (RFC 9110 §7.6.1, §10.1.1), or said by the one who passes on."""


async def ask_further(
    client: aiohttp.ClientSession, url: URL, request: web.BaseRequest, *, origin: Origin | None
) -> aiohttp.ClientResponse:
    """The head of the other manager's answer, a refusal too. Raises aiohttp.ClientError,
    OSError."""
    headers = _passed(request.headers)
    headers.update(OWN_HEADERS)
    if origin is not None:
        headers[FORWARDED_HEADER] = encode_origin(origin)
    async with asyncio.timeout(HEAD_TIMEOUT_S):
        return await client.request(
            request.method,
            url,
            server_hostname=MANAGER_NAME,
            headers=headers,
            data=request.content if request.can_read_body else None,
            skip_auto_headers=(hdrs.CONTENT_TYPE,),
            allow_redirects=False,
            raise_for_status=False,
        )


async def pass_back(answer: aiohttp.ClientResponse, request: web.BaseRequest) -> web.StreamResponse:
    """Begun and ended; broken off where the other manager breaks off. A stream ends with whoever
    reads it."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    response.headers.extend(_passed(answer.headers))
    try:
        await response.prepare(request)
        if answer.content_length is not None:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                await _copy(answer, request, response)
            return response
        await until_first(_copy(answer, request, response), _until_gone(request))
    except TimeoutError:
        _break_off(request)
    finally:
        answer.close()
    return response


async def _copy(
    answer: aiohttp.ClientResponse, request: web.BaseRequest, response: web.StreamResponse
) -> None:
    try:
        async for part in answer.content.iter_any():
            await response.write(part)
        await response.write_eof()
    except (aiohttp.ClientError, OSError):  # of either side
        _break_off(request)


async def _until_gone(request: web.BaseRequest) -> None:
    """Polled: aiohttp tells nobody."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_CHECK_PERIOD_S)


def _break_off(request: web.BaseRequest) -> None:
    """An end in order would be a lie."""
    if request.transport is not None:
        request.transport.abort()


def _passed(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _OWN_WAY
    )
