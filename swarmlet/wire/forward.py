"""What travels beside a request between nodes, in its headers: the protocol, whom a manager speaks
for, and why an upgrade was refused."""

import base64
from typing import Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from swarmlet.core.errors import InvalidArgumentError, NotLeaderError, SwarmError
from swarmlet.core.identity import Identity
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.node_api import PortProblem

PROTOCOL_HEADER: Final = "Swarmlet-Protocol"
"""Of every request and answer: `messages.PROTOCOL_VERSION`."""

FORWARDED_HEADER: Final = "Swarmlet-Forwarded"
"""An `Origin`; believed of managers alone."""

PROBLEM_HEADER: Final = "Swarmlet-Problem"
"""The `PortProblem` of a refusal, which is its body too: where an upgrade to a WebSocket is
refused, clients do not get to the body."""

_HEADER_SIZE_MAX_B: Final = 8000
_T = TypeVar("_T")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who called the manager that passes a request on, as that manager verified it, and the
    address the caller has."""

    identity: Identity | None
    source: str


class Forward(Protocol):
    """Passes a request on to another manager's port, and its answer back; bodies stream."""

    async def __call__(
        self,
        addr: str,
        request: web.BaseRequest,
        path: str,
        *,
        origin: Origin | None,
        credentials: Credentials,
    ) -> web.StreamResponse:
        """`path` is the raw path with its query on that port. `origin` None: the node speaks for
        itself. The answer is whatever the other side answers, refusals too, already begun where it
        streams. Raises NotLeaderError where the other side says that it does not lead and has done
        nothing, UnavailableError where it cannot be reached, UnauthorizedError where it is
        no manager of the swarm.
        """
        ...


def encode_origin(origin: Origin) -> str:
    return _encode(origin)


def decode_origin(text: str) -> Origin:
    """Raises InvalidArgumentError."""
    return _decode(text, Origin)


def problem_of(error: SwarmError) -> PortProblem:
    """The error as it is answered."""
    managers = error.managers if isinstance(error, NotLeaderError) else ()
    return PortProblem(
        code=error.code, message=error.message, remedy=error.remedy, managers=managers
    )


def encode_problem(problem: PortProblem) -> str:
    """For the header; long sentences are cut, for a header has a bound."""
    message, remedy = problem.message[:600], problem.remedy[:400]
    return _encode(msgspec.structs.replace(problem, message=message, remedy=remedy))


def decode_problem(text: str) -> PortProblem:
    """Raises InvalidArgumentError."""
    return _decode(text, PortProblem)


def _encode(value: Origin | PortProblem) -> str:
    return base64.b64encode(msgspec.json.encode(value)).decode("ascii")


def _decode(text: str, kind: type[_T]) -> _T:
    if len(text) > _HEADER_SIZE_MAX_B:
        raise InvalidArgumentError("a header between nodes is too long")
    try:
        return msgspec.json.decode(base64.b64decode(text, validate=True), type=kind)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("a header between nodes cannot be read") from error


def passed_on_once(*managers: str) -> NotLeaderError:
    """For a call that another manager passed on; `managers` may be asked instead."""
    return NotLeaderError(
        "This manager does not lead the swarm, and a call is passed on only once.",
        remedy="Try again in a moment.",
        managers=managers,
    )
