"""The store: tables driven by the log, transactions proposed to it (interface; see the package docstring)."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from swarmlet.env.base import Env
from swarmlet.model.change import Change, Event, Guard
from swarmlet.model.view import View
from swarmlet.store.proposer import RaftLog

Subscriber = Callable[[Sequence[Event]], None]


class Store:
    """Implements StateMachine for the log; everything else reads views and commits changes."""

    def __init__(self, env: Env) -> None:
        raise NotImplementedError

    def attach(self, log: RaftLog) -> None:
        """Where commits are proposed. Called once, before the first commit."""
        raise NotImplementedError

    def view(self) -> View:
        """The live tables: consistent until the next await, free of cost."""
        raise NotImplementedError

    def hold(self) -> View:
        """A view that stays as it is across awaits, while somebody holds it. Keep few, keep them short."""
        raise NotImplementedError

    async def commit(self, changes: Sequence[Change], guards: Sequence[Guard] = ()) -> int:
        """Propose all changes as one entry; its index, once applied here. Nothing to do returns at once.

        Refused whole with StaleVersionError (a row moved on), ConflictError (name or id taken),
        NotFoundError (row or guarded object gone), FailedPreconditionError (guard); too large a
        transaction is InvalidArgumentError. NotLeaderError, DiskFullError, OutcomeUnknownError as the log says.
        """
        raise NotImplementedError

    async def batch(self, changes: Iterable[Change]) -> None:
        """Commit any number of independent changes in pieces, each atomic; refused pieces are retried
        change by change and those refused alone are dropped."""
        raise NotImplementedError

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with the events of every applied entry, synchronously and in order; returns
        the way to end it. A subscriber must be quick and must not raise."""
        raise NotImplementedError

    def apply(self, index: int, entry: bytes) -> None:
        raise NotImplementedError

    def snapshot(self) -> Iterator[bytes]:
        raise NotImplementedError

    def restore(self, chunks: Iterable[bytes]) -> None:
        raise NotImplementedError
