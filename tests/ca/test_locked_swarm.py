"""Becoming a manager of a swarm that locks them, and being none any more."""

import asyncio
from random import Random

import pytest

from swarmlet.ca.key_file import KekHolder
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.unlock_key import Kek
from swarmlet.core.errors import DiskFullError, LockedError, UnavailableError
from tests.agent.virtual_time import run_virtual
from tests.ca.test_enrolment import A
from tests.ca.test_enrolment import World as Joining
from tests.ca.worker import HOUR_S
from tests.ca.worker import World as Member
from tests.sim.disk import WHERES, SimCrash

FOLDER = "/data/certificates"
KEK = Kek(key=b"k" * 32, version=9)


def locked_swarm():
    world = Joining()
    world.swarm.kek, world.swarm.token_role = KEK, "manager"
    return world


def opened(disk, key=KEK.key):
    files = NodeFiles(disk, FOLDER)
    files.unlock(key)
    return files


def test_manager_that_joins_is_locked_before_it_is_a_manager():
    world = locked_swarm()
    seen = []

    async def told_key(addr, credentials):
        seen.append((addr, world.disk.exists(f"{FOLDER}/swarm-node.crt")))
        before.append(NodeFiles(world.disk, FOLDER).pending())
        return await told(addr, credentials)

    before, told = [], world.link.unlock_key
    world.link.unlock_key = told_key
    enrolled = world.join()
    assert enrolled.own.identity.role == "manager"
    assert seen == [(A, False)]
    with pytest.raises(LockedError):
        NodeFiles(world.disk, FOLDER).read()
    keys = opened(world.disk).read()[2]
    assert keys.tls_key_needs_rotation
    assert world.disk.plaintext_contains(b"PRIVATE KEY") == []
    assert keys.tls_key_pem == before[0].tls_key_pem
    assert keys.raft_dek != before[0].raft_dek  # those were on the disk in the clear
    assert keys.node_dek != before[0].node_dek


def test_manager_that_joins_an_open_swarm_and_a_worker_of_a_locked_one_stay_open():
    for role, kek in (("manager", Kek(version=9)), ("worker", KEK)):
        world = locked_swarm()
        world.swarm.token_role, world.swarm.kek = role, kek
        world.join()
        assert NodeFiles(world.disk, FOLDER).read()
        assert world.swarm.calls.count("unlock_key") == (role == "manager")


def test_join_waits_for_the_key_and_is_no_manager_before():
    world = locked_swarm()
    world.swarm.fails["unlock_key"] = [UnavailableError("Nobody leads.")] * 5

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        with pytest.raises(UnavailableError, match="Nobody leads"):
            await enrolment.run()
        assert not world.disk.exists(f"{FOLDER}/swarm-node.crt")
        return await enrolment.run()

    assert run_virtual(main()).own.identity.role == "manager"
    assert opened(world.disk).read()


def resumed(world, seed):
    """The join after a restart; the user has the key where it is needed."""
    disk, env_seed = world.disk, seed + 10

    async def main():
        enrolment = world.enrolment(env_seed)
        try:
            joining = await enrolment.resume()
        except LockedError:
            enrolment._files.unlock(KEK.key)
            joining = await enrolment.resume()
        if joining is None:
            NodeFiles(disk, FOLDER).drop_pending()
            await enrolment.begin(world.joining())
        return await enrolment.run()

    return run_virtual(main())


@pytest.mark.parametrize("where", WHERES)
def test_power_cut_at_any_disk_operation_of_a_locked_join_makes_one_locked_manager(where):
    whole = locked_swarm()
    whole.join()
    for operation in range(whole.disk.operations):
        world = locked_swarm()
        world.disk.fail_at(operation, where)
        with pytest.raises(SimCrash):
            world.join()
        world.disk.crash(Random(operation))
        enrolled = resumed(world, operation)
        nodes = sorted(set(world.swarm.rows) - {"manager1"})
        assert nodes == [enrolled.own.identity.node_id], operation
        assert opened(world.disk).own_identity().identity == enrolled.own.identity
        with pytest.raises(LockedError):
            NodeFiles(world.disk, FOLDER).read()


# Promotion and demotion --------------------------------------------------------------------------


def promote(world, role="manager"):
    async def story():
        world.swarm.rows["node1"].role = role
        world.renewer.heed(world.info(role=role))
        await asyncio.sleep(HOUR_S)

    world.start(len(world.swarm.calls) + 1)
    world.run(story)


def test_promoted_worker_is_locked_and_demoted_again_it_is_open():
    world = Member()
    world.swarm.kek = KEK
    before = world.files.read()[2]
    promote(world)
    assert world.own.identity.role == "manager"
    with pytest.raises(LockedError):
        NodeFiles(world.disk, FOLDER).read()
    keys = opened(world.disk).read()[2]
    assert keys.tls_key_needs_rotation
    assert (keys.node_dek, keys.raft_dek != before.raft_dek) == (before.node_dek, True)
    promote(world, "worker")
    assert world.own.identity.role == "worker"
    open_again = NodeFiles(world.disk, FOLDER).read()[2]
    assert open_again.node_dek == before.node_dek
    assert open_again.raft_dek not in (keys.raft_dek, before.raft_dek)
    assert not open_again.tls_key_needs_rotation


def test_promotion_waits_for_the_key():
    world = Member()
    world.swarm.kek = KEK
    world.swarm.fails["unlock_key"] = [UnavailableError("Nobody leads.")] * 3
    promote(world)
    assert world.own.identity.role == "manager"
    assert world.swarm.calls.count("unlock_key") == 4
    assert world.swarm.calls.count("request") <= 2  # what was issued is picked up
    assert opened(world.disk).read()


def test_renewal_of_a_locked_manager_stays_locked_and_ends_the_mark():
    world = Member()
    world.swarm.kek = KEK
    promote(world)

    async def story():
        world.renewer.force("a test")
        await asyncio.sleep(60)

    old = opened(world.disk).read()[2]
    world.start(99)
    world.run(story)
    new = opened(world.disk).read()[2]
    assert new.tls_key_pem != old.tls_key_pem
    assert (old.tls_key_needs_rotation, new.tls_key_needs_rotation) == (True, False)
    assert (new.raft_dek, new.node_dek) == (old.raft_dek, old.node_dek)
    assert world.disk.plaintext_contains(b"PRIVATE KEY") == []


@pytest.mark.parametrize("role", ["manager", "worker"])
def test_full_disk_while_a_role_changes_costs_time_alone(role):
    for operation in range(12):
        world = Member()
        world.swarm.kek = KEK
        if role == "worker":
            promote(world)
        world.disk.error_at(operation, DiskFullError("There is no room left."))
        promote(world, role)
        assert world.own.identity.role == role
        held = KekHolder()
        files = NodeFiles(world.disk, FOLDER, held)
        files.unlock(KEK.key)
        assert files.own_identity().identity == world.own.identity
        assert held.kek.locks is (role == "manager")
