"""This node as a member of the Raft group: log, store and the manager over them, from a start to an
end, or until the other members refuse it. What of the node outlives that is `swarm_node`'s."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.own_identity import OwnIdentity
from swarmlet.ca.source import CertificateSource
from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.group_member import GroupMember
from swarmlet.daemon.host import Host
from swarmlet.daemon.ways import OwnDialer, TaskStreams
from swarmlet.env.sealed import SealKeys
from swarmlet.manager.bootstrap import first_changes
from swarmlet.manager.control import Control
from swarmlet.manager.gatekeeper import StoreGatekeeper
from swarmlet.manager.manager import Manager
from swarmlet.manager.port import Ties
from swarmlet.manager.removals import follow_removals
from swarmlet.model.change import Event
from swarmlet.model.cluster import Cluster, RaftConfig
from swarmlet.raft.engine import DEFAULTS, RaftEngine
from swarmlet.raft.hardening import RaftTiming
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.store.proposer import Member
from swarmlet.store.store import Store
from swarmlet.wire.channel import AgentConnector

if TYPE_CHECKING:
    from swarmlet.manager.bootstrap import Founding
    from swarmlet.raft.engine import Origin

log = logging.getLogger("swarmlet.daemon")

TICK_S: Final = 0.1  # of Raft's time in the swarm's settings; Swarm's is a second
LEADER_WAIT_S: Final = 20.0  # for the first leadership of a new swarm
READY_LOOK_S: Final = 0.05  # between looks whether the group has made this member one that votes


class Membership:
    """`start`, then `run`, which ends with `stop`, with an error, or by being cancelled."""

    def __init__(self, host: Host, own: OwnIdentity, keys: SealKeys, file: SwarmFile) -> None:
        env = host.env
        self._env = env
        me = Member(raft_id=RaftID(file.raft_id), node_id=file.node_id, address=file.advertise_addr)
        node_id, link = NodeID(file.node_id), host.network.link
        self.store = Store(env)
        self.log = RaftEngine(
            env,
            host.data.raft,
            keys,
            self.store,
            me,
            host.raft_limits or DEFAULTS,
            OwnDialer(link, own),
        )
        self.group = GroupMember(me, self.log, link, own)
        self.store.attach(self.log)
        self.log.call_members(self._hostname)
        external = ExternalSigner(host.network.exchange, lambda: own.credentials)
        ties = Ties(own=own, peers=self.log, dial_back=link.hello, external=external)
        self.manager = Manager(env, self.store, self.log, node_id, all_deciders(), ties)
        self.control = Control(
            self.store, self.log, self.manager.logs, env, node_id, external=external
        )
        self.control.streams = TaskStreams(
            link, own, self.manager.streams, self.manager.port.leader_addr
        )
        self.gatekeeper = StoreGatekeeper(
            self.store, own.identity.cluster_id, env.clock, self.manager.standing
        )
        self._timing = (host.raft_limits or DEFAULTS).timing
        self.is_ready = False  # the API may be answered: the state is here, and this member votes

    async def start(self, origin: "Origin", contacts: tuple[Member, ...] = ()) -> None:
        """Load what is on the disk. `contacts` are dialled by a member that joins. Raises
        DamagedError, FailedPreconditionError."""
        await self.log.start(origin, contacts)

    async def run(
        self,
        *,
        founding: "Founding | None" = None,
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
                group.create_task(self.group.follow(on_lead), name="leadership")
                if founding is not None:
                    await self._found(founding)
                group.create_task(self.manager.run(), name="manager")
                await self._prepared()
                self.is_ready = True
                on_ready()
                await self.group.keep_address()

    async def stop(self, limit_s: float) -> None:
        """Make durable what was proposed and answer it; a leader hands over first."""
        try:
            async with asyncio.timeout(limit_s):
                await self.log.stop()
        except TimeoutError:
            log.warning("swarm.stop_slow", extra={"waited_s": limit_s})

    def leads(self) -> bool:
        return self.group.leads()

    def connector(self) -> AgentConnector | None:
        """For the agent in this process; None where this member does not lead."""
        return self.manager.connector() if self.group.leads() else None

    def authority(self) -> CertificateSource | None:
        """The CA in this process; None where this member does not lead."""
        return (
            self.manager.ca.source_of(NodeID(self.group.me.node_id)) if self.group.leads() else None
        )

    def _hostname(self, node_id: str) -> str:
        node = self.store.view().nodes.get(node_id)
        return "" if node is None else node.description.hostname

    def gauges(self) -> dict[str, float]:
        members, health = self.log.members(), self.log.health()
        return {
            **self.manager.gauges(),
            "swarmlet_raft_term": float(self.group.leadership.term),
            "swarmlet_raft_leader": float(self.group.leads()),
            "swarmlet_raft_has_leader": float(self.group.leadership.leader is not None),
            "swarmlet_raft_members": float(len(members)),
            "swarmlet_raft_members_answering": float(health.answering()),
            "swarmlet_raft_applied_index": float(self.log.applied_index),
            "swarmlet_store_index": float(self.store.view().index),
        }

    # Inside

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

    async def _found(self, founding: "Founding") -> None:
        try:
            async with asyncio.timeout(LEADER_WAIT_S):
                await self.group.leading()
        except TimeoutError as error:
            raise UnavailableError(
                "The new swarm's log did not become ready.",
                remedy="The daemon's log says why; the data directory's disk may be very slow.",
            ) from error
        await self.store.commit(first_changes(founding, self._env.entropy))

    async def _prepared(self) -> None:
        """Return once the state is here and the group counts this member."""
        while not (self.group.is_voter() and self.has_state()):  # noqa: ASYNC110 - two rooms' states
            await asyncio.sleep(READY_LOOK_S)

    def has_state(self) -> bool:
        """Whether the swarm's objects are here, however old."""
        return any(True for _ in self.store.view().clusters.all())


def timing_of(raft: RaftConfig, usual: RaftTiming) -> RaftTiming:
    """What ElectionTick and HeartbeatTick mean at `TICK_S` each; `usual` for those nobody set."""
    election_max_s = raft.election_tick * TICK_S or usual.election_max_s
    return RaftTiming(
        heartbeat_period_s=raft.heartbeat_tick * TICK_S or usual.heartbeat_period_s,
        election_min_s=election_max_s / 2,
        election_max_s=election_max_s,
    )
