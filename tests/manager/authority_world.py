"""A leader's CA in memory: store, server, and nodes that ask."""

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from swarmlet.ca.csr import new_csr
from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.identity import verify_chain
from swarmlet.ca.join_token import new_join_token, parse_join_token
from swarmlet.ca.keys import new_key
from swarmlet.ca.root import new_root
from swarmlet.ca.signing import SwarmAuthority
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.env.real import RealDisk
from swarmlet.manager.bootstrap import Founding, first_changes
from swarmlet.manager.ca_server import CertificateServer
from swarmlet.manager.ca_signer import CertificateAuthority
from swarmlet.manager.join_grant import secret_hash
from swarmlet.model.change import Change, Create, Update
from swarmlet.model.cluster import Cluster, JoinTokens, SwarmSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.join_token import JoinToken
from swarmlet.model.node import IssuanceState, Node
from swarmlet.model.view import cluster_of
from swarmlet.store.store import Store
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.node_api import CertificateRequest, CertificateStatus
from swarmlet.wire.outgoing import HttpsAnswer, HttpsRequest
from tests.agent.virtual_time import START_MS, VirtualClock, run_virtual, virtual_env
from tests.store.memory_log import ME, MemoryLog

entropy = random.Random(11).randbytes
ROOT = new_root(START_MS, entropy)
DAY_MS = 86_400_000
SOURCE = "192.0.2.7:4711"


async def no_exchange(_: HttpsRequest) -> HttpsAnswer:
    raise AssertionError("nobody asks an external CA here")


class CalendarClock(VirtualClock):
    """Wall time that may jump ahead, as over a long sleep."""

    skipped_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.skipped_ms


class Fleet:
    """`authority` replaces the swarm's own; requests are PEM text."""

    def __init__(self, authority: CertificateAuthority | None = None) -> None:
        self.clock = CalendarClock()
        self.env = dataclasses.replace(virtual_env(RealDisk()), clock=self.clock)
        self.store = Store(self.env)
        self.log = MemoryLog(self.store, delay_s=0.001)
        self.store.attach(self.log)
        external = ExternalSigner(no_exchange, lambda: Credentials(root_pem=ROOT.cert_pem))
        self.server = self.new_server(authority or SwarmAuthority(self.env, external))

    def new_server(self, authority: CertificateAuthority) -> CertificateServer:
        """Another leader's, on the same store."""
        return CertificateServer(self.store, self.env, authority)

    @property
    def cluster(self) -> Cluster:
        return cluster_of(self.store.view())

    @property
    def tokens(self) -> JoinTokens:
        return self.cluster.root_ca.tokens

    def now_ms(self) -> int:
        return self.env.clock.wall_ms()

    def node(self, node_id: str) -> Node:
        row = self.store.view().nodes.get(node_id)
        assert row is not None
        return row

    def sleep_days(self, days: int) -> None:
        """Everybody sleeps; only the wall clock goes on."""
        self.clock.skipped_ms += days * DAY_MS

    async def put(self, *changes: Change) -> None:
        await self.store.commit(changes)

    async def change_node(self, node_id: str, **fields: object) -> None:
        row = self.node(node_id)
        await self.put(Update(obj=replace(row, **fields), seen=row.version))

    async def begin(self) -> None:
        founding = Founding(
            cluster_id=ClusterID("cluster"),
            node_id=NodeID("manager"),
            member=ME,
            spec=complete_swarm(SwarmSpec()),
            root=ROOT,
            certificate=b"leaf",
        )
        await self.put(*first_changes(founding, self.env.entropy))

    async def ask(
        self,
        csr: str,
        token: str = "",
        *,
        peer: Identity | None = None,
        source: str = SOURCE,
        availability: str = "",
    ) -> str:
        """The ticket's node."""
        request = CertificateRequest(csr=csr, token=token, availability=availability)
        return (await self.server.request(request, peer, source)).node_id

    async def signed(self, node_id: str) -> CertificateStatus:
        status = await self.server.status(node_id, SOURCE)
        assert status.state == IssuanceState.ISSUED, status
        return status

    async def joined(self, token: str = "") -> Identity:
        """A node that has joined and holds its certificate."""
        node_id = await self.ask(request(), token or self.tokens.worker)
        return self.identity(await self.signed(node_id))

    def identity(self, status: CertificateStatus) -> Identity:
        return verify_chain(status.chain.encode(), ROOT.cert_pem, None)


def request() -> str:
    """A certificate request for a new key."""
    return new_csr(new_key(entropy)).decode()


async def extra_token(fleet: Fleet, **fields: object) -> str:
    """An extra token of one use, unless `fields` say otherwise."""
    token = new_join_token(fleet.cluster.root_ca.cert_digest, entropy)
    given = {"id": "extra", "role": "worker", "labels": {"zone": "a"}, "uses_max": 1, **fields}
    row = JoinToken(secret_hash=secret_hash(parse_join_token(token).secret), **given)
    await fleet.put(Create(obj=row))
    return token


def play(
    story: Callable[[Fleet], Awaitable[None]],
    authority: CertificateAuthority | None = None,
) -> None:
    """Run `story` beside a CA on the leader of a swarm with one manager."""

    async def main() -> None:
        fleet = Fleet(authority)
        await fleet.begin()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(fleet.server.run())
            await asyncio.sleep(0)
            await story(fleet)
            serving.cancel()

    run_virtual(main())
