"""Signing: who waits gets a certificate, whatever happens in between."""

import asyncio

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import (
    FailedPreconditionError,
    ForbiddenError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.ids import NodeID
from swarmlet.manager.ca_signer import ROUND_MAX
from swarmlet.model.change import Update
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import IssuanceState, NodeSpec
from tests.agent.virtual_time import until
from tests.manager.authority_world import Fleet, play, request


class Hand:
    """Signs with the request's own bytes, or does what it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.problem: Exception | None = None
        self.delay_s = 0.0

    async def sign(self, _: Cluster, csr_pem: bytes, node_id: NodeID, role: str) -> bytes:
        self.calls.append(node_id)
        await asyncio.sleep(self.delay_s)
        if self.problem is not None:
            raise self.problem
        return b"chain of " + role.encode() + b" for " + csr_pem


def state_of(fleet: Fleet, node_id: str) -> int:
    return fleet.node(node_id).certificate.state


def test_signer_that_is_away_is_tried_again_every_ten_seconds_for_one_node_a_round():
    hand = Hand()
    hand.problem = UnavailableError("the external CA does not answer")

    async def story(fleet: Fleet) -> None:
        nodes = [await fleet.ask(request(), fleet.tokens.worker) for _ in range(5)]
        await asyncio.sleep(29)
        assert len(hand.calls) == 3
        assert {state_of(fleet, node) for node in nodes} == {IssuanceState.PENDING}
        status = await fleet.server.status(nodes[0])
        assert (status.state, status.chain) == (IssuanceState.PENDING, "")
        hand.problem = None
        await asyncio.sleep(11)
        assert {state_of(fleet, node) for node in nodes} == {IssuanceState.ISSUED}
        assert fleet.server.is_at_rest()

    play(story, hand)


def test_change_of_the_ca_is_reason_to_try_at_once():
    hand = Hand()
    hand.problem = UnavailableError("there is no key")

    async def story(fleet: Fleet) -> None:
        node = await fleet.ask(request(), fleet.tokens.worker)
        await asyncio.sleep(1)
        hand.problem = None
        cluster = fleet.cluster
        root = replace(cluster.root_ca, key_pem=b"another")
        await fleet.put(Update(obj=replace(cluster, root_ca=root), seen=cluster.version))
        await until(lambda: state_of(fleet, node) == IssuanceState.ISSUED, 1.0)

    play(story, hand)


def test_refusal_fails_the_node_which_may_ask_anew():
    hand = Hand()
    hand.problem = FailedPreconditionError("the external CA refuses to sign: policy")

    async def story(fleet: Fleet) -> None:
        csr, token = request(), fleet.tokens.worker
        node = await fleet.ask(csr, token)
        status = await fleet.server.status(node)
        assert (status.state, status.chain) == (IssuanceState.FAILED, "")
        assert status.err == "the external CA refuses to sign: policy"
        hand.problem = None
        assert await fleet.ask(csr, token) == node
        status = await fleet.server.status(node)
        assert (status.state, status.err) == (IssuanceState.ISSUED, "")
        assert len(hand.calls) == 2

    play(story, hand)


@pytest.mark.parametrize("role", ["manager", "nobody"])
def test_failed_node_needs_its_token_still_to_ask_anew(role):
    hand = Hand()
    hand.problem = FailedPreconditionError("policy")

    async def story(fleet: Fleet) -> None:
        csr = request()
        node = await fleet.ask(csr, fleet.tokens.worker)
        await fleet.server.status(node)
        other = fleet.tokens.manager
        token = other if role == "manager" else other[:-25] + "0" * 25
        for _ in range(20):
            with pytest.raises((ForbiddenError, UnauthorizedError)):
                await fleet.ask(csr, token)
        with pytest.raises(UnavailableError, match="Try again in"):
            await fleet.ask(csr, token)
        assert state_of(fleet, node) == IssuanceState.FAILED

    play(story, hand)


def test_node_whose_row_others_write_meanwhile_gets_its_certificate_and_they_keep_their_word():
    hand = Hand()
    hand.delay_s = 0.5

    async def story(fleet: Fleet) -> None:
        node = await fleet.ask(request(), fleet.tokens.worker)
        for turn in range(60):
            await fleet.change_node(node, spec=NodeSpec(role="worker", labels={"turn": str(turn)}))
            await asyncio.sleep(0.01)
        await until(lambda: state_of(fleet, node) == IssuanceState.ISSUED, 1.0)
        assert fleet.node(node).spec.labels == {"turn": "59"}
        assert len(hand.calls) == 1

    play(story, hand)


def test_request_that_comes_while_another_of_the_node_is_signed_is_the_one_that_counts():
    hand = Hand()

    async def story(fleet: Fleet) -> None:
        node = fleet.node("manager")
        hand.delay_s = 0.5
        own = fleet.server.source_of(node.id)
        await own.request(b"first")
        await asyncio.sleep(0.1)
        await own.request(b"second")
        await until(lambda: state_of(fleet, "manager") == IssuanceState.ISSUED, 5.0)
        assert fleet.node("manager").certificate.certificate == b"chain of manager for second"
        assert hand.calls == ["manager", "manager"]

    play(story, hand)


@pytest.mark.parametrize("fault", ["lost", "unknown", "late", "full"])
def test_certificate_that_may_not_be_written_is_written_later(fault):
    hand = Hand()

    async def story(fleet: Fleet) -> None:
        hand.delay_s = 0.5
        node = await fleet.ask(request(), fleet.tokens.worker)
        fleet.log.fail_next(fault)
        await until(lambda: state_of(fleet, node) == IssuanceState.ISSUED, 5.0)
        await asyncio.sleep(5)
        assert fleet.server.is_at_rest()
        assert hand.calls == [node]

    play(story, hand)


def test_new_leader_signs_what_the_last_one_left():
    hand = Hand()
    hand.problem = UnavailableError("nobody can")

    async def story(fleet: Fleet) -> None:
        node = await fleet.ask(request(), fleet.tokens.worker)
        await asyncio.sleep(1)
        hand.problem = None
        leading = asyncio.create_task(fleet.new_server(Hand()).run())
        await until(lambda: state_of(fleet, node) == IssuanceState.ISSUED, 5.0)
        leading.cancel()

    play(story, hand)


def test_only_nodes_that_ask_are_looked_at():
    hand = Hand()

    async def story(fleet: Fleet) -> None:
        nodes = [await fleet.ask(request(), fleet.tokens.worker) for _ in range(3 * ROUND_MAX)]
        await until(fleet.server.is_at_rest, 5.0)
        assert sorted(hand.calls) == sorted(nodes)
        for node in nodes:
            await fleet.change_node(node, spec=NodeSpec(role="worker", labels={"a": "b"}))
        assert len(hand.calls) == len(nodes)

    play(story, hand)


def test_waiting_for_a_status_ends_with_the_leaders_reign():
    hand = Hand()
    hand.problem = UnavailableError("nobody can")

    async def story(fleet: Fleet) -> None:
        node = await fleet.ask(request(), fleet.tokens.worker)
        other = fleet.new_server(hand)
        leading = asyncio.create_task(other.run())
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(other.status(node))
        await asyncio.sleep(0.1)
        leading.cancel()
        with pytest.raises(UnavailableError, match="does not lead"):
            await asyncio.wait_for(waiting, 0.1)

    play(story, hand)
