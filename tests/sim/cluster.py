"""A swarm of many hosts in simulation: the product's own engines on one virtual time.

Each host has its own disk, clock and runtime, which outlive its daemons; all of them share a
network in memory. The verbs are what the world, its users and its operators do to them. What they
were told is remembered, and `check` and `troubles` say what must hold at once, and what must come
to hold.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from random import Random

from msgspec.structs import replace

from swarmlet.api.engine import InitRequest, JoinRequest
from swarmlet.ca.csr import new_csr
from swarmlet.ca.identity import verify_chain
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import CERT_FILE, ROOT_FILE
from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    StaleVersionError,
    SwarmError,
    UnauthorizedError,
)
from swarmlet.manager.root_rotation import aim_of
from swarmlet.model.cluster import Cluster, RootCA, SwarmSpec
from swarmlet.model.config import ConfigSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.node import IssuanceState, Node, NodeState
from swarmlet.model.task import Task, TaskState
from swarmlet.model.view import View, cluster_of
from swarmlet.reconcile.ca_rotation import shows
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.node_api import CertificateRequest
from tests.daemon.sim_nodes import PORT
from tests.sim.disk import SimCrash
from tests.sim.host import Host
from tests.sim.loop import HostClock, SimClock, SimLoop
from tests.sim.world import service_spec
from tests.wire.memory_link import MemoryNet

DAY_S = 86_400
DAY_NS = DAY_S * 10**9
SETTLES_WITHIN_S = 300.0  # of virtual time
RETRIES_WITHIN_S = 3 * 3_600.0  # the longest pause between renewals is an hour
SURE_S = 30.0  # after this a host that is there has been told what to run
SKEW_MAX_S = 55 * 60
NEVER = 1 << 40  # operations of a disk
_verify = lru_cache(maxsize=1024)(lambda chain, root: verify_chain(chain, root, None))
REFUSALS = (ForbiddenError, UnauthorizedError, InvalidArgumentError)


class SimCluster:
    def __init__(self, seed: int | str, count: int) -> None:
        self.seed, self.rng = seed, Random(f"{seed}/cluster")
        self.clock, self.net = SimClock(), MemoryNet()
        clocks = [HostClock(self.clock) for _ in range(count)]
        names = [f"h{number}.{seed}.x" for number in range(count)]
        self.hosts = [Host(self.net, *pair) for pair in zip(names, clocks, strict=True)]
        self.manager = self.hosts[0]
        self.configs: set[str] = set()
        self.services: dict[str, int] = {}
        self.rows: set[str] = set()  # ids of nodes that joined and were not removed
        self.removed: dict[str, Credentials] = {}
        self.old_tokens: set[str] = set()
        self.chains: set[bytes] = set()  # certificates that were ever seen in rows
        self.told: list[str] = []
        self.on_tell: Callable[[str], object] = lambda _what: None
        self.roots: list[bytes] = []
        self.power_cuts = self.named = self.orphans = 0
        self.joining = 0  # joins under way, each of which may have a row already
        self.slowest_s = 0.0

    def tell(self, what: str) -> None:
        self.told.append(f"{self.day:.3f} {what}")
        self.on_tell(what)

    @property
    def day(self) -> float:
        return (self.clock.now_s + self.clock.skew_ms / 1000) / DAY_S

    @property
    def control(self):
        return self.manager.engine.control()

    async def read(self) -> View:
        """From the manager, which starts again where its power goes at this moment."""
        while True:
            try:
                return await self.control.read()
            except (SimCrash, SwarmError, BaseExceptionGroup):
                if not self.manager.disk.is_dead:
                    raise
            await self.revive()

    async def root_ca(self) -> RootCA:
        return cluster_of(await self.read()).root_ca

    async def holding_up(self) -> list[Host]:
        """Whom the rotation under way waits for."""
        view = await self.read()
        aim = aim_of(cluster_of(view))
        left = {node.id for node in view.nodes.all() if not shows(node, aim.issuer)}
        return [host for host in self.members() if host.node_id in left]

    def members(self) -> list[Host]:
        return [host for host in self.hosts if host.standing == "in"]

    # What operators do ----------------------------------------------------------------------------
    async def found(self) -> None:
        await self.manager.switch_on()
        request = InitRequest(
            spec=complete_swarm(SwarmSpec()), listen_addr=f"{self.manager.host}:{PORT}"
        )
        await self.manager.engine.init_swarm(request)
        self._enter(self.manager)
        self.roots.append(cluster_of(await self.read()).root_ca.cert_pem)

    async def join(
        self,
        host: Host,
        cut_at: int | None = None,
        asleep_s: float = 0.0,
    ) -> None:
        """One join, however often the power goes meanwhile, and however long it is gone."""
        if not host.is_on:
            await host.switch_on()
        if cut_at is not None:
            host.disk.fail_at(cut_at, self.rng.choice(("before", "half", "after")))
        self.tell(f"join {host.host} {cut_at}")
        self.joining += 1
        while not host.state.node_id:
            await self._try_to_join(host)
            if host.disk.is_dead and asleep_s:
                await self.switch_off(host, "power")
                await self.skip(asleep_s)
                await self.switch_on(host)
            await self.revive()
            await self._forget_old_token(host)
        await host.until("active", RETRIES_WITHIN_S)
        self._enter(host)
        self.joining -= 1

    async def _try_to_join(self, host: Host) -> None:
        """Unless it is on its way already."""
        token = (await self.root_ca()).tokens.worker
        is_refused = False
        try:
            if host.state.state == "inactive":
                await host.engine.join_swarm(self._request(host, token))
            await asyncio.sleep(1)
        except UnauthorizedError:
            is_refused = True
        except (SimCrash, SwarmError, BaseExceptionGroup):
            if not host.disk.is_dead:
                raise
        assert not is_refused or token not in await self._tokens()

    async def _forget_old_token(self, host: Host) -> None:
        """A rotation ended while the join was under way, and with it the token."""
        if host.state.state == "error" and not host.state.node_id:
            await host.engine.leave_swarm(force=True)

    async def join_over_bad_net(self, host: Host) -> None:
        """The net goes away meanwhile. Where the host gives up, it says so, and somebody removes
        the row that may be there already."""
        if not host.is_on:
            await host.switch_on()
        self.tell(f"join {host.host}, cut")
        self.joining += 1
        request = self._request(host, (await self.root_ca()).tokens.worker)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tries(host, request))
            await asyncio.sleep(self.rng.uniform(0, 0.05))
            self.cut(host)
            await asyncio.sleep(self.rng.choice((1, 15, 60)))
            self.mend(host)
        while host.state.state == "pending":  # noqa: ASYNC110 - a state is no event
            await asyncio.sleep(1)
        if host.state.state == "active":
            self._enter(host)
        await self._forget_old_token(host)
        await self._remove_orphans()
        self.joining -= 1

    async def _tries(self, host: Host, request: JoinRequest) -> None:
        try:
            await host.engine.join_swarm(request)
        except SwarmError as problem:
            self.tell(f"join of {host.host}: {problem.message}")

    async def _remove_orphans(self) -> None:
        for node_id in sorted({node.id for node in (await self.read()).nodes.all()} - self.rows):
            await self._insist(lambda lost=node_id: self.control.remove_node(lost, force=True))
            self.orphans += 1

    def _enter(self, host: Host) -> None:
        host.standing, host.node_id = "in", host.state.node_id
        assert host.node_id not in self.removed
        self.rows.add(host.node_id)

    def _request(self, host: Host, token: str) -> JoinRequest:
        return JoinRequest(
            token=token,
            remote_addrs=(f"{self.manager.host}:{PORT}",),
            listen_addr=f"{host.host}:{PORT}",
        )

    async def remove(self, host: Host) -> None:
        """By force, whether it is there or not."""
        self.tell(f"remove {host.host}")
        self.removed[host.node_id] = host.credentials()
        await self._insist(lambda: self.control.remove_node(host.node_id, force=True))
        self.rows.discard(host.node_id)
        host.standing = "removed"

    async def leave(self, host: Host) -> None:
        """The host forgets the swarm; its row, if it has one, stays until it is removed."""
        self.tell(f"leave {host.host}")
        if not host.is_on:
            await host.switch_on()
        while host.disk.is_dead or host.state.state != "inactive":
            try:
                await host.engine.leave_swarm(force=True)
            except (SimCrash, SwarmError, BaseExceptionGroup):
                assert host.disk.is_dead
            await self.revive()
        if host.standing == "in":
            await self._insist(lambda: self.control.remove_node(host.node_id, force=True))
            self.rows.discard(host.node_id)
        host.standing, host.node_id = "out", ""

    async def configure(self, change: Callable[[SwarmSpec], SwarmSpec], **rotate: bool) -> None:
        async def once() -> None:
            cluster = cluster_of(await self.read())
            await self.control.update_cluster(
                cluster.version,
                change(cluster.spec),
                rotate_worker_token=rotate.get("worker", False),
                rotate_manager_token=rotate.get("manager", False),
                rotate_unlock_key=False,
            )

        await self._insist(once)

    async def rotate_root(self) -> None:
        self.tell("rotate root")
        await self.configure(
            lambda spec: replace(
                spec,
                ca_config=replace(spec.ca_config, force_rotate=spec.ca_config.force_rotate + 1),
            )
        )

    async def rotate_tokens(self) -> None:
        self.tell("rotate tokens")
        await self.configure(lambda spec: spec, worker=True, manager=True)

    async def set_lifetime(self, days: float) -> None:
        self.tell(f"certificates for {days} days")
        await self.configure(
            lambda spec: replace(
                spec, ca_config=replace(spec.ca_config, node_cert_expiry=int(days * DAY_NS))
            )
        )

    async def scale(self, name: str, replicas: int) -> None:
        """Create it where it is not there yet."""
        spec = service_spec(name, replicas)

        async def update() -> None:
            version = self.control.find_service(await self.read(), name).version
            await self.control.update_service(name, version, spec)

        if name in self.services:
            await self._insist(update)
        else:
            await self.control.create_service(spec)
        self.services[name] = replicas
        self.tell(f"scale {name} {replicas}")

    async def create_config(self) -> None:
        self.named += 1
        await self.control.create_config(ConfigSpec(name=f"c{self.named}", data=b"x"))
        self.configs.add(f"c{self.named}")

    async def _insist(self, verb) -> None:
        """As people do: where the row has moved on, look and ask again."""
        for _ in range(20):
            try:
                await verb()
            except StaleVersionError:
                await asyncio.sleep(0.05)
            else:
                return
        raise AssertionError("the row never stops moving")

    # What happens to hosts ------------------------------------------------------------------------
    async def switch_on(self, host: Host) -> None:
        self.tell(f"on {host.host}")
        await host.switch_on()

    async def switch_off(self, host: Host, how: str = "") -> None:
        how = how or self.rng.choice(("stop", "kill", "power"))
        self.tell(f"off {host.host} {how}")
        await host.switch_off(how, self.rng)

    def cut(self, host: Host) -> None:
        self.tell(f"cut {host.host}")
        host.is_cut = True
        self.net.cut(host.host)

    def mend(self, host: Host) -> None:
        self.tell(f"mend {host.host}")
        host.is_cut, host.there_since_s = False, self.clock.now_s
        self.net.mend(host.host)

    async def revive(self) -> None:
        """Whoever's power went starts again."""
        for host in self.hosts:
            if host.has_died():
                self.tell(f"power cut {host.host}")
                self.power_cuts += 1
                await host.switch_off("power", self.rng)
                await host.switch_on()

    # Time -----------------------------------------------------------------------------------------
    async def settle(self, limit_s: float = SETTLES_WITHIN_S) -> None:
        """Until all is as it must come to be."""
        began_s, pause_s = self.clock.now_s, 0.5
        while True:
            await self.revive()
            view = await self.read()
            self.check(view)
            found = self.troubles(view)
            if not found:
                break
            waited_s = self.clock.now_s - began_s
            assert waited_s < limit_s, f"seed {self.seed}, day {self.day:.1f}: {found}"
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, 15.0)
        self.slowest_s = max(self.slowest_s, self.clock.now_s - began_s)

    async def skip(self, gap_s: float) -> None:
        """Time in which nobody does anything, in pieces short enough for renewals in time."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        left_s = gap_s
        while left_s > 0:
            if self.manager.is_on:
                await self._tries_over()
            well = [host for host in self.members() if host.is_there and not host.is_expired()]
            piece_s = min(left_s, *(self._piece_s(host) for host in well))
            loop.skip(piece_s)
            left_s -= piece_s
            await asyncio.sleep(10)
            await self.revive()
            late = [host.host for host in well if host.is_there and host.is_expired()]
            assert late == [], f"seed {self.seed}, day {self.day:.1f}: expired while on: {late}"

    async def _tries_over(self) -> None:
        """A gap does not bring on the next try of who has tried in vain: they wait for it first."""
        until_s = self.clock.now_s + RETRIES_WITHIN_S
        while any(host.is_there and host.is_trying() for host in self.members()):
            assert self.clock.now_s < until_s, f"seed {self.seed}: tries in vain"
            await asyncio.sleep(60)
            await self.revive()

    async def doze(self, gap_s: float) -> None:
        """Time in which the manager is off, whatever becomes of certificates."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        for _ in range(4):
            loop.skip(gap_s / 4)
            await asyncio.sleep(30)
            await self.revive()

    def _piece_s(self, host: Host) -> float:
        left_ms = host.state.certificate.ends_ms - host.clock.wall_ms()
        return max(60.0, left_ms / 2000)

    # What must hold -------------------------------------------------------------------------------
    def check(self, view: View) -> None:
        """At any moment."""
        rows = {node.id for node in view.nodes.all()}
        assert rows >= self.rows, "a node is lost"
        assert len(rows) <= len(self.rows) + self.joining, "more than one row a join"
        assert rows.isdisjoint(self.removed), "a removed node is back"
        assert {row.spec.name for row in view.configs.all()} == self.configs
        assert {row.name for row in view.services.all()} == set(self.services)
        root_ca = cluster_of(view).root_ca
        if root_ca.cert_pem != self.roots[-1]:
            self.tell("rotation over")
            self.roots.append(root_ca.cert_pem)
        for node in view.nodes.all():
            if node.certificate.state == IssuanceState.ISSUED:
                self.chains.add(node.certificate.certificate)
        self._check_slots(view)

    def _check_slots(self, view: View) -> None:
        """Hosts that are there know what is wanted of them: no slot runs on two of them."""
        sure_s, seen = self.clock.now_s - SURE_S, {}
        for host in self.members():
            since_s = max(host.there_since_s, self.manager.there_since_s)
            if not host.is_there or since_s > sure_s:
                continue
            for task_id in host.runtime.running():
                task = view.tasks.get(task_id)
                if task is not None and task.desired == TaskState.RUNNING:
                    other = seen.setdefault((task.service_id, task.slot), task_id)
                    assert other == task_id, "one slot runs twice"

    def troubles(self, view: View) -> list[str]:
        """What is not as it must come to be."""
        rows = {node.id: node for node in view.nodes.all()}
        cluster = cluster_of(view)
        found = [trouble for host in self.hosts for trouble in self._of_host(host, rows, cluster)]
        if cluster.root_ca.rotation is not None and all(host.is_there for host in self.members()):
            found.append("the rotation is not over")
        return found + self._of_tasks(view)

    def _of_host(self, host: Host, rows: dict[str, Node], cluster: Cluster) -> list[str]:
        if host.standing == "removed":
            is_told = not host.is_there or host.state.state == "error"
            return [] if is_told else [f"{host.host} does not know that it was removed"]
        if host.standing == "out":
            return []
        row = rows[host.node_id]
        if not host.is_there:
            is_known = row.status.state == NodeState.DOWN
            return [] if is_known else [f"{host.host} is away and in state {row.status.state}"]
        found, state = [], host.state
        if row.status.state != NodeState.READY or row.certificate.state != IssuanceState.ISSUED:
            found.append(f"{host.host}: state {row.status.state}, {row.certificate.state}")
        if state.state != "active" or state.certificate.ends_ms <= host.clock.wall_ms():
            found.append(f"{host.host}: {state.state}, {state.error}")
        return found + self._of_certificate(host, row, cluster)

    def _of_certificate(self, host: Host, row: Node, cluster: Cluster) -> list[str]:
        found, aim = [], aim_of(cluster)
        chain_pem, root_pem = host.file(CERT_FILE), host.file(ROOT_FILE)
        _verify(chain_pem, cluster.root_ca.cert_pem)  # else nobody would let it in
        if root_pem != cluster.root_ca.cert_pem:
            found.append(f"{host.host} trusts another root")
        if aim is not None and not shows(row, aim.issuer):
            found.append(f"{host.host} shows another signer")
        if chain_pem != row.certificate.certificate and not host.has_pending_key():
            found.append(f"{host.host} has lost its last certificate, and the key to it")
        return found

    def _of_tasks(self, view: View) -> list[str]:
        live = [task for task in view.tasks.all() if task.desired == TaskState.RUNNING]
        running = [task for task in live if task.status.state == TaskState.RUNNING]
        slots = {(task.service_id, task.slot) for task in live}
        found = []
        if not len(slots) == len(live) == len(running) == sum(self.services.values()):
            found.append(f"{len(running)} of {len(live)} tasks run in {len(slots)} slots")
        for host in self.hosts:
            if host.is_there or (host.is_on and host.standing != "in"):
                found += self._of_runtime(host, running)
        away = {host.node_id for host in self.members() if not host.is_there}
        found += [
            f"task {task.id} is on a node that is away" for task in running if task.node_id in away
        ]
        return found

    def _of_runtime(self, host: Host, running: list[Task]) -> list[str]:
        if host.standing == "removed":
            return []  # nobody tells it anything any more: its tasks are its own
        wanted = sorted(task.id for task in running if task.node_id == host.node_id)
        is_right = host.runtime.running() == wanted
        return [] if is_right else [f"{host.host} runs other tasks than wanted"]

    async def check_refusals(self, spare: Host | None = None) -> None:
        """Removed nodes, some of them each time, and tokens of old let nobody in."""
        for node_id in self.rng.sample(sorted(self.removed), min(2, len(self.removed))):
            await self._check_refused(node_id, self.removed[node_id])
        old = sorted(self.old_tokens - await self._tokens())
        if spare is None or not old:
            return
        await self.revive()
        spare.disk.fail_at(NEVER)
        if not spare.is_on:
            await spare.switch_on()
        token = self.rng.choice(old)
        try:
            await spare.engine.join_swarm(self._request(spare, token))
        except REFUSALS as refusal:
            self.tell(f"refused: {type(refusal).__name__}")
        else:
            raise AssertionError("an old token let somebody in")
        assert spare.state.state == "inactive"

    async def _check_refused(self, node_id: str, stolen: Credentials) -> None:
        """Whoever has its key would say that he trusts the present root."""
        shown = replace(stolen, root_pem=self.roots[-1])
        link, addr = self.net.link("thief.x", self.manager.clock), f"{self.manager.host}:{PORT}"
        csr = new_csr(new_key(self.rng.randbytes)).decode()
        for call in (
            lambda: link.open_session(addr, shown),
            lambda: link.request_certificate(addr, CertificateRequest(csr=csr), shown),
            lambda: link.certificate_status(addr, node_id, shown),
        ):
            try:
                await call()
            except (ForbiddenError, UnauthorizedError):
                continue
            raise AssertionError(f"removed node {node_id} was let in")

    async def keep_old_tokens(self) -> None:
        self.old_tokens |= await self._tokens()

    async def _tokens(self) -> set[str]:
        """They stay the same to the end of a root rotation."""
        tokens = (await self.root_ca()).tokens
        return {tokens.worker, tokens.manager}

    async def end(self) -> None:
        """The last check of all, and everybody's clean end."""
        for node_id, credentials in sorted(self.removed.items()):
            await self._check_refused(node_id, credentials)
        for host in reversed(self.hosts):
            if host.is_on:
                await host.stop()
                host.is_on = False
