"""The daemon's side of health checks: who is due, one probe at a time for each task, and what it
found. A check is driven by whoever waits for the task, so nothing runs that nobody wants to know.

What a check needs is not on disk: the shim holds it in memory (descriptor 4), where the next daemon
finds it again. A check that is taken over starts anew.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from swarmlet.env.base import Clock
from swarmlet.runtime.base import UNHEALTHY, Exit, RuntimeProblemError
from swarmlet.runtime.process.health import Health, HealthRules, HealthStatus, after_probe, begin
from swarmlet.runtime.process.processes import bury, has_ended
from swarmlet.runtime.process.sandbox import Config
from swarmlet.runtime.process.spawn import spawn_shim
from swarmlet.runtime.process.supervised import Supervised, read_kept, way_into

log = logging.getLogger("swarmlet.runtime")

PROBES_MAX: Final = 32  # at once, of all tasks
MARGIN_S: Final = 10.0  # for a probe's process to start, and to kill what it left
ANSWER_SIZE_MAX_B: Final = 16_384
BURIAL_MAX_MS: Final = 500  # blocking, for what has nothing left to do but to end


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one probe found. `problem` where it was not run, or not to its end."""

    exit_code: int = -1
    problem: str = ""

    @property
    def was_healthy(self) -> bool:
        return self.exit_code == 0


class Check:
    """One task's check: what is known, and the right to probe."""

    def __init__(self, config: bytes, rules: HealthRules, now_s: float) -> None:
        self.config, self.health = config, begin(rules, now_s)
        self.turn = asyncio.Lock()


class HealthWatch:
    """The checks of all tasks of a runtime."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._checks: dict[str, Check | None] = {}
        self._free = asyncio.Semaphore(PROBES_MAX)

    async def until_healthy(self, known: Supervised) -> Exit | None:
        """None at the first success, or where nothing checks; how it ended where that came first.
        Raises RuntimeProblemError where it became unhealthy."""
        return await self._watch(known, HealthStatus.HEALTHY)

    async def until_over(self, known: Supervised) -> Exit:
        """How it ended. Raises RuntimeProblemError where it became unhealthy."""
        return await self._watch(known, None) or await known.ended()

    def forget(self, task_id: str) -> None:
        self._checks.pop(task_id, None)

    async def _watch(self, known: Supervised, wanted: HealthStatus | None) -> Exit | None:
        check = self._find(known)
        if check is None or check.health.status is wanted:
            return None
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(known.ended())
            probing = group.create_task(self._probe_until(known, check, wanted))
            await asyncio.wait((ended, probing), return_when=asyncio.FIRST_COMPLETED)
            for task in (ended, probing):
                task.cancel()
        if not ended.cancelled():
            return ended.result()
        if check.health.status is HealthStatus.UNHEALTHY:
            raise RuntimeProblemError(
                UNHEALTHY, remedy="The node's log has each failure (task.probe_failed)."
            )
        return None

    def _find(self, known: Supervised) -> Check | None:
        task_id = known.bundle.task_id
        if task_id not in self._checks:
            config = read_kept(known)
            kept, now_s = Config(config), self._clock.mono_s()
            is_checked = bool(kept.number(b"check"))
            self._checks[task_id] = Check(config, _rules(kept), now_s) if is_checked else None
        return self._checks[task_id]

    async def _probe_until(
        self, known: Supervised, check: Check, wanted: HealthStatus | None
    ) -> None:
        while check.health.status not in (wanted, HealthStatus.UNHEALTHY):
            left_s = check.health.due_s - self._clock.mono_s()
            if left_s > 0:
                await asyncio.sleep(left_s)
                continue
            async with check.turn, self._free:
                if check.health.due_s <= self._clock.mono_s():  # else somebody else has probed
                    await self._probe(known, check)

    async def _probe(self, known: Supervised, check: Check) -> None:
        began_s = self._clock.mono_s()
        result = await run_probe(
            check.config + way_into(known), check.health.rules.timeout_s + MARGIN_S
        )
        before = check.health
        check.health = after_probe(
            before, began_s, self._clock.mono_s(), was_healthy=result.was_healthy
        )
        _tell(known.bundle.task_id, before, check.health, result)


def _tell(task_id: str, before: Health, now: Health, result: ProbeResult) -> None:
    if not result.was_healthy:
        log.info(
            "task.probe_failed",
            extra={
                "task_id": task_id,
                "exit_code": result.exit_code,
                "problem": result.problem,
                "failures": now.failures,
            },
        )
    if now.status is not before.status:
        level = logging.WARNING if now.status is HealthStatus.UNHEALTHY else logging.INFO
        log.log(level, "task.health", extra={"task_id": task_id, "status": now.status.value})


def _rules(config: Config) -> HealthRules:
    return HealthRules(
        interval_s=config.number(b"interval_ms") / 1000,
        timeout_s=config.number(b"timeout_ms") / 1000,
        start_period_s=config.number(b"start_period_ms") / 1000,
        start_interval_s=config.number(b"start_interval_ms") / 1000,
        retries=config.number(b"retries"),
    )


async def run_probe(config: bytes, within_s: float) -> ProbeResult:
    """Run a probe in a process of its own. Whoever is cancelled here takes it along."""
    life, life_end = os.pipe()
    try:
        pid, reader = spawn_shim(config, life)
    except OSError as error:
        os.close(life_end)
        return ProbeResult(problem=f"no process could be started: {error.strerror}")
    finally:
        os.close(life)
    pidfd = os.pidfd_open(pid)  # ours and not buried: the pid is its own
    try:
        async with _dying(pidfd, life_end) as dead, asyncio.timeout(within_s):
            await dead.wait()
        return _result(_read(reader))
    except TimeoutError:
        return ProbeResult(problem="the probe did not end, though it was killed")
    finally:
        if has_ended(pidfd, BURIAL_MAX_MS):
            bury(pid)
        os.close(pidfd)
        os.close(reader)


def _read(reader: int) -> bytes:
    """What was answered; a killed probe may have said nothing."""
    os.set_blocking(reader, False)
    try:
        return os.read(reader, ANSWER_SIZE_MAX_B)
    except BlockingIOError:
        return b""


@asynccontextmanager
async def _dying(pidfd: int, life_end: int) -> AsyncIterator[asyncio.Event]:
    """An event for its death. On the way out it loses its hold on life, and dies."""
    loop, dead = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, dead.set)
    try:
        yield dead
    finally:
        os.close(life_end)
        try:
            async with asyncio.timeout(MARGIN_S):
                await dead.wait()
        finally:
            loop.remove_reader(pidfd)


def _result(answer: bytes) -> ProbeResult:
    words = answer.split()
    if words[:1] == [b"exit"] and len(words) == 2:
        return ProbeResult(exit_code=int(words[1]))
    if words[:1] == [b"timeout"]:
        return ProbeResult(problem="it took longer than its timeout")
    if words[:1] == [b"failed"] and len(words) == 3:
        step, number = words[1].decode(), int(words[2])
        if step == "own_users":
            return ProbeResult(problem="the task went into a user namespace of its own")
        return ProbeResult(problem=f"{step}: {os.strerror(number)}")
    return ProbeResult(problem=answer.decode(errors="replace") or "it was killed with its task")
