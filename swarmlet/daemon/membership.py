"""One stay in a swarm: its log, store, manager and agent, from start to stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from swarmlet.agent.agent import Agent
from swarmlet.api.engine import EngineFacts
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.root import issuer_facts
from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.daemon.addresses import Addresses
from swarmlet.daemon.data_dir import DataDir, SwarmFile
from swarmlet.env.base import Env
from swarmlet.env.sealed import seal_key
from swarmlet.manager.bootstrap import Founding, first_changes
from swarmlet.manager.control import Control
from swarmlet.manager.manager import Manager
from swarmlet.model.node import RUNTIME_LABEL, EngineDescription, NodeDescription, Plugin, TLSInfo
from swarmlet.model.service import Platform
from swarmlet.raft.engine import DEFAULTS, RaftEngine, RaftLimits
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.runtime.base import Runtime
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.daemon")

LEADER_WAIT_S: Final = 20.0  # for the first leadership of a new swarm
REGISTER_WAIT_S: Final = 5.0  # for a new swarm's only node, before `init` answers
STOP_WAIT_S: Final = 8.0  # for the last writes; moby gives a manager as long
LEAVE_WAIT_S: Final = 60.0  # for tasks to stop before their state is wiped
LEAVE_TROUBLED_WAIT_S: Final = 5.0  # the same where the runtime is away, and may come back


async def keep_runtime(present: Runtime) -> Runtime:
    """There is no other."""
    return present


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Where a daemon lives: production's and the simulation's differ in these alone. `runtime` is
    the one at start; `facts` says of it what was known then."""

    env: Env
    data: DataDir
    runtime: Runtime
    facts: EngineFacts
    addresses: Addresses
    settle: Callable[[], None]  # called when much was loaded or dropped: the collector's turn
    raft_limits: RaftLimits = DEFAULTS
    choose: Callable[[Runtime], Awaitable[Runtime]] = keep_runtime  # at init, given the present one


class Membership:
    """Built over what `SwarmFile` and the certificates on disk say; `runtime` runs the tasks;
    `founding` only for a new swarm.
    """

    def __init__(
        self, host: Host, runtime: Runtime, file: SwarmFile, founding: Founding | None
    ) -> None:
        env, data = host.env, host.data
        self.file, self._env, self._data, self._founding = file, env, data, founding
        self._root_pem, _, keys = NodeFiles(env.disk, data.certificates).read()
        self._hostname, self._runtime = host.facts.hostname, runtime
        node_id = NodeID(file.node_id)
        member = Member(
            raft_id=RaftID(file.raft_id), node_id=file.node_id, address=file.advertise_addr
        )
        self.store = Store(env)
        self.log = RaftEngine(
            env, data.raft, seal_key(keys.raft_dek), self.store, member, host.raft_limits
        )
        self.store.attach(self.log)
        self.manager = Manager(env, self.store, self.log, node_id, all_deciders())
        self.control = Control(self.store, self.log, self.manager.logs, env, node_id)
        self.agent = Agent(
            env,
            node_id,
            runtime,
            self.manager.connector(),
            state_dir=data.agent,
            seal_key=seal_key(keys.node_dek),
            describe=self._describe,
        )
        self.is_ready = False

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Load, lead or follow, serve tasks; returns only by an error or cancellation."""
        await self.log.start(must_exist=self._founding is None)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.log.run(), name="raft")
            await self._begin()
            group.create_task(self.control.run(), name="control")
            group.create_task(self.manager.run(), name="manager")
            group.create_task(self.agent.run(), name="agent")
            self.is_ready = True
            on_ready()

    async def registered(self) -> None:
        """Wait for this node to be one that can take tasks: who asks next sees it ready. A slow one
        comes later."""
        try:
            await self.agent.registered(REGISTER_WAIT_S)
        except TimeoutError:
            log.warning("swarm.register_slow", extra={"waited_s": REGISTER_WAIT_S})

    async def stop(self) -> None:
        """Say goodbye, make durable what was proposed and answer it; tasks run on."""
        await self.agent.stop()
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await self.log.stop()
        except TimeoutError:
            log.warning("swarm.stop_slow", extra={"waited_s": STOP_WAIT_S})

    async def leave(self) -> None:
        """Stop and remove this node's tasks, as far as the runtime lets us."""
        began_s = self._env.clock.mono_s()
        try:
            async with asyncio.timeout(LEAVE_WAIT_S) as limit, asyncio.TaskGroup() as group:
                watching = group.create_task(self._hurry(limit), name="leave")
                await self.agent.leave()
                watching.cancel()
        except* TimeoutError:
            waited_s = round(self._env.clock.mono_s() - began_s)
            log.warning("swarm.leave_slow", extra={"waited_s": waited_s})

    async def _hurry(self, limit: asyncio.Timeout) -> None:
        """Wait no longer than it helps for a runtime that is away, or goes away meanwhile."""
        problem = self._runtime.condition.problem
        while not problem:
            problem = await self._runtime.condition.changed(problem)
        soon_s = asyncio.get_running_loop().time() + LEAVE_TROUBLED_WAIT_S
        if not limit.expired():
            limit.reschedule(min(limit.when() or soon_s, soon_s))

    def is_at_rest(self) -> bool:
        """Whether nothing happens here until somebody asks or a task ends."""
        return self.manager.is_at_rest() and self.agent.is_at_rest()

    async def _begin(self) -> None:
        """Wait for a leader; a new swarm gets its first objects and counts from then on."""
        try:
            async with asyncio.timeout(LEADER_WAIT_S):
                await self._leader()
        except TimeoutError as error:
            if self._founding is None:
                return  # the API says what is missing
            raise UnavailableError(
                "The new swarm's log did not become ready.",
                remedy="The daemon's log says why; the data directory's disk may be very slow.",
            ) from error
        if self._founding is not None:
            await self.store.commit(first_changes(self._founding, self._env.entropy))
            self._data.enter_swarm()

    async def _leader(self) -> None:
        async for leadership in self.log.leadership():
            if leadership.is_ready or leadership.leader not in (None, self.file.raft_id):
                return

    def _describe(self) -> NodeDescription:
        facts = self._runtime.describe()
        subject, public_key = issuer_facts(self._root_pem)
        return NodeDescription(
            hostname=self._hostname,
            platform=Platform(architecture=facts.architecture, os=facts.os),
            resources=facts.resources,
            engine=EngineDescription(
                engine_version=facts.engine_version,
                labels={RUNTIME_LABEL: facts.name},
                plugins=[Plugin(type=kind, name=name) for kind, name in facts.plugins],
            ),
            tls_info=TLSInfo(
                trust_root=self._root_pem.decode(),
                cert_issuer_subject=subject,
                cert_issuer_public_key=public_key,
            ),
        )
