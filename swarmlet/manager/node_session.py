"""One node's session on the leader: reads what the agent says, tells it what to hold."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import ASSIGNMENT_BATCH_MAX, STATUS_BATCH_MAX, STATUS_BATCH_PERIOD_S
from swarmlet.env.base import Clock
from swarmlet.manager.hearsay import checked_absence_s, checked_status
from swarmlet.model.service import TaskSpec
from swarmlet.model.task import Task, TaskState, TaskStatus, task_name
from swarmlet.model.view import View, cluster_of, task_spec_version_of
from swarmlet.reconcile.dispatch import Fingerprint, fingerprint, plan
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
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
    SwarmInfo,
    encode,
)

MISSED_BEATS_MAX: Final = 3  # then the node counts as lost; SwarmKit dispatcher.go
BEAT_JITTER_S: Final = 0.5
ANSWER_AFTER_PERIODS: Final = 1.2  # of telling the agent nothing: then its beat is answered
OUTBOX_MAX: Final = 1_000  # short messages that wait for a slow agent; then it is cut off
PART_SIZE_MAX_B: Final = 1024 * 1024  # of an assignment message, but for a single larger task

Report = Callable[[tuple[tuple[TaskID, TaskStatus], ...], Callable[[], None]], Awaitable[None]]


class SessionSilentError(UnavailableError):
    """Nothing was heard for three periods."""

    code = "session-silent"


class Reign(msgspec.Struct, frozen=True, kw_only=True):
    """What all sessions of one time of leading share. `spawn` runs a coroutine as long as this
    manager leads; `inform` makes the SwarmInfo of a node, None once it is removed."""

    store: Store
    clock: Clock
    spawn: Callable[[Coroutine[None, None, None]], object]
    report: Report
    on_condition: Callable[["NodeSession", str], None]
    inform: Callable[[NodeID], SwarmInfo | None]


class NodeSession:
    """Runs until the agent goes, falls silent or breaks a rule. `goodbye_s`: what it named when it
    stopped in order.

    Reading is the session's one task. What is to be told is sent by another, the teller, which
    lives only while there is something: idle sessions are many.
    """

    def __init__(
        self, node_id: NodeID, channel: AgentChannel, reign: Reign, *, period_s: float
    ) -> None:
        self.node_id, self._channel, self._reign = node_id, channel, reign
        self._period_s = period_s
        self.goodbye_s: float | None = None
        self.is_over = False
        self._heard_s = self._told_s = reign.clock.mono_s()
        self._failure: SwarmError | None = None
        self._outbox: list[Message] = []
        self._dirty: dict[TaskID, None] = {}
        self._sent: dict[TaskID, Fingerprint] = {}
        self._state = 0
        self._info: SwarmInfo | None = None  # the last one sent
        self._must_inform, self._is_listed, self._is_telling = True, False, False
        self._next_changes_s = 0.0
        self._hurry: asyncio.Event | None = None  # ends the teller's pause

    async def run(self) -> None:
        """Raises UnavailableError, ForbiddenError or InvalidArgumentError."""
        self._tell()
        try:
            while not self.is_over:
                await self._take(await self._channel.receive())
        except UnavailableError as end:
            raise self._failure or end from None
        finally:
            self.is_over = True
        raise self._failure or ChannelClosedError

    def post(self, message: Message) -> None:
        """Send soon, in order. An agent that lets too much pile up is cut off."""
        if len(self._outbox) >= OUTBOX_MAX:
            self._fail(UnavailableError("The node does not read what it is told."))
            return
        self._outbox.append(message)
        self._tell(at_once=True)

    def touch(self, task_id: TaskID) -> None:
        """A task that is, was or will be this node's has changed."""
        self._dirty[task_id] = None
        self._tell(at_once=len(self._dirty) >= ASSIGNMENT_BATCH_MAX)

    def inform(self) -> None:
        """What the node should know of the swarm may have changed."""
        self._must_inform = True
        self._tell(at_once=True)

    def close(self) -> None:
        """Nothing more is heard of the node, or told."""
        self.is_over = True
        self._channel.close()

    def silent_at_s(self) -> float:
        """When the node counts as lost unless it is heard before."""
        return self._heard_s + MISSED_BEATS_MAX * (self._period_s + BEAT_JITTER_S)

    def give_up(self) -> None:
        """It was silent for too long."""
        self._fail(SessionSilentError("The node has fallen silent."))

    def is_at_rest(self) -> bool:
        is_done = self._is_listed and not self._must_inform
        return is_done and not self._dirty and not self._outbox

    def _fail(self, failure: SwarmError) -> None:
        self._failure = self._failure or failure
        self.close()

    async def _take(self, message: Message) -> None:
        self._heard_s = self._reign.clock.mono_s()
        match message:
            case Heartbeat():
                # Everything that is told says that this manager lives: every other beat will do.
                if self._heard_s - self._told_s >= ANSWER_AFTER_PERIODS * self._period_s:
                    self.post(Heartbeat())
            case StatusReport(number=number, statuses=statuses):
                checked = tuple(self._checked(statuses))
                ack = StatusAck(number=number)
                await self._reign.report(checked, partial(self.post, ack))
            case Condition(problem=problem):
                self._reign.on_condition(self, problem)
            case Goodbye(back_in_s=back_in_s):
                self.goodbye_s = checked_absence_s(back_in_s)
            case _:
                kind = type(message).__name__
                raise InvalidArgumentError(f"A node may not send {kind} in a session.")

    def _checked(
        self, statuses: tuple[tuple[TaskID, TaskStatus], ...]
    ) -> Iterator[tuple[TaskID, TaskStatus]]:
        """A node speaks of its own tasks, and of states that are an agent's to report."""
        if len(statuses) > STATUS_BATCH_MAX:
            raise InvalidArgumentError(f"A report has at most {STATUS_BATCH_MAX} statuses.")
        tasks = self._reign.store.view().tasks
        for task_id, status in statuses:
            task = tasks.get(task_id)
            if task is not None and task.node_id != self.node_id:
                raise ForbiddenError(
                    f"Node {self.node_id} reported task {task_id}, which is not its own."
                )
            if status.state not in _REPORTABLE:
                raise InvalidArgumentError(f"An agent may not report state {status.state}.")
            yield task_id, checked_status(status)

    def _tell(self, *, at_once: bool = False) -> None:
        """Have the teller run."""
        if at_once and self._hurry is not None:
            self._hurry.set()
        if not self._is_telling and not self.is_over:
            self._is_telling = True
            self._reign.spawn(self._tell_all())

    async def _tell_all(self) -> None:
        """The teller: until there is nothing left to tell."""
        try:
            while not self.is_over and await self._tell_next():
                pass
        except UnavailableError as end:
            self._fail(end)
        finally:
            self._is_telling = False

    async def _tell_next(self) -> bool:
        """Short messages first, then what the swarm is, then what to hold: everything, and then
        what changed: at once after a quiet time, else every 100 ms or 100 changes."""
        if self._outbox:
            await self._send_outbox()
        elif self._must_inform:
            await self._send_info()
        elif not self._is_listed:
            await self._send_all(plan(self._reign.store.view(), self.node_id, {}, None).put)
            self._is_listed = True
        elif self._dirty:
            wait_s = self._next_changes_s - self._reign.clock.mono_s()
            if wait_s > 0 and len(self._dirty) < ASSIGNMENT_BATCH_MAX:
                await self._pause(wait_s)
            elif await self._send_changes():
                self._next_changes_s = self._reign.clock.mono_s() + STATUS_BATCH_PERIOD_S
        else:
            return False
        return True

    async def _pause(self, wait_s: float) -> None:
        self._hurry = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()
        finally:
            self._hurry = None

    async def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox, []
        for message in outbox:
            await self._put(message)

    async def _send_info(self) -> None:
        self._must_inform = False
        info = self._reign.inform(self.node_id)
        if info is not None and info != self._info:
            self._info = info
            await self._put(info)

    async def _put(self, message: Message) -> None:
        self._told_s = self._reign.clock.mono_s()
        await self._channel.send(message)

    async def _send_all(self, put: tuple[TaskID, ...]) -> None:
        """The complete list, in as many parts as it needs."""
        waiting = deque(put)
        has_more = True
        while has_more:
            items = tuple(self._take_part(waiting))
            has_more = bool(waiting)
            await self._send(is_complete=True, put=items, has_more=has_more)
            await self._send_outbox()

    async def _send_changes(self) -> bool:
        """Whether there was anything to tell."""
        dirty, self._dirty = self._dirty, {}
        put, gone = plan(self._reign.store.view(), self.node_id, self._sent, dirty)
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
        view, size_b = self._reign.store.view(), 0
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
        await self._put(
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
