"""The adapter: tasks as containers of a Docker Engine."""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from swarmlet.core.ids import TaskID
from swarmlet.core.limits import NS_PER_S
from swarmlet.env.base import Env
from swarmlet.model.service import Resources
from swarmlet.runtime.base import (
    NEVER_STARTED,
    UNHEALTHY,
    Condition,
    Exit,
    RuntimeDescription,
    RuntimeProblemError,
    RuntimeTask,
    Started,
    TaskFile,
    TemporaryProblemError,
)
from swarmlet.runtime.docker.access import ContainerAccess
from swarmlet.runtime.docker.client import EngineClient, EngineDownError, EngineRefusedError
from swarmlet.runtime.docker.create import image_name
from swarmlet.runtime.docker.deliveries import Deliveries
from swarmlet.runtime.docker.distribution import read_distribution
from swarmlet.runtime.docker.engine import Engine, Listed
from swarmlet.runtime.docker.events import EngineInfo, Event, Watcher
from swarmlet.runtime.docker.host_config import Json
from swarmlet.runtime.docker.jobs import Jobs
from swarmlet.runtime.docker.known import Known
from swarmlet.runtime.docker.logs import log_query, read_log
from swarmlet.runtime.docker.pull import Pulls
from swarmlet.runtime.docker.refusals import refuse_options
from swarmlet.runtime.docker.sight import (
    Sight,
    exit_of,
    is_healthy,
    is_unhealthy,
    runtime_task,
    started,
    unseen,
)
from swarmlet.runtime.process.host import describe_host
from swarmlet.wire.messages import AssignedTask, LogLine, LogOptions

log = logging.getLogger("swarmlet.runtime")

LOOK_AGAIN_S: Final = 5.0  # after a look that failed; a connect ends the wait sooner
STOP_SLACK_S: Final = 10.0  # for the engine to kill and to tell, after the grace period
GRACE_MAX_S: Final = 10**8  # years; more overflows the engine's nanoseconds
START_FAILED: Final = "starting container failed"  # moby's words
BUSY_S: Final = 0.2  # between looks whether another's removal is done
BUSY_TRIES: Final = 300
LOOKS_MAX: Final = 8  # at once, for a list
DOUBTFUL_MAX: Final = 1_000  # removed tasks whose container may still come to be


class DockerRuntime:
    """Runs tasks as containers of the engine at `host`. `engine_id` marks them as this daemon's:
    it must be the same after every restart. One event loop; works while `run` runs.
    `payload_folders`: where to look for a tmpfs, for secrets and configs.

    Raises InvalidArgumentError for a host that cannot be spoken to.
    """

    name: Final = "docker"

    def __init__(
        self,
        env: Env,
        *,
        host: str,
        engine_id: str,
        payload_folders: Sequence[str] | None = None,
    ) -> None:
        self.condition = Condition()
        self._env, self._host = env, host
        self._client = EngineClient(host)
        self._engine = Engine(self._client, engine_id)
        self._deliveries = Deliveries(host, engine_id, uid=os.geteuid(), folders=payload_folders)
        self._jobs = Jobs()
        self._pulls = Pulls(self._client, self._jobs)
        self._watcher = Watcher(
            env,
            self._client,
            engine_id,
            condition=self.condition,
            on_event=self._on_event,
            on_connect=self._on_connect,
        )
        access = ContainerAccess(env, self._client, self._sight_of)
        self.exec, self.dial = access.exec, access.dial
        self._info: EngineInfo | None = None
        self._tasks: dict[str, Known] = {}
        self._doubtful: dict[str, None] = {}

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._jobs.run(), name="engine jobs")
                group.create_task(self._watcher.run(), name="engine events")
        finally:
            await self._client.close()

    def describe(self) -> RuntimeDescription:
        """The engine's word; this host's while the engine never answered."""
        info = self._info
        if info is None:
            here = describe_host(self.name)
            return msgspec.structs.replace(here, engine_version="", plugins=(), limits=None)
        return RuntimeDescription(
            name=self.name,
            engine_version=info.version,
            resources=Resources(nano_cpus=info.cpus * NS_PER_S, memory_bytes=info.memory_b),
            architecture=info.architecture,
            os=info.os,
            plugins=_plugins(info.plugins),
            limits=info.limits,
        )

    def check(self, task: AssignedTask) -> None:
        refuse_options(task)
        self._deliveries.check(task)

    async def prepare(self, task: AssignedTask) -> None:
        """Create the container; pull its image first where the engine says that it has none."""
        known = self._tasks.setdefault(task.id, Known(task.id))
        self._doubtful.pop(task.id, None)
        await known.settled()
        with _memory_problems():
            binds = self._deliveries.make_room(task)
        if known.container_id:
            return
        pulled = self._pulls.count
        try:
            await self._create(known, task, binds)
        except EngineRefusedError as refusal:
            if not _is_missing_image(refusal):
                raise
            if pulled == self._pulls.count:
                await self._pull(task, refusal)
            await self._create(known, task, binds)

    async def start(self, task: AssignedTask, files: Sequence[TaskFile] = ()) -> Started:
        """Start it, once: what ran and ended is answered as started, and never run again."""
        known = await self._find(task.id)
        if known is None:
            raise RuntimeProblemError(f"Task {task.id} has no container on this node.")
        if known.is_new or not (await self._look_anew(known)).was_started:
            with _memory_problems():
                self._deliveries.fill(task, files)
            await self._job(known, lambda: self._start(known))
        sight = await self._look(known)
        if sight.is_gone:
            raise RuntimeProblemError(f"No such container: {known.container_id}")
        return started(sight, task.ports)

    async def healthy(self, task: AssignedTask) -> Exit | None:
        known = await self._found(task.id)
        sight = await self._until(known, lambda s: is_healthy(s) or is_unhealthy(s))
        if sight.is_over:
            self._deliveries.drop(task.id)
            return self._exit(known, sight)
        if is_unhealthy(sight):
            raise RuntimeProblemError(UNHEALTHY)
        return None

    async def wait(self, task_id: TaskID) -> Exit:
        known = await self._found(task_id)
        sight = await self._until(known, is_unhealthy)
        if not sight.is_over:
            raise RuntimeProblemError(UNHEALTHY)
        self._deliveries.drop(task_id)
        return self._exit(known, sight)

    async def stop(self, task_id: TaskID, signal: str, grace_s: float) -> Exit:
        """`signal` was told at create: the engine sends it, or the image's own."""
        known = await self._find(task_id)
        if known is None:
            return Exit(exit_code=0, at_ms=self._env.clock.wall_ms(), problem=NEVER_STARTED)
        try:
            await self._engine.stop(known.container_id, math.ceil(min(grace_s, GRACE_MAX_S)))
        except EngineRefusedError as refusal:  # it may run on, so its end is no one's to report
            raise TemporaryProblemError(refusal.message) from refusal
        known.ring()
        try:
            async with asyncio.timeout(STOP_SLACK_S):
                sight = await self._until(known, lambda s: not s.was_started)
        except TimeoutError as late:
            raise TemporaryProblemError("The container does not stop; it is tried again.") from late
        self._deliveries.drop(task_id)
        return self._exit(known, sight)

    async def remove(self, task_id: TaskID) -> None:
        known = await self._find(task_id)
        if known is not None:
            await self._delete(known.container_id)
            known.ring()
        elif (lost := self._tasks.get(task_id)) is not None and lost.is_doubtful:
            self._doubt(task_id)
        self._deliveries.drop(task_id)
        self._tasks.pop(task_id, None)

    async def list_tasks(self) -> list[RuntimeTask]:
        """Every container with our label, looked at."""
        listed = await self._engine.containers()
        now_ms = self._env.clock.wall_ms()
        sights = [sight for sight in await self._look_at_all(listed) if not sight.is_gone]
        for sight in sights:
            known = self._tasks.setdefault(sight.task_id, Known(sight.task_id))
            known.container_id = known.container_id or sight.id
            if sight.was_started and sight.is_over:
                known.has_ended = True
        lasting = {sight.task_id for sight in sights if not (sight.was_started and sight.is_over)}
        self._deliveries.keep_only(lasting)  # a crash may have left others
        return [runtime_task(sight, now_ms) for sight in sights]

    async def logs(self, task_id: TaskID, options: LogOptions) -> AsyncIterator[LogLine]:
        """As the engine's log driver has them; a line over 16 KiB comes in parts."""
        known = await self._find(task_id)
        if known is None:
            raise RuntimeProblemError(f"Task {task_id} is not on this node.")
        sight = await self._look(known)
        path = f"/containers/{known.container_id}/logs"
        async with self._client.stream("GET", path, log_query(options)) as reader:
            async for line in read_log(reader, task_id, is_tty=sight.config.tty):
                yield line

    async def distribution(self, name: str, auth: str) -> bytes:
        """What the registry says of an image, as the engine answers GET /distribution/NAME/json.
        Raises SwarmError with the engine's status and words."""
        return await read_distribution(self._client, name, auth)

    # --- one task --------------------------------------------------------------------------------

    async def _find(self, task_id: TaskID) -> Known | None:
        """The task if it has a container; looked for by label where this daemon knows none."""
        known = self._tasks.get(task_id)
        if known is not None:
            await known.settled()
            if known.container_id:
                return known
        ids = await self._engine.container_ids(task_id)
        if not ids:
            return None
        known = self._tasks.setdefault(task_id, Known(task_id))
        known.container_id = known.container_id or ids[0]
        return known

    async def _sight_of(self, task_id: TaskID) -> Sight:
        """As the engine sees it now. Raises RuntimeProblemError where it has no container."""
        known = await self._find(task_id)
        if known is None:
            raise RuntimeProblemError(f"Task {task_id} is not on this node.")
        return await self._look_anew(known)

    async def _found(self, task_id: TaskID) -> Known:
        """As `_find`, for as long as the engine is away. Raises RuntimeProblemError."""
        while True:
            try:
                known = await self._find(task_id)
            except EngineDownError:
                await asyncio.sleep(LOOK_AGAIN_S * self._env.rng.uniform(0.5, 1.0))
                continue
            if known is None:
                raise RuntimeProblemError(f"Task {task_id} was not started here.")
            return known

    async def _look(self, known: Known) -> Sight:
        if known.sight is not None:
            return known.sight
        changes = known.changes
        sight = await self._engine.look(known.container_id)
        if changes == known.changes:  # else this look may be older than what rang
            known.sight = sight
        return sight

    async def _look_anew(self, known: Known) -> Sight:
        known.ring()
        return await self._look(known)

    async def _until(self, known: Known, is_wanted: Callable[[Sight], bool]) -> Sight:
        """The first look that is wanted, or at a container that is over; however long the engine
        is away."""
        while True:
            bell = known.bell  # before the look: what changes meanwhile rings it
            patience_s: float | None = None
            try:
                sight = await self._look(known)
                if sight.is_over or is_wanted(sight):
                    return sight
            except EngineDownError:
                patience_s = LOOK_AGAIN_S * self._env.rng.uniform(0.5, 1.0)
            try:
                async with asyncio.timeout(patience_s):
                    await bell.wait()
            except TimeoutError:
                continue

    def _exit(self, known: Known, sight: Sight) -> Exit:
        now_ms = self._env.clock.wall_ms()
        return exit_of(sight, now_ms=now_ms, told_exit=known.told_exit)

    async def _job(self, known: Known, work: Callable[[], Awaitable[None]]) -> None:
        """Do it to its end, whatever becomes of the caller."""
        await self._jobs.opened()
        known.job = self._jobs.begin(work, f"container of {known.task_id}")
        await known.job.result()

    async def _create(self, known: Known, task: AssignedTask, binds: Sequence[Json]) -> None:
        async def create() -> None:
            known.is_doubtful = True
            try:
                known.container_id, known.is_new = await self._engine.create(task, binds)
            except EngineRefusedError:
                known.is_doubtful = False
                raise
            known.is_doubtful = False

        await self._job(known, create)

    async def _pull(self, task: AssignedTask, missing: EngineRefusedError) -> None:
        assert task.spec.container_spec is not None, "checked by create"
        image = image_name(task.spec.container_spec.image)
        try:
            await self._pulls.pull(image, task.registry_auth)
        except EngineDownError:
            raise
        except RuntimeProblemError as problem:
            raise RuntimeProblemError(f"{missing.message}: {problem.message}") from problem

    async def _start(self, known: Known) -> None:
        known.is_new = False
        try:
            await self._engine.start(known.container_id)
        except EngineRefusedError as refusal:
            raise RuntimeProblemError(f"{START_FAILED}: {refusal.message}") from refusal
        finally:
            known.ring()
        log.info("task.started", extra={"task_id": known.task_id})

    async def _delete(self, container_id: str) -> None:
        for _ in range(BUSY_TRIES):
            if await self._engine.delete(container_id):
                return
            await asyncio.sleep(BUSY_S)
        raise TemporaryProblemError(f"The removal of container {container_id} takes long.")

    # --- all tasks -------------------------------------------------------------------------------

    async def _look_at_all(self, listed: Iterable[Listed]) -> list[Sight]:
        """In order of `listed`, some at once. Raises the first problem."""
        waiting = list(enumerate(listed))[::-1]
        sights: dict[int, Sight] = {}
        problems: list[RuntimeProblemError] = []

        async def look() -> None:
            while waiting and not problems:
                at, one = waiting.pop()
                try:
                    sights[at] = await self._engine.look(one.id)
                except EngineRefusedError as refusal:  # one broken container is not the node's end
                    extra = {"container_id": one.id, "problem": refusal.message}
                    log.warning("engine.container_not_shown", extra=extra)
                    sights[at] = unseen(one.id, one.labels or {})
                except RuntimeProblemError as problem:
                    problems.append(problem)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(LOOKS_MAX, len(waiting))):
                group.create_task(look())
        if problems:
            raise problems[0]
        return [sights[at] for at in sorted(sights)]

    def _doubt(self, task_id: str) -> None:
        if len(self._doubtful) >= DOUBTFUL_MAX:
            del self._doubtful[next(iter(self._doubtful))]
        self._doubtful[task_id] = None

    async def _sweep(self, task_ids: Iterable[str]) -> None:
        """Remove what came to be of tasks that were removed meanwhile. They stay doubtful: a second
        create may have been lost too, and what cannot be removed now is swept at the next
        connect."""
        for task_id in task_ids:
            try:
                for container_id in await self._engine.container_ids(TaskID(task_id)):
                    if task_id in self._doubtful:  # else it was assigned again
                        log.info("task.latecomer_removed", extra={"task_id": task_id})
                        await self._delete(container_id)
            except RuntimeProblemError as problem:
                extra = {"task_id": task_id, "problem": problem.message}
                log.warning("task.latecomer_not_removed", extra=extra)

    async def _undo_restart(self, known: Known) -> None:
        """Somebody else started it again; its slot may have another task by now."""
        try:
            if (await self._look_anew(known)).runs:
                log.warning("task.restart_undone", extra={"task_id": known.task_id})
                await self._engine.stop(known.container_id, 0)
        except RuntimeProblemError as problem:
            extra = {"task_id": known.task_id, "problem": problem.message}
            log.warning("task.restart_not_undone", extra=extra)

    def _on_event(self, event: Event) -> None:
        known = self._tasks.get(event.task_id)
        if event.action == "create":
            if known is None and event.task_id in self._doubtful:
                self._jobs.begin(lambda: self._sweep([event.task_id]), "sweep")
        elif known is not None:
            if event.action == "start" and known.has_ended:
                self._jobs.begin(lambda: self._undo_restart(known), "restart undone")
            elif event.action == "die":
                known.told_exit, known.has_ended = event.exit_code, True
            known.ring()

    def _on_connect(self, info: EngineInfo) -> None:
        self._info = info
        for known in self._tasks.values():
            known.ring()
        if self._doubtful:
            task_ids = [one for one in self._doubtful if one not in self._tasks]
            self._jobs.begin(lambda: self._sweep(task_ids), "sweep")


@contextmanager
def _memory_problems() -> Iterator[None]:
    """What this host's memory has no room for now it may have in a second."""
    try:
        yield
    except OSError as error:
        path = f" ({error.filename})" if error.filename else ""  # a write has none
        raise TemporaryProblemError(
            f"Secrets and configs cannot be put into memory: {error.strerror}{path}.",
            remedy="Look at the tmpfs of the node; it is tried again.",
        ) from error


def _is_missing_image(refusal: EngineRefusedError) -> bool:
    return refusal.status == 404 and "no such image" in refusal.message.lower()


def _plugins(plugins: EngineInfo.Plugins) -> tuple[tuple[str, str], ...]:
    kinds = (("Log", plugins.log), ("Network", plugins.network), ("Volume", plugins.volume))
    return tuple((kind, name) for kind, names in kinds for name in sorted(names or ()))
