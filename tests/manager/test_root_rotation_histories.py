"""Rotations planned, given up and replaced at any moment, with real certificates, over nodes that
come, go, are away and renew: nobody is ever locked out."""

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ca.csr import new_csr, public_key_of
from swarmlet.ca.identity import leaf_issuer, verify_chain
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.join_token import cert_digest
from swarmlet.ca.keys import key_to_pem, new_key
from swarmlet.ca.root import Root, issuer_facts, new_root
from swarmlet.ca.rotation import signer_of
from swarmlet.ca.successor import check_successor
from swarmlet.core.errors import SwarmError, UnauthorizedError
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.env.real import RealDisk
from swarmlet.manager.control import Control
from swarmlet.manager.root_rotation import RootRotator
from swarmlet.model.change import Create, Event, Remove, Update
from swarmlet.model.cluster import CAConfig, Cluster, JoinTokens, RootCA, SwarmSpec
from swarmlet.model.node import (
    IssuanceState,
    Node,
    NodeCertificate,
    NodeDescription,
    NodeSpec,
    NodeStatus,
    TLSInfo,
)
from swarmlet.model.view import cluster_of
from swarmlet.store.store import Store
from swarmlet.wire.credentials import Credentials
from tests.agent.virtual_time import START_MS, run_virtual, until, virtual_env
from tests.manager.control_world import EchoedLogs
from tests.store.memory_log import MemoryLog

HOUR_NS = 3_600 * 10**9
CLUSTER = ClusterID("cluster")
WORDS = ("force", "given", "present", "off", "on", "remove", "join", "renew", "leader", "wait")
Step = tuple[str, int]


class Host:
    """A node's own side: what it has on disk. `is_off`: it hears nothing."""

    def __init__(self, name: str, credentials: Credentials) -> None:
        self.name, self.credentials = name, credentials
        self.is_off = self.is_busy = False

    def take_root(self, root_pem: bytes) -> None:
        """Raises UnauthorizedError: then this node is locked out."""
        if root_pem != self.credentials.root_pem:
            check_successor(root_pem, self.credentials)
            self.credentials = replace(self.credentials, root_pem=root_pem)

    def take_chain(self, chain_pem: bytes, root_pem: bytes) -> None:
        try:
            verify_chain(chain_pem, self.credentials.root_pem, None)
        except UnauthorizedError:
            self.take_root(root_pem)
            verify_chain(chain_pem, self.credentials.root_pem, None)
        self.credentials = replace(self.credentials, chain_pem=chain_pem)

    def tls_info(self) -> TLSInfo:
        mine = self.credentials
        subject, public_key = leaf_issuer(mine.chain_pem, mine.root_pem)
        return TLSInfo(
            trust_root=mine.root_pem.decode(),
            cert_issuer_subject=subject,
            cert_issuer_public_key=public_key,
        )


class History:
    """One swarm's, on virtual time."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.env = virtual_env(RealDisk())
        self.store = Store(self.env)
        log = MemoryLog(self.store)
        self.store.attach(log)
        self.control = Control(self.store, log, EchoedLogs(), self.env, NodeID("n0"))
        self.hosts: dict[str, Host] = {}
        self.given = [new_root(START_MS, self.env.entropy) for _ in range(2)]
        self.forced = 0
        self._key = new_key(self.env.entropy)
        self._group = group
        self._leader: asyncio.Task[None] | None = None

    @property
    def root_ca(self) -> RootCA:
        return cluster_of(self.store.view()).root_ca

    async def begin(self) -> None:
        root = new_root(START_MS, self.env.entropy)
        root_ca = RootCA(
            cert_pem=root.cert_pem, key_pem=root.key_pem, cert_digest=cert_digest(root.cert_pem)
        )
        cluster = Cluster(id=CLUSTER, spec=SwarmSpec(), root_ca=root_ca)
        await self.store.commit([Create(obj=cluster)])
        self.store.subscribe(self._on_events)
        for number in range(4):
            await self.join(number)
        self.lead()

    def lead(self) -> None:
        """A new leader; the last one, if there is one, is gone."""
        if self._leader is not None:
            self._leader.cancel()
        rotator = RootRotator(self.store, self.env)
        self._leader = self._group.create_task(rotator.run())

    def end(self) -> None:
        assert self._leader is not None
        self._leader.cancel()

    # What happens
    async def do(self, step: Step) -> None:
        word, number = step
        name = f"n{number}"
        host = self.hosts.get(name)
        if word in ("force", "given", "present"):
            await self.plan(word, number)
        elif word == "leader":
            self.lead()
        elif word == "wait":
            await asyncio.sleep(number * 0.7)
        elif word == "join" and host is None:
            await self.join(number)
        elif host is not None:
            await self.touch(word, host)
        await asyncio.sleep(0.01 * number)

    async def plan(self, word: str, number: int) -> None:
        config = CAConfig(force_rotate=self.forced)
        if word == "force":
            self.forced += 1
            config = CAConfig(force_rotate=self.forced)
        else:
            root = self.given[number % 2]
            if word == "present":
                root = Root(cert_pem=self.root_ca.cert_pem, key_pem=self.root_ca.key_pem)
            config = replace(
                config,
                signing_ca_cert=root.cert_pem.decode(),
                signing_ca_key=root.key_pem.decode(),
            )
        await self.control.update_cluster(
            cluster_of(self.store.view()).version,
            SwarmSpec(ca_config=config),
            rotate_worker_token=False,
            rotate_manager_token=False,
            rotate_unlock_key=False,
        )

    async def join(self, number: int) -> None:
        name = f"n{number}"
        mine = Credentials(root_pem=self.root_ca.cert_pem, key_pem=key_to_pem(self._key))
        host = self.hosts[name] = Host(name, mine)
        waiting = NodeCertificate(state=int(IssuanceState.PENDING), role="worker")
        row = Node(
            id=NodeID(name),
            spec=NodeSpec(role="worker", availability="active"),
            status=NodeStatus(state=2),
            certificate=waiting,
        )
        await self.store.commit([Create(obj=row)])
        self._spawn(host)

    async def touch(self, word: str, host: Host) -> None:
        if word == "off":
            host.is_off = True
        elif word == "on":
            host.is_off = False
            host.take_root(self.root_ca.cert_pem)
            self._hear(self.row(host))
        elif word == "renew" and not host.is_off:
            self._spawn(host)
        elif word == "remove" and len(self.hosts) > 1:
            del self.hosts[host.name]
            await self.store.commit([Remove(table=Node, id=host.name)])

    # What a node does
    def row(self, host: Host) -> Node | None:
        is_same = self.hosts.get(host.name) is host
        return self.store.view().nodes.get(host.name) if is_same else None

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.table is Cluster:
                for host in self.hosts.values():
                    if not host.is_off and host.credentials.chain_pem:
                        host.take_root(self.root_ca.cert_pem)
            elif isinstance(event.new, Node):
                self._hear(event.new)

    def _hear(self, node: Node | None) -> None:
        if node is None or node.certificate.state != IssuanceState.ROTATE:
            return
        host = self.hosts.get(node.id)
        if host is not None and not host.is_off:
            self._spawn(host)

    def _spawn(self, host: Host) -> None:
        if not host.is_busy:
            host.is_busy = True
            self._group.create_task(self._renew(host))

    async def _renew(self, host: Host) -> None:
        try:
            await self._certify(host, IssuanceState.RENEW)
            await asyncio.sleep(0.3)
            chain = issue(
                signer_of(self.root_ca),
                public_key_of(new_csr(self._key)),
                Subject(host.name, "worker", CLUSTER),
                now_ms=self.env.clock.wall_ms(),
                expiry_ns=HOUR_NS,
                entropy=self.env.entropy,
            )
            await self._certify(host, IssuanceState.ISSUED)
            if self.row(host) is None:
                return
            host.take_chain(chain, self.root_ca.cert_pem)
            await asyncio.sleep(0.2)
            report = NodeDescription(tls_info=host.tls_info())
            await self._write(host, lambda row: replace(row, description=report))
        finally:
            host.is_busy = False
        self._hear(self.row(host))

    async def _certify(self, host: Host, state: IssuanceState) -> None:
        await self._write(
            host,
            lambda row: replace(row, certificate=replace(row.certificate, state=int(state))),
        )

    async def _write(self, host, change) -> None:
        while (row := self.row(host)) is not None:
            try:
                await self.store.commit([Update(obj=change(row), seen=row.version)])
            except SwarmError:
                await asyncio.sleep(0.01)
            else:
                return

    # What always holds
    def check(self) -> None:
        trusted = self.root_ca.cert_pem
        certified = [host for host in self.hosts.values() if host.credentials.chain_pem]
        for host in certified:
            verify_chain(host.credentials.chain_pem, trusted, None)  # managers let it in
            Host(host.name, host.credentials).take_root(trusted)  # and it will believe them
        awake = [host for host in certified if not host.is_off]
        for one in awake:
            for other in awake:
                verify_chain(one.credentials.chain_pem, other.credentials.root_pem, None)
        assert self.root_ca.cert_digest == cert_digest(trusted)
        if self.root_ca.tokens != JoinTokens():
            assert self.root_ca.tokens.worker.startswith(f"SWMTKN-1-{cert_digest(trusted)}-")

    def is_settled(self) -> bool:
        facts = issuer_facts(self.root_ca.cert_pem)
        infos = [host.tls_info() for host in self.hosts.values() if host.credentials.chain_pem]
        return (
            self.root_ca.rotation is None
            and len(infos) == len(self.hosts)
            and all(
                (info.cert_issuer_subject, info.cert_issuer_public_key) == facts for info in infos
            )
        )


STEPS = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 6)), max_size=30)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_nobody_is_locked_out_whatever_happens_in_between(steps: list[Step]):
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            history = History(group)
            await history.begin()
            for step in steps:
                await history.do(step)
                history.check()
            wanted = history.root_ca.rotation or history.root_ca
            for host in list(history.hosts.values()):
                await history.touch("on", host)
            await until(history.is_settled, limit_s=120.0)
            history.check()
            assert history.root_ca.cert_pem == wanted.cert_pem
            history.end()

    run_virtual(main())


def test_next_rotation_may_begin_while_a_node_has_not_heard_of_the_last_ones_end():
    steps = [("wait", 2), ("force", 0), ("wait", 2), ("off", 1), ("wait", 6), ("wait", 6)]
    steps += [("renew", 0), ("wait", 2), ("force", 0), ("wait", 6), ("on", 1)]

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            history = History(group)
            await history.begin()
            for step in steps:
                await history.do(step)
                history.check()
            await until(history.is_settled)
            history.end()

    run_virtual(main())
