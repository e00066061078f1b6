"""The agent: puts worker, reporter and session together, and ends them in order."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from swarmlet.agent.description import OwnDescription
from swarmlet.agent.disconnect import DisconnectWatch
from swarmlet.agent.reporter import Reporter
from swarmlet.agent.session import Session
from swarmlet.agent.state_db import StateDB, open_state, set_state_aside
from swarmlet.agent.worker import Worker
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Env
from swarmlet.env.sealed import SealKey
from swarmlet.model.node import NodeDescription
from swarmlet.runtime.base import Runtime
from swarmlet.wire.channel import AgentConnector
from swarmlet.wire.messages import Goodbye, SwarmInfo

log = logging.getLogger("swarmlet.agent")

HOST_STOPS: Final = "stopped by its node, whose host is shut down"
SINGLETONS_S: Final = 4.0  # for tasks that must not run twice to end, of a host that shuts down
BACK_IN_S: Final = 60.0  # a restarting daemon's promise; until then nobody moves its tasks


class Agent:
    """One node's agent.

    `state_dir` is its own; tasks are remembered there, sealed with `seal_key` or, where that is
    None, with a key the agent makes beside them. `describe` leaves the TLS info to `own`: the node
    registers anew at once when its certificate changes. `on_info` hears what managers tell of the
    swarm; it must be quick and must not raise. Cancelling `run` leaves tasks alone, as a crash
    does.
    """

    def __init__(  # noqa: PLR0913 - the composition root's one call
        self,
        env: Env,
        node_id: NodeID,
        runtime: Runtime,
        connector: AgentConnector,
        *,
        state_dir: str,
        seal_key: SealKey | None = None,
        describe: Callable[[], NodeDescription],
        own: OwnIdentity | None = None,
        on_info: Callable[[SwarmInfo], None] | None = None,
    ) -> None:
        self._node_id = node_id
        self._db = StateDB(
            partial(open_state, env, state_dir, seal_key),
            env.blocking,
            partial(set_state_aside, env.disk, state_dir),
        )
        self._reporter = Reporter(self._db.durable)
        self._worker = Worker(env.clock, runtime, self._db, self._reporter, describe=describe)
        self._session = Session(
            env,
            node_id,
            connector=connector,
            description=OwnDescription(describe, own),
            worker=self._worker,
            reporter=self._reporter,
        )
        if on_info is not None:
            self._session.on_info = on_info
        self._watch = DisconnectWatch(self._session.contact, self._worker)
        self._is_over = asyncio.Event()
        self._is_loaded = False

    async def run(self) -> None:
        """Until `stop` or `leave`. Raises DamagedError where what is to be remembered can be
        neither read nor written."""
        await self._db.load_when_room()
        self._is_loaded = True
        try:
            async with asyncio.TaskGroup() as group:
                running = (self._worker, self._session, self._watch)
                parts = [group.create_task(part.run()) for part in running]
                try:
                    await self._is_over.wait()
                finally:
                    self._session.end()
                    for part in parts:
                        part.cancel()
        finally:
            await self._db.close()

    async def stop(self, back_in_s: float = BACK_IN_S, *, is_host_stopping: bool = False) -> None:
        """Say goodbye and end `run`; tasks run on and are adopted by the next agent of this node.
        Where the host stops they will not: others may run them at once, and what must not run twice
        is stopped first."""
        if is_host_stopping:
            await self._stop_singletons()
        await self._session.goodbye(Goodbye(back_in_s=back_in_s, is_host_stopping=is_host_stopping))
        self._is_over.set()

    async def _stop_singletons(self) -> None:
        """Tasks of stop-after services end here before they begin elsewhere; those that do not end
        in time are waited for by the managers, as after a cut."""
        guarded = self._worker.stop_after_s()
        if not guarded:
            return
        log.info("agent.host_stopping", extra={"node_id": self._node_id, "tasks": len(guarded)})
        with suppress(TimeoutError):
            async with asyncio.timeout(SINGLETONS_S):
                await self._session.tell_condition(HOST_STOPS)  # no successor comes here
                for task_id in guarded:
                    self._worker.cut_off(task_id, HOST_STOPS)
                await self._worker.left(guarded)
                if self._session.is_registered:
                    await self._reporter.told()

    async def leave(self, timeout_s: float = 60.0) -> None:
        """Stop and remove every task, then end `run` for good. Raises TimeoutError where a task
        would not go; `run` has ended then too."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._db.was_tried.wait()
                if self._is_loaded:  # else it waits for room, and runs nothing yet
                    await self._worker.remove_all()
        finally:
            await self._session.is_back()
            await self.stop(back_in_s=0)

    async def registered(self, timeout_s: float) -> None:
        """Return once a manager took this node in; TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            await self._session.was_registered.wait()

    def is_registered(self) -> bool:
        """Whether this node has a session now."""
        return self._session.is_registered

    @property
    def refusal(self) -> str:
        """Why managers will not have this node, in a sentence; "" while they do or none
        answers."""
        return self._session.refusal

    @property
    def is_removed(self) -> bool:
        """Whether that is because the swarm removed this node."""
        return self._session.is_removed

    @property
    def problem(self) -> str:
        """Why this node has no session now, in a sentence; "" while it has one."""
        return "" if self._session.is_registered else self._db.problem or self._session.problem

    def alone_s(self) -> float:
        """For how long this node has had no session; 0 while it has one."""
        return self._session.alone_s()

    def is_at_rest(self) -> bool:
        """Whether this agent is registered and nothing happens until a task ends or an order
        comes."""
        return (
            self._session.is_registered
            and self._worker.is_at_rest()
            and self._reporter.is_at_rest()
        )

    def gauges(self) -> dict[str, float]:
        """Numbers for /metrics."""
        registered = float(self._session.is_registered)
        return {"swarmlet_agent_registered": registered, **self._worker.gauges()}
