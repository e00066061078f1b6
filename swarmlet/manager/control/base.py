"""What every verb needs: a linearizable view, finding by reference, and the commit."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

from swarmlet.ca.external import ExternalSigner
from swarmlet.core.errors import (
    OutcomeUnknownError,
    StaleVersionError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, ServiceID, new_id
from swarmlet.core.limits import LEADERLESS_S, MS_PER_S
from swarmlet.env.base import Env
from swarmlet.manager.control.find import Finders
from swarmlet.manager.control.status import ServiceStatuses
from swarmlet.manager.log_broker import LogBroker
from swarmlet.manager.log_reader import LogReader
from swarmlet.model.change import Change, Guard
from swarmlet.model.task import Task
from swarmlet.model.view import View
from swarmlet.raft.health import leaderless
from swarmlet.reconcile.base import Steps
from swarmlet.store.proposer import GroupHealth, Leadership, RaftLog
from swarmlet.store.store import Store
from swarmlet.wire.channel import StreamChannel
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import LogLine, LogOptions, TaskStreamAsk
from swarmlet.wire.outgoing import HttpsAnswer, HttpsRequest

log = logging.getLogger("swarmlet.manager")

T = TypeVar("T")


class TaskStreams(Protocol):
    """The way to the leader's `StreamBroker`."""

    async def open(self, ask: TaskStreamAsk) -> StreamChannel:
        """Raises as `StreamBroker.open`, and UnavailableError where the leader is out of reach."""
        ...


class NoStreams:
    """Of a manager that reaches no nodes."""

    async def open(self, ask: TaskStreamAsk) -> StreamChannel:
        raise UnavailableError(f"This manager opens no streams, so none into task {ask.task_id}.")


class ControlBase(Finders):
    """Reading and finding."""

    def __init__(
        self,
        store: Store,
        log: RaftLog,
        logs: LogBroker,
        env: Env,
        node_id: NodeID,
        *,
        external: ExternalSigner | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._logs = logs
        self._env = env
        self._node_id = node_id
        self._external = external or no_external_ca()
        self.streams: TaskStreams = NoStreams()  # replaced where there are nodes to reach
        self._statuses: ServiceStatuses | None = None  # where nobody asks, nothing is kept

    async def read(self, *, stale: bool = False, hold: bool = False) -> View:
        """A linearizable live view: consistent until the next await of the caller, with `hold` for
        as long as it is kept. With `stale` what this manager knows, at once, `stale_ms` old.

        Raises QuorumLostError or NotLeaderError.
        """
        if not stale:
            await self._log.read_barrier()
        return self._store.hold() if hold else self._store.view()

    @property
    def statuses(self) -> ServiceStatuses:
        """How the services stand, on views that are held after this was asked for."""
        if self._statuses is None:
            self._statuses = ServiceStatuses(self._store)
        return self._statuses

    def stale_ms(self) -> int:
        """How long ago what this manager knows was sure to be the swarm's newest state."""
        return max(0, self._env.clock.wall_ms() - self._log.health().as_of_ms)

    def now_ms(self) -> int:
        """Wall time on this manager."""
        return self._env.clock.wall_ms()

    def problem(self, *, after_s: float = LEADERLESS_S) -> SwarmError | None:
        """Why what needs a majority of the managers fails, where there has been none for so long.
        None while there is one, or an election may still bring it about."""
        health, now_ms = self._log.health(), self._env.clock.wall_ms()
        if not health.lost_since_ms or now_ms - health.lost_since_ms < after_s * MS_PER_S:
            return None
        return leaderless(health, now_ms)

    def leadership(self) -> Leadership:
        """Who leads, as far as this manager knows."""
        return self._log.leadership_now()

    def health(self) -> GroupHealth:
        """Which managers answer, as this one hears it or as the leader told it."""
        return self._log.health()

    def read_logs(
        self, tasks: Sequence[Task], options: LogOptions, services: Sequence[ServiceID] = ()
    ) -> AsyncIterator[LogLine]:
        """Lines of the logs of these tasks and services as they come; with `follow` until the tasks
        have ended and the services are gone, or the caller stops reading."""
        return LogReader(self._logs, self.streams, self._env).read(tasks, options, services)

    def _new_id(self) -> str:
        return new_id(self._env.entropy)

    async def _commit(
        self, what: str, changes: Sequence[Change], guards: Sequence[Guard] = ()
    ) -> None:
        """Commit as one entry; `what` names the object in the remedy of an unknown outcome."""
        try:
            await self._store.commit(changes, guards)
        except OutcomeUnknownError as error:
            log.warning("control.outcome_unknown", extra={"object": what})
            raise OutcomeUnknownError(
                error.message,
                remedy=f"The change of {what} may or may not be made: look before repeating it.",
            ) from error


async def worked_out(steps: Steps[T]) -> T:
    """The result of work in steps, on a view that is held; others have their turn between two."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


def no_external_ca() -> ExternalSigner:
    """For a manager that calls none: whoever needs one hears so."""
    return ExternalSigner(_unreachable, _nobody)


async def _unreachable(request: HttpsRequest) -> HttpsAnswer:
    raise UnavailableError(f"this manager calls no external CA, so not {request.url}")


def _nobody() -> Credentials:
    return Credentials(root_pem=b"")


def check_version(seen: int, current: int, what: str) -> None:
    """Raises StaleVersionError where somebody wrote since the client read."""
    if seen != current:
        raise StaleVersionError(what)
