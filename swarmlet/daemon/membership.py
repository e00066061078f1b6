"""This node as a member of the Raft group: log, store and the manager over them, from a start to an
end, or until the other members refuse it. What of the node outlives that is `swarm_node`'s."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import CertificateSource
from swarmlet.core.errors import SwarmError, UnavailableError
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.host import Host
from swarmlet.daemon.ways import OwnDialer
from swarmlet.env.sealed import SealKeys
from swarmlet.manager.bootstrap import Founding, first_changes
from swarmlet.manager.control import Control
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.manager.manager import Manager
from swarmlet.manager.removals import follow_removals
from swarmlet.model.change import Event
from swarmlet.model.cluster import Cluster, RaftConfig
from swarmlet.raft.engine import Origin, RaftEngine
from swarmlet.raft.hardening import RaftTiming
from swarmlet.raft.membership import SET_ADDRESS
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.store.proposer import GroupHealth, Leadership, Member, MemberChange
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentConnector
from swarmlet.wire.node_api import MemberRequest

log = logging.getLogger("swarmlet.daemon")

TICK_S: Final = 0.1  # of Raft's time in the swarm's settings; Swarm's is a second
LEADER_WAIT_S: Final = 20.0  # for the first leadership of a new swarm
READY_LOOK_S: Final = 0.05  # between looks whether the group has made this member one that votes
WITHDRAW_RETRY_S: Final = 0.2  # between tries to leave the group
ADDRESS_RETRY_S: Final = 5.0  # between tries to tell the group of another address


class Membership:
    """`start`, then `run`, which ends with `stop`, with an error, or by being cancelled."""

    def __init__(self, host: Host, own: OwnIdentity, keys: SealKeys, file: SwarmFile) -> None:
        env = host.env
        self._env, self._own, self._link = env, own, host.network.link
        self.me = Member(
            raft_id=RaftID(file.raft_id), node_id=file.node_id, address=file.advertise_addr
        )
        node_id = NodeID(file.node_id)
        self.store = Store(env)
        self.log = RaftEngine(
            env,
            host.data.raft,
            keys,
            self.store,
            self.me,
            host.raft_limits,
            OwnDialer(self._link, own),
        )
        self.store.attach(self.log)
        external = ExternalSigner(host.network.exchange, lambda: own.credentials)
        self.manager = Manager(env, self.store, self.log, node_id, all_deciders(), external)
        self.control = Control(
            self.store, self.log, self.manager.logs, env, node_id, external=external
        )
        self.manager.attach(own, self.log, self._link.hello)
        self.gatekeeper = StoreGatekeeper(
            self.store, own.identity.cluster_id, env.clock, self.manager.standing
        )
        self._timing = host.raft_limits.timing
        self._leadership = Leadership(term=0, leader=None, is_ready=False)
        self._changed = asyncio.Event()
        self.is_ready = False  # the API may be answered: the state is here, and this member votes

    async def start(self, origin: Origin, contacts: tuple[Member, ...] = ()) -> None:
        """Load what is on the disk. `contacts` are dialled by a member that joins. Raises
        DamagedError, FailedPreconditionError."""
        await self.log.start(origin, contacts)

    async def run(
        self,
        *,
        founding: Founding | None = None,
        close_node: Callable[[NodeID], None],
        on_lead: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        """Lead or follow. `founding`: of a new swarm, which gets its first objects before
        `on_ready`. `on_lead` is called whenever this member begins to lead.

        Raises MemberRefusedError, DamagedError, UnavailableError.
        """
        with follow_removals(self.store, close_node), self._following_ticks():
            async with asyncio.TaskGroup() as group:
                group.create_task(self.log.run(), name="raft")
                group.create_task(self._follow(on_lead), name="leadership")
                if founding is not None:
                    await self._found(founding)
                group.create_task(self.control.run(), name="control")
                group.create_task(self.manager.run(), name="manager")
                await self._prepared()
                self.is_ready = True
                on_ready()
                await self._keep_address()

    async def stop(self, limit_s: float) -> None:
        """Make durable what was proposed and answer it; a leader hands over first."""
        try:
            async with asyncio.timeout(limit_s):
                await self.log.stop()
        except TimeoutError:
            log.warning("swarm.stop_slow", extra={"waited_s": limit_s})

    # Who leads

    def leads(self) -> bool:
        return self._leadership.is_ready

    async def leading(self) -> None:
        """Return once this member leads."""
        while not self.leads():
            await self._changed.wait()

    def leader(self) -> Member | None:
        """Of whom this member knows that it leads; it may be this one, on its way."""
        leader = self._leadership.leader
        return next((one for one in self.log.members() if one.raft_id == leader), None)

    def other_leader(self) -> str:
        """The address of the member that leads, "" where it is this one or nobody."""
        leader = self.leader()
        return "" if leader is None or leader.raft_id == self.me.raft_id else leader.address

    async def _leader_elsewhere(self) -> str:
        """The address of another member that leads, once there is one."""
        while not (addr := self.other_leader()):
            await self._changed.wait()
        return addr

    def connector(self) -> AgentConnector | None:
        """For the agent in this process; None where this member does not lead."""
        return self.manager.connector() if self.leads() else None

    def authority(self) -> CertificateSource | None:
        """The CA in this process; None where this member does not lead."""
        return self.manager.ca.source_of(NodeID(self.me.node_id)) if self.leads() else None

    # The group

    def others(self) -> tuple[Member, ...]:
        return tuple(one for one in self.log.members() if one.raft_id != self.me.raft_id)

    def is_alone(self) -> bool:
        return not self.others()

    def health(self) -> GroupHealth:
        return self.log.health()

    async def hand_over(self) -> None:
        """Where this member leads others: another one leads from now on. Raises UnavailableError
        where none could take over."""
        if self.leads() and any(one.is_voter for one in self.others()):
            await self.log.transfer()

    async def withdraw(self) -> None:
        """Leave the group, which goes on without this member; as long as it takes. Raises
        SwarmError: also where the others would have no quorum."""
        health = self.health()
        if health.lost_since_ms or health.answering() < health.quorum:
            raise UnavailableError("The managers have no quorum.")
        await self.hand_over()
        request = MemberRequest(addr=self.me.address, raft_id=self.me.raft_id)
        while True:
            addr = await self._leader_elsewhere()
            try:
                await self._link.leave_members(addr, request, self._own.credentials)
            except UnavailableError as problem:  # a new leader takes a moment
                log.info("member.not_withdrawn_yet", extra={"cause": problem.message})
                await asyncio.sleep(WITHDRAW_RETRY_S)
            else:
                return

    def gauges(self) -> dict[str, float]:
        members, health = self.log.members(), self.health()
        return {
            **self.manager.gauges(),
            "swarmlet_raft_term": float(self._leadership.term),
            "swarmlet_raft_leader": float(self.leads()),
            "swarmlet_raft_has_leader": float(self._leadership.leader is not None),
            "swarmlet_raft_members": float(len(members)),
            "swarmlet_raft_members_answering": float(health.answering()),
            "swarmlet_raft_applied_index": float(self.log.applied_index),
            "swarmlet_store_index": float(self.store.view().index),
        }

    # Inside

    async def _follow(self, on_lead: Callable[[], None]) -> None:
        async for leadership in self.log.leadership():
            began = leadership.is_ready and not self._leadership.is_ready
            self._leadership = leadership
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            if began:
                on_lead()

    @contextmanager
    def _following_ticks(self) -> Iterator[None]:
        """Keep the time that the swarm's settings ask for, now and whenever they change."""

        def look(events: Sequence[Event]) -> None:
            for event in events:
                if isinstance(event.new, Cluster):
                    self.log.set_timing(timing_of(event.new.spec.raft, self._timing))

        unsubscribe = self.store.subscribe(look)
        try:
            for cluster in self.store.view().clusters.all():
                self.log.set_timing(timing_of(cluster.spec.raft, self._timing))
            yield
        finally:
            unsubscribe()

    async def _found(self, founding: Founding) -> None:
        try:
            async with asyncio.timeout(LEADER_WAIT_S):
                await self.leading()
        except TimeoutError as error:
            raise UnavailableError(
                "The new swarm's log did not become ready.",
                remedy="The daemon's log says why; the data directory's disk may be very slow.",
            ) from error
        await self.store.commit(first_changes(founding, self._env.entropy))

    async def _prepared(self) -> None:
        """Return once the state is here and the group counts this member."""
        while not (self._is_voter() and self.has_state()):  # noqa: ASYNC110 - two rooms' states
            await asyncio.sleep(READY_LOOK_S)

    def has_state(self) -> bool:
        """Whether the swarm's objects are here, however old."""
        return any(True for _ in self.store.view().clusters.all())

    def _is_voter(self) -> bool:
        return any(one.raft_id == self.me.raft_id and one.is_voter for one in self.log.members())

    async def _keep_address(self) -> None:
        """Tell the group where this member is, until it knows."""
        while self._known_addr() not in ("", self.me.address):
            try:
                await self._set_address()
            except SwarmError as problem:
                log.info("member.address_not_told", extra={"cause": problem.message})
            await asyncio.sleep(ADDRESS_RETRY_S)

    async def _set_address(self) -> None:
        if self.leads():
            await self.log.change_members(MemberChange(verb=SET_ADDRESS, member=self.me))
            return
        request = MemberRequest(addr=self.me.address, raft_id=self.me.raft_id)
        addr = await self._leader_elsewhere()
        await self._link.join_members(addr, request, self._own.credentials)

    def _known_addr(self) -> str:
        mine = (one for one in self.log.members() if one.raft_id == self.me.raft_id)
        return next((one.address for one in mine), "")


def timing_of(raft: RaftConfig, usual: RaftTiming) -> RaftTiming:
    """What ElectionTick and HeartbeatTick mean at `TICK_S` each; `usual` for those nobody set."""
    election_max_s = raft.election_tick * TICK_S or usual.election_max_s
    return RaftTiming(
        heartbeat_period_s=raft.heartbeat_tick * TICK_S or usual.heartbeat_period_s,
        election_min_s=election_max_s / 2,
        election_max_s=election_max_s,
    )
