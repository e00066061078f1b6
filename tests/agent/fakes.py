"""A manager to talk to, made of one channel, and tasks to hand out."""

import asyncio

from swarmlet.agent.agent import Agent
from swarmlet.core.errors import SwarmError, UnavailableError
from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.env.base import Env
from swarmlet.model.container import ContainerSpec
from swarmlet.model.node import NodeDescription
from swarmlet.model.service import TaskSpec
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.wire.channel import AgentChannel, ChannelClosedError, memory_channel
from swarmlet.wire.messages import (
    AssignedPayload,
    AssignedTask,
    Assignments,
    Condition,
    Goodbye,
    Heartbeat,
    Hello,
    Item,
    LogBatch,
    Message,
    StatusAck,
    StatusReport,
    Welcome,
    encode,
)

NODE = NodeID("node1")


def assigned(
    task_id: str,
    desired: int = TaskState.RUNNING,
    state: int = TaskState.ASSIGNED,
    container: ContainerSpec | None = None,
) -> AssignedTask:
    return AssignedTask(
        id=TaskID(task_id),
        service_id=ServiceID("web"),
        service_name="web",
        service_labels={},
        slot=1,
        node_id=NODE,
        desired=int(desired),
        spec=TaskSpec(container_spec=container or ContainerSpec(image="host", env=["KEY=geheim"])),
        status=TaskStatus(state=int(state)),
    )


class FakeSink:
    """A log stream's reader, as slow as the test wants."""

    def __init__(self) -> None:
        self.batches: list[LogBatch] = []
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.is_closed = False

    async def send(self, batch: LogBatch) -> None:
        if self.is_closed:
            raise ChannelClosedError
        await self.may_read.wait()
        self.batches.append(batch)

    def close(self) -> None:
        self.is_closed = True

    def lines(self) -> list[bytes]:
        return [line.data for batch in self.batches for line in batch.lines]


class FakeManager:
    """Accepts sessions, acknowledges reports, remembers what it heard."""

    def __init__(self) -> None:
        self.is_up = True
        self.acknowledges = True
        self.is_silent = False
        self.refusal = ""
        self.removal: SwarmError | None = None  # what it says to a node that was removed
        self.hellos: list[Hello] = []
        self.goodbyes: list[Goodbye] = []
        self.problems: list[str] = []
        self.beats = 0
        self.history: list[tuple[str, int, str]] = []
        self.statuses: dict[str, TaskStatus] = {}
        self.sinks: dict[str, FakeSink] = {}
        self.channel: AgentChannel | None = None
        self.wanted: dict[str, AssignedTask] = {}
        self.payloads: dict[tuple[str, str], AssignedPayload] = {}
        self._group: asyncio.TaskGroup | None = None
        self._state = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    async def open_session(self) -> AgentChannel:
        await asyncio.sleep(0)
        if self.removal is not None:
            raise self.removal
        if not self.is_up or self._group is None:
            raise UnavailableError("no manager answers")
        near, far = memory_channel()
        self._group.create_task(self._serve(far))
        return near

    async def open_log_stream(self, subscription: str) -> FakeSink:
        return self.sinks.setdefault(subscription, FakeSink())

    async def assign(self, *tasks: AssignedTask, gone: tuple[str, ...] = ()) -> None:
        """Tell the difference, and remember it for the next session."""
        for task in tasks:
            self.wanted[task.id] = task
        for task_id in gone:
            self.wanted.pop(task_id)
        if self.channel is not None:
            before, self._state = self._state, self._state + 1
            await self.send(
                Assignments(
                    is_complete=False,
                    applies_to=before,
                    results_in=self._state,
                    put=items(*tasks),
                    gone=tuple(("task", task_id) for task_id in gone),
                )
            )

    async def send(self, message: Message) -> None:
        assert self.channel is not None
        await self.channel.send(message)

    def states(self, task_id: str) -> list[int]:
        return [state for heard_of, state, _ in self.history if heard_of == task_id]

    def state(self, task_id: str) -> int:
        status = self.statuses.get(task_id)
        return -1 if status is None else status.state

    async def _serve(self, channel: AgentChannel) -> None:
        try:
            hello = await channel.receive()
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            await channel.send(
                Welcome(protocol=1, session_id="s", heartbeat_period_s=5.0, refusal=self.refusal)
            )
            self.channel = channel
            self._state += 1
            await channel.send(
                Assignments(
                    is_complete=True,
                    applies_to=0,
                    results_in=self._state,
                    put=(*payload_items(self.payloads), *items(*self.wanted.values())),
                )
            )
            while True:
                await self._take(channel, await channel.receive())
        except ChannelClosedError:
            pass
        finally:
            if self.channel is channel:
                self.channel = None

    async def _take(self, channel: AgentChannel, message: Message) -> None:
        match message:
            case StatusReport(number=number, statuses=statuses):
                for task_id, status in statuses:
                    self.history.append((task_id, status.state, status.err))
                    self.statuses[task_id] = status
                if self.acknowledges:
                    await channel.send(StatusAck(number=number))
            case Heartbeat():
                self.beats += 1
                if not self.is_silent:
                    await channel.send(Heartbeat())
            case Condition(problem=problem):
                self.problems.append(problem)
            case Goodbye():
                self.goodbyes.append(message)


def payload_items(payloads: dict[tuple[str, str], AssignedPayload]) -> tuple[Item, ...]:
    return tuple(
        Item(kind=kind, id=payload_id, body=encode(payload))
        for (kind, payload_id), payload in payloads.items()
    )


def items(*tasks: AssignedTask) -> tuple[Item, ...]:
    return tuple(Item(kind="task", id=task.id, body=encode(task)) for task in tasks)


def new_agent(
    env: Env, runtime, manager, state_dir: str, describe=None, own=None, on_info=None
) -> Agent:
    return Agent(
        env,
        NODE,
        runtime,
        manager,
        state_dir=state_dir,
        describe=describe or (lambda: NodeDescription(hostname="host1")),
        own=own,
        on_info=on_info,
    )
