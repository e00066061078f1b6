"""The leader's components: started when this manager leads, stopped when it does not, together."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from swarmlet.env.base import Env
from swarmlet.store.proposer import Leadership, RaftLog

log = logging.getLogger("swarmlet.manager")

BACKOFF_MIN_S: Final = 0.1  # before components that went down start again
BACKOFF_MAX_S: Final = 8.0
HEALTHY_AFTER_S: Final = 60.0  # of running: the next failure is the first again


class Component(Protocol):
    """What runs while this manager leads. `run` ends only by being cancelled; it may be run
    again."""

    @property
    def name(self) -> str: ...

    async def run(self) -> None: ...


class ComponentEndedError(AssertionError):
    """A component returned although nobody stopped it."""


class Leader:
    """Runs all components while leadership is ready. One down takes all down; they start again
    after a pause that doubles while they keep failing."""

    def __init__(self, components: Sequence[Component], log_of_cluster: RaftLog, env: Env) -> None:
        self._components, self._log, self._env = tuple(components), log_of_cluster, env
        self._failures = 0
        self._term: int | None = None  # of the reign that is not to end
        self.is_leading = False
        self._changed = asyncio.Event()  # replaced whenever it is set

    async def run(self) -> None:
        """Until the log ends or this is cancelled."""
        async with asyncio.TaskGroup() as group:
            try:
                await self._follow(group)
            finally:
                self._term = None

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        reign: asyncio.Task[None] | None = None
        async for leadership in self._log.leadership():
            self._tell()
            if reign is not None and (not leadership.is_ready or leadership.term != self._term):
                await self._end(reign, leadership)
                reign = None
            if leadership.is_ready and reign is None:
                term = self._term = leadership.term
                reign = group.create_task(self._reign(term), name=f"leader of term {term}")
        if reign is not None:
            reign.cancel()

    async def changed(self) -> None:
        """Return once somebody else leads, or this manager begins or ends."""
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def gauges(self) -> dict[str, float]:
        return {
            "swarmlet_leader": float(self.is_leading),
            "swarmlet_leader_failures_total": float(self._failures),
        }

    async def _end(self, reign: asyncio.Task[None], leadership: Leadership) -> None:
        self._term = None
        reign.cancel("leadership lost")
        await asyncio.wait((reign,))
        log.info("leader.ended", extra={"term": leadership.term})

    async def _reign(self, term: int) -> None:
        backoff_s = BACKOFF_MIN_S
        while True:
            started_s = self._env.clock.mono_s()
            try:
                await self._run_all(term)
            except* Exception as failure:  # logged; all components start anew from the store
                self._failures += 1
                log.exception("leader.component_down", exc_info=failure, extra={"term": term})
            if self._term != term:
                return  # cancelled, which a component's error on the way out may hide
            if self._env.clock.mono_s() - started_s > HEALTHY_AFTER_S:
                backoff_s = BACKOFF_MIN_S
            await asyncio.sleep(backoff_s * (0.5 + 0.5 * self._env.rng.random()))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def _run_all(self, term: int) -> None:
        log.info("leader.began", extra={"term": term})
        try:
            self.is_leading = True
            async with asyncio.TaskGroup() as group:
                for component in self._components:
                    group.create_task(self._run_one(component), name=component.name)
                await asyncio.sleep(0)  # they have begun
                self._tell()
        finally:
            self.is_leading = False

    async def _run_one(self, component: Component) -> None:
        await component.run()
        raise ComponentEndedError(f"{component.name} ended by itself")
