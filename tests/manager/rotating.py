"""A swarm in memory whose nodes renew when their rows ask them to, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from swarmlet.ca.join_token import cert_digest
from swarmlet.ca.root import Root, issuer_facts, new_root
from swarmlet.core.errors import SwarmError
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.env.real import RealDisk
from swarmlet.manager.root_rotation import RootRotator
from swarmlet.model.change import Change, Create, Event, Remove, Update
from swarmlet.model.cluster import Cluster, JoinTokens, RootCA, RootRotation, SwarmSpec
from swarmlet.model.node import (
    IssuanceState,
    Node,
    NodeCertificate,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
    TLSInfo,
)
from swarmlet.model.view import cluster_of
from swarmlet.store.store import Store
from tests.agent.virtual_time import START_MS, run_virtual, virtual_env
from tests.store.memory_log import MemoryLog

RENEWAL_S = 0.3  # from the request to the new certificate
REPORT_S = 0.2  # from there to the new registration


class Rotating:
    """`asked` counts how often each node was asked, `off` are nodes that hear nothing."""

    def __init__(self, seed: int = 1) -> None:
        self.env = virtual_env(RealDisk(), seed)
        self.store = Store(self.env)
        self.log = MemoryLog(self.store)
        self.store.attach(self.log)
        self.rotator = RootRotator(self.store, self.env)
        self.root = new_root(START_MS, self.env.entropy)
        self.off: set[str] = set()
        self.asked: dict[str, int] = {}
        self.rounds: list[float] = []
        self._busy: set[str] = set()
        self._group: asyncio.TaskGroup | None = None

    @property
    def cluster(self) -> Cluster:
        return cluster_of(self.store.view())

    def node(self, name: str) -> Node:
        row = self.store.view().nodes.get(name)
        assert row is not None
        return row

    def new_root(self) -> Root:
        return new_root(START_MS, self.env.entropy)

    async def begin(self, count: int) -> None:
        """A cluster and nodes n000, n001, … with certificates of its root."""
        tokens = JoinTokens(worker="old-worker", manager="old-manager")
        root_ca = RootCA(
            cert_pem=self.root.cert_pem,
            key_pem=self.root.key_pem,
            cert_digest=cert_digest(self.root.cert_pem),
            tokens=tokens,
        )
        await self.put(Create(obj=Cluster(id=ClusterID("c"), spec=SwarmSpec(), root_ca=root_ca)))
        await self.store.batch(
            Create(obj=reporting(f"n{number:03}", self.root.cert_pem)) for number in range(count)
        )

    async def put(self, *changes: Change) -> None:
        await self.store.commit(changes)

    async def rotate(self, target: Root | None, number: int = 1) -> None:
        """What the API writes: the rotation to `target`, or its end."""
        rotation = None
        if target is not None:
            rotation = RootRotation(cert_pem=target.cert_pem, key_pem=target.key_pem)
        root_ca = replace(self.cluster.root_ca, rotation=rotation, last_forced_rotation=number)
        await self.put(
            Update(obj=replace(self.cluster, root_ca=root_ca), seen=self.cluster.version)
        )

    async def remove(self, name: str) -> None:
        await self.put(Remove(table=Node, id=NodeID(name)))

    def shown_by(self, root: Root) -> int:
        """How many nodes report this signer."""
        facts = issuer_facts(root.cert_pem)
        return sum(reported(node) == facts for node in self.store.view().nodes.all())

    async def live(self) -> None:
        """Every node's life: it renews when asked, with whoever signs then, and reports."""
        unsubscribe = self.store.subscribe(self._on_events)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await asyncio.Event().wait()
        finally:
            unsubscribe()

    def wake(self, *names: str) -> None:
        """Nodes that were off are there again, and find what their rows ask for."""
        for name in names:
            self.off.discard(name)
            self._hear(self.node(name))

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event.new, Node):
                self._hear(event.new)

    def _hear(self, node: Node) -> None:
        is_asked = node.certificate.state == IssuanceState.ROTATE
        if is_asked and node.id not in self._busy and node.id not in self.off:
            self._busy.add(node.id)
            self.asked[node.id] = self.asked.get(node.id, 0) + 1
            self.rounds.append(self.env.clock.mono_s())
            assert self._group is not None
            self._group.create_task(self._renew(node.id))

    async def _renew(self, name: str) -> None:
        await self._write(name, lambda node: certified(node, IssuanceState.RENEW))
        await asyncio.sleep(RENEWAL_S)
        root_ca = self.cluster.root_ca
        signer = root_ca.rotation.cert_pem if root_ca.rotation is not None else root_ca.cert_pem
        await self._write(name, lambda node: certified(node, IssuanceState.ISSUED))
        self._busy.discard(name)
        await asyncio.sleep(REPORT_S)
        await self._write(name, lambda node: replace(node, description=showing(signer)))

    async def _write(self, name: str, change: Callable[[Node], Node]) -> None:
        while (node := self.store.view().nodes.get(name)) is not None:
            try:
                await self.put(Update(obj=change(node), seen=node.version))
            except SwarmError:
                await asyncio.sleep(0.05)
            else:
                return


def reporting(name: str, signer_pem: bytes, state: int = NodeState.READY) -> Node:
    """A node's row; without a signer, of one that never reported."""
    issued = NodeCertificate(state=int(IssuanceState.ISSUED), role="worker")
    return Node(
        id=NodeID(name),
        spec=NodeSpec(role="worker", availability="active"),
        description=showing(signer_pem) if signer_pem else NodeDescription(),
        status=NodeStatus(state=int(state)),
        certificate=issued,
    )


def showing(signer_pem: bytes) -> NodeDescription:
    subject, public_key = issuer_facts(signer_pem)
    tls = TLSInfo(cert_issuer_subject=subject, cert_issuer_public_key=public_key)
    return NodeDescription(hostname="host", tls_info=tls)


def reported(node: Node) -> tuple[bytes, bytes]:
    tls = node.description.tls_info
    return tls.cert_issuer_subject, tls.cert_issuer_public_key


def certified(node: Node, state: IssuanceState) -> Node:
    return replace(node, certificate=replace(node.certificate, state=int(state)))


def play(count: int, story: Callable[[Rotating], Awaitable[None]], *, seed: int = 1) -> None:
    """Run `story` beside `count` nodes and the leader's component."""

    async def main() -> None:
        swarm = Rotating(seed)
        await swarm.begin(count)
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(swarm.rotator.run()), group.create_task(swarm.live())]
            await asyncio.sleep(0.1)
            await story(swarm)
            for task in beside:
                task.cancel()

    run_virtual(main(), limit_s=10_000_000.0)
