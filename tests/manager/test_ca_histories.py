"""Many nodes join and renew while entries get lost or come late and leaders change."""

import asyncio
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import ForbiddenError, UnavailableError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, NodeID
from swarmlet.model.node import IssuanceState
from tests.manager.authority_world import Fleet, extra_token, play, request
from tests.manager.test_ca_signer import Hand

FAULTS = ("", "", "lost", "unknown", "late")
CLIENTS, USES, TRIES = 12, 4, 60


class Clients:
    """Nodes that ask until they are answered, and sometimes again; what they were told."""

    def __init__(self, fleet: Fleet, rng: Random) -> None:
        self.fleet, self.rng = fleet, rng
        self.joins: dict[str, set[str]] = {}  # by request: the tickets
        self.last: dict[str, str] = {}  # by node: its last request
        self.refused = 0

    async def live(self, token: str) -> None:
        csr = request()
        tickets = await self._ask(csr, token, None)
        if not tickets:
            self.refused += 1
            return
        self.joins[csr] = tickets
        node_id = min(tickets)
        peer = Identity(
            node_id=NodeID(node_id),
            role="worker",
            cluster_id=ClusterID("cluster"),
            begins_ms=0,
            ends_ms=2**50,
        )
        for _ in range(self.rng.randint(0, 2)):
            csr = request()
            assert await self._ask(csr, "", peer) == {node_id}
        self.last[node_id] = csr

    async def _ask(self, csr: str, token: str, peer: Identity | None) -> set[str]:
        tickets: list[str] = []
        wanted = self.rng.randint(1, 3)
        for _ in range(TRIES):
            await asyncio.sleep(self.rng.random() * 0.02)
            self.fleet.log.fail_next(self.rng.choice(FAULTS))
            try:
                tickets.append(await self.fleet.ask(csr, token, peer=peer))
            except ForbiddenError:
                assert not tickets, "a request that was taken down is never refused"
                return set()
            except UnavailableError:
                continue
            if len(tickets) == wanted:
                break
        assert tickets, "nobody ever answered"
        return set(tickets)


async def change_leaders(fleet: Fleet, hand: Hand, rng: Random) -> None:
    """Another server takes over now and then, once all that was proposed before is applied."""
    while True:
        await asyncio.sleep(0.01)
        fleet.server = fleet.new_server(hand)
        serving = asyncio.create_task(fleet.server.run())
        try:
            await asyncio.sleep(0.02 + rng.random() * 0.2)
        finally:
            serving.cancel()
            await asyncio.wait((serving,))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_request_is_one_node_and_a_use_counts_once_whatever_gets_lost(seed):
    rng, hand = Random(seed), Hand()
    hand.delay_s = 0.001

    async def story(fleet: Fleet) -> None:
        clients = Clients(fleet, rng)
        tokens = (fleet.tokens.worker, await extra_token(fleet, uses_max=USES))
        fleet.server = fleet.new_server(hand)
        leaders = asyncio.create_task(change_leaders(fleet, hand, rng))
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(clients.live(tokens[number % 2]))
        await asyncio.sleep(5)
        leaders.cancel()
        await asyncio.wait((leaders,))
        check(fleet, clients)

    play(story, hand)


def check(fleet: Fleet, clients: Clients) -> None:
    assert all(len(tickets) == 1 for tickets in clients.joins.values())
    told = sorted(node_id for tickets in clients.joins.values() for node_id in tickets)
    nodes = [node for node in fleet.store.view().nodes.all() if node.id != "manager"]
    assert sorted(node.id for node in nodes) == told
    assert len(told) == CLIENTS // 2 + USES
    assert clients.refused == CLIENTS // 2 - USES
    extra = fleet.store.view().join_tokens.get("extra")
    assert extra is not None
    assert extra.uses == USES == sum(node.spec.labels == {"zone": "a"} for node in nodes)
    for node in nodes:
        assert node.certificate.state == IssuanceState.ISSUED
        assert node.certificate.csr.decode() == clients.last[node.id]
        assert node.certificate.certificate.endswith(node.certificate.csr)
