"""The worker: one shell for every task this node should hold, and what the database says of it."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from swarmlet.agent.advance import adopted, further
from swarmlet.agent.payloads import Payloads
from swarmlet.agent.reporter import Reporter
from swarmlet.agent.shell import PREPARES_MAX, RETRY_S, STARTS_MAX, Bench, TaskShell, remove_from
from swarmlet.agent.state_db import StateDB
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import TaskID
from swarmlet.env.base import Clock
from swarmlet.model.node import NodeDescription
from swarmlet.model.on_disconnect import said_by
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.runtime.base import Runtime, RuntimeProblemError, RuntimeTask
from swarmlet.wire.messages import AssignedTask

log = logging.getLogger("swarmlet.agent")

_ADOPTABLE: Final = TaskState.RUNNING


class Worker:
    """Holds what is assigned. Its own memory of a task's status wins over the manager's, and
    what is desired never falls."""

    def __init__(
        self,
        clock: Clock,
        runtime: Runtime,
        db: StateDB,
        reporter: Reporter,
        *,
        describe: Callable[[], NodeDescription],
    ) -> None:
        self._clock, self.runtime, self._db, self._reporter = clock, runtime, db, reporter
        self.payloads = Payloads()
        self._bench = Bench(
            runtime=runtime,
            clock=clock,
            prepares=asyncio.Semaphore(PREPARES_MAX),
            starts=asyncio.Semaphore(STARTS_MAX),
            observe=self._observe,
            durable=db.durable,
            describe=describe,
            vacated=self._vacated,
            payloads=self.payloads,
        )
        self._group: asyncio.TaskGroup | None = None
        self._shells: dict[TaskID, TaskShell] = {}
        self._again: dict[TaskID, AssignedTask] = {}
        self._emptied = asyncio.Event()
        self._takes_orders = True
        self._unknown: dict[TaskID, RuntimeTask] = {}  # the runtime has them, the database not
        self._strangers = 0  # of the runtime, being removed
        self.is_ready = asyncio.Event()

    async def run(self) -> None:
        """Adopt what runs, then run shells until cancelled, which leaves the tasks alone."""
        async with asyncio.TaskGroup() as self._group:
            try:
                await self._adopt()
                self.is_ready.set()
                await asyncio.Event().wait()
            finally:
                self._takes_orders = False

    def assign(
        self, put: Iterable[AssignedTask], gone: Iterable[TaskID], *, is_complete: bool
    ) -> None:
        """Hold `put` (complete: and nothing else), let go of `gone`."""
        if not self._takes_orders:
            return
        kept: dict[TaskID, None] = {}
        for task in put:
            kept[task.id] = None
            self._put(task)
        if is_complete:
            gone = [task_id for task_id in self._shells if task_id not in kept]
            self._remove_unknown()
        for task_id in gone:
            self._let_go(task_id)

    async def remove_all(self) -> None:
        """Stop and remove every task; nothing is assigned from now on."""
        await self.is_ready.wait()
        self._takes_orders = False
        self.payloads.clear()
        self._again.clear()
        self._remove_unknown()
        for task_id in list(self._shells):
            self._let_go(task_id)
        while self._shells or self._strangers:
            self._emptied.clear()
            await self._emptied.wait()

    def statuses(self) -> dict[TaskID, TaskStatus]:
        """What was last observed of every task held."""
        return dict(self._db.statuses)

    def stop_after_s(self) -> dict[TaskID, float]:
        """How long each task may run on without a manager, of those that may not for ever."""
        limits = {
            task_id: _stop_after_s(shell.task)
            for task_id, shell in self._shells.items()
            if not shell.is_ending()
        }
        return {task_id: limit_s for task_id, limit_s in limits.items() if limit_s}

    def cut_off(self, task_id: TaskID, why: str) -> None:
        """Stop the task for good, whatever is desired, if it is still there."""
        if (shell := self._shells.get(task_id)) is not None:
            shell.cut_off(why)

    async def left(self, task_ids: Iterable[TaskID]) -> None:
        """Return when nothing of these tasks runs any more, which were told to stop."""
        for task_id in task_ids:
            if (shell := self._shells.get(task_id)) is not None:
                await shell.left()

    def is_at_rest(self) -> bool:
        quiet = all(shell.is_at_rest() for shell in self._shells.values())
        return self.is_ready.is_set() and quiet and not self._strangers and not self._unknown

    def gauges(self) -> dict[str, float]:
        running = sum(s.state == TaskState.RUNNING for s in self._db.statuses.values())
        return {
            "swarmlet_agent_tasks": float(len(self._shells)),
            "swarmlet_agent_tasks_running": float(running),
        }

    async def _adopt(self) -> None:
        found = await self._found()
        for task_id, task in self._db.tasks.items():
            known = self._db.statuses[task_id]
            status = adopted(known, found.get(task_id), self._clock.wall_ms())
            if status is not known:
                self._observe(task_id, status)
            self._spawn(task, status, found.get(task_id))
        self._unknown = {i: task for i, task in found.items() if i not in self._db.tasks}

    def _remove_unknown(self) -> None:
        """The manager does not want them either."""
        unknown, self._unknown = self._unknown, {}
        for task_id in unknown:
            log.info("task.unknown_removed", extra={"task_id": task_id})
            self._strangers += 1
            self._owner.create_task(self._remove_stranger(task_id))

    async def _remove_stranger(self, task_id: TaskID) -> None:
        await remove_from(self.runtime, task_id)
        self._strangers -= 1
        self._emptied.set()

    async def _found(self) -> dict[TaskID, RuntimeTask]:
        while True:
            try:
                return {task.task_id: task for task in await self.runtime.list_tasks()}
            except RuntimeProblemError as problem:
                log.warning("runtime.not_listing", extra={"problem": problem.message})
            await asyncio.sleep(RETRY_S)

    def _put(self, task: AssignedTask) -> None:
        shell = self._shells.get(task.id)
        if shell is None:
            self._take(task, self._unknown.pop(task.id, None))
        elif shell.is_removed:
            self._again[task.id] = task
        else:
            self._update(shell, task)

    def _take(self, task: AssignedTask, found: RuntimeTask | None) -> None:
        """A task that is new to the database; where it is not to the runtime, it is adopted."""
        self._db.put(task)
        status = known = self._db.statuses[task.id]
        if found is not None:
            status = adopted(known, found, self._clock.wall_ms())
        if status is not known:
            self._observe(task.id, status)
        self._spawn(task, status, found)

    def _update(self, shell: TaskShell, task: AssignedTask) -> None:
        known = shell.task
        task = msgspec.structs.replace(task, desired=max(task.desired, known.desired))
        is_further = further(shell.status, task.status) is not shell.status
        if not is_further and msgspec.structs.replace(task, status=known.status) == known:
            return
        self._db.put(task)
        shell.update(task)

    def _spawn(self, task: AssignedTask, status: TaskStatus, found: RuntimeTask | None) -> None:
        is_over = status.state > _ADOPTABLE
        runs = found is not None and found.started is not None and found.exit is None
        shell = TaskShell(self._bench, task, status, has_leftover=is_over and runs)
        self._shells[task.id] = shell
        self._owner.create_task(self._run(shell), name=f"task {task.id}")

    async def _run(self, shell: TaskShell) -> None:
        await shell.run()
        task_id = shell.task.id
        del self._shells[task_id]
        self._db.forget(task_id)
        self._reporter.forget(task_id)
        self._emptied.set()  # before the disk is waited for, which may be full
        again = self._again.pop(task_id, None)
        if again is not None:
            self._put(again)
        else:
            await self._db.durable()

    async def _vacated(self, task: AssignedTask) -> None:
        """A manager that took this node for dead has not waited for the task before this one."""
        for shell in list(self._shells.values()):
            other = shell.task
            if (other.service_id, other.slot) == (task.service_id, task.slot):
                await shell.left()

    def _let_go(self, task_id: TaskID) -> None:
        self._again.pop(task_id, None)
        shell = self._shells.get(task_id)
        if shell is not None and not shell.is_removed:
            shell.remove()

    def _observe(self, task_id: TaskID, status: TaskStatus) -> None:
        self._db.set_status(task_id, status)
        self._reporter.note(task_id, status)
        log.info(
            "task.observed",
            extra={"task_id": task_id, "state": status.state, "note": status.message},
        )

    @property
    def _owner(self) -> asyncio.TaskGroup:
        assert self._group is not None, "the worker is not running"
        return self._group


def _stop_after_s(task: AssignedTask) -> float:
    try:
        return said_by(task.service_labels).stop_after_s
    except InvalidArgumentError:  # stored before the label meant anything
        return 0.0
