"""The states of nodes on their way into the store: what is heard of nodes goes into the roll call,
what it decides is written, and one timer wakes it for all nodes."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

from msgspec.structs import replace

from swarmlet.core.errors import (
    DiskFullError,
    ForbiddenError,
    NotLeaderError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import CONDITION_LENGTH_MAX, ENTRY_CHANGES_MAX, MS_PER_S
from swarmlet.env.base import Env
from swarmlet.manager.steady_clock import SteadyClock
from swarmlet.model.change import Change, Event, SetNodeStatus, Update
from swarmlet.model.node import Node, NodeDescription, NodeState
from swarmlet.reconcile.liveness import (
    MANY_HELD_MS,
    Fact,
    Healed,
    Lost,
    Registered,
    SaidGoodbye,
    Troubled,
    Unregistered,
)
from swarmlet.reconcile.orphans import orphans
from swarmlet.reconcile.roll_call import RollCall
from swarmlet.store.store import Store
from swarmlet.wire.messages import Goodbye, Hello

log = logging.getLogger("swarmlet.manager")

PAUSE_S: Final = 1.0  # after a full disk or an unknown outcome
GATHER_S: Final = 0.02  # between two entries: what comes meanwhile shares the next one
LATE_MAX_S: Final = 1.0  # of a timer; more is a process that stood still and heard nobody
REGISTER_TRIES_MAX: Final = 10  # against others who write the node's row at the same moment


class _Ticket:
    """Somebody who waits for a node's registration to be in the store."""

    def __init__(self) -> None:
        self._is_over = asyncio.Event()
        self._failure: SwarmError | None = None

    async def settled(self) -> None:
        """Raises what the write ended with."""
        await self._is_over.wait()
        if self._failure is not None:
            raise self._failure

    def settle(self, failure: SwarmError | None = None) -> None:
        self._failure = failure
        self._is_over.set()


class NodeStates:
    """Runs on the leader. All writes of nodes' states are made here, one entry after the other, so
    that none comes behind a newer one."""

    def __init__(self, store: Store, env: Env) -> None:
        self._store, self._env = store, env
        self._is_running = False
        self._clear()

    def _clear(self) -> None:
        self._clock = SteadyClock(self._env.clock)
        self._calls = RollCall({}, 0)
        self._dirty: dict[NodeID, None] = {}
        self._writing: frozenset[NodeID] = frozenset()
        self._descriptions: dict[NodeID, tuple[NodeDescription, int]] = {}  # and how often tried
        self._tickets: dict[NodeID, list[_Ticket]] = {}
        self._orphaned: deque[NodeID] = deque()
        self._held_until_ms = 0
        self._changed = asyncio.Event()

    def is_at_rest(self) -> bool:
        return not (self._dirty or self._writing or self._orphaned)

    # What is heard

    async def register(self, hello: Hello, addr: str) -> None:
        """The node has come: return once that is in the store, with all that is new of it. Many
        that come at once share an entry. Raises ForbiddenError for one that was removed, and what a
        commit raises; then `not_registered` is to follow."""
        node = self._store.view().nodes.get(hello.node_id)
        if not self._is_running:
            raise _over()
        if node is None:
            raise _removed(hello.node_id)
        if node.description != hello.description:
            self._descriptions[node.id] = (hello.description, 0)
        ticket = _Ticket()
        self._tickets.setdefault(node.id, []).append(ticket)
        self.registered(hello, addr)
        self._mark((node.id,))
        await ticket.settled()

    def registered(self, hello: Hello, addr: str) -> None:
        """It has a session, whatever became of other tries meanwhile."""
        problem = hello.problem[:CONDITION_LENGTH_MAX]
        self._take(hello.node_id, Registered(addr=addr, problem=problem))

    def not_registered(self, node_id: NodeID) -> None:
        """It came, but its registration could not be written or told: it may try again."""
        self._take(node_id, Unregistered())

    def said_goodbye(self, node_id: NodeID, goodbye: Goodbye) -> None:
        back_in_s, is_host_stopping = goodbye.back_in_s, goodbye.is_host_stopping
        self._take(node_id, SaidGoodbye(back_in_s=back_in_s, is_host_stopping=is_host_stopping))

    def closed(self, node_id: NodeID, heard_s: float) -> None:
        """Its session ended without a goodbye; when it was heard of last, in monotonic time."""
        self._take(node_id, Lost(heard_ms=self._clock.at_ms(heard_s)))

    def troubled(self, node_id: NodeID, problem: str) -> None:
        """It has a session, but its runtime can run nothing."""
        self._take(node_id, Troubled(problem=problem[:CONDITION_LENGTH_MAX]))

    def healed(self, node_id: NodeID) -> None:
        """Its runtime is back."""
        self._take(node_id, Healed())

    def on_row(self, event: Event) -> None:
        """A node's row changed in the store."""
        node_id, node = NodeID(event.id), event.new
        if not isinstance(node, Node):
            self._calls.drop(node_id)
            self._dirty.pop(node_id, None)
            self._descriptions.pop(node_id, None)
            self._settle((node_id,), _removed(node_id))
        elif self._is_foreign(node):
            self._calls.put(node_id, node.status)
            self._changed.set()
        else:
            self._calls.share(node_id, node.status)

    def _is_foreign(self, node: Node) -> bool:
        """Whether the node is new here, or another wrote its status."""
        is_own = node.id in self._dirty or node.id in self._writing
        return not is_own and node.status != self._calls.get(node.id)

    # What is decided

    async def run(self) -> None:
        """Until cancelled; first, every node that was there is UNKNOWN until it registers here."""
        self._clear()
        self._clock.start()
        nodes = {node.id: node.status for node in self._store.view().nodes.all()}
        now_ms = self._clock.now_ms()
        self._calls = RollCall(nodes, now_ms)
        self._mark(self._calls.begin(now_ms))
        self._is_running = True
        try:
            await self._go_on()
        finally:
            self._is_running = False
            self._settle(list(self._tickets), _over())

    async def _go_on(self) -> None:
        late_s = 0.0
        while True:
            self._look(late_s)
            late_s = 0.0
            if self._dirty:
                late_s = await self._write()
            elif self._orphaned:
                late_s = await self._orphan(self._orphaned.popleft())
            else:
                late_s = await self._wait()

    def _take(self, node_id: NodeID, fact: Fact) -> None:
        self._follow_clock()
        self._mark(self._calls.take(node_id, fact, self._clock.now_ms()))
        self._tell_hold()

    def _mark(self, nodes: Iterable[NodeID]) -> None:
        self._dirty.update(dict.fromkeys(nodes))
        self._changed.set()

    def _look(self, late_s: float) -> None:
        """Whatever time has brought."""
        self._follow_clock()
        now_ms = self._clock.now_ms()
        if late_s > LATE_MAX_S:
            log.warning("dispatcher.stood_still", extra={"late_s": round(late_s, 1)})
            self._mark(self._calls.put_off(now_ms))
        due = self._calls.due(now_ms)
        for node_id, status in due.changes.items():
            if status.state == NodeState.DOWN:
                log.info("node.down", extra={"node_id": node_id, "cause": status.message})
        self._mark(due.changes)
        self._orphaned.extend(due.orphaned)
        self._tell_hold()

    def _follow_clock(self) -> None:
        jump_ms = self._clock.follow()
        if jump_ms:
            log.warning("dispatcher.clock_set", extra={"by_s": jump_ms / MS_PER_S})
            self._held_until_ms += jump_ms
            self._mark(self._calls.shift(jump_ms, self._clock.now_ms()))

    def _tell_hold(self) -> None:
        if self._calls.hold_until_ms > self._held_until_ms:
            self._held_until_ms = self._calls.hold_until_ms
            fields = {"lost": self._calls.count_lost(), "held_s": MANY_HELD_MS // MS_PER_S}
            log.warning("node.many_lost", extra={**fields, "nodes": len(self._calls)})

    # What is written

    async def _write(self) -> float:
        """A slice of what is to be written, and a pause; by how much that ended too late."""
        nodes = list(islice(self._dirty, ENTRY_CHANGES_MAX))
        for node_id in nodes:
            del self._dirty[node_id]
        tickets = {node_id: self._tickets.pop(node_id, []) for node_id in nodes}
        self._writing = frozenset(nodes)
        try:
            await self._store.batch(list(filter(None, map(self._change, nodes))))
        except (DiskFullError, UnavailableError) as problem:
            self._writing = frozenset()
            self._mark(node_id for node_id in nodes if self._calls.get(node_id) is not None)
            _settle_all(tickets.values(), problem)
            if not isinstance(problem, NotLeaderError):  # the next one writes what it sees itself
                log.warning("dispatcher.node_not_written", extra={"cause": problem.message})
            return await self._pause(PAUSE_S)
        except BaseException:
            _settle_all(tickets.values(), _over())
            raise
        else:
            self._writing = frozenset()
            self._check_written(tickets)
            return await self._pause(GATHER_S)

    def _change(self, node_id: NodeID) -> Change | None:
        """What the store does not say yet of the node."""
        node, status = self._store.view().nodes.get(node_id), self._calls.get(node_id)
        if node is None or status is None:
            return None
        if node_id in self._descriptions:
            description, _ = self._descriptions[node_id]
            return Update(
                obj=replace(node, description=description, status=status), seen=node.version
            )
        return None if node.status == status else SetNodeStatus(id=node_id, status=status)

    def _check_written(self, tickets: Mapping[NodeID, list[_Ticket]]) -> None:
        """A row that somebody else wrote at the same moment was left as it is: then it is tried
        again, and whoever waits for it waits on."""
        view = self._store.view()
        for node_id, waiting in tickets.items():
            node, wanted = view.nodes.get(node_id), self._descriptions.get(node_id)
            failure: SwarmError | None = None
            if node is None:
                failure = _removed(node_id)
            elif wanted is not None and node.description != wanted[0]:
                if wanted[1] < REGISTER_TRIES_MAX:
                    self._descriptions[node_id] = (wanted[0], wanted[1] + 1)
                    self._tickets.setdefault(node_id, []).extend(waiting)
                    self._mark((node_id,))
                    continue
                failure = UnavailableError(
                    f"The row of node {node_id} is written by others all the time."
                )
            self._descriptions.pop(node_id, None)
            for ticket in waiting:
                ticket.settle(failure)

    def _settle(self, nodes: Iterable[NodeID], failure: SwarmError) -> None:
        _settle_all([self._tickets.pop(node_id, []) for node_id in nodes], failure)

    async def _orphan(self, node_id: NodeID) -> float:
        """Nobody knows what became of the tasks of a node that has been down for so long."""
        changes = orphans(self._store.view(), node_id, self._clock.now_ms())
        if not changes:
            return 0.0
        try:
            await self._store.batch(changes)
        except (DiskFullError, UnavailableError) as problem:
            log.warning("dispatcher.node_not_written", extra={"cause": problem.message})
            self._orphaned.append(node_id)
            return await self._pause(PAUSE_S)
        log.info("node.tasks_orphaned", extra={"node_id": node_id, "tasks": len(changes)})
        return 0.0

    async def _wait(self) -> float:
        """Until something is heard or time brings something; by how much that came too late."""
        self._changed.clear()
        next_ms = self._calls.next_ms()
        if next_ms is None:
            await self._changed.wait()
            return 0.0
        delay_s = max(0, next_ms - self._clock.now_ms()) / MS_PER_S
        wake_s = self._env.clock.mono_s() + delay_s
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._changed.wait()
        return self._env.clock.mono_s() - wake_s

    async def _pause(self, delay_s: float) -> float:
        wake_s = self._env.clock.mono_s() + delay_s
        await asyncio.sleep(delay_s)
        return self._env.clock.mono_s() - wake_s


def _settle_all(tickets: Iterable[list[_Ticket]], failure: SwarmError) -> None:
    for waiting in tickets:
        for ticket in waiting:
            ticket.settle(failure)


def _over() -> UnavailableError:
    return UnavailableError("This manager does not lead any more.")


def _removed(node_id: NodeID) -> ForbiddenError:
    return ForbiddenError(f"Node {node_id} was removed from this swarm.")
