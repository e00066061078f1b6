"""Why an entry was refused: remembered with its proposal, and turned into an error for whoever
asks."""

from collections.abc import Callable
from typing import Final

from swarmlet.core.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    StaleVersionError,
    SwarmError,
)
from swarmlet.model.base import Record
from swarmlet.store.schema import WORDS

_ERRORS: Final[dict[str, Callable[..., SwarmError]]] = {
    error.code: error
    for error in (
        StaleVersionError,
        NotFoundError,
        ConflictError,
        FailedPreconditionError,
        InvalidArgumentError,
        OutcomeUnknownError,
    )
}

REFUSALS: Final = (
    StaleVersionError,
    NotFoundError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
)
"""The errors a refused transaction raises."""

_EXISTS: Final = {
    "service": "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
    "service {name} already exists",
    "network": "network with name {name} already exists",
}
_EXISTS_ELSE: Final = "rpc error: code = AlreadyExists desc = {kind} {name} already exists"


class Refusal(Record, frozen=True, kw_only=True):
    """An error as data: its code and what it is made from."""

    code: str
    args: tuple[str, ...]

    def error(self) -> SwarmError:
        """A new error of this refusal."""
        return _ERRORS[self.code](*self.args)


class RefusedError(Exception):
    """Ends the evaluation of an entry; never leaves the store."""

    def __init__(self, error: type[SwarmError], *args: str) -> None:
        super().__init__(*args)
        self.refusal = Refusal(code=error.code, args=args)


def stale(table: int, row_id: str) -> RefusedError:
    return RefusedError(StaleVersionError, f"{WORDS[table]} {row_id}")


def missing(table: int, row_id: str) -> RefusedError:
    return RefusedError(NotFoundError, WORDS[table], row_id)


def name_taken(table: int, name: str) -> RefusedError:
    """Docker's sentences for a name that is in use."""
    kind = WORDS[table]
    return RefusedError(
        ConflictError,
        _EXISTS.get(kind, _EXISTS_ELSE).format(kind=kind, name=name),
        f"Choose another name, or remove the other {kind} first.",
    )


def id_taken(table: int, row_id: str) -> RefusedError:
    return RefusedError(ConflictError, _EXISTS_ELSE.format(kind=WORDS[table], name=row_id))


def forgotten() -> Refusal:
    """Of a repeated proposal: what became of the first one is not remembered any more."""
    return RefusedError(
        OutcomeUnknownError,
        "The change was proposed before, too long ago for its outcome to be remembered; it was not "
        "made again.",
        "Look whether it is there before you repeat it.",
    ).refusal
