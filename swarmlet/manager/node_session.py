"""One node's session on the leader: reads what the agent says, tells it what to hold."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import STATUS_BATCH_MAX, STATUS_BATCH_PERIOD_S
from swarmlet.env.base import Clock
from swarmlet.manager.assignments import AssignmentFeed
from swarmlet.manager.hearsay import checked_absence_s, checked_status
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
from swarmlet.wire.messages import (
    Condition,
    Goodbye,
    Heartbeat,
    Message,
    StatusAck,
    StatusReport,
    SwarmInfo,
)

MISSED_BEATS_MAX: Final = 3  # then the node counts as lost; SwarmKit dispatcher.go
BEAT_JITTER_S: Final = 0.5
ANSWER_AFTER_PERIODS: Final = 1.2  # of telling the agent nothing: then its beat is answered
OUTBOX_MAX: Final = 1_000  # short messages that wait for a slow agent; then it is cut off

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
    """Runs until the agent goes, falls silent or breaks a rule. `goodbye`: what it said when it
    stopped in order; `heard_s`: when it was heard of last, in monotonic time.

    Reading is the session's one task. What is to be told is sent by another, the teller, which
    lives only while there is something: idle sessions are many.
    """

    __slots__ = (
        "__weakref__",
        "_channel",
        "_failure",
        "_feed",
        "_hurry",
        "_info",
        "_is_telling",
        "_must_inform",
        "_next_changes_s",
        "_outbox",
        "_period_s",
        "_reign",
        "_told_s",
        "goodbye",
        "heard_s",
        "is_over",
        "node_id",
    )

    def __init__(
        self, node_id: NodeID, channel: AgentChannel, reign: Reign, *, period_s: float
    ) -> None:
        self.node_id, self._channel, self._reign = node_id, channel, reign
        self._period_s = period_s
        self.goodbye: Goodbye | None = None
        self.is_over = False
        self.heard_s = self._told_s = reign.clock.mono_s()
        self._failure: SwarmError | None = None
        self._outbox: list[Message] = []
        self._feed = AssignmentFeed(node_id, reign.store, self._put)
        self._info: SwarmInfo | None = None  # the last one sent
        self._must_inform, self._is_telling = True, False
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
        self._feed.touch(task_id)
        self._tell(at_once=self._feed.is_full)

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
        return self.heard_s + MISSED_BEATS_MAX * (self._period_s + BEAT_JITTER_S)

    def give_up(self) -> None:
        """It was silent for too long."""
        self._fail(SessionSilentError("The node has fallen silent."))

    def is_at_rest(self) -> bool:
        is_done = self._feed.is_listed and not self._must_inform
        return is_done and not self._feed.has_changes and not self._outbox

    def _fail(self, failure: SwarmError) -> None:
        self._failure = self._failure or failure
        self.close()

    async def _take(self, message: Message) -> None:
        self.heard_s = self._reign.clock.mono_s()
        match message:
            case Heartbeat():
                # Everything that is told says that this manager lives: every other beat will do.
                if self.heard_s - self._told_s >= ANSWER_AFTER_PERIODS * self._period_s:
                    self.post(Heartbeat())
            case StatusReport(number=number, statuses=statuses):
                checked = tuple(self._checked(statuses))
                ack = StatusAck(number=number)
                await self._reign.report(checked, partial(self.post, ack))
            case Condition(problem=problem):
                self._reign.on_condition(self, problem)
            case Goodbye(back_in_s=back_in_s):
                self.goodbye = msgspec.structs.replace(
                    message, back_in_s=checked_absence_s(back_in_s)
                )
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
        elif not self._feed.is_listed:
            await self._feed.send_all(self._send_outbox)
        elif self._feed.has_changes:
            wait_s = self._next_changes_s - self._reign.clock.mono_s()
            if wait_s > 0 and not self._feed.is_full:
                await self._pause(wait_s)
            elif await self._feed.send_changes():
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


_REPORTABLE: Final = frozenset(
    int(state) for state in TaskState if TaskState.ACCEPTED <= state <= TaskState.REJECTED
)
