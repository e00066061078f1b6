"""One node's session on the leader: reads what the agent says, tells it what to hold."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec.structs import replace

from swarmlet.core.errors import ForbiddenError, InvalidArgumentError, UnavailableError
from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import ASSIGNMENT_BATCH_MAX, STATUS_BATCH_PERIOD_S
from swarmlet.model.service import TaskSpec
from swarmlet.model.task import Task, TaskState, TaskStatus, task_name
from swarmlet.model.view import View, cluster_of, task_spec_version_of
from swarmlet.reconcile.dispatch import Fingerprint, fingerprint, plan
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.messages import (
    AssignedTask,
    Assignments,
    Condition,
    Goodbye,
    Heartbeat,
    Item,
    Message,
    StatusAck,
    StatusReport,
    encode,
)

MISSED_BEATS_MAX: Final = 3  # then the node counts as lost; SwarmKit dispatcher.go
BEAT_JITTER_S: Final = 0.5
OUTBOX_MAX: Final = 1_000  # short messages that wait for a slow agent; then it is cut off
PART_SIZE_MAX_B: Final = 1024 * 1024  # of an assignment message, but for a single larger task

Report = Callable[[tuple[tuple[TaskID, TaskStatus], ...], Callable[[], None]], Awaitable[None]]


class SessionSilentError(UnavailableError):
    """Nothing was heard for three periods."""

    code = "session-silent"


class NodeSession:
    """Runs until the agent goes, falls silent or breaks a rule. `goodbye_s`: what it named when it
    stopped in order."""

    def __init__(
        self,
        node_id: NodeID,
        channel: AgentChannel,
        store: Store,
        *,
        period_s: float,
        report: Report,
        on_condition: Callable[["NodeSession", str], None],
    ) -> None:
        self.node_id, self._channel, self._store = node_id, channel, store
        self._period_s, self._report, self._on_condition = period_s, report, on_condition
        self.goodbye_s: float | None = None
        self._outbox: deque[Message] = deque()
        self._has_mail = asyncio.Event()
        self._dirty: dict[TaskID, None] = {}
        self._has_dirty, self._is_many = asyncio.Event(), asyncio.Event()
        self._sent: dict[TaskID, Fingerprint] = {}
        self._state = 0
        self._is_told = False

    async def run(self) -> None:
        """Raises UnavailableError, ForbiddenError or InvalidArgumentError, within a group."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._write())
            group.create_task(self._assign())

    def post(self, message: Message) -> None:
        """Send soon, in order. An agent that lets too much pile up is cut off."""
        if len(self._outbox) >= OUTBOX_MAX:
            self._channel.close()
            return
        self._outbox.append(message)
        self._has_mail.set()

    def touch(self, task_id: TaskID) -> None:
        """A task that is, was or will be this node's has changed."""
        self._dirty[task_id] = None
        self._has_dirty.set()
        if len(self._dirty) >= ASSIGNMENT_BATCH_MAX:
            self._is_many.set()

    def close(self) -> None:
        self._channel.close()

    def is_at_rest(self) -> bool:
        return self._is_told and not self._dirty and not self._outbox

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(MISSED_BEATS_MAX * (self._period_s + BEAT_JITTER_S)):
                    message = await self._channel.receive()
            except TimeoutError:
                raise SessionSilentError("The node has fallen silent.") from None
            match message:
                case Heartbeat():
                    self.post(Heartbeat())
                case StatusReport(number=number, statuses=statuses):
                    self._check(statuses)
                    ack = StatusAck(number=number)
                    await self._report(statuses, partial(self.post, ack))
                case Condition(problem=problem):
                    self._on_condition(self, problem)
                case Goodbye(back_in_s=back_in_s):
                    self.goodbye_s = back_in_s
                case _:
                    kind = type(message).__name__
                    raise InvalidArgumentError(f"A node may not send {kind} in a session.")

    def _check(self, statuses: tuple[tuple[TaskID, TaskStatus], ...]) -> None:
        """A node speaks of its own tasks, and of states that are an agent's to report."""
        tasks = self._store.view().tasks
        for task_id, status in statuses:
            task = tasks.get(task_id)
            if task is not None and task.node_id != self.node_id:
                raise ForbiddenError(
                    f"Node {self.node_id} reported task {task_id}, which is not its own."
                )
            if status.state not in _REPORTABLE:
                raise InvalidArgumentError(f"An agent may not report state {status.state}.")

    async def _write(self) -> None:
        while True:
            while self._outbox:
                await self._channel.send(self._outbox.popleft())
            self._has_mail.clear()
            await self._has_mail.wait()

    async def _assign(self) -> None:
        """Everything first, then what changed: at once after a quiet time, else every 100 ms or 100
        changes."""
        await self._send_all(plan(self._store.view(), self.node_id, {}, None).put)
        self._is_told = True
        while True:
            await self._has_dirty.wait()
            if await self._send_changes():
                with suppress(TimeoutError):
                    async with asyncio.timeout(STATUS_BATCH_PERIOD_S):
                        await self._is_many.wait()

    async def _send_all(self, put: tuple[TaskID, ...]) -> None:
        """The complete list, in as many parts as it needs."""
        waiting = deque(put)
        has_more = True
        while has_more:
            items = tuple(self._take_part(waiting))
            has_more = bool(waiting)
            await self._send(is_complete=True, put=items, has_more=has_more)

    async def _send_changes(self) -> bool:
        """Whether there was anything to tell."""
        dirty, self._dirty = self._dirty, {}
        self._has_dirty.clear()
        self._is_many.clear()
        put, gone = plan(self._store.view(), self.node_id, self._sent, dirty)
        for task_id in gone:
            del self._sent[task_id]
        waiting, taken_back = deque(put), tuple(("task", task_id) for task_id in gone)
        while waiting or taken_back:
            await self._send(
                is_complete=False, put=tuple(self._take_part(waiting)), gone=taken_back
            )
            taken_back = ()
        return bool(put or gone)

    def _take_part(self, waiting: deque[TaskID]) -> Iterator[Item]:
        """The bodies of the next tasks as they are now, as many as one message should carry."""
        view, size_b = self._store.view(), 0
        for _ in range(ASSIGNMENT_BATCH_MAX):
            if not waiting or size_b >= PART_SIZE_MAX_B:
                return
            task = view.tasks.get(waiting.popleft())
            if task is None:
                continue  # removed while earlier parts were sent
            self._sent[task.id] = fingerprint(task)
            body = encode(assigned_task(view, task))
            size_b += len(body)
            yield Item(kind="task", id=task.id, body=body)

    async def _send(
        self,
        *,
        is_complete: bool,
        put: tuple[Item, ...],
        gone: tuple[tuple[str, str], ...] = (),
        has_more: bool = False,
    ) -> None:
        before, self._state = self._state, self._state + 1
        await self._channel.send(
            Assignments(
                is_complete=is_complete,
                applies_to=before,
                results_in=self._state,
                put=put,
                gone=gone,
                has_more=has_more,
            )
        )


_REPORTABLE: Final = frozenset(
    int(state) for state in TaskState if TaskState.ACCEPTED <= state <= TaskState.REJECTED
)


def assigned_task(view: View, task: Task) -> AssignedTask:
    """All an agent needs to run the task, from the spec version it was made of; the swarm's log
    driver where that names none."""
    version = task_spec_version_of(view, task)
    spec = version.spec
    template, defaults = spec.task_template, cluster_of(view).spec.task_defaults
    published = spec.endpoint_spec.ports if spec.endpoint_spec else []
    return AssignedTask(
        id=task.id,
        service_id=task.service_id,
        service_name=spec.name,
        service_labels=spec.labels,
        slot=task.slot,
        node_id=task.node_id,
        desired=task.desired,
        spec=replace(template, log_driver=template.log_driver or defaults.log_driver),
        ports=tuple(
            (port.name, port.protocol or "tcp", port.target_port, port.published_port)
            for port in published
            if port.publish_mode == "host"
        ),
        networks=task.networks,
        status=task.status,
        task_name=task_name(spec.name, task),
        registry_auth=version.registry_auth,
        network_mode=_network_mode(view, template),
    )


def _network_mode(view: View, template: TaskSpec) -> str:
    """The name of the node's own network the tasks join; they join one at most."""
    rows = [view.networks.get(wanted.target) for wanted in template.networks]
    return next((row.spec.name for row in rows if row is not None and row.predefined), "")
