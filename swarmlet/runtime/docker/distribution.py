"""What a registry says of an image, asked through the engine."""

from typing import Final
from urllib.parse import quote

from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.model.reference import parse_reference
from swarmlet.runtime.docker.client import EngineClient, EngineDownError, EngineRefusedError
from swarmlet.runtime.docker.pull import auth_headers

REGISTRY_TIMEOUT_S: Final = 60.0


class ImageUnknownError(SwarmError):
    code, http_status = "image-unknown", 404


class RegistryError(SwarmError):
    code, http_status = "registry", 500


_BY_STATUS: Final[dict[int, type[SwarmError]]] = {
    400: InvalidArgumentError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: ImageUnknownError,
    503: UnavailableError,
}


async def read_distribution(client: EngineClient, name: str, auth: str) -> bytes:
    """The engine's JSON as it is. Raises SwarmError with the engine's status and words;
    InvalidArgumentError for a name that is none, UnavailableError where there is no engine."""
    parse_reference(name)  # not a path to other things the engine has
    path = f"/distribution/{quote(name, safe='/:@')}/json"
    try:
        return await client.call(
            "GET", path, headers=auth_headers(auth), timeout_s=REGISTRY_TIMEOUT_S
        )
    except EngineRefusedError as refusal:
        raise _BY_STATUS.get(refusal.status, RegistryError)(refusal.message) from refusal
    except EngineDownError as problem:
        raise UnavailableError(problem.message, problem.remedy) from problem
