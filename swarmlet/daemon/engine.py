"""The life of this node: in no swarm, in one, on its way in or out. What the API asks of it."""

import asyncio
import contextlib
import logging
from typing import Final

from msgspec.structs import replace

from swarmlet.api.engine import EngineFacts, InitRequest, SwarmState
from swarmlet.core.errors import (
    DiskFullError,
    SwarmError,
    UnsupportedError,
    already_in_swarm,
    leaving_erases_swarm,
    manager_not_ready,
    not_in_swarm,
    not_part_of_swarm,
)
from swarmlet.core.ids import NodeID
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.founding import plan_swarm, write_identity
from swarmlet.daemon.gauges import Gauges
from swarmlet.daemon.membership import Host, Membership
from swarmlet.manager.bootstrap import Founding
from swarmlet.manager.control import Control
from swarmlet.manager.event_feed import EventFeed
from swarmlet.runtime.base import Registries, Runtime, RuntimeProblemError

log = logging.getLogger("swarmlet.daemon")

SWEEP_WAIT_S: Final = 15.0  # for one try to remove every task that is left
SWEEP_PAUSE_MIN_S: Final = 1.0  # between tries, doubling
SWEEP_PAUSE_MAX_S: Final = 30.0


class DaemonEngine:
    """One a process. `group` owns the membership's task: an error of it ends the daemon."""

    def __init__(self, host: Host, group: asyncio.TaskGroup) -> None:
        self._host, self._group = host, group
        self._env, self._data, self._runtime = host.env, host.data, host.runtime
        self.events = EventFeed(host.env.clock)
        self._membership: Membership | None = None
        self._task: asyncio.Task[None] | None = None
        self._runtime_task: asyncio.Task[None] | None = None
        self._sweep_task: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self.stopped = asyncio.Event()
        self._gauges = Gauges()

    async def open(self) -> None:
        """Go on where the data directory says this node was. Raises DamagedError."""
        await self._run_runtime(self._runtime)
        file = self._data.swarm_file()
        if file is None:
            self._data.leave_swarm()  # what an interrupted init may have left
            await self._sweep()
            return
        await self._enter(file, None)
        log.info("swarm.resumed", extra={"node_id": file.node_id, "cluster_id": file.cluster_id})

    @property
    def facts(self) -> EngineFacts:
        """The host's, with what the present runtime says of itself now."""
        described = self._runtime.describe()
        return replace(
            self._host.facts,
            runtime=described,
            runtimes=(described.name,),
            runtime_problem=self._runtime.condition.problem,
        )

    def swarm_state(self) -> SwarmState:
        membership = self._membership
        if membership is None:
            return SwarmState(state="pending" if self._changing.locked() else "inactive")
        return SwarmState(
            state="active" if membership.is_ready else "pending",
            node_id=NodeID(membership.file.node_id),
            node_addr=membership.file.advertise_addr.rpartition(":")[0].strip("[]"),
        )

    def control(self) -> Control:
        if self._membership is None:
            raise not_in_swarm()
        if not self._membership.is_ready:
            raise manager_not_ready()
        return self._membership.control

    async def distribution(self, name: str, auth: str) -> bytes:
        if not isinstance(self._runtime, Registries):
            raise UnsupportedError(
                f"The {self._runtime.name} runtime of this node has no images, so it asks no "
                "registry.",
                remedy="Use --no-resolve-image, or the image host.",
            )
        return await self._runtime.distribution(name, auth)

    async def init_swarm(self, request: InitRequest) -> NodeID:
        async with self._changing:
            if self._membership is not None:
                raise already_in_swarm()
            runtime = await self._host.choose(self._runtime)
            plan = await plan_swarm(self._env, self._host.addresses, request, runtime.name)
            await _end(self._sweep_task)
            await self._run_runtime(runtime)
            try:
                self._data.prepare_swarm(plan.file)
                plan = write_identity(self._env, self._data, plan)
                membership = await self._enter(plan.file, plan.founding)
            except BaseException:
                await self._exit()  # cancelled, it may be running still
                self._data.leave_swarm()
                raise
            await membership.registered()
            log.info("swarm.founded", extra={"node_id": plan.file.node_id})
            return NodeID(plan.file.node_id)

    async def leave_swarm(self, *, force: bool) -> None:
        async with self._changing:
            membership = self._membership
            if membership is None:
                raise not_part_of_swarm()
            if not force:
                raise leaving_erases_swarm()
            await membership.leave()
            await self._exit()
            self._data.leave_swarm()
            await self._sweep()
            log.info("swarm.left", extra={"node_id": membership.file.node_id})

    def stop(self) -> None:
        self.stopped.set()

    async def close(self) -> None:
        """Say goodbye and let go; tasks run on."""
        if self._membership is not None:
            await self._membership.stop()
            await self._exit()
        await _end(self._sweep_task)
        await _end(self._runtime_task)

    def gauges(self) -> dict[str, float]:
        numbers = self._gauges.read()
        if self._membership is not None:
            numbers.update(self._membership.manager.gauges())
            numbers["swarmlet_store_index"] = float(self._membership.store.view().index)
        return numbers

    def is_at_rest(self) -> bool:
        """Whether nothing happens here until somebody asks or a task ends."""
        return self._membership is None or self._membership.is_at_rest()

    async def watch_loop(self) -> None:
        """Measure the event loop's lag; owned by the daemon's group."""
        await self._gauges.watch_loop()

    # Inside -----------------------------------------------------------------------------------

    async def _enter(self, file: SwarmFile, founding: Founding | None) -> Membership:
        membership = Membership(self._host, self._runtime, file, founding)
        self._membership = membership
        self.events.follow(membership.store)
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = self._group.create_task(_stay(membership, started), name="membership")
        await started
        self._host.settle()
        return membership

    async def _exit(self) -> None:
        task, self._task, self._membership = self._task, None, None
        if task is not None:
            task.cancel("leaving the swarm")
            await asyncio.wait([task])
            self._host.settle()

    async def _run_runtime(self, runtime: Runtime) -> None:
        """Make this the present runtime, and let it do what it does by itself."""
        if self._runtime_task is not None:
            if runtime is self._runtime:
                return
            await _end(self._runtime_task)
        self._runtime = runtime
        self._runtime_task = self._group.create_task(runtime.run(), name="runtime")

    async def _sweep(self) -> None:
        """Remove what the runtime has of a swarm this node is not in any more. Where it cannot now,
        it is done as soon as the runtime lets us, in this life of the daemon or the next."""
        try:
            async with asyncio.timeout(SWEEP_WAIT_S):
                await self._remove_tasks()
        except (TimeoutError, RuntimeProblemError) as problem:
            log.warning(
                "tasks.left_behind", extra={"runtime": self._runtime.name, "cause": _cause(problem)}
            )
            with contextlib.suppress(DiskFullError):  # then this life of the daemon must do
                self._data.note_leftover(self._runtime.name)
            self._sweep_task = self._group.create_task(self._sweep_later(), name="sweep")

    async def _sweep_later(self) -> None:
        pause_s = SWEEP_PAUSE_MIN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, SWEEP_PAUSE_MAX_S)
            try:
                async with asyncio.timeout(SWEEP_WAIT_S):
                    await self._remove_tasks()
            except (TimeoutError, RuntimeProblemError) as problem:
                log.info(
                    "tasks.still_left_behind",
                    extra={"runtime": self._runtime.name, "cause": _cause(problem)},
                )
            else:
                log.info("tasks.removed_late", extra={"runtime": self._runtime.name})
                return

    async def _remove_tasks(self) -> None:
        for task in await self._runtime.list_tasks():
            await self._runtime.remove(task.task_id)
        if self._data.leftover_runtime() == self._runtime.name:
            self._data.note_leftover("")


def _cause(problem: TimeoutError | RuntimeProblemError) -> str:
    return str(problem) or f"it took longer than {SWEEP_WAIT_S:g} s"


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel it and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def _stay(membership: Membership, started: "asyncio.Future[None]") -> None:
    """Run a membership; an error before it is ready belongs to whoever waits for it."""

    def ready() -> None:
        if not started.done():
            started.set_result(None)

    try:
        await membership.run(ready)
    except BaseExceptionGroup as group:
        cause = _first_leaf(group)
        if started.done():
            raise cause from group
        started.set_exception(cause)
    except SwarmError as error:
        if started.done():
            raise
        started.set_exception(error)
    finally:
        with contextlib.suppress(asyncio.InvalidStateError):
            started.cancel()


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error in a group: the others are what it cancelled."""
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
