"""What a node makes of the CA's answers: wrong, late, and lost ones."""

import asyncio
from random import Random

import pytest

from swarmlet.ca.keys import key_from_pem
from swarmlet.core.errors import (
    DiskFullError,
    SwarmError,
    UnavailableError,
)
from swarmlet.model.node import IssuanceState
from tests.agent.virtual_time import run_virtual
from tests.ca.swarm import Swarm
from tests.ca.worker import DAY_MS, World
from tests.sim.disk import WHERES, SimCrash


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w, row: setattr(row, "chain", other_node(w)), "for another node"),
        (lambda w, row: setattr(row, "chain", other_swarm(w)), "not signed by this swarm's root"),
        (lambda w, row: setattr(row, "chain", other_key(w)), "for another key"),
        (lambda w, row: setattr(row, "chain", other_role(w)), "does not say worker"),
        (lambda w, row: setattr(row, "chain", "junk"), "cannot be read"),
    ],
)
def test_certificate_that_is_not_this_nodes_is_not_taken(spoil, words):
    world = World()
    before, status = world.own.credentials, world.swarm.status

    def spoilt(node_id):
        status(node_id)
        spoil(world, world.swarm.rows[node_id])
        return status(node_id)

    world.swarm.status = spoilt
    with pytest.raises(SwarmError, match=words):
        run_virtual(world.renewer.renew())
    assert world.own.credentials is before
    assert world.files.read()[1] == before.chain_pem
    assert world.files.pending() is None
    world.swarm.status = status
    run_virtual(world.renewer.renew())
    assert world.files.read()[1] == world.own.credentials.chain_pem != before.chain_pem


def key_asked_for(world):
    return key_from_pem(world.files.pending().tls_key_pem).public_key()


def other_node(world):
    return world.swarm.signed(key_asked_for(world), "node2", "worker").decode()


def other_swarm(world):
    other = Swarm(world.true.wall_ms, seed=5)
    return other.signed(key_asked_for(world), "node1", "worker").decode()


def other_key(world):
    return world.own.credentials.chain_pem.decode()


def other_role(world):
    return world.swarm.signed(key_asked_for(world), "node1", "manager").decode()


def test_certificate_that_is_not_valid_yet_is_not_taken_and_another_is_asked_for():
    """Whoever signed it has a clock that is ahead, and this node would be refused everywhere."""
    world = World()
    before = world.own.credentials
    world.true.skew_ms = DAY_MS
    with pytest.raises(SwarmError, match="only valid from"):
        run_virtual(world.renewer.renew())
    assert world.own.credentials is before
    assert world.files.read()[1] == before.chain_pem
    world.true.skew_ms = 0
    run_virtual(world.renewer.renew())
    assert world.swarm.calls.count("request") == 2
    assert world.own.identity.begins_ms <= world.clock.wall_ms()


def test_refused_signature_is_asked_for_with_a_new_key():
    world = World()
    world.swarm.is_signing = False
    taken_down = world.swarm.taken_down

    def fails(csr, node_id):
        taken_down(csr, node_id)
        world.swarm.rows[node_id].state = IssuanceState.FAILED
        world.swarm.rows[node_id].err = "no"
        return node_id

    world.swarm.taken_down = fails
    with pytest.raises(SwarmError, match="signed no certificate: no"):
        run_virtual(world.renewer.renew())
    refused = world.swarm.rows["node1"].csr
    world.swarm.taken_down, world.swarm.is_signing = taken_down, True
    run_virtual(world.renewer.renew())
    assert world.swarm.rows["node1"].csr != refused


def test_signature_that_does_not_come_is_picked_up_later():
    world = World()
    world.swarm.is_signing = False
    with pytest.raises(UnavailableError, match="has not signed"):
        run_virtual(world.renewer.renew())
    world.swarm.is_signing = True
    run_virtual(world.renewer.renew())
    assert world.swarm.calls.count("request") == 1
    assert world.files.pending() is None


def test_lost_answer_is_picked_up_so_that_the_last_issued_certificate_is_the_nodes():
    world = World()
    world.swarm.loses_answers = True
    with pytest.raises(UnavailableError, match="got lost"):
        run_virtual(world.renewer.renew())
    world.swarm.loses_answers = False
    world.start(seed=7)
    run_virtual(world.renewer.renew())
    row = world.swarm.rows["node1"]
    assert world.own.credentials.chain_pem.decode() == row.chain
    assert world.swarm.calls.count("request") == 1


def test_certificate_picked_up_long_after_is_replaced_at_once():
    world = World()
    world.swarm.loses_answers = True
    with pytest.raises(UnavailableError, match="got lost"):
        run_virtual(world.renewer.renew())
    world.swarm.loses_answers = False
    world.clock.skew_ms = world.true.skew_ms = 120 * DAY_MS
    run_virtual(world.renewer.renew())
    assert world.clock.wall_ms() < world.own.identity.ends_ms
    assert world.on_disk() == world.own.identity


def test_damaged_pending_key_is_replaced():
    world = World()
    world.files.write_pending(world.files.read()[2])
    world.disk.damage("/data/certificates/swarm-node.key.pending", 0, b"####")
    run_virtual(world.renewer.renew())
    assert world.on_disk() == world.own.identity


def renewal_operations():
    world = World()
    before = world.disk.operations
    run_virtual(world.renewer.renew())
    return world.disk.operations - before


@pytest.mark.parametrize("where", WHERES)
def test_power_cut_at_any_operation_of_a_renewal_leaves_the_last_issued_certificate(where):
    for operation in range(renewal_operations()):
        for seed in range(3):
            world = World()
            world.disk.fail_at(operation, where)
            with pytest.raises(SimCrash):
                run_virtual(world.renewer.renew())
            world.disk.crash(Random(f"{operation}/{seed}"))
            world.start(seed=9)
            issued = world.swarm.rows["node1"].chain
            before_key = world.own.credentials.key_pem
            if world.own.credentials.chain_pem.decode() != issued:
                run_virtual(world.renewer.renew())
                assert world.own.credentials.key_pem != before_key
            assert world.own.credentials.chain_pem.decode() == world.swarm.rows["node1"].chain
            assert world.on_disk() == world.own.identity


def test_full_disk_or_broken_one_only_delays_a_renewal():
    for operation in range(renewal_operations()):
        for error in (DiskFullError("no room"), None):
            world = World()
            world.disk.error_at(operation, error)

            async def story(world=world):
                world.renewer.force("test")
                await asyncio.sleep(60)

            world.run(story)
            assert world.on_disk() == world.own.identity
            assert world.own.credentials.chain_pem.decode() == world.swarm.rows["node1"].chain
