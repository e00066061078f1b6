"""Pulling images: once for all tasks that wait for the same one with the same credentials."""

import logging
import re
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.reference import parse_reference
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker.client import AUTH_HEADER, EngineClient, EngineRefusedError
from swarmlet.runtime.docker.jobs import Job, Jobs

log = logging.getLogger("swarmlet.runtime")

IDLE_S: Final = 300.0  # without a word of progress: a registry that hangs
LINE_SIZE_MAX_B: Final = 1024 * 1024
_AUTH: Final = re.compile(r"[A-Za-z0-9+/_=-]*")


class _Detail(msgspec.Struct, frozen=True, kw_only=True):
    message: str = ""


class _Progress(msgspec.Struct, frozen=True, kw_only=True):
    error: str = ""
    error_detail: _Detail | None = msgspec.field(name="errorDetail", default=None)


@dataclass(slots=True)
class _Flight:
    job: Job[None]
    waiters: int = 0


class Pulls:
    """The pulls under way. A pull nobody waits for any more is given up."""

    def __init__(self, client: EngineClient, jobs: Jobs) -> None:
        self._client, self._jobs = client, jobs
        self._flights: dict[tuple[str, str], _Flight] = {}
        self.count = 0  # of pulls that have succeeded: who saw it grow may look before pulling

    async def pull(self, image: str, auth: str) -> None:
        """Return when the engine has it. Raises RuntimeProblemError with the engine's reason."""
        await self._jobs.opened()
        key = (image, auth)
        flight = self._flights.get(key)
        if flight is None:
            job = self._jobs.begin(lambda: self._pull(image, auth), f"pull {image}")
            flight = self._flights[key] = _Flight(job)
        flight.waiters += 1
        try:
            await flight.job.result()
        finally:
            flight.waiters -= 1
            if not flight.waiters or flight.job.outcome.done():
                flight.job.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    async def _pull(self, image: str, auth: str) -> None:
        log.info("image.pulling", extra={"image": image})
        query, headers = pull_query(image), auth_headers(auth)
        async with self._client.stream(
            "POST", "/images/create", query, headers=headers, idle_s=IDLE_S
        ) as reader:
            await self._follow(reader)
        self.count += 1

    async def _follow(self, reader: aiohttp.StreamReader) -> None:
        rest = b""
        async for data in reader.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE_SIZE_MAX_B:
                raise self._client.down("what it says of a pull has no end")
            for line in (*lines, b""):
                self._check(line)
        self._check(rest)

    def _check(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            said = msgspec.json.decode(line, type=_Progress)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._client.down(
                f"what it says of a pull is not understood ({error})"
            ) from error
        problem = said.error_detail.message if said.error_detail else ""
        if problem or said.error:
            raise EngineRefusedError(200, problem or said.error)


def pull_query(image: str) -> dict[str, str]:
    """Never a name alone: that would pull every tag there is. Raises RuntimeProblemError where
    `image` is no reference, as an image's id, which only the engine itself may know."""
    try:
        reference = parse_reference(image)
    except InvalidArgumentError as error:
        raise RuntimeProblemError(error.message, error.remedy) from error
    name = f"{reference.domain}/{reference.path}" if reference.domain else reference.path
    return {"fromImage": name, "tag": reference.digest or reference.tag or "latest"}


def auth_headers(auth: str) -> dict[str, str]:
    """Raises RuntimeProblemError where `auth` is not base64: it would break the request."""
    if not _AUTH.fullmatch(auth):
        raise RuntimeProblemError(
            "The registry credentials of the service are not base64.",
            remedy="Log in to the registry and update the service --with-registry-auth.",
        )
    return {AUTH_HEADER: auth} if auth else {}
