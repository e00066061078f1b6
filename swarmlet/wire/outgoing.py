"""Requests over https to somebody who is no node: an external certificate authority."""

import ssl
from typing import Final

import aiohttp
import msgspec

from swarmlet.core.errors import InvalidArgumentError, UnavailableError
from swarmlet.wire.answers import StrangerError, read_answer
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.failures import cause_of
from swarmlet.wire.tls import client_context

TIMEOUT_S: Final = 5.0  # a whole exchange; SwarmKit ca/external.go


class HttpsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`credentials` are shown, and their roots are the only ones trusted."""

    method: str
    url: str
    credentials: Credentials
    body: bytes = b""


class HttpsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    body: bytes


async def exchange(request: HttpsRequest) -> HttpsAnswer:
    """One request on a connection of its own; redirects are answers like others.

    Raises InvalidArgumentError where the address is none of https, or the roots cannot be used;
    UnavailableError where nobody trusted answers in time, or too much.
    """
    if not request.url.startswith("https://"):
        raise InvalidArgumentError(f"{request.url!r} is no https address")
    context = _context(request.credentials)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = {"Content-Type": "application/json"} if request.body else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(
                request.method,
                request.url,
                data=request.body or None,
                headers=headers,
                ssl=context,
                allow_redirects=False,
            ) as answer,
        ):
            body = await read_answer(answer)
            return HttpsAnswer(status=answer.status, body=body)
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError) as error:
        raise InvalidArgumentError(f"{request.url!r} is no https address") from error
    except StrangerError as error:
        raise UnavailableError(f"{request.url} is of no use: {error}") from error
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"{request.url} cannot be reached: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """In the same words each time: aiohttp's own name an object by where it is in memory."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name cannot be resolved"
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error) or f"no answer within {TIMEOUT_S:g} s"
    why = error.os_error
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {why.verify_message}"
    return str(why) if isinstance(why, ssl.SSLError) else cause_of(why)


def _context(credentials: Credentials) -> ssl.SSLContext:
    try:
        return client_context(credentials)
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
