"""One stay in a swarm, as a worker or a manager: the agent and the certificate last all of it, what
a manager does more comes and goes with the role that the certificate says."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from swarmlet.api.engine import Forwarder, SwarmState
from swarmlet.ca.source import CertificateSource
from swarmlet.core.errors import (
    DiskFullError,
    NotManagerError,
    SwarmError,
    UnavailableError,
    certificates_expired,
    manager_not_ready,
    not_manager_worker,
    removed_here,
)
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import NS_PER_S
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.entrance import Entrance
from swarmlet.daemon.forwarder import LeaderForwarder
from swarmlet.daemon.host import ApiCall, Host
from swarmlet.daemon.leaving import leaving_refusal
from swarmlet.daemon.manager_life import ManagerLife
from swarmlet.daemon.node_life import NodeLife, Papers
from swarmlet.daemon.ways import Authority, Connector, KnownManagers
from swarmlet.model.address import parse_address
from swarmlet.model.duration import format_duration
from swarmlet.runtime.base import Runtime
from swarmlet.wire.channel import AgentConnector
from swarmlet.wire.messages import ManagerAddr, SwarmInfo

if TYPE_CHECKING:
    from swarmlet.daemon.membership import Membership
    from swarmlet.manager.control import Control
    from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.daemon")

STOP_WAIT_S: Final = 8.0  # for the goodbye and the last writes; moby gives a manager as long
HAND_OVER_WAIT_S: Final = 2.0  # for another manager to lead, before this one says goodbye to it
WITHDRAW_WAIT_S: Final = 10.0  # for a manager that leaves to be one no more
TELL_AFTER_S: Final = 30.0  # without a session: longer than a manager takes to restart
KEEP_RETRY_S: Final = 10.0  # between tries to write down whom to ask


class SwarmNode:
    """Built over what the swarm's file and the certificates on disk say. Implements `Stay`."""

    def __init__(
        self,
        host: Host,
        runtime: Runtime,
        file: SwarmFile,
        api: ApiCall,
        on_store: Callable[["Store"], None],
    ) -> None:
        """`on_store` hears of each store this node keeps. Raises DamagedError, LockedError."""
        self._host, self._papers = host, Papers(host)
        self._own, link = self._papers.own, host.network.link
        self._entrance = Entrance(self._own, host.env.clock)
        self._managers = host.data.known_managers.read()
        present, myself = (
            _Present(self._entrance),
            ManagerAddr(node_id=NodeID(file.node_id), addr=file.advertise_addr),
        )
        self._remotes = KnownManagers(host.env, myself, self._managers, present)
        self._connector = Connector(link, self._own, self._remotes, present, self._doubt)
        self.life = NodeLife(
            host,
            runtime,
            self._papers,
            connector=self._connector,
            source=Authority(link, self._own, self._remotes, present),
            on_info=self._learn,
        )
        self.manager = ManagerLife(
            host, api, self._papers, file, entrance=self._entrance, remotes=self._remotes
        )
        self.manager.on_store, self.manager.on_lead = on_store, self._lead
        self._forwarder = LeaderForwarder(host.network, self._own, present.known_leader)
        self._heard = asyncio.Event()  # a manager took this node in, in this life
        self._news = asyncio.Event()  # of managers that are not written down yet

    @property
    def file(self) -> SwarmFile:
        return self.manager.file

    async def run(self, on_ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.manager.run(self.life), name="manager")
            await self.manager.is_open.wait()
            group.create_task(self.life.renewer.run(), name="renewer")
            group.create_task(self._keep_managers(), name="managers")
            agent = group.create_task(self.life.agent.run(), name="agent")
            on_ready()
            await self.manager.cloned.wait()
            agent.cancel()  # without a goodbye: it would be the other one's

    async def registered(self) -> None:
        await self.life.registered()

    async def joined(self) -> None:
        """Return once a manager took this node in, and a manager is a member that votes."""
        await self._heard.wait()
        while self._is_manager() and not self._is_member_ready():  # noqa: ASYNC110 - it may end
            await asyncio.sleep(0.05)

    def state(self) -> SwarmState:
        problem, is_manager = self._problem(), self._is_manager()
        member = self.manager.member
        is_ready = self._is_member_ready() if is_manager else self._heard.is_set()
        is_refused = problem is not None and not self.life.agent.is_registered()
        is_refused |= self.manager.clone is not None
        return SwarmState(
            state="error" if is_refused else "active" if is_ready else "pending",
            node_id=NodeID(self.file.node_id),
            node_addr=parse_address(self.file.advertise_addr, "AdvertiseAddr").host,
            error=problem.message if problem is not None else self._says(),
            managers=self._known(member),
            certificate=self.life.certificate(),
            warnings=self.manager.notices,
            listen_addr=self.manager.listen_addr(),
        )

    def control(self) -> "Control":
        member = self.manager.member
        if member is not None and member.is_ready:
            if self._is_forgotten(member):
                raise removed_here(self.life.agent.refusal)
            return member.control
        clone = self.manager.clone
        if clone is not None:
            raise NotManagerError(
                f"This node is not a swarm manager. {clone.message}", clone.remedy
            )
        if self._is_lost():
            raise certificates_expired()
        raise manager_not_ready() if self._is_manager() else not_manager_worker()

    def forwarder(self) -> Forwarder | None:
        member = self.manager.member
        if member is None or not member.is_ready or member.leads():
            return None
        return self._forwarder

    def leave_refusal(self) -> SwarmError | None:
        member = self.manager.member
        if member is not None and member.is_ready and not self._is_forgotten(member):
            return leaving_refusal(member.log.health())
        is_member = self._is_manager() and self.file.raft_id  # else there is nothing to lose
        return leaving_refusal(None) if is_member and self._problem() is None else None

    async def leave(self) -> None:
        self.manager.is_leaving = True
        member = self.manager.member
        if member is not None and not member.group.is_alone():
            await self._withdraw(member)
        await self.life.leave()

    async def stop(self, *, is_host_stopping: bool = False) -> None:
        """A leader hands over first, so that its goodbye is heard by whoever leads then."""
        clock, member = self._host.env.clock, self.manager.member
        ends_s = clock.mono_s() + STOP_WAIT_S
        if member is not None:
            await self._hand_over(member)
        try:
            async with asyncio.timeout(ends_s - clock.mono_s()):
                await self.life.agent.stop(is_host_stopping=is_host_stopping)
        except TimeoutError:
            log.warning("swarm.stop_slow", extra={"waited_s": STOP_WAIT_S})
        if member is not None and self.manager.member is member:
            await member.stop(max(1.0, ends_s - clock.mono_s()))

    def gauges(self) -> dict[str, float]:
        return {**self.life.agent.gauges(), **self.manager.gauges()}

    def is_at_rest(self) -> bool:
        member = self.manager.member
        manager_rests = member is None or not member.leads() or member.manager.is_at_rest()
        return manager_rests and self.life.agent.is_at_rest()

    # Inside

    def _is_manager(self) -> bool:
        return self._own.identity.role == "manager"

    def _is_member_ready(self) -> bool:
        return self.manager.member is not None and self.manager.member.is_ready

    def _problem(self) -> SwarmError | None:
        """Why the swarm does not know this node any more, as far as that is known."""
        if self.manager.clone is not None:
            return self.manager.clone
        member = self.manager.member
        if member is not None and member.is_ready and not self._is_forgotten(member):
            return None
        if self._is_lost():
            return certificates_expired()
        refusal = self.life.agent.refusal
        return UnavailableError(refusal) if refusal else None

    def _is_forgotten(self, member: "Membership") -> bool:
        """Whether the swarm goes on without this manager, which was removed while it was off: it
        has no leader any more, and is not to take the others for silent."""
        return self.life.agent.is_removed and bool(member.log.health().lost_since_ms)

    def _is_lost(self) -> bool:
        """Whether the certificate has expired, and is not renewed."""
        return self.life.is_expired() and bool(self.life.renewer.problem)

    def _says(self) -> str:
        """What is amiss, as far as this node knows."""
        member = self.manager.member
        if member is not None and member.is_ready:
            is_led = not member.log.health().lost_since_ms  # else that is what to tell
            return self.manager.port_problem() or (self._misses_session() if is_led else "")
        return self._waits_for() or self.manager.problem or self.manager.port_problem()

    def _waits_for(self) -> str:
        """Why no manager has taken this node in, in this life or for long."""
        first = "" if self._heard.is_set() else self.life.agent.problem
        return self._misses_session() or first

    def _misses_session(self) -> str:
        """For how long, and why; "" where that is not long."""
        agent = self.life.agent
        alone_s, problem = int(agent.alone_s()), agent.problem
        if not problem or alone_s < TELL_AFTER_S:
            return ""
        alone = format_duration(alone_s * NS_PER_S)
        return f"This node has had no session with a manager for {alone}: {problem}"

    def _known(self, member: "Membership | None") -> tuple[tuple[NodeID, str], ...]:
        if member is not None and member.is_ready:
            return tuple((NodeID(one.node_id), one.address) for one in member.log.members())
        return tuple((one.node_id, one.addr) for one in self._remotes.all())

    def _doubt(self) -> None:
        self.life.renewer.doubt_root()

    def _lead(self) -> None:
        self._connector.come_home()
        if self.life.is_expired() and self.manager.is_open.is_set():
            self.life.renewer.force("this manager leads, and can sign its own")

    def _learn(self, info: SwarmInfo) -> None:
        self._heard.set()
        self._remotes.replace(info.managers)
        if info.managers and info.managers != self._managers:
            self._managers = info.managers
            self._news.set()

    async def _keep_managers(self) -> None:
        """Write down whom to ask, for the next life of this daemon."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                write = partial(self._host.data.known_managers.write, self._managers)
                await self._host.env.blocking(write)
            except (DiskFullError, OSError) as problem:
                log.warning("swarm.managers_not_kept", extra={"cause": str(problem)})
                self._news.set()
                await asyncio.sleep(KEEP_RETRY_S)

    async def _withdraw(self, member: "Membership") -> None:
        """Whoever stays counts this manager no more; it leaves whatever comes of that."""
        try:
            async with asyncio.timeout(WITHDRAW_WAIT_S):
                if member.group.others():
                    await member.group.withdraw()
                else:
                    await self.manager.turn_back()
        except (TimeoutError, SwarmError) as problem:
            log.warning("member.not_withdrawn", extra={"cause": str(problem) or "it took too long"})
        else:
            await self._taken_in()

    async def _hand_over(self, member: "Membership") -> None:
        if not member.leads() or not any(one.is_voter for one in member.group.others()):
            return
        try:
            async with asyncio.timeout(HAND_OVER_WAIT_S):
                await member.group.hand_over()
                await self._taken_in()
        except (TimeoutError, SwarmError) as problem:
            log.info("member.not_handed_over", extra={"cause": str(problem) or "it took too long"})

    async def _taken_in(self) -> None:
        """Wait a moment for a session with whoever leads now: it is the one to say goodbye to."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_WAIT_S):
                while not self.life.agent.is_registered():  # noqa: ASYNC110 - a state is no event
                    await asyncio.sleep(0.02)


class _Present:
    """Implements `ways.Present`."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance

    def local_connector(self) -> AgentConnector | None:
        member = self._entrance.member
        return None if member is None else member.connector()

    def local_authority(self) -> CertificateSource | None:
        member = self._entrance.member
        return None if member is None else member.authority()

    def known_leader(self) -> str:
        member = self._entrance.member
        return "" if member is None else member.group.other_leader()
