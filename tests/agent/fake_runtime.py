"""A runtime without processes: tasks live on the loop's time and outlive the agent, as real ones
do.

A script says how a task behaves; `scripts` chooses one by the task. The object is the host: keep it
and give it to the next agent to restart the daemon; `reboot` loses all that ran.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from swarmlet.core.ids import TaskID
from swarmlet.env.base import Clock
from swarmlet.model.service import Resources
from swarmlet.runtime.base import (
    Condition,
    Exit,
    RuntimeDescription,
    RuntimeProblemError,
    RuntimeTask,
    Started,
    TaskFile,
    TemporaryProblemError,
)
from swarmlet.wire.messages import AssignedTask, ExecRequest, LogLine, LogOptions
from tests.agent.fake_streams import FakeDialed, FakeExec


@dataclass(frozen=True)
class Script:
    """Durations in seconds. `runs_s` None: until stopped. `*_problem` raise every time;
    `*_hiccups` raise TemporaryProblemError so many times first."""

    prepare_s: float = 0.0
    start_s: float = 0.0
    runs_s: float | None = None
    exit_code: int = 0
    stop_s: float = 0.0
    check_problem: str = ""
    prepare_problem: str = ""
    start_problem: str = ""
    healthy_s: float = 0.0
    health_problem: str = ""
    prepare_hiccups: int = 0
    lines: tuple[bytes, ...] = ()


@dataclass
class FakeTask:
    """What the host has of one task. `ends_at_s` on the loop's clock, None: runs until stopped."""

    script: Script
    hiccups: int = 0
    prepared: int = 0
    starts: int = 0
    started: Started | None = None
    ends_at_s: float | None = None
    exit: Exit | None = None
    lines: list[LogLine] = field(default_factory=list)
    files: tuple[TaskFile, ...] = ()
    programs: list[FakeExec] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeRuntime:
    def __init__(
        self, clock: Clock, scripts: Callable[[AssignedTask], Script] = lambda _: Script()
    ) -> None:
        self._clock, self._scripts = clock, scripts
        self.tasks: dict[TaskID, FakeTask] = {}
        self.removed: list[TaskID] = []
        self.starting_now = 0
        self.starting_most = 0
        self.condition = Condition()
        self.programs: list[FakeExec] = []
        self.connections: list[FakeDialed] = []
        self.listening = True  # whether tasks have somebody at their ports

    @property
    def name(self) -> str:
        return "fake"

    async def run(self) -> None:
        await asyncio.Event().wait()

    def describe(self) -> RuntimeDescription:
        return RuntimeDescription(
            name="fake",
            engine_version="0",
            resources=Resources(nano_cpus=4_000_000_000, memory_bytes=8 << 30),
            architecture="x86_64",
            os="linux",
        )

    def check(self, task: AssignedTask) -> None:
        if problem := self._scripts(task).check_problem:
            raise RuntimeProblemError(problem)

    async def prepare(self, task: AssignedTask) -> None:
        fake = self.tasks.setdefault(task.id, FakeTask(self._scripts(task)))
        if fake.hiccups < fake.script.prepare_hiccups:
            fake.hiccups += 1
            raise TemporaryProblemError("the image store is busy")
        await asyncio.sleep(fake.script.prepare_s)
        if fake.script.prepare_problem:
            raise RuntimeProblemError(fake.script.prepare_problem)
        fake.prepared += 1

    async def start(self, task: AssignedTask, files: Sequence[TaskFile] = ()) -> Started:
        fake = self._task(task.id)
        assert fake.prepared, "started before it was prepared"
        if fake.started is not None:
            return fake.started
        self.starting_now += 1
        self.starting_most = max(self.starting_most, self.starting_now)
        try:
            await asyncio.sleep(fake.script.start_s)
        finally:
            self.starting_now -= 1
        if fake.script.start_problem:
            raise RuntimeProblemError(fake.script.start_problem)
        fake.files = tuple(files)
        return self._run(task.id, fake)

    async def healthy(self, task: AssignedTask) -> Exit | None:
        fake = self._task(task.id)
        try:
            async with asyncio.timeout(fake.script.healthy_s):
                return await self.wait(task.id)
        except TimeoutError:
            if fake.script.health_problem:
                raise RuntimeProblemError(fake.script.health_problem) from None
            return None

    async def wait(self, task_id: TaskID) -> Exit:
        fake = self._task(task_id)
        while fake.exit is None:
            fake.changed.clear()
            try:
                async with asyncio.timeout_at(fake.ends_at_s):
                    await fake.changed.wait()
            except TimeoutError:
                self.settle()
        return fake.exit

    async def stop(self, task_id: TaskID, signal: str, grace_s: float) -> Exit:
        fake = self._task(task_id)
        if fake.exit is None:
            await asyncio.sleep(min(fake.script.stop_s, grace_s))
            self.kill(task_id, 137 if fake.script.stop_s > grace_s else 143)
        assert fake.exit is not None
        return fake.exit

    async def remove(self, task_id: TaskID) -> None:
        await asyncio.sleep(0)
        if self.tasks.pop(task_id, None) is not None:
            self.removed.append(task_id)

    async def list_tasks(self) -> list[RuntimeTask]:
        self.settle()
        return [
            RuntimeTask(task_id=task_id, started=fake.started, exit=fake.exit)
            for task_id, fake in sorted(self.tasks.items())
        ]

    async def logs(self, task_id: TaskID, options: LogOptions) -> AsyncIterator[LogLine]:
        fake = self._task(task_id)
        sent = 0 if options.tail < 0 else max(0, len(fake.lines) - options.tail)
        while True:
            while sent < len(fake.lines):
                yield fake.lines[sent]
                sent += 1
            if not options.follow or fake.exit is not None:
                return
            fake.changed.clear()
            await fake.changed.wait()

    async def exec(self, task_id: TaskID, request: ExecRequest) -> FakeExec:
        """What programs there are, fake_streams.py says."""
        await asyncio.sleep(0)
        fake = self._running(task_id)
        program = FakeExec(request)
        fake.programs.append(program)
        self.programs.append(program)
        return program

    async def dial(self, task_id: TaskID, port: int) -> FakeDialed:
        await asyncio.sleep(0)
        self._running(task_id)
        if not self.listening:
            raise RuntimeProblemError(f"Nothing listens on port {port} of task {task_id}.")
        connection = FakeDialed(port)
        self.connections.append(connection)
        return connection

    # What the world does to the host -------------------------------------------------------------
    def kill(self, task_id: TaskID, exit_code: int = 137) -> None:
        """The task ends now."""
        fake = self.tasks[task_id]
        if fake.exit is None:
            fake.exit = Exit(exit_code=exit_code, at_ms=self._clock.wall_ms())
            fake.changed.set()
            for program in fake.programs:
                program.kill()

    def write(self, task_id: TaskID, data: bytes, stream: int = 1) -> None:
        """The task writes a line."""
        fake = self.tasks[task_id]
        fake.lines.append(LogLine(task_id, self._clock.wall_ms() * 1_000_000, stream, data))
        fake.changed.set()

    def reboot(self) -> None:
        """All that ran is gone and forgotten."""
        self.tasks.clear()

    def running(self) -> list[TaskID]:
        """Tasks whose process lives now, sorted."""
        self.settle()
        return sorted(
            task_id for task_id, fake in self.tasks.items() if fake.started and fake.exit is None
        )

    def settle(self) -> None:
        """Let end what had its time, also while no agent looked."""
        now_s = self._clock.mono_s()
        for fake in self.tasks.values():
            if fake.exit is None and fake.ends_at_s is not None and fake.ends_at_s <= now_s:
                fake.exit = Exit(exit_code=fake.script.exit_code, at_ms=self._clock.wall_ms())
                fake.changed.set()

    def _run(self, task_id: TaskID, fake: FakeTask) -> Started:
        fake.starts += 1
        runs_s = fake.script.runs_s
        fake.ends_at_s = None if runs_s is None else self._clock.mono_s() + runs_s
        fake.started = Started(container_id=f"fake-{task_id}", pid=1000 + len(self.tasks))
        for data in fake.script.lines:
            self.write(task_id, data)
        return fake.started

    def _task(self, task_id: TaskID) -> FakeTask:
        fake = self.tasks.get(task_id)
        if fake is None:
            raise RuntimeProblemError(f"no such task: {task_id}")
        return fake

    def _running(self, task_id: TaskID) -> FakeTask:
        fake = self._task(task_id)
        if fake.started is None or fake.exit is not None:
            raise RuntimeProblemError(f"Task {task_id} does not run.")
        return fake
