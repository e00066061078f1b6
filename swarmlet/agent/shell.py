"""The shell of one task: performs the steps that `advance` decides, and nothing else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from swarmlet.agent.advance import (
    REST,
    Operation,
    Step,
    after,
    delayed,
    failed,
    further,
    next_step,
)
from swarmlet.agent.expansion import expanded
from swarmlet.agent.payloads import Payloads, check_references
from swarmlet.core.ids import TaskID
from swarmlet.core.limits import NS_PER_S, STOP_GRACE_PERIOD_NS
from swarmlet.env.base import Clock
from swarmlet.model.node import NodeDescription
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.runtime.base import Exit, Runtime, RuntimeProblemError, Started, TemporaryProblemError
from swarmlet.wire.messages import AssignedTask

log = logging.getLogger("swarmlet.agent")

RETRY_S: Final = 1.0  # after a temporary problem; SwarmKit agent/task.go
REMOVE_RETRY_MAX_S: Final = 8.0
LEFTOVER_TRIES: Final = 5  # to stop what failed to start; removal kills it in any case
PREPARES_MAX: Final = 8  # at once; image pulls share one uplink
STARTS_MAX: Final = 8  # at once; a start is mostly CPU
PROBLEM_LENGTH_MAX: Final = 2_000  # characters; keeps a report within one frame
STOP_SIGNAL: Final = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Bench:
    """What all shells of a node share. `observe` notes a new status; `durable` returns when what
    was noted so far is on disk; `describe` tells of the node, for templates; `vacated` returns when
    nothing before the task in its slot runs here that was told to stop; `payloads` has what is
    delivered to tasks."""

    runtime: Runtime
    clock: Clock
    prepares: asyncio.Semaphore
    starts: asyncio.Semaphore
    observe: Callable[[TaskID, TaskStatus], None]
    durable: Callable[[], Awaitable[None]]
    describe: Callable[[], NodeDescription]
    vacated: Callable[[AssignedTask], Awaitable[None]]
    payloads: Payloads


class TaskShell:
    """Runs one task until it is removed from the node. `has_leftover`: something of it may still
    run although it is over."""

    def __init__(
        self, bench: Bench, task: AssignedTask, status: TaskStatus, *, has_leftover: bool = False
    ) -> None:
        self._bench, self.task, self.status = bench, task, status
        self._leftover_tries = LEFTOVER_TRIES if has_leftover else 0
        self._is_prepared = False
        self._step: Step | None = None
        self._scope: asyncio.Timeout | None = None
        self._moved = asyncio.Event()
        self._is_gone = self.is_removed = False
        self._cut_off = ""  # why it is stopped although nobody wants that

    @property
    def _desired(self) -> int:
        return max(self.task.desired, TaskState.SHUTDOWN) if self._cut_off else self.task.desired

    def update(self, task: AssignedTask) -> None:
        """Take a new body; the operation in progress goes on only where it is still the next
        step."""
        self.task = task
        if further(self.status, task.status) is not self.status:
            self._observe(task.status)
        self._turn()

    def cut_off(self, why: str) -> None:
        """Stop it for want of a manager, for good."""
        self._cut_off = why
        self._turn()

    def is_ending(self) -> bool:
        """Whether it is over, or shall be."""
        return self.status.state > TaskState.RUNNING or self._desired >= TaskState.SHUTDOWN

    def _turn(self) -> None:
        if next_step(self._desired, self.status.state) is not self._step:
            self._interrupt()

    def remove(self) -> None:
        """Stop and forget the task; `run` returns once the runtime has."""
        self.is_removed = True
        self._interrupt()

    def is_at_rest(self) -> bool:
        """Whether nothing happens here until the task ends or is updated."""
        waits = self._step is REST or (
            self._step is not None and self._step.operation is Operation.WAIT
        )
        return waits and not self.is_removed and not self._leftover_tries

    async def left(self) -> None:
        """Return when nothing of it runs any more; at once where nobody told it to stop."""
        while self._is_leaving():
            await self._moved.wait()

    def _is_leaving(self) -> bool:
        if self._is_gone:
            return False
        may_run = TaskState.STARTING <= self.status.state <= TaskState.RUNNING
        is_told = self.is_removed or self._desired >= TaskState.SHUTDOWN
        return self._leftover_tries > 0 or (may_run and is_told)

    async def run(self) -> None:
        """Until the task was removed."""
        while not self.is_removed:
            try:
                await self._one_step()
            except Exception as bug:  # one task's failure, never the agent's
                log.exception("task.shell_broken", extra={"task_id": self.task.id})
                self._give_up(f"internal error in the agent ({type(bug).__name__})")
                await asyncio.sleep(RETRY_S)
        await remove_from(self._bench.runtime, self.task.id)
        self._is_gone = True
        self._move()

    async def _one_step(self) -> None:
        try:
            async with asyncio.timeout(None) as self._scope:
                await self._stop_leftover() if self._leftover_tries else await self._advance()
        except TimeoutError:
            if not self._scope or not self._scope.expired():
                raise
        finally:
            self._scope = self._step = None
            self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _interrupt(self) -> None:
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def _advance(self) -> None:
        step = self._step = next_step(self._desired, self.status.state)
        if step is REST:
            await asyncio.Event().wait()  # an update ends it
        try:
            result = await self._perform(step.operation)
        except TemporaryProblemError as problem:
            self._observe(delayed(self.status, problem.message[:PROBLEM_LENGTH_MAX]))
            await asyncio.sleep(RETRY_S)
        except RuntimeProblemError as problem:
            self._give_up(problem.message)
        else:
            now_ms = self._bench.clock.wall_ms()
            self._observe(self._explained(after(self.status, step, now_ms, result)))

    def _explained(self, status: TaskStatus) -> TaskStatus:
        """With the reason where it was stopped unasked."""
        is_unasked = status.state == TaskState.SHUTDOWN and self.task.desired < TaskState.SHUTDOWN
        return msgspec.structs.replace(status, err=self._cut_off) if is_unasked else status

    async def _perform(self, operation: Operation) -> Started | Exit | None:
        match operation:
            case Operation.CHECK:
                check_references(self.task)
                self._bench.runtime.check(self._expanded())
            case Operation.PREPARE:
                await self._prepare()
            case Operation.START:
                return await self._start()
            case Operation.WAIT:
                return await self._bench.runtime.wait(self.task.id)
            case Operation.STOP:
                return await self._stop()
            case Operation.REST:
                pass
        return None

    async def _prepare(self) -> None:
        await self._bench.durable()  # what the runtime has must be known after a crash
        async with self._bench.prepares:
            await self._bench.runtime.prepare(self._expanded())
        self._is_prepared = True

    async def _start(self) -> Started | Exit:
        """Of a task that an earlier life of the daemon held only once a manager has said that it
        is wanted still: its place may have been given away."""
        await self._bench.payloads.is_told.wait()
        if not self._is_prepared:  # prepared by an earlier life of the daemon, maybe of the host
            await self._prepare()
        await self._bench.vacated(self.task)
        task = self._expanded()
        files = await self._bench.payloads.files(self.task, self._bench.describe)
        async with self._bench.starts:
            started = await self._bench.runtime.start(task, files)
        return await self._bench.runtime.healthy(task) or started

    def _expanded(self) -> AssignedTask:
        return expanded(self.task, self._bench.describe)

    async def _stop(self) -> Exit:
        container = self.task.spec.container_spec
        signal = (container.stop_signal if container else "") or STOP_SIGNAL
        grace_ns = container.stop_grace_period if container else None
        grace_s = (STOP_GRACE_PERIOD_NS if grace_ns is None else grace_ns) / NS_PER_S
        return await self._bench.runtime.stop(self.task.id, signal, grace_s)

    async def _stop_leftover(self) -> None:
        self._leftover_tries -= 1
        try:
            await self._stop()
        except RuntimeProblemError as problem:
            log.warning(
                "task.leftover_not_stopped",
                extra={"task_id": self.task.id, "problem": problem.message},
            )
            await asyncio.sleep(RETRY_S)
        else:
            self._leftover_tries = 0

    def _give_up(self, problem: str) -> None:
        if self.status.state > TaskState.RUNNING:
            return
        if self.status.state >= TaskState.STARTING:
            self._leftover_tries = LEFTOVER_TRIES
        now_ms = self._bench.clock.wall_ms()
        self._observe(failed(self.status, problem[:PROBLEM_LENGTH_MAX], now_ms))

    def _observe(self, status: TaskStatus) -> None:
        changed = status != msgspec.structs.replace(self.status, at_ms=status.at_ms)
        self.status = status
        if changed:
            self._bench.observe(self.task.id, status)


async def remove_from(runtime: Runtime, task_id: TaskID) -> None:
    """Have the runtime forget a task, however often it takes."""
    retry_s = RETRY_S
    while True:
        try:
            await runtime.remove(task_id)
        except RuntimeProblemError as problem:
            log.warning("task.not_removed", extra={"task_id": task_id, "problem": problem.message})
        except Exception:  # whatever a runtime raises, the task must go
            log.exception("task.removal_broken", extra={"task_id": task_id})
        else:
            return
        await asyncio.sleep(retry_s)
        retry_s = min(retry_s * 2, REMOVE_RETRY_MAX_S)
