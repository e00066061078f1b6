"""A thin HTTP client of one Docker Engine: calls with a deadline, streams without, typed answers.

Why not a library: docs/adr/0002.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from swarmlet.core.errors import InvalidArgumentError, SwarmError
from swarmlet.runtime.base import RuntimeProblemError, TemporaryProblemError
from swarmlet.runtime.docker.hijack import NotSwitchedError, Switched, switch

API_VERSION_MIN: Final = (1, 24)  # of Docker 1.12, the first with swarm mode
API_VERSION_MAX: Final = (1, 47)  # the newest whose fields are known here
CALL_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 3.0
KEEP_ALIVE_S: Final = 60.0
ANSWER_SIZE_MAX_B: Final = 64 * 1024 * 1024  # a list of 20,000 containers
REFUSAL_SIZE_MAX_B: Final = 64 * 1024
REFUSED_FROM: Final = 300  # an engine redirects what is no path of its API: to somewhere else
NOT_MODIFIED: Final = 304  # started, or stopped, already
BAD_REQUEST: Final = 400
VERSION_REFUSED: Final = "client version "  # moby's words, api/server/middleware/version.go
AUTH_HEADER: Final = "X-Registry-Auth"

T = TypeVar("T")
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})")


class EngineRefusedError(RuntimeProblemError):
    """The engine answered no; `message` is in its words, `status` its HTTP status."""

    code = "engine-refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineDownError(TemporaryProblemError):
    """No answer, or none that can be understood: what was asked for may or may not be done."""

    code = "engine-down"


class EngineVersion(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """GET /version, as far as it is needed."""

    class _Platform(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
        name: str = ""

    api_version: str
    version: str = ""
    min_api_version: str = msgspec.field(name="MinAPIVersion", default="")
    platform: _Platform = _Platform()


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    message: str = ""


class EngineClient:
    """Speaks to the engine at `host`: unix:///path or tcp://host:port. One event loop.

    As many connections as callers: each waits for one answer. Raises InvalidArgumentError for
    another kind of host. Every call raises EngineRefusedError or EngineDownError.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._socket_path, self._base = _parse_host(host)
        self._session: aiohttp.ClientSession | None = None
        self._api_version = ""

    async def negotiate(self) -> EngineVersion:
        """Ask which engine this is, and speak the newest version that both know from now on."""
        body = await self._call("GET", "/version", timeout_s=CONNECT_TIMEOUT_S)
        version = self._decode(body, EngineVersion, "/version")
        self._api_version = self._choose(version)
        return version

    async def api_version(self) -> str:
        """As `1.41`."""
        if not self._api_version:
            await self.negotiate()
        return self._api_version

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        """One request and the whole answer. `path` is percent-encoded, `query` is not."""
        target = f"/v{await self.api_version()}{path}"
        return await self._call(
            method, target, query, body=body, headers=headers, timeout_s=timeout_s
        )

    async def ask(self, kind: type[T], path: str, query: Mapping[str, str] | None = None) -> T:
        """GET, and the answer as what it should be."""
        return self._decode(await self.call("GET", path, query), kind, path)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body as it comes, however long; `idle_s` without a byte is an EngineDownError, and
        so is an answer that does not begin."""
        target = self._url(f"/v{await self.api_version()}{path}", query)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_s
        )
        begin_s = idle_s or CALL_TIMEOUT_S
        try:
            async with asyncio.timeout(begin_s):
                answer = await self._opened().request(
                    method, target, headers=headers, timeout=timeout, allow_redirects=False
                )
            async with answer:
                if answer.status >= REFUSED_FROM:
                    raise await self._refusal(answer)
                yield answer.content
        except (aiohttp.ClientError, OSError) as error:
            raise self.down(_why(error, begin_s)) from error

    async def switch(self, path: str, body: object) -> Switched:
        """POST, and from the answer on the connection itself, both ways."""
        target = f"/v{await self.api_version()}{path}"
        address = self._base.removeprefix("http://")
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await switch(self._socket_path, address, target, msgspec.json.encode(body))
        except NotSwitchedError as answer:
            raise _refusal(answer.status, answer.body) from answer
        except (aiohttp.ClientError, OSError) as error:
            raise self.down(_why(error, CALL_TIMEOUT_S)) from error

    def down(self, why: str) -> EngineDownError:
        return EngineDownError(
            f"The Docker Engine at {self.host} does not answer: {why}.",
            remedy="Look whether it runs: `systemctl status docker`; it is tried again.",
        )

    async def close(self) -> None:
        """Let go of all connections; the next call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self,
        method: str,
        target: str,
        query: Mapping[str, str] | None = None,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        sent = dict(headers or {})
        if data is not None:
            sent["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with self._opened().request(
                method,
                self._url(target, query),
                data=data,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                if answer.status >= REFUSED_FROM and answer.status != NOT_MODIFIED:
                    raise await self._refusal(answer)
                return await _read(answer, ANSWER_SIZE_MAX_B)
        except (aiohttp.ClientError, OSError) as error:
            raise self.down(_why(error, timeout_s)) from error

    async def _refusal(self, answer: aiohttp.ClientResponse) -> SwarmError:
        refusal = _refusal(answer.status, await _read(answer, REFUSAL_SIZE_MAX_B))
        if refusal.status != BAD_REQUEST or not refusal.message.startswith(VERSION_REFUSED):
            return refusal
        self._api_version = ""  # another engine than the one asked for its version
        return self.down(refusal.message)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            if self._socket_path:
                connector: aiohttp.BaseConnector = aiohttp.UnixConnector(
                    self._socket_path, limit=0, keepalive_timeout=KEEP_ALIVE_S
                )
            else:
                connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._session

    def _url(self, target: str, query: Mapping[str, str] | None) -> URL:
        return URL(f"{self._base}{target}{'?' + urlencode(query) if query else ''}", encoded=True)

    def _decode(self, body: bytes, kind: type[T], path: str) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self.down(f"what it says to {path} is not understood ({error})") from error

    def _choose(self, version: EngineVersion) -> str:
        newest, oldest = (
            _parse_version(version.api_version),
            _parse_version(version.min_api_version or "1.0"),
        )
        chosen = min(newest, API_VERSION_MAX)
        if newest < API_VERSION_MIN or oldest > API_VERSION_MAX:
            raise self.down(
                f"it speaks API {version.min_api_version or '?'} to {version.api_version}, and "
                f"{_text(API_VERSION_MIN)} to {_text(API_VERSION_MAX)} is understood here"
            )
        return _text(chosen)


async def probe(host: str) -> str:
    """ "" where a Docker Engine answers at `host`, else why not, in a sentence."""
    try:
        client = EngineClient(host)
    except InvalidArgumentError as error:
        return error.message
    try:
        body = await client._call("GET", "/version", timeout_s=PROBE_TIMEOUT_S)
        version = client._decode(body, EngineVersion, "/version")
        client._choose(version)
    except SwarmError as error:
        return error.message
    finally:
        await client.close()
    if version.platform.name == "swarmlet":
        return f"At {host} answers swarmlet itself, which is no Docker Engine."
    return ""


def _parse_host(host: str) -> tuple[str, str]:
    scheme, _, rest = host.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return rest, "http://docker"
    if scheme == "tcp" and re.fullmatch(r"[^/@?#\s]+:\d{1,5}/?", rest):
        return "", f"http://{rest.rstrip('/')}"
    raise InvalidArgumentError(
        f"A Docker Engine cannot be reached at {host!r}: that is neither unix:///PATH nor "
        "tcp://HOST:PORT.",
        remedy="Name its socket: --docker-host unix:///var/run/docker.sock",
    )


def _parse_version(text: str) -> tuple[int, int]:
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


async def _read(answer: aiohttp.ClientResponse, size_max_b: int) -> bytes:
    parts, size_b = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size_b += len(part)
        if size_b > size_max_b:
            raise aiohttp.ClientPayloadError(f"its answer is longer than {size_max_b} bytes")
    return b"".join(parts)


def _refusal(status: int, body: bytes) -> EngineRefusedError:
    try:
        message = msgspec.json.decode(body, type=_Refusal).message
    except (msgspec.DecodeError, RecursionError):
        message = body.decode(errors="replace")
    return EngineRefusedError(status, message.strip() or f"HTTP status {status}")


def _why(error: Exception, waited_s: float | None) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    if isinstance(error, TimeoutError):
        return f"nothing came within {waited_s or CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "the connection broke off"
    if isinstance(error, aiohttp.ClientPayloadError) and "longer" not in str(error):
        return "the connection broke off within an answer"
    return str(error) or type(error).__name__
