"""The life of this node: in no swarm, in one, on its way in or out. What the API asks of it."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from swarmlet.api.app import Door
from swarmlet.api.engine import InitRequest, JoinRequest
from swarmlet.core.errors import (
    ConflictError,
    LockedError,
    SwarmError,
    SwarmStateError,
    already_in_swarm,
    first_of,
    join_takes_longer,
    not_part_of_swarm,
    swarm_locked,
)
from swarmlet.core.ids import NodeID
from swarmlet.daemon.answers import EngineAnswers
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.host import Host
from swarmlet.daemon.joining import JOIN_WAIT_S, Attempt, plan_join
from swarmlet.daemon.leftovers import Leftovers
from swarmlet.daemon.locked import LockedNode
from swarmlet.daemon.moving import forced, moved, no_copy
from swarmlet.daemon.stay import Stay
from swarmlet.daemon.swarm_node import SwarmNode
from swarmlet.runtime.base import Runtime

log = logging.getLogger("swarmlet.daemon")


class DaemonEngine(EngineAnswers):
    """One a process. `group` owns the membership's task: an error of it ends the daemon."""

    def __init__(self, host: Host, group: asyncio.TaskGroup) -> None:
        super().__init__(host)
        self._group = group
        self.door = Door(self)
        self._task: asyncio.Task[None] | None = None
        self._join_task: asyncio.Task[None] | None = None
        self._runtime_task: asyncio.Task[None] | None = None
        self._is_closing = self._is_host_stopping = False
        self._leftovers = Leftovers(host.data, self._spawn)

    async def open(self) -> None:
        """Go on where the data directory says this node was. Raises DamagedError."""
        await self._run_runtime(self._runtime)
        file = self._data.swarm_file()
        if file is None and not self._data.is_joining():
            self._data.leave_swarm()  # what an interrupted init or join may have left
            await self._leftovers.sweep(self._runtime)
            return
        try:
            await self._go_on(file)
        except LockedError:
            known = self._data.swarm_file(or_unsettled=True)
            assert known is not None, "its keys are a swarm's"
            await self._enter(LockedNode(known))
            log.warning("swarm.locked")

    async def init_swarm(self, request: InitRequest) -> NodeID:
        async with self._changing:
            if request.force_new_cluster and self._is_in_swarm():
                return await self._force_new_cluster(request)
            self._check_in_no_swarm()
            await self._env.blocking(self._host.load_parts)
            from swarmlet.daemon.founding import plan_swarm, write_identity  # workers do without

            runtime = await self._host.choose(self._runtime)
            plan = await plan_swarm(self._env, self._host.addresses, request, runtime.name)
            await self._leftovers.stop()
            await self._run_runtime(runtime)
            try:
                self._data.prepare_swarm(plan.file)
                plan = write_identity(self._env, self._host.node_files(), plan)
                stay = self._node(plan.file)
                stay.manager.begin(plan.founding)
                await self._enter(stay)
            except BaseException:
                await self._exit()  # cancelled, it may be running still
                self._data.leave_swarm()
                raise
            await stay.registered()
            log.info("swarm.founded", extra={"node_id": plan.file.node_id})
            return NodeID(plan.file.node_id)

    async def join_swarm(self, request: JoinRequest) -> None:
        async with self._changing:
            self._check_in_no_swarm()
            runtime = await self._host.choose(self._runtime)
            joining, file = await plan_join(self._env, self._host.addresses, request, runtime.name)
            await self._leftovers.stop()
            await self._run_runtime(runtime)
            attempt = Attempt(self._host)
            try:
                await attempt.begin(joining, file)
                outcome = self._pursue(attempt)
            except BaseException:
                self._attempt = None
                self._data.leave_swarm()
                raise
            attempt.is_awaited = True
        try:
            async with asyncio.timeout(JOIN_WAIT_S):
                problem = await asyncio.shield(outcome)
        except TimeoutError:
            raise join_takes_longer(self.swarm_state().error) from None
        finally:
            attempt.is_awaited = False
        if problem is not None:
            raise problem

    async def leave_swarm(self, *, force: bool) -> None:
        async with self._changing:
            if self._attempt is not None:
                await self._give_up()
                return
            stay = self._stay
            if stay is None:
                if not self._failure:
                    raise not_part_of_swarm()
                self._failure = ""
                self._data.leave_swarm()
                return
            refusal = stay.leave_refusal()
            if refusal is not None and not force:
                raise refusal
            await _end(self._join_task)  # it may wait for the first session still
            await stay.leave()
            await self._exit()
            self._data.leave_swarm()
            self._host.kek.forget()
            await self._leftovers.sweep(self._runtime)
            log.info("swarm.left", extra={"node_id": stay.file.node_id})

    async def unlock_swarm(self, unlock_key: bytes) -> None:
        async with self._changing:
            locked = self._stay
            if not isinstance(locked, LockedNode):
                raise ConflictError("swarm is not locked")
            await self._env.blocking(lambda: locked.check(self._host.node_files(), unlock_key))
            await self._exit()
            try:
                await self._go_on(self._data.swarm_file())
            except BaseException:
                await self._exit()
                self._host.kek.forget()
                await self._enter(locked)
                raise
            if self._stay is not None:  # else it goes on with a join
                await self._stay.registered()

    def stop(self, *, is_host_stopping: bool = False) -> None:
        """Have `close` called; where the host stops, the swarm hears that too."""
        self._is_host_stopping = is_host_stopping
        self.stopped.set()

    async def close(self) -> None:
        """Say goodbye and let go; tasks run on."""
        self._is_closing = True
        await _end(self._join_task)
        if self._stay is not None:
            await self._stay.stop(is_host_stopping=self._is_host_stopping)
            await self._exit()
        await self._leftovers.stop()
        await _end(self._runtime_task)
        await self._host.network.close()

    # Inside -----------------------------------------------------------------------------------

    async def _go_on(self, file: SwarmFile | None) -> None:
        """In this swarm, or with an interrupted join. Raises DamagedError, LockedError."""
        if file is not None:
            file = await self._moved(file)
            await self._enter(self._stay_of(file))
            fields = {"node_id": file.node_id, "cluster_id": file.cluster_id}
            log.info("swarm.resumed", extra=fields)
        else:
            attempt = Attempt(self._host)
            await attempt.resume()
            self._pursue(attempt)
            log.info("join.resumed")

    async def _force_new_cluster(self, request: InitRequest) -> NodeID:
        """This manager goes on alone with what it has of the swarm."""
        stay = self._stay
        if isinstance(stay, LockedNode):
            raise swarm_locked()
        if not isinstance(stay, SwarmNode) or not stay.manager.keeps_state():
            raise no_copy()
        file = await forced(self._env, self._host.addresses, stay.file, request)
        await stay.stop()
        await self._exit()
        try:
            await self._env.blocking(lambda: self._data.update_swarm(file))
            await self._enter(self._stay_of(file))
        except SwarmError as problem:
            await self._exit()
            self._failure = problem.message
            raise
        assert self._stay is not None, "entered"
        await self._stay.registered()
        log.warning("swarm.forced", extra={"node_id": file.node_id, "cluster_id": file.cluster_id})
        return NodeID(file.node_id)

    async def _moved(self, file: SwarmFile) -> SwarmFile:
        """With the addresses that the daemon was started with."""
        listen, advertise = self._host.listen_addr, self._host.advertise_addr
        new = await moved(self._env, self._host.addresses, file, listen=listen, advertise=advertise)
        if new != file:
            await self._env.blocking(lambda: self._data.update_swarm(new))
            fields = {"from": file.advertise_addr, "to": new.advertise_addr}
            log.info("swarm.moved", extra=fields)
        return new

    def _node(self, file: SwarmFile) -> SwarmNode:
        """Raises DamagedError, LockedError."""
        forwarded = self.door.answer_forwarded
        return SwarmNode(self._host, self._runtime, file, forwarded, self.events.follow)

    def _stay_of(self, file: SwarmFile) -> Stay:
        """What a node does that is in this swarm already. Raises DamagedError, LockedError."""
        node = self._node(file)
        node.manager.may_enter.set()
        return node

    def _is_in_swarm(self) -> bool:
        return self._stay is not None or self._attempt is not None

    def _check_in_no_swarm(self) -> None:
        """Raises SwarmStateError; forgets how the last join failed."""
        if self._is_in_swarm() or self._data.swarm_file() is not None:
            raise already_in_swarm()
        self._failure = ""

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Raises SwarmStateError once `close` has begun: it may be past what is to begin, and then
        nobody would end it."""
        if self._is_closing:
            work.close()
            raise SwarmStateError("The daemon is stopping.", remedy="Try again once it runs.")
        return self._group.create_task(work, name=name)

    def _pursue(self, attempt: Attempt) -> "asyncio.Future[SwarmError | None]":
        """Go on with this join until it is in or has failed; the future says which."""
        self._attempt = attempt
        outcome: asyncio.Future[SwarmError | None] = asyncio.get_running_loop().create_future()
        work = self._join(attempt, outcome)
        self._join_task = self._spawn(work, "join")
        return outcome

    async def _join(self, attempt: Attempt, outcome: "asyncio.Future[SwarmError | None]") -> None:
        try:
            file = await attempt.run()
            stay = self._node(file)
            stay.manager.begin(None)
            await self._enter(stay)
            await attempt.settle()
            stay.manager.may_enter.set()
        except SwarmError as problem:
            await self._exit()
            if self._is_closing:
                return  # what it came to is on the disk, for the next start
            self._data.leave_swarm()
            self._attempt = None
            if not attempt.is_awaited:
                self._failure = problem.message
            log.warning("join.failed", extra={"cause": problem.message})
            outcome.set_result(problem)
        else:
            self._attempt = None
            log.info("swarm.joined", extra={"node_id": file.node_id, "cluster_id": file.cluster_id})
            await stay.joined()
            outcome.set_result(None)
        finally:
            if not outcome.done():
                outcome.set_result(self._broken_off())

    def _broken_off(self) -> SwarmError:
        """What the client of a join hears that did not come to its end."""
        if not self.stopped.is_set():
            return SwarmStateError("The attempt to join was given up.")
        return SwarmStateError(
            "The daemon is stopping; it goes on with the join when it starts again.",
            remedy="`swarmlet leave` after its start gives the join up.",
        )

    async def _give_up(self) -> None:
        """End the join under way; nothing of it is left here."""
        await _end(self._join_task)
        await self._exit()
        self._attempt = None
        self._data.leave_swarm()
        await self._leftovers.sweep(self._runtime)
        log.info("join.given_up")

    async def _enter(self, stay: Stay) -> None:
        self._stay = stay
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = self._spawn(_serve(stay, started), "stay")
        await started
        self._host.settle()

    async def _exit(self) -> None:
        task, self._task, self._stay = self._task, None, None
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
        self._runtime_task = self._spawn(runtime.run(), "runtime")


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel it and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def _serve(stay: Stay, started: "asyncio.Future[None]") -> None:
    """Run it; an error before it is ready belongs to whoever waits for it."""

    def ready() -> None:
        if not started.done():
            started.set_result(None)

    try:
        await stay.run(ready)
    except BaseExceptionGroup as group:
        cause = first_of(group)
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
