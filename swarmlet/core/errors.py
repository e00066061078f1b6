"""The one tree of operating errors; programmer errors are assertions.

    SwarmError
      InvalidArgumentError   400  the request is wrong; sending it again will not help
      FailedPreconditionError 400 the request is right, the cluster's state forbids it
      UnauthorizedError      401  a key or token does not match
      ForbiddenError         403  the caller may not do this
      NotFoundError          404  no such object
      ConflictError          409  the name or the place is taken
      StaleVersionError      500  somebody wrote first (Docker's status and words for it)
      UnsupportedError       501  not built, or not here; nothing was stored
      UnavailableError       503  not now: no swarm, no leader, locked, not ready
        NotManagerError           this daemon is no manager of a swarm
        SwarmStateError           init, join or leave against the daemon's present state
        NotLeaderError            another member leads (or none)
        OutcomeUnknownError       proposed, but nobody can say whether it was committed
      DiskFullError          507  the disk has no room; nothing was changed
    DamagedError             500  what is on disk cannot be trusted; the daemon refuses to start on
    it

`code` is for programs, `http_status` for the API, `remedy` tells a person what to try.
Status codes and texts follow docker-api.md §2.
"""

from typing import ClassVar


class SwarmError(Exception):
    """What happened and why, in one sentence; `remedy` says what to try, or is empty."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InvalidArgumentError(SwarmError):
    code, http_status = "invalid-argument", 400


class FailedPreconditionError(SwarmError):
    code, http_status = "failed-precondition", 400


class UnauthorizedError(SwarmError):
    code, http_status = "unauthorized", 401


class ForbiddenError(SwarmError):
    code, http_status = "forbidden", 403


class NotFoundError(SwarmError):
    code, http_status = "not-found", 404

    def __init__(self, kind: str, name: str, remedy: str = "") -> None:
        super().__init__(f"{kind} {name} not found", remedy)


class ConflictError(SwarmError):
    code, http_status = "conflict", 409


class StaleVersionError(SwarmError):
    code, http_status = "out-of-sequence", 500

    def __init__(self, what: str = "") -> None:
        super().__init__(
            "rpc error: code = Unknown desc = update out of sequence",
            remedy=f"Somebody changed {what or 'the object'} meanwhile: read it again and repeat.",
        )


class UnsupportedError(SwarmError):
    code, http_status = "unsupported", 501


class UnavailableError(SwarmError):
    code, http_status = "unavailable", 503


class NotManagerError(UnavailableError):
    code = "not-a-manager"


class SwarmStateError(UnavailableError):
    code = "swarm-state"


class NotLeaderError(UnavailableError):
    code = "not-leader"


class OutcomeUnknownError(UnavailableError):
    """The change may or may not be committed; a retry with the same proposal id applies once."""

    code = "outcome-unknown"


class DiskFullError(SwarmError):
    code, http_status = "disk-full", 507


class DamagedError(SwarmError):
    code, http_status = "damaged", 500
