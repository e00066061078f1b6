"""What a node does while its certificate says manager: its port is open, and it is a member of the
Raft group, or on its way into it; again and again, if need be."""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from swarmlet.core.errors import DiskFullError, MemberRefusedError, SwarmError, first_of
from swarmlet.core.ids import NodeID, RaftID
from swarmlet.daemon.data_dir import SwarmFile
from swarmlet.daemon.entrance import Entrance, EntranceGate
from swarmlet.daemon.host import ApiCall, Host, PortPlan
from swarmlet.daemon.node_life import NodeLife, Papers
from swarmlet.daemon.port_keeper import PortKeeper
from swarmlet.env.sealed import SealKeys
from swarmlet.model.address import parse_address
from swarmlet.wire.messages import ManagerAddr
from swarmlet.wire.node_api import MemberRequest
from swarmlet.wire.remotes import Remotes

if TYPE_CHECKING:  # a worker loads none of it
    from swarmlet.daemon.membership import Membership
    from swarmlet.manager.autolock import KeyKeeper
    from swarmlet.manager.bootstrap import Founding
    from swarmlet.raft.engine import Origin
    from swarmlet.store.proposer import Member
    from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.daemon")

ENTER_RETRY_MIN_S: Final = 0.25  # between tries to become a member, doubling
ENTER_RETRY_MAX_S: Final = 8.0
ROLE_WAIT_S: Final = 16.0  # of a removed member, for its new role; SwarmKit node/node.go
ALONE_WAIT_S: Final = 20.0  # for a group of one to lead, and to renew what has expired
RENEW_RETRY_S: Final = 0.2  # until this manager leads and its CA signs


class ManagerLife:
    """`file` is this node's place in the swarm as it is on the disk; nobody else writes it.
    `member` is there while the log is open."""

    def __init__(
        self,
        host: Host,
        api: ApiCall,
        papers: Papers,
        file: SwarmFile,
        *,
        entrance: Entrance,
        remotes: Remotes,
    ) -> None:
        self.file, self._host, self._api = file, host, api
        self._papers, self._own = papers, papers.own
        self._entrance, self._remotes = entrance, remotes
        self._founding: Founding | None = None
        self._contacts: tuple[Member, ...] = ()  # who let this manager into the group
        self._must_open = False
        self._keeper: PortKeeper | None = None
        self._removed_s = math.inf  # since when it is no member, and waits for its new role
        self.problem = ""  # why this manager is not a member yet, for people
        self.notices: tuple[str, ...] = ()  # of this life of the daemon
        self.clone: MemberRefusedError | None = None
        self.is_leaving = False
        self.may_enter = asyncio.Event()  # the swarm's file is in force
        self.is_open = asyncio.Event()  # all that can be done without others is done
        self.cloned = asyncio.Event()
        self.on_store: Callable[[Store], None] = _nobody
        self.on_lead: Callable[[], None] = _nothing

    @property
    def member(self) -> "Membership | None":
        return self._entrance.member

    def begin(self, founding: "Founding | None") -> None:
        """This node is new, of a swarm that is new too or that it joins: its port must open.
        `may_enter` is set once the swarm's file is in force."""
        self._founding, self._must_open = founding, True

    async def run(self, life: NodeLife) -> None:
        """Until cancelled, or an error that ends the stay."""
        while True:
            if self._is_manager():
                await self._while_manager(life)
            else:
                await self._forget_group()
                self._removed_s, self.problem = math.inf, ""
                self._must_open = False  # it is in as a worker, and stays
                self.is_open.set()
                await self._role_changes()

    def keeps_state(self) -> bool:
        """Whether this node has a copy of the swarm's state that it could go on with alone."""
        return self.member is not None and self.member.has_state()

    def listen_addr(self) -> str:
        return "" if self._keeper is None else self._keeper.listen_addr()

    def port_problem(self) -> str:
        return "" if self._keeper is None else self._keeper.problem

    def gauges(self) -> dict[str, float]:
        port = {} if self._keeper is None else self._keeper.gauges()
        return port if self.member is None else {**port, **self.member.gauges()}

    async def turn_back(self) -> None:
        """Of a member that was let in and has not heard of the others yet: be none any more. Raises
        SwarmError."""
        request = MemberRequest(addr=self.file.advertise_addr, raft_id=RaftID(self.file.raft_id))
        addr = self._remotes.choose().addr
        await self._host.network.link.leave_members(addr, request, self._own.credentials)

    # As long as the certificate says so

    def _is_manager(self) -> bool:
        return self._own.identity.role == "manager"

    async def _role_changes(self) -> None:
        role = self._own.identity.role
        while self._own.identity.role == role:
            await self._own.changed(self._own.credentials)

    async def _while_manager(self, life: NodeLife) -> None:
        keeper = self._keeper = PortKeeper(
            self._host.network,
            self._port_plan(),
            parse_address(self.file.advertise_addr, "AdvertiseAddr"),
            announces=self.file.announce,
        )
        may_open, opened = asyncio.Event(), asyncio.Event()

        async def listen() -> None:
            await may_open.wait()
            await keeper.run(opened, must_open=self._must_open)

        try:
            async with asyncio.TaskGroup() as group:
                parts = (
                    group.create_task(listen(), name="port"),
                    group.create_task(self._take_part(life, may_open, opened), name="member"),
                )
                await self._role_changes()
                for part in parts:
                    part.cancel()
        finally:
            self._keeper = None

    def _port_plan(self) -> PortPlan:
        return PortPlan(
            listen=parse_address(self.file.listen_addr, "ListenAddr"),
            own=self._own,
            gatekeeper=EntranceGate(self._entrance),
            service=self._entrance,
            api=self._api,
        )

    # Member of the group

    async def _take_part(
        self, life: NodeLife, may_open: asyncio.Event, opened: asyncio.Event
    ) -> None:
        await self._load_parts()
        while True:
            if not self.file.raft_id:
                may_open.set()
                await opened.wait()
                self.is_open.set()
                await self.may_enter.wait()
                await self._enter(life)
            refusal = await self._be_member(life, may_open, opened)
            if refusal is None or self.is_leaving:
                await asyncio.Event().wait()  # the stay ends
            else:
                await self._heed(refusal)

    async def _load_parts(self) -> None:
        """Where this daemon cannot, as after an upgrade of what is on the disk, the node goes on
        without, until the daemon's next start or another role: its tasks are not to suffer."""
        try:
            await self._host.env.blocking(self._host.load_parts)
        except SwarmError as problem:
            if not self.is_open.is_set():  # nothing has begun yet
                raise
            log.error(  # noqa: TRY400 - it is no bug
                "member.not_loaded", extra={"cause": problem.message}
            )
            self.problem = problem.message
            await asyncio.Event().wait()

    async def _be_member(
        self, life: NodeLife, may_open: asyncio.Event, opened: asyncio.Event
    ) -> MemberRefusedError | None:
        """Until the log ends, or the others refuse this member."""
        member = await self._started()
        refusal: MemberRefusedError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                self._entrance.member = member
                ready = asyncio.Event()
                work = member.run(
                    founding=self._founding,
                    close_node=self._close_node,
                    on_lead=self.on_lead,
                    on_ready=ready.set,
                )
                group.create_task(work, name="membership")
                group.create_task(self._key_keeper(member, life).run(), name="keys")
                await self._open_up(member, life, ready)
                may_open.set()
                await opened.wait()
                await self._note_open()
        except* MemberRefusedError as refused:
            cause = first_of(refused)
            assert isinstance(cause, MemberRefusedError), "no other is in this group"
            refusal = cause
        finally:
            self._entrance.member = None
        return refusal

    async def _started(self) -> "Membership":
        """The log, begun or gone on with. For the beginning of one there has to be room on the
        disk: until then this node goes on without."""
        from swarmlet.daemon.membership import Membership

        while True:
            if self.file.is_entering:
                await self._host.env.blocking(self._host.data.remove_raft)
            keys = await self._host.env.blocking(self._raft_keys)
            member = Membership(self._host, self._own, keys, self.file)
            self.on_store(member.store)
            try:
                await member.start(self._origin(), self._contacts)
                await self._note_started()
            except DiskFullError as full:
                if self._must_open or not self.file.is_entering:
                    raise
                await member.stop(ENTER_RETRY_MAX_S)
                log.warning("member.no_room", extra={"cause": full.message})
                self.problem = full.message
                self.is_open.set()
                await asyncio.sleep(ENTER_RETRY_MAX_S)
            else:
                self.problem = ""
                return member

    def _key_keeper(self, member: "Membership", life: NodeLife) -> "KeyKeeper":
        from swarmlet.manager.autolock import KeyKeeper

        return KeyKeeper(
            self._host.env,
            member.store,
            self._papers.files,
            rotate=member.log.rotate_key,
            renew=life.renewer.force,
        )

    def _origin(self) -> "Origin":
        from swarmlet.raft.engine import Origin

        if self._founding is not None:
            return Origin.FOUND
        if self.file.is_forced:
            return Origin.FORCE_NEW
        return Origin.JOIN if self.file.is_entering else Origin.RESUME

    async def _note_started(self) -> None:
        """What the file says was on its way is on the disk; this member has done nothing yet."""
        if self.file.is_entering or self.file.is_forced:
            await self._write(replace(self.file, is_entering=False, is_forced=False))

    async def _open_up(self, member: "Membership", life: NodeLife, ready: asyncio.Event) -> None:
        """Return once the port may be opened. A group of one leads first, and has a certificate
        that others believe: a swarm that slept past its certificates wakes so."""
        if self.is_open.is_set() or not member.group.is_alone():
            return
        if self._founding is not None:
            await ready.wait()
        try:
            async with asyncio.timeout(ALONE_WAIT_S):
                await ready.wait()
                await member.group.leading()
                await self._renew_expired(member, life)
        except TimeoutError:
            log.warning("member.alone_not_leading", extra={"waited_s": ALONE_WAIT_S})

    async def _note_open(self) -> None:
        if self._founding is not None:
            await self._host.env.blocking(self._host.data.enter_swarm)
            self._founding = None
            self.may_enter.set()
        self._must_open = False
        self.is_open.set()

    async def _renew_expired(self, member: "Membership", life: NodeLife) -> None:
        """Renew an expired certificate at this very manager's CA, while it leads."""
        while member.leads() and life.is_expired():
            try:
                await life.renewer.renew()
            except SwarmError as problem:
                log.info("certificate.not_yet", extra={"cause": problem.message})
                await asyncio.sleep(RENEW_RETRY_S)

    # In and out of the group

    async def _enter(self, life: NodeLife) -> None:
        """Ask a manager for a place in the group, until one gives it: to who was demoted none does,
        and it needs another certificate."""
        pause_s = ENTER_RETRY_MIN_S
        while True:
            try:
                await self._ask()
            except SwarmError as problem:
                if problem.message != self.problem:
                    log.warning("member.not_entered", extra={"cause": problem.message})
                self.problem = problem.message
            else:
                if self._removed_s != math.inf:  # members that missed it go by the certificate
                    life.renewer.force("this manager was removed, and is one again")
                self.problem, self._removed_s = "", math.inf
                return
            if self._host.env.clock.mono_s() - self._removed_s > ROLE_WAIT_S:
                self._removed_s = math.inf
                life.renewer.force("this manager was removed from the Raft group")
            await asyncio.sleep(pause_s * (0.5 + 0.5 * self._host.env.rng.random()))
            pause_s = min(2 * pause_s, ENTER_RETRY_MAX_S)

    async def _ask(self) -> None:
        request = MemberRequest(
            addr=self.file.advertise_addr,
            raft_id=self.file.lost_raft_id,
            is_lost=bool(self.file.lost_raft_id),
        )
        addr = self._remotes.choose().addr
        link = self._host.network.link
        try:
            grant = await link.join_members(addr, request, self._own.credentials)
        except SwarmError:
            self._remotes.observe(addr, ok=False)
            raise
        self._remotes.observe(addr, ok=True)
        self._remotes.replace(
            ManagerAddr(node_id=NodeID(one.node_id), addr=one.addr) for one in grant.members
        )
        from swarmlet.store.proposer import Member

        self._contacts = tuple(
            Member(raft_id=RaftID(one.raft_id), node_id=one.node_id, address=one.addr)
            for one in grant.members
            if one.raft_id != grant.raft_id
        )
        await self._write(
            replace(self.file, raft_id=grant.raft_id, is_entering=True, lost_raft_id=0)
        )
        log.info("member.entered", extra={"node_id": self.file.node_id, "raft_id": grant.raft_id})

    async def _heed(self, refusal: MemberRefusedError) -> None:
        """Do what follows from the others' refusal; return where this node is to ask again for a
        place in the group."""
        fields = {"reason": refusal.reason, "cause": refusal.message}
        log.warning("member.refused", extra=fields)
        if refusal.reason == "cloned":
            self.clone = refusal
            self.cloned.set()
            await asyncio.Event().wait()
        if refusal.reason == "rolled-back":
            self.notices = (*self.notices, refusal.message)
            await self._forget_group(lost_raft_id=self.file.raft_id)
            return
        self.problem = refusal.message
        self._removed_s = self._host.env.clock.mono_s()
        await self._forget_group()

    async def _forget_group(self, lost_raft_id: int = 0) -> None:
        """Be no member any more. The file comes first: a missing log would look like damage."""
        if self.file.raft_id or self.file.lost_raft_id:
            await self._write(
                replace(
                    self.file,
                    raft_id=0,
                    is_entering=False,
                    is_forced=False,
                    lost_raft_id=lost_raft_id,
                )
            )
            await self._host.env.blocking(self._host.data.remove_raft)

    # Inside

    async def _write(self, file: SwarmFile) -> None:
        await self._host.env.blocking(partial(self._host.data.update_swarm, file))
        self.file = file

    def _raft_keys(self) -> SealKeys:
        """As they are now: a node that becomes a manager has new ones."""
        _, _, keys = self._papers.files.read()
        return keys.raft_seal_keys()

    def _close_node(self, node_id: NodeID) -> None:
        if self._keeper is not None:
            self._keeper.close_node(node_id)


def _nobody(store: "Store") -> None:
    """Nobody wants to see it."""


def _nothing() -> None:
    """Nobody wants to know."""
