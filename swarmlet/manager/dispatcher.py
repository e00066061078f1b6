"""The dispatcher: the leader's end of every agent's session (behaviour of SwarmKit's
dispatcher)."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from swarmlet.core.errors import (
    ForbiddenError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID, new_id
from swarmlet.core.limits import HEARTBEAT_PERIOD_NS, NS_PER_S
from swarmlet.env.base import Env
from swarmlet.manager.hearsay import description_problem
from swarmlet.manager.node_session import NodeSession, Reign
from swarmlet.manager.node_states import NodeStates
from swarmlet.manager.rate_limit import RegistrationRate
from swarmlet.manager.session_watch import SilenceWatch
from swarmlet.manager.status_batch import StatusBatch
from swarmlet.model.change import Event
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import ManagerStatus, Node
from swarmlet.model.task import Task
from swarmlet.model.view import cluster_of
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentChannel
from swarmlet.wire.messages import (
    PROTOCOL_VERSION,
    Hello,
    ManagerAddr,
    Message,
    SwarmInfo,
    Welcome,
)

log = logging.getLogger("swarmlet.manager")

HELLO_TIMEOUT_S: Final = 5.0  # for the first message; SwarmKit agent/agent.go
INFORM_AT_ONCE: Final = 32  # sessions that are told of a change of the swarm,
INFORM_PAUSE_S: Final = 0.02  # and before the next ones are
LEADER_WEIGHT: Final = 10  # for whoever hears of this manager now; as much as one good answer


class Dispatcher:
    """Runs on the leader. Sessions live while it does; elsewhere agents are refused and try
    again."""

    name: Final = "dispatcher"

    def __init__(
        self,
        store: Store,
        env: Env,
        manager_id: NodeID,
        members: Callable[[], Sequence[Member]] = tuple,
    ) -> None:
        self._store, self._env, self._members = store, env, members
        self._me = manager_id
        self._batch = StatusBatch(store, env, manager_id)
        self._nodes = NodeStates(store, env)
        self._sessions: dict[NodeID, NodeSession] = {}
        self._registering = 0
        self._addrs: tuple[ManagerAddr, ...] = ()
        self._opening: dict[AgentChannel, None] = {}
        self.on_session_begin: Callable[[NodeID], None] = _nothing
        self.on_session_end: Callable[[NodeID], None] = _nothing
        self._clear()

    def _clear(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._reign: Reign | None = None
        self._silence = SilenceWatch(self._env.clock)
        self._rate = RegistrationRate()
        self._uninformed: deque[NodeID] = deque()
        self._must_inform = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; then all sessions are closed."""
        self._clear()
        unsubscribe = self._store.subscribe(self._on_events)
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self._batch, self._nodes, self._silence):
                    group.create_task(part.run())
                group.create_task(self._inform_all())
                await self._take_sessions(group)
        finally:
            unsubscribe()

    async def _take_sessions(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._reign = Reign(
            store=self._store,
            clock=self._env.clock,
            spawn=group.create_task,
            report=self._batch.add,
            on_condition=self._on_condition,
            inform=self._info,
        )
        try:
            await asyncio.Event().wait()
        finally:
            self._group = self._reign = None  # before the group ends: no new session comes in then
            self._cut_off_all()

    def _cut_off_all(self) -> None:
        """Their ends say nothing of the nodes: the next leader looks for itself."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            self.on_session_end(session.node_id)
            session.close()
        for channel in self._opening:
            channel.close()

    def open_session(self, channel: AgentChannel, peer: NodeID, addr: str) -> asyncio.Task[None]:
        """Serve an agent over `channel` until it ends; `peer` is who its certificate says it is.
        Raises UnavailableError where this manager does not lead."""
        if self._group is None:
            raise _does_not_lead()
        return self._group.create_task(self._serve(channel, peer, addr), name=f"session of {peer}")

    async def serve(self, channel: AgentChannel, peer: NodeID, addr: str) -> None:
        """The same in the caller's own task, until the session ends. Raises UnavailableError."""
        if self._reign is None:
            raise _does_not_lead()
        await self._serve(channel, peer, addr)

    def tell_members(self) -> None:
        """The managers' addresses have changed: every node hears of it, a few at a time."""
        self._uninformed = deque(self._sessions)
        self._must_inform.set()

    def post(self, node_id: NodeID, message: Message) -> bool:
        """Send to the node's agent soon; False where it has no session."""
        session = self._sessions.get(node_id)
        if session is not None:
            session.post(message)
        return session is not None

    def has_session(self, node_id: NodeID) -> bool:
        return node_id in self._sessions

    def is_at_rest(self) -> bool:
        """Whether all that was heard is in the store and all that is in the store was told."""
        quiet = self._batch.is_at_rest() and self._nodes.is_at_rest() and not self._registering
        return quiet and all(session.is_at_rest() for session in self._sessions.values())

    def gauges(self) -> dict[str, float]:
        return {"swarmlet_dispatcher_sessions": float(len(self._sessions))}

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.table is Task:
                self._on_task(event)
            elif event.table is Node:
                self._on_node(event)
            elif event.table is Cluster and _root_of(event.old) != _root_of(event.new):
                self.tell_members()

    def _on_node(self, event: Event) -> None:
        """A removed node is cut off; what is new of a node's certificate or role is told to it,
        and of a manager's place to all."""
        self._nodes.on_row(event)
        session = self._sessions.get(NodeID(event.id))
        if session is not None and event.new is None:
            session.close()
        elif session is not None and _certificate_of(event.old) != _certificate_of(event.new):
            session.inform()
        if isinstance(event.old, Node) and _place_of(event.old) != _place_of(event.new):
            self.tell_members()

    def _on_task(self, event: Event) -> None:
        for row in (event.old, event.new):
            if isinstance(row, Task) and (session := self._sessions.get(row.node_id)) is not None:
                session.touch(row.id)

    async def _serve(self, channel: AgentChannel, peer: NodeID, addr: str) -> None:
        try:
            session = await self._open(channel, peer, addr)
            try:
                await session.run()
            finally:
                self._silence.forget(session)
                self._end(session)
        except UnavailableError as cause:
            log.info("session.ended", extra={"node_id": peer, "cause": str(cause)})
        except (msgspec.MsgspecError, TimeoutError, SwarmError) as cause:
            log.warning("session.failed", extra={"node_id": peer, "cause": str(cause)})
        finally:
            channel.close()

    async def _open(self, channel: AgentChannel, peer: NodeID, addr: str) -> NodeSession:
        self._opening[channel] = None
        try:
            return await self._admit(channel, peer, addr)
        finally:
            del self._opening[channel]

    async def _admit(self, channel: AgentChannel, peer: NodeID, addr: str) -> NodeSession:
        """Register the agent; it replaces an older session of its node. Raises ForbiddenError or
        InvalidArgumentError, which the agent was told, and what a commit raises."""
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            hello = await channel.receive()
        if refusal := self._refusal(hello, peer, addr):
            await channel.send(_welcome("", 0.0, refusal))
            raise ForbiddenError(refusal)
        assert isinstance(hello, Hello)
        self._replace(peer)  # first: what its end would write must not come behind our state
        period_s = await self._register(hello, addr, channel)
        self._replace(peer)
        self._nodes.registered(hello, addr)  # whatever became of earlier tries meanwhile
        if self._reign is None:
            raise UnavailableError("This manager does not lead any more.")
        session = NodeSession(peer, channel, self._reign, period_s=period_s)
        self._sessions[peer] = session
        self._silence.add(session)
        self.on_session_begin(peer)
        log.info("session.opened", extra={"node_id": peer, "addr": addr})
        return session

    def _on_condition(self, session: NodeSession, problem: str) -> None:
        """A node says whether its runtime can run tasks; one that was replaced has no say."""
        if self._sessions.get(session.node_id) is not session:
            return
        if problem:
            self._nodes.troubled(session.node_id, problem)
        else:
            self._nodes.healed(session.node_id)

    def _refusal(self, hello: Message, peer: NodeID, addr: str) -> str:
        """Why this agent may not register, or nothing."""
        if not isinstance(hello, Hello):
            return "A session begins with a hello."
        if abs(hello.protocol - PROTOCOL_VERSION) > 1:
            return (
                f"The node speaks protocol {hello.protocol}, this manager {PROTOCOL_VERSION}; "
                "they may be one apart. Bring both to neighbouring releases."
            )
        if hello.node_id != peer:
            return f"The node says it is {hello.node_id}, its certificate says {peer}."
        node = self._store.view().nodes.get(peer)
        if node is None:
            return f"Node {peer} is not part of this swarm; it was removed or never joined."
        is_news = hello.description.tls_info != node.description.tls_info
        wait_s = self._rate.wait_s(peer, self._env.clock.mono_s(), is_news=is_news)
        if wait_s > 0:
            both = "" if addr == node.status.addr else f", from {node.status.addr} and {addr}"
            return (
                f"Node {peer} registers again and again{both}: do two daemons use copies of one "
                "data directory? It may again in a few seconds."
            )
        return description_problem(hello.description)

    def _replace(self, node_id: NodeID) -> None:
        """Close the node's session, if it has one; its end says nothing of the node any more."""
        older = self._sessions.pop(node_id, None)
        if older is not None:
            self.on_session_end(node_id)
            older.close()

    async def _register(self, hello: Hello, addr: str, channel: AgentChannel) -> float:
        """Write what is new of the node (its state, address and description) and welcome it; its
        heartbeat period."""
        self._registering += 1
        try:
            await self._nodes.register(hello, addr)
            period_s = self._period_s()
            await channel.send(_welcome(new_id(self._env.entropy), period_s))
        except BaseException:
            if hello.node_id not in self._sessions:  # a later try may have been faster
                self._nodes.not_registered(hello.node_id)
            raise
        finally:
            self._registering -= 1
        return period_s

    def _end(self, session: NodeSession) -> None:
        """The node's own session ended (not one that was replaced): say so."""
        if self._sessions.get(session.node_id) is not session:
            return
        del self._sessions[session.node_id]
        self.on_session_end(session.node_id)
        if session.goodbye is not None:
            self._rate.forgive(session.node_id, self._env.clock.mono_s())
            self._nodes.said_goodbye(session.node_id, session.goodbye)
        else:
            self._nodes.closed(session.node_id, session.heard_s)

    def _info(self, node_id: NodeID) -> SwarmInfo | None:
        """What the node should know of the swarm; None once it is no part of it."""
        view = self._store.view()
        node = view.nodes.get(node_id)
        if node is None:
            return None
        return SwarmInfo(
            managers=self._manager_addrs(),
            root_pem=cluster_of(view).root_ca.cert_pem,
            certificate_state=node.certificate.state,
            role=node.role,
        )

    def _manager_addrs(self) -> tuple[ManagerAddr, ...]:
        """Kept by every session: one tuple for all of them."""
        addrs = tuple(
            ManagerAddr(
                node_id=NodeID(member.node_id),
                addr=member.address,
                weight=LEADER_WEIGHT if member.node_id == self._me else 1,
            )
            for member in self._members()
        )
        if addrs != self._addrs:
            self._addrs = addrs
        return self._addrs

    async def _inform_all(self) -> None:
        """Until cancelled: tell everybody in turn, so that thousands do not come at once."""
        while True:
            self._must_inform.clear()
            while self._uninformed:
                for _ in range(min(INFORM_AT_ONCE, len(self._uninformed))):
                    session = self._sessions.get(self._uninformed.popleft())
                    if session is not None:
                        session.inform()
                await asyncio.sleep(INFORM_PAUSE_S)
            await self._must_inform.wait()

    def _period_s(self) -> float:
        period_ns = cluster_of(self._store.view()).spec.dispatcher.heartbeat_period
        return (period_ns or HEARTBEAT_PERIOD_NS) / NS_PER_S


def _root_of(row: object) -> bytes | None:
    return row.root_ca.cert_pem if isinstance(row, Cluster) else None


def _certificate_of(row: object) -> tuple[int, str] | None:
    return (row.certificate.state, row.role) if isinstance(row, Node) else None


def _place_of(row: object) -> ManagerStatus | None:
    return row.manager if isinstance(row, Node) else None


def _welcome(session_id: str, period_s: float, refusal: str = "") -> Welcome:
    return Welcome(
        protocol=PROTOCOL_VERSION,
        session_id=session_id,
        heartbeat_period_s=period_s,
        refusal=refusal,
    )


def _does_not_lead() -> UnavailableError:
    return UnavailableError(
        "This manager does not lead.", remedy="The agent tries again by itself."
    )


def _nothing(_: NodeID) -> None:
    """Nobody wants to know."""
