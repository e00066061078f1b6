"""What the dispatcher knows of nodes that cannot run tasks now, for want of a session or of a
runtime: written to the store, and DOWN in the end."""

import asyncio
import logging
from contextlib import suppress
from itertools import islice
from typing import Final

from swarmlet.core.errors import DiskFullError, NotLeaderError, UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.env.base import Env
from swarmlet.model.change import SetNodeStatus
from swarmlet.model.node import Node, NodeState, NodeStatus
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

PAUSE_S: Final = 1.0  # after a full disk or an unknown outcome
CLOSED_DOWN_AFTER_S: Final = 3.0  # without a goodbye
NEW_LEADER_GRACE_S: Final = 10.0  # for agents to find a new leader, or
NEW_LEADER_GRACE_PER_NODE_S: Final = 0.005  # this for each, whichever is longer
AWAY_S: Final = 60.0  # of nodes that said goodbye to an earlier leader
RUNTIME_GRACE_S: Final = 60.0  # for a runtime to come back; a restarted engine needs a few seconds


class NodeStates:
    """The states of nodes as they should be, until they are in the store. In memory there are only
    timers; a new leader gives everyone a fresh grace."""

    def __init__(self, store: Store, env: Env) -> None:
        self._store, self._env = store, env
        self._clear()

    def _clear(self) -> None:
        self._wanted: dict[NodeID, NodeStatus] = {}
        self._down_at_s: dict[NodeID, tuple[float, str]] = {}
        self._trouble_s: dict[NodeID, float] = {}  # since when a runtime is away
        self._changed = asyncio.Event()

    def is_at_rest(self) -> bool:
        return not self._wanted

    def registered(self, node_id: NodeID, *, is_troubled: bool) -> None:
        """The node has a session: its state is written by whoever registered it."""
        self._wanted.pop(node_id, None)
        self._down_at_s.pop(node_id, None)
        if not is_troubled:
            self._trouble_s.pop(node_id, None)

    def not_registered(self, node_id: NodeID) -> None:
        """It came, but its registration could not be written: it may try again."""
        self._down_in(node_id, NEW_LEADER_GRACE_S, "the node could not be registered")

    def said_goodbye(self, node: Node, back_in_s: float) -> None:
        """It stopped in order: its tasks stay for that long; 0: for good."""
        if back_in_s <= 0:
            self._want(node, NodeState.DOWN, "the node left in order")
            return
        if self._is_down(node):
            self._want(node, NodeState.DOWN, "the node stopped in order")
            return
        message = f"the node stopped in order and is expected back within {back_in_s:g} s"
        self._want(node, NodeState.DISCONNECTED, message)
        self._down_in(node.id, back_in_s, "the node did not come back in the time it named")

    def closed(self, node: Node) -> None:
        """Its session ended without a goodbye."""
        if self._is_down(node):
            self._want(node, NodeState.DOWN, "the connection to the node was lost")
            return
        self._want(node, NodeState.DISCONNECTED, "the connection to the node was lost")
        self._down_in(node.id, CLOSED_DOWN_AFTER_S, "heartbeat failure")

    def troubled(self, node: Node, problem: str) -> None:
        """It has a session, but its runtime can run nothing: no new tasks, and after a grace that
        another problem does not renew its tasks run elsewhere. A node that is DOWN stays it."""
        if self._is_down(node):
            self._want(node, NodeState.DOWN, problem)
            return
        since_s = self._trouble_s.setdefault(node.id, self._env.clock.mono_s())
        self._want(node, NodeState.DISCONNECTED, problem)
        self._down_at_s[node.id] = (since_s + RUNTIME_GRACE_S, problem)

    def healed(self, node: Node) -> None:
        """Its runtime is back."""
        self._trouble_s.pop(node.id, None)
        self._want(node, NodeState.READY, "")

    async def run(self) -> None:
        """Until cancelled; first, every node that was there is UNKNOWN until it registers here."""
        self._clear()
        self._begin()
        while True:
            self._expire()
            if self._wanted:
                await self._write()
            else:
                await self._wait()

    def _begin(self) -> None:
        nodes = sorted(self._store.view().nodes.all(), key=lambda node: node.id)
        grace_s = max(NEW_LEADER_GRACE_S, NEW_LEADER_GRACE_PER_NODE_S * len(nodes))
        for node in nodes:
            if node.status.state == NodeState.DISCONNECTED:
                self._down_in(node.id, AWAY_S, "the node did not come back")
            elif node.status.state != NodeState.DOWN:
                self._want(node, NodeState.UNKNOWN, "a new leader waits for the node to register")
                self._down_in(node.id, grace_s, "the node did not register with the new leader")

    def _is_down(self, node: Node) -> bool:
        """By what the store will say soon."""
        return self._wanted.get(node.id, node.status).state == NodeState.DOWN

    def _want(self, node: Node, state: NodeState, message: str) -> None:
        self._wanted[node.id] = NodeStatus(state=int(state), message=message, addr=node.status.addr)
        self._down_at_s.pop(node.id, None)
        self._changed.set()

    def _down_in(self, node_id: NodeID, delay_s: float, message: str) -> None:
        self._down_at_s[node_id] = (self._env.clock.mono_s() + delay_s, message)
        self._changed.set()

    def _expire(self) -> None:
        now_s = self._env.clock.mono_s()
        for node_id, (at_s, message) in sorted(self._down_at_s.items()):
            node = self._store.view().nodes.get(node_id)
            if node is None:
                del self._down_at_s[node_id]
                self._trouble_s.pop(node_id, None)
            elif at_s <= now_s:
                self._trouble_s.pop(node_id, None)
                log.info("node.down", extra={"node_id": node_id, "cause": message})
                self._want(node, NodeState.DOWN, message)

    async def _write(self) -> None:
        # No more than one entry holds: a later one could come behind the READY of a registration.
        wanted = dict(islice(self._wanted.items(), ENTRY_CHANGES_MAX))
        changes = [SetNodeStatus(id=node_id, status=status) for node_id, status in wanted.items()]
        try:
            await self._store.batch(changes)
        except NotLeaderError:  # the next leader writes what it sees itself
            await asyncio.sleep(PAUSE_S)
            return
        except (DiskFullError, UnavailableError) as problem:
            log.warning("dispatcher.node_not_written", extra={"cause": problem.message})
            await asyncio.sleep(PAUSE_S)
            return
        for node_id, status in wanted.items():
            if self._wanted.get(node_id) is status:
                del self._wanted[node_id]

    async def _wait(self) -> None:
        self._changed.clear()
        due_s = min((at_s for at_s, _ in self._down_at_s.values()), default=None)
        delay_s = None if due_s is None else max(0.0, due_s - self._env.clock.mono_s())
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._changed.wait()


def troubled_state(state: int) -> NodeState:
    """What becomes of a node in `state` that says that its runtime is away."""
    return NodeState.DOWN if state == NodeState.DOWN else NodeState.DISCONNECTED
