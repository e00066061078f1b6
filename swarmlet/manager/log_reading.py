"""One reading of logs on the manager that leads: a stream from each node, merged as they come."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import ForbiddenError, NotLeaderError
from swarmlet.core.ids import NodeID, ServiceID, TaskID, new_id
from swarmlet.core.limits import NS_PER_MS
from swarmlet.env.base import Env
from swarmlet.manager.hearsay import check_line, told_problem
from swarmlet.manager.log_progress import OWN, Progress, Skip
from swarmlet.model.change import Event
from swarmlet.model.event_message import node_name
from swarmlet.model.node import NodeState
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.messages import CloseLogs, LogBatch, LogLine, Message, OpenLogs

BATCHES_MAX: Final = 2  # of one reader that wait for it; then its agents wait
SAID_MAX: Final = 64  # sentences of our own that wait besides
ASKED_MAX: Final = 64  # nodes that open a stream, or (not following) send theirs: the others wait
OPEN_TIMEOUT_S: Final = 5.0  # for an agent to open a stream it was asked for
SILENCE_MAX_S: Final = 5.0  # of a stream that is not followed: agents say every 2 s that they read
RETURN_GRACE_S: Final = 3.0  # for a node to come back, before it is said that it is away
AWAITED_S: Final = 5.0  # for one that should be connected, as all should to a new leader
_RAN: Final = TaskState.RUNNING


class _Stream:
    """One node's part of a reading: the logs of these tasks."""

    def __init__(
        self, node_id: NodeID, task_ids: Sequence[TaskID], deadline_s: float, skip: Skip
    ) -> None:
        self.node_id, self.deadline_s, self.skip = node_id, deadline_s, skip
        self.task_ids = frozenset(task_ids)
        self.is_open = self.is_sending = False

    def is_timed(self, *, is_followed: bool) -> bool:
        """Whether the node must send something by the deadline."""
        return not (self.is_open and (is_followed or self.is_sending))

    def is_late(self, now_s: float, *, is_followed: bool) -> bool:
        """Whether it should have done so by now."""
        return self.is_timed(is_followed=is_followed) and self.deadline_s <= now_s


class _Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of a node that is away; their logs go on with its next session. `say_at_s`: when that
    is said to the reader; None: it was, and the log is followed."""

    task_ids: tuple[TaskID, ...]
    problem: str
    say_at_s: float | None


class Reading:
    """One reader: its streams by subscription, and a bounded queue of what they brought. There may
    be thousands of streams: what one brings costs nothing for the others."""

    def __init__(
        self,
        env: Env,
        post: Callable[[NodeID, Message], bool],
        view: Callable[[], View],
        progress: Progress,
        *,
        is_resumed: bool,
    ) -> None:
        self._env, self._post, self._view = env, post, view
        self._progress, self._options = progress, progress.options
        self._is_resumed = is_resumed
        self._services: set[ServiceID] = set()
        self._awaited: set[TaskID] = set()
        self._queue: deque[tuple[LogLine, ...]] = deque()
        self._changed, self._room = asyncio.Event(), asyncio.Semaphore(BATCHES_MAX)
        self._seen: set[TaskID] = set()
        self._opened: set[TaskID] = set()  # of which a node began to send
        self._lost: dict[NodeID, _Lost] = {}
        self._is_deposed = False
        self._look_s = math.inf  # nothing is late, or to be said, before
        self._of_node: dict[NodeID, list[str]] = {}
        self._line: deque[tuple[NodeID, Sequence[TaskID]]] = deque()  # to be asked
        self._busy: dict[str, None] = {}
        self.streams: dict[str, _Stream] = {}
        self.is_closed = False

    def begin(self, tasks: Iterable[TaskID], services: Iterable[ServiceID]) -> None:
        """Ask for what there is by now, and (following) note what there may be."""
        view = self._view()
        found = [task for task in map(view.tasks.get, tasks) if task is not None]
        if self._options.follow:
            self._services.update(one for one in services if view.services.get(one) is not None)
            self._awaited.update(task.id for task in found)
        for service_id in services:
            found += sorted(view.tasks.scan("service", service_id), key=lambda task: task.id)
        self.ask(found)

    def ask(self, tasks: Sequence[Task]) -> None:
        """Have the nodes of these tasks, where they run or ran, open a stream each. What was
        rejected never ran."""
        by_node: dict[NodeID, list[TaskID]] = {}
        for task in tasks:
            if task.status.state < _RAN:
                continue
            self._awaited.discard(task.id)
            has_run = task.node_id and task.status.state != TaskState.REJECTED
            if has_run and task.id not in self._seen:
                self._seen.add(task.id)
                by_node.setdefault(task.node_id, []).append(task.id)
        for node_id, task_ids in by_node.items():
            self._ask_node(node_id, task_ids)

    def _ask_node(self, node_id: NodeID, task_ids: Sequence[TaskID]) -> None:
        """When it is its turn: thousands of handshakes at once would take the loop for seconds."""
        self._line.append((node_id, task_ids))
        self._ask_next()

    def _ask_next(self) -> None:
        while self._line and len(self._busy) < ASKED_MAX:
            self._ask_now(*self._line.popleft())

    def _ask_now(self, node_id: NodeID, task_ids: Sequence[TaskID]) -> None:
        subscription = new_id(self._env.entropy)
        options, skip = self._options, Skip(())
        if self._is_resumed or not self._opened.isdisjoint(task_ids):
            since_ns = self._progress.since_ns(task_ids)
            options = replace(options, tail=-1, since_ns=since_ns)
            skip = Skip(self._progress.marks(task_ids))
        wanted = OpenLogs(subscription=subscription, task_ids=tuple(task_ids), options=options)
        if self._post(node_id, wanted):
            deadline_s = self._in(OPEN_TIMEOUT_S)
            self.streams[subscription] = _Stream(node_id, task_ids, deadline_s, skip)
            self._of_node.setdefault(node_id, []).append(subscription)
            self._busy[subscription] = None
        else:
            grace_s = AWAITED_S if self._is_awaited(node_id) else 0.0
            self._out_of_reach(node_id, task_ids, "is not connected", grace_s)

    def _is_awaited(self, node_id: NodeID) -> bool:
        """Whether the node should be connected, as while it looks for a new leader."""
        node = self._view().nodes.get(node_id)
        return node is not None and node.status.state in (NodeState.READY, NodeState.UNKNOWN)

    def on_events(self, events: Sequence[Event]) -> None:
        """Follow what is new of the services, and the tasks that had not run yet; forget what is
        gone."""
        for event in events:
            if isinstance(event.new, Task):
                if event.new.service_id in self._services or event.id in self._awaited:
                    self.ask((event.new,))
                    self._changed.set()
                if event.new.status.state == TaskState.ORPHANED:
                    self._give_up(event.new)
            elif event.new is None:
                if isinstance(event.old, Task):
                    self._forget(event.old)
                self._services.discard(ServiceID(event.id))
                self._changed.set()

    def _forget(self, task: Task) -> None:
        for known in (self._seen, self._awaited, self._opened):
            known.discard(task.id)
        self._progress.forget(task.id)
        self._give_up(task)

    def _give_up(self, task: Task) -> None:
        """Its node will not come back with its logs."""
        lost = self._lost.get(task.node_id)
        if lost is None or task.id not in lost.task_ids:
            return
        rest = tuple(one for one in lost.task_ids if one != task.id)
        if rest:
            self._lost[task.node_id] = replace(lost, task_ids=rest)
        else:
            self._say_lost(task.node_id, lost)
            del self._lost[task.node_id]
        self._changed.set()

    def say(self, task_id: TaskID, problem: str) -> None:
        """One line of our own. Of a reader that does not read, the last of many are let go."""
        if len(self._queue) < BATCHES_MAX + SAID_MAX:
            at_ns = self._env.clock.wall_ms() * NS_PER_MS
            self._queue.append((LogLine(task_id, at_ns, OWN, f"swarmlet: {problem}\n".encode()),))
        self._changed.set()

    def open(self, subscription: str) -> None:
        """The node begins to send."""
        stream = self.streams[subscription]
        stream.is_open, stream.deadline_s = True, self._in(SILENCE_MAX_S)
        self._opened |= stream.task_ids
        if self._options.follow:
            self._leave_busy(subscription)

    async def put(self, subscription: str, batch: LogBatch) -> None:
        """Waits while the reader is slow. Raises ChannelClosedError where nobody reads any more,
        ForbiddenError for lines of a task that the node was not asked for."""
        stream = self.streams.get(subscription)
        if stream is not None:
            stream.is_sending = True
        await self._room.acquire()
        is_queued = False
        try:
            is_queued = self._take_in(subscription, batch)
        finally:
            if not is_queued:
                self._room.release()  # the next one has its turn

    def _take_in(self, subscription: str, batch: LogBatch) -> bool:
        """Whether there is something in it to be read."""
        stream = self.streams.get(subscription)
        if stream is None or self.is_closed:
            raise ChannelClosedError
        stream.is_sending, stream.deadline_s = False, self._in(SILENCE_MAX_S)
        self._check(stream, batch)
        if batch.problem:
            self.say(min(stream.task_ids), told_problem(batch.problem))
        new = tuple(filter(stream.skip.passes, batch.lines))
        if self._options.follow:
            for line in new:
                self._progress.note(line)
        if new:
            self._queue.append(new)
        if batch.is_last:
            self._drop(subscription)
        self._changed.set()
        return bool(new)

    def _drop(self, subscription: str) -> _Stream | None:
        stream = self.streams.pop(subscription, None)
        if stream is not None:
            of_node = self._of_node[stream.node_id]
            of_node.remove(subscription)
            if not of_node:
                del self._of_node[stream.node_id]
            self._leave_busy(subscription)
        return stream

    def _leave_busy(self, subscription: str) -> None:
        self._busy.pop(subscription, None)
        self._ask_next()

    def _check(self, stream: _Stream, batch: LogBatch) -> None:
        if any(line.task_id not in stream.task_ids for line in batch.lines):
            raise ForbiddenError(f"Node {stream.node_id} sent logs it was not asked for.")
        for line in batch.lines:
            check_line(line)

    def end(self, subscription: str, problem: str) -> None:
        """A stream that ended without its last batch. While following it goes on with the node's
        next session: a node whose certificate is renewed registers anew."""
        stream = self._drop(subscription)
        if stream is not None:
            grace_s = RETURN_GRACE_S if self._options.follow else 0.0
            self._out_of_reach(stream.node_id, sorted(stream.task_ids), problem, grace_s)

    def _out_of_reach(
        self, node_id: NodeID, task_ids: Sequence[TaskID], problem: str, grace_s: float
    ) -> None:
        """Say so, unless the node is back within `grace_s`, and while following go on when it is
        back."""
        earlier = self._lost.get(node_id)
        both = {*task_ids, *(earlier.task_ids if earlier is not None else ())}
        was_said = earlier is not None and earlier.say_at_s is None
        lost = _Lost(
            task_ids=tuple(sorted(both)),
            problem=problem,
            say_at_s=None if was_said else self._in(grace_s),
        )
        if grace_s > 0 and any(map(self._may_return, lost.task_ids)):
            self._lost[node_id] = lost
        else:
            self._tell_lost(node_id, lost)
        self._changed.set()

    def _may_return(self, task_id: TaskID) -> bool:
        """Whether its node may yet bring its logs."""
        task = self._view().tasks.get(task_id)
        return task is not None and task.status.state != TaskState.ORPHANED

    def _tell_lost(self, node_id: NodeID, lost: _Lost) -> None:
        """Say it, and remember it where the log goes on with the node."""
        self._lost.pop(node_id, None)
        self._say_lost(node_id, lost)
        if self._options.follow and any(map(self._may_return, lost.task_ids)):
            self._lost[node_id] = replace(lost, say_at_s=None)

    def _say_lost(self, node_id: NodeID, lost: _Lost) -> None:
        if lost.say_at_s is None:
            return
        node = self._view().nodes.get(node_id)
        name = node_id if node is None else node_name(node) or node_id
        count = len(lost.task_ids)
        tasks = "1 task" if count == 1 else f"{count} tasks"
        problem = f"node {name} {lost.problem}: the logs of {tasks} are out of reach"
        self.say(lost.task_ids[0], problem)

    def resume(self, node_id: NodeID) -> None:
        """The node has another session: it is asked for what it had not sent yet."""
        lost = self._lost.pop(node_id, None)
        if lost is not None:
            self._ask_node(node_id, lost.task_ids)
            self._changed.set()

    def lose(self, node_id: NodeID) -> None:
        """The node's session ended, and with it its streams."""
        for subscription in list(self._of_node.get(node_id, ())):
            self.end(subscription, "is connected no more")

    async def take(self) -> tuple[LogLine, ...]:
        """The next lines; empty once there will be no more. Raises NotLeaderError once this manager
        leads no more."""
        while not self._queue:
            if self._is_deposed:
                raise NotLeaderError("This manager leads the swarm no more.", remedy="Ask again.")
            open_ends = self._services or self._awaited or self._lost or self._line
            if not (self.streams or open_ends):
                return ()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s()):
                    await self._changed.wait()
            self._give_up_late()
        lines = self._queue.popleft()
        if lines[0].stream != OWN:  # what we say ourselves takes no node's place
            self._room.release()
        return lines

    def _in(self, delay_s: float) -> float:
        """The time in so many seconds, at which it is looked whether something is late."""
        at_s = self._env.clock.mono_s() + delay_s
        self._look_s = min(self._look_s, at_s)
        return at_s

    def _patience_s(self) -> float | None:
        """Until a stream may be late, or a loss is to be said; None: for as long as it takes."""
        if self._look_s == math.inf:
            return None
        return max(0.0, self._look_s - self._env.clock.mono_s())

    def _give_up_late(self) -> None:
        """Looks at all streams, but only when one of them may be late."""
        now_s, follow = self._env.clock.mono_s(), self._options.follow
        if now_s < self._look_s:
            return
        for subscription, stream in list(self.streams.items()):
            if stream.is_late(now_s, is_followed=follow):
                self._post(stream.node_id, CloseLogs(subscription=subscription))
                self.end(subscription, "does not send its logs")
        for node_id, lost in list(self._lost.items()):
            if lost.say_at_s is not None and lost.say_at_s <= now_s:
                self._tell_lost(node_id, lost)
        dues = [one.deadline_s for one in self.streams.values() if one.is_timed(is_followed=follow)]
        dues += [one.say_at_s for one in self._lost.values() if one.say_at_s is not None]
        self._look_s = min(dues, default=math.inf)

    def depose(self) -> None:
        """Another manager leads: what has come may be taken, no more comes."""
        self._is_deposed = True
        self._changed.set()
        self.close()

    def close(self) -> None:
        """The reader is gone: so are its streams."""
        self.is_closed = True
        self._line.clear()
        self._room.release()  # each who waits there learns it, and lets the next one in
        for subscription, stream in self.streams.items():
            self._post(stream.node_id, CloseLogs(subscription=subscription))
        self.streams.clear()
        self._of_node.clear()
