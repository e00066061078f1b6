"""The adapter: tasks as supervised processes of this host."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from swarmlet.core.errors import DiskFullError
from swarmlet.core.ids import TaskID
from swarmlet.env.base import Env
from swarmlet.runtime.base import (
    NEVER_STARTED,
    Condition,
    Exit,
    RuntimeDescription,
    RuntimeProblemError,
    RuntimeTask,
    Started,
    TaskFile,
    TemporaryProblemError,
)
from swarmlet.runtime.payload_folder import PayloadFolder, folders_for
from swarmlet.runtime.process.accounts import Account, AccountRules, choose_own_uid
from swarmlet.runtime.process.beside import Beside
from swarmlet.runtime.process.bundle import Bundle, BundleState, is_bundle_name
from swarmlet.runtime.process.deliveries import file_pairs, place_files, private_files
from swarmlet.runtime.process.failures import StartFailedError, start_problem
from swarmlet.runtime.process.host import Host, describe_host, look_at_host
from swarmlet.runtime.process.log_reader import read_log
from swarmlet.runtime.process.mounts import PlacedMount, place_mounts
from swarmlet.runtime.process.plan import (
    Place,
    Plan,
    kept_config,
    parse_signal,
    plan_task,
    shim_config,
)
from swarmlet.runtime.process.ports import Port, choose_ports
from swarmlet.runtime.process.probes import HealthWatch
from swarmlet.runtime.process.supervised import LOST_EXIT_CODE, Supervised
from swarmlet.runtime.process.volumes import OWN, Volumes, remove_content
from swarmlet.wire.messages import AssignedTask, LogLine, LogOptions

log = logging.getLogger("swarmlet.runtime")

REBOOTED: Final = "task: the host was restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A task's secrets and configs: pairs for its shim, or the folder they are in."""

    files: Sequence[tuple[str, str]] = field(default=(), repr=False)
    folder: str = ""


class ProcessRuntime:
    """Runs tasks of the image `host`. One a state_dir, in one event loop.

    `state_dir` holds a folder for each task; `data_dir` and the socket are hidden from tasks where
    the daemon is root. `rules` says as whom tasks may run, `host` what was found here,
    `payload_folders` where to look for a tmpfs, for the files of tasks without namespaces.
    """

    name: Final = "process"

    def __init__(  # noqa: PLR0913 - the composition root's one call
        self,
        env: Env,
        *,
        state_dir: str,
        data_dir: str,
        socket_path: str = "",
        allow_root_tasks: bool = False,
        rules: AccountRules | None = None,
        host: Host | None = None,
        payload_folders: Sequence[str] | None = None,
    ) -> None:
        self.condition = Condition()
        self._env = env
        self._state_dir = os.path.realpath(state_dir)
        self._host = host or look_at_host()
        self._rules = rules or AccountRules(uid=self._host.uid, allow_root=allow_root_tasks)
        self._hidden = _hidden_paths(data_dir, state_dir, socket_path)
        self._payloads = PayloadFolder(
            folders_for(self._host.uid, os.environ) if payload_folders is None else payload_folders,
            self._state_dir,
        )
        self._volumes = Volumes(env.disk, f"{os.path.realpath(data_dir)}/volumes")
        self._health = HealthWatch(env.clock)
        self._beside = Beside(env, self._host, self._rules, self._running)
        self.exec, self.dial = self._beside.exec, self._beside.dial
        self._tasks: dict[str, Supervised] = {}
        self._uids: dict[str, int] | None = None  # of every bundle, once asked for
        self._finding = asyncio.Lock()
        if self._host.isolation_problem:
            log.warning(
                "runtime.cannot_isolate",
                extra={
                    "problem": self._host.isolation_problem,
                    "runs_tasks": self._rules.allow_root,
                },
            )

    async def run(self) -> None:
        """The host needs no watching."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    def describe(self) -> RuntimeDescription:
        return describe_host(self.name)

    def check(self, task: AssignedTask) -> None:
        """Raise RuntimeProblemError where this node can never run the task."""
        self._plan(task)

    async def prepare(self, task: AssignedTask) -> None:
        """Make the bundle and the volumes; as root this settles the task's uid."""
        plan = self._plan(task)
        if plan.files and not self._host.isolates:
            self._payloads.of(task.id)  # there is a place for them
        if await self._find(task.id) is None:
            self._prepare(task.id, plan, await self._placed(task.id, plan))

    async def start(self, task: AssignedTask, files: Sequence[TaskFile] = ()) -> Started:
        """Start it once; a failed start stays failed, but for reasons that pass."""
        plan = self._plan(task)
        known = await self._find(task.id)
        if known is None:
            mounts = await self._placed(task.id, plan)
            given = await self._given(task.id, plan, files)
            known = self._tasks.get(task.id) or self._spawn(task.id, plan, mounts, given)
        try:
            started = await known.started()
        except StartFailedError as failure:
            await known.ended()
            self._payloads.drop(task.id)
            if failure.is_passing:
                self._undo(known)
            account = self._account(known.bundle.state(), plan)
            raise start_problem(failure, plan, account) from failure
        log.info("task.started", extra={"task_id": task.id, "pid": started.pid})
        return started

    async def healthy(self, task: AssignedTask) -> Exit | None:
        end = await self._health.until_healthy(await self._started(task.id))
        if end is not None:
            self._payloads.drop(task.id)
        return end

    async def wait(self, task_id: TaskID) -> Exit:
        """Checks the task's health meanwhile, where its spec says how."""
        end = await self._health.until_over(await self._started(task_id))
        self._payloads.drop(task_id)
        return end

    async def stop(self, task_id: TaskID, signal: str, grace_s: float) -> Exit:
        """Signal the process group, wait `grace_s`, then kill everything of the task."""
        number = parse_signal(signal)
        known = await self._find(task_id)
        if known is None:
            return Exit(exit_code=0, at_ms=self._env.clock.wall_ms(), problem=NEVER_STARTED)
        await known.answered()
        if not known.is_over:
            known.send(number)
        try:
            async with asyncio.timeout(grace_s):
                end = await known.ended()
        except TimeoutError:
            log.info("task.killed", extra={"task_id": task_id, "grace_s": grace_s})
            end = await known.kill()
        self._payloads.drop(task_id)
        return end

    async def remove(self, task_id: TaskID) -> None:
        bundle = Bundle(self._env.disk, self._state_dir, task_id)
        known = await self._find(task_id)
        if known is not None:
            await known.answered()
            if not known.is_over:
                await known.kill()
            known.close()
        with _disk_problems():
            left = remove_content(f"{bundle.path}/{OWN}")
            while not await self._env.blocking(lambda: next(left, left) is left):
                pass
            await self._env.blocking(bundle.remove)
            self._payloads.drop(task_id)
        self._tasks.pop(task_id, None)
        self._health.forget(task_id)
        if self._uids is not None:
            self._uids.pop(task_id, None)

    async def list_tasks(self) -> list[RuntimeTask]:
        listed = [await self._listed(bundle) for bundle in self._bundles()]
        with _disk_problems():  # a crash may have left files of what is not there any more
            self._payloads.keep_only({str(one.task_id) for one in listed if one.exit is None})
        return listed

    async def logs(self, task_id: TaskID, options: LogOptions) -> AsyncIterator[LogLine]:
        """Data ends with a newline where the task wrote one; a line over 16 KiB comes in parts."""
        bundle = Bundle(self._env.disk, self._state_dir, task_id)
        if not bundle.exists():
            raise RuntimeProblemError(f"Task {task_id} is not on this node.")
        await self._find(task_id)

        def is_over() -> bool:
            known = self._tasks.get(task_id)
            return known.is_over if known is not None else not bundle.exists()

        async for line in read_log(bundle.path, task_id, options, is_over):
            yield line

    async def close(self) -> None:
        await self._beside.close()
        for known in self._tasks.values():
            known.close()
        self._tasks.clear()

    # --- one task --------------------------------------------------------------------------------

    def _plan(self, task: AssignedTask) -> Plan:
        return plan_task(task, self._host, self._rules, self._hidden)

    async def _started(self, task_id: TaskID) -> Supervised:
        known = await self._find(task_id)
        if known is None:
            raise RuntimeProblemError(f"Task {task_id} was not started here.")
        await known.answered()
        return known

    async def _running(self, task_id: TaskID) -> Supervised:
        known = await self._started(task_id)
        if known.is_over:
            raise RuntimeProblemError(f"Task {task_id} does not run any more.")
        return known

    async def _find(self, task_id: str) -> Supervised | None:
        """The task if it was started, taken over from an earlier daemon where need be."""
        if task_id in self._tasks:
            return self._tasks[task_id]
        async with self._finding:
            if task_id in self._tasks:
                return self._tasks[task_id]
            bundle = Bundle(self._env.disk, self._state_dir, task_id)
            with _disk_problems():
                if not bundle.was_started():
                    return None
                state = bundle.state()
                if state.boot_id != self._host.boot_id and bundle.exit() is None:
                    bundle.put_exit(self._lost_by_reboot())
                known = Supervised(bundle, self._env.clock, _ports(state))
                await known.adopt(is_this_boot=state.boot_id == self._host.boot_id)
            self._tasks[task_id] = known
            return known

    def _lost_by_reboot(self) -> Exit:
        at_ms = self._env.clock.wall_ms()
        return Exit(exit_code=LOST_EXIT_CODE, at_ms=at_ms, problem=REBOOTED)

    async def _placed(self, task_id: str, plan: Plan) -> tuple[PlacedMount, ...]:
        """Looked up off the event loop: a file system that is gone keeps whoever asks it."""
        if not plan.mounts:
            return ()
        bundle = Bundle(self._env.disk, self._state_dir, task_id)

        def look() -> tuple[PlacedMount, ...]:
            return place_mounts(
                plan.mounts, self._hidden, lambda i, name: self._volumes.place(bundle.path, i, name)
            )

        return await self._env.blocking(look)

    async def _given(self, task_id: str, plan: Plan, files: Sequence[TaskFile]) -> Given:
        """The task's secrets and configs: for its shim, or in its private folder."""
        if not plan.files:
            return Given()
        if len(files) != len(plan.files):
            raise RuntimeProblemError(f"Task {task_id} was not given its secrets and configs.")
        if self._host.isolates:
            targets = await self._env.blocking(lambda: place_files(plan.files, self._hidden))
            return Given(files=file_pairs(plan.files, targets, files))
        owner = None
        if self._host.is_root:
            account = self._account(Bundle(self._env.disk, self._state_dir, task_id).state(), plan)
            owner = account.uid, account.gid
        with _disk_problems():
            private = private_files(plan.files, files, is_root=self._host.is_root)
            return Given(folder=self._payloads.write(task_id, private, owner))

    def _prepare(self, task_id: str, plan: Plan, mounts: Sequence[PlacedMount]) -> None:
        bundle = Bundle(self._env.disk, self._state_dir, task_id)
        if bundle.exists() and bundle.state().boot_id == self._host.boot_id:
            self._make_volumes(mounts)
            return
        uid = -1
        if plan.account is None:
            uids = self._own_uids()
            uid = choose_own_uid(task_id, set(uids.values()), self._rules)
            uids[task_id] = uid
        with _disk_problems():
            bundle.save(BundleState(boot_id=self._host.boot_id, uid=uid))
        self._make_volumes(mounts)

    def _make_volumes(self, mounts: Sequence[PlacedMount]) -> None:
        with _disk_problems():
            for one in mounts:
                if one.plan.kind == "volume":
                    self._volumes.make(one.source, one.plan, self._env.clock.wall_ms())

    def _spawn(
        self, task_id: str, plan: Plan, mounts: tuple[PlacedMount, ...], given: Given
    ) -> Supervised:
        """No await from choosing the ports to having the task in memory: nobody else takes them."""
        self._prepare(task_id, plan, mounts)
        bundle = Bundle(self._env.disk, self._state_dir, task_id)
        ports = choose_ports(plan.ports, self._ports_taken(), self._env.rng.randrange)
        state = msgspec.structs.replace(
            bundle.state(), ports=tuple((p.protocol, p.target, p.published) for p in ports)
        )
        place = Place(
            bundle=bundle.path,
            account=self._account(state, plan),
            ports=ports,
            hidden=self._hidden if self._host.isolates else None,
            mounts=mounts,
            files=given.files,
            folder=given.folder,
        )
        known = Supervised(bundle, self._env.clock, ports)
        with _disk_problems():
            bundle.save(state)
            lock_fd = bundle.lock()
        try:
            known.spawn(
                shim_config(plan, place, self._host),
                lock_fd,
                kept_config(plan, place, self._host),
            )
        finally:
            os.close(lock_fd)
        self._tasks[task_id] = known
        return known

    def _undo(self, known: Supervised) -> None:
        """Forget a start that failed for a passing reason; its shim is gone."""
        known.close()
        known.bundle.forget_start()
        self._tasks.pop(known.bundle.task_id, None)

    def _account(self, state: BundleState, plan: Plan) -> Account:
        return plan.account or Account(uid=state.uid, gid=state.uid)

    # --- all tasks -------------------------------------------------------------------------------

    def _bundles(self) -> Iterator[Bundle]:
        for name in self._env.disk.list_dir(self._state_dir):
            if is_bundle_name(name) and os.path.isdir(f"{self._state_dir}/{name}"):
                yield Bundle(self._env.disk, self._state_dir, name)

    async def _listed(self, bundle: Bundle) -> RuntimeTask:
        task_id = TaskID(bundle.task_id)
        known = await self._find(task_id)
        if known is None:
            return RuntimeTask(task_id=task_id)
        await known.answered()
        end = await known.ended() if known.is_over else None
        return RuntimeTask(task_id=task_id, started=known.known_start(), exit=end)

    def _ports_taken(self) -> dict[tuple[str, int], str]:
        return {
            (port.protocol, port.published): task_id
            for task_id, known in self._tasks.items()
            if not known.is_over
            for port in known.ports
        }

    def _own_uids(self) -> dict[str, int]:
        if self._uids is None:
            self._uids = {bundle.task_id: bundle.state().uid for bundle in self._bundles()}
        return self._uids


def _ports(state: BundleState) -> tuple[Port, ...]:
    return tuple(Port(*port) for port in state.ports)


def _hidden_paths(data_dir: str, state_dir: str, socket_path: str) -> tuple[str, ...]:
    """What tasks of root's daemon must not see. The socket's folder where it is swarmlet's own,
    else the socket alone: hiding /run or somebody's home would hide more than ours."""
    paths = [os.path.realpath(data_dir), os.path.realpath(state_dir)]
    if socket_path:
        path = os.path.realpath(socket_path)
        folder = os.path.dirname(path)
        paths.append(folder if os.path.basename(folder) == "swarmlet" else path)
    return tuple(paths)


@contextmanager
def _disk_problems() -> Iterator[None]:
    """What the disk cannot do now it may do in a second."""
    try:
        yield
    except DiskFullError as error:
        raise TemporaryProblemError(error.message, error.remedy) from error
    except OSError as error:
        path = f" ({error.filename})" if error.filename else ""  # a write has none
        raise TemporaryProblemError(
            f"The data directory cannot be used: {error.strerror}{path}.",
            remedy="Look at the disk of the node; it is tried again.",
        ) from error
