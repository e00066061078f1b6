"""Several managers of one locked swarm, on virtual time: they are locked together, join, change
their roles, sleep through a rotation, and come back with the key they went with."""

import asyncio
from random import Random

import pytest
from msgspec.structs import replace

from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.unlock_key import WrongKeyError, kek_of
from swarmlet.core.errors import LockedError, SwarmError
from swarmlet.model.cluster import EncryptionConfig
from swarmlet.model.view import cluster_of
from tests.daemon.sim_nodes import run_managers
from tests.daemon.test_managers import set_role, until, write
from tests.sim.disk import SimCrash
from tests.sim.world import DATA

CUTS = 90  # operations of a join of a manager, and of the first seconds


async def lock(swarm, *, locks=True, rotates=False):
    """The unlock key from now on."""
    control = swarm.leader.engine.control()
    row = cluster_of(await control.read())
    spec = replace(row.spec, encryption_config=EncryptionConfig(auto_lock_managers=locks))
    await control.update_cluster(
        row.version,
        spec,
        rotate_worker_token=False,
        rotate_manager_token=False,
        rotate_unlock_key=rotates,
    )
    return kek_of(cluster_of(await control.read())).key


def keys_on(node, unlock_key=b""):
    files = NodeFiles(node.disk, f"{DATA}/certificates")
    if unlock_key:
        files.unlock(unlock_key)
    return files.read()[2]


def is_locked(node, unlock_key):
    """With this key, and nothing in use that was in the clear before."""
    try:
        keys = keys_on(node, unlock_key)
    except WrongKeyError:
        return False
    waits = keys.raft_dek_needs_rotation or keys.raft_dek_pending or keys.tls_key_needs_rotation
    return not waits and not node.disk.plaintext_contains(b"PRIVATE KEY")


async def restart(node):
    await node.lose()
    await node.start()


def test_managers_are_locked_together_and_each_needs_the_key():
    async def story(clock, swarm):
        clear = [keys_on(node) for node in swarm.nodes]
        key = await lock(swarm)
        await until(lambda: all(is_locked(node, key) for node in swarm.nodes))
        for node, before in zip(swarm.nodes, clear, strict=True):
            keys = keys_on(node, key)
            assert keys.raft_dek != before.raft_dek
            assert keys.tls_key_pem != before.tls_key_pem
            assert node.disk.plaintext_contains(before.raft_dek) == []
        for node in swarm.nodes:
            await restart(node)
            assert node.state.state == "locked"
            with pytest.raises(LockedError):
                node.engine.control()
            with pytest.raises(WrongKeyError):
                await node.engine.unlock_swarm(bytes(32))
            await node.engine.unlock_swarm(key)
            await node.until("active")
        await write(swarm.leader)

    run_managers(3, story, limit_s=300)


def test_manager_that_slept_through_a_rotation_opens_with_its_old_key_and_takes_the_new_one():
    async def story(clock, swarm):
        old = await lock(swarm)
        await until(lambda: all(is_locked(node, old) for node in swarm.nodes))
        sleeper = next(one for one in swarm.nodes if one is not swarm.leader)
        await sleeper.lose()
        new = await lock(swarm, rotates=True)
        assert new != old
        await sleeper.start()
        with pytest.raises(WrongKeyError):
            await sleeper.engine.unlock_swarm(new)
        assert sleeper.state.state == "locked"
        await sleeper.engine.unlock_swarm(old)
        await until(lambda: is_locked(sleeper, new))
        await sleeper.lose()
        assert await lock(swarm, locks=False) == b""
        await sleeper.start()
        await sleeper.engine.unlock_swarm(new)
        await until(lambda: sleeper.disk.plaintext_contains(b"PRIVATE KEY") != [])
        await asyncio.sleep(1)
        await restart(sleeper)
        await sleeper.until("active")

    run_managers(3, story, limit_s=300)


def test_roles_that_change_in_a_locked_swarm_lock_and_unlock():
    async def story(clock, swarm):
        key, worker = await lock(swarm), swarm[1]
        await worker.join(swarm[0])
        assert keys_on(worker)
        await set_role(swarm[0], worker, "manager")
        await until(lambda: worker.engine.forwarder() is not None)
        await until(lambda: is_locked(worker, key))
        await restart(worker)
        assert worker.state.state == "locked"
        await worker.engine.unlock_swarm(key)
        await worker.until("active")
        await set_role(swarm[0], worker, "worker")
        await until(lambda: worker.member is None)
        await asyncio.sleep(1)
        await restart(worker)
        await worker.until("active")
        assert keys_on(worker)
        assert worker.disk.list_dir(f"{DATA}/raft") == []

    run_managers(1, story, limit_s=300, others=1)


@pytest.mark.parametrize("where", ["before", "after"])
def test_power_cut_anywhere_in_a_join_of_a_locked_manager_makes_one_locked_manager(where):
    cuts = locked = 0

    for operation in range(0, CUTS, 2):

        async def story(clock, swarm, operation=operation):
            nonlocal cuts, locked
            key, node = await lock(swarm), swarm[1]
            node.disk.fail_at(operation, where)
            try:
                await node.join(swarm[0], "manager")
                await asyncio.sleep(3)
            except (SimCrash, SwarmError, BaseExceptionGroup):
                assert node.disk.is_dead
            if node.disk.is_dead:
                cuts += 1
                await node.lose_power(Random(operation))
                await node.start()
                if node.state.state == "locked":
                    locked += 1
                    await node.engine.unlock_swarm(key)
                if node.state.state == "inactive":
                    await node.join(swarm[0], "manager")
            node.disk.fail_at(10**9)
            await node.until("active")
            await until(lambda: is_locked(node, key))
            view = await swarm[0].engine.control().read()
            managers = [row.id for row in view.nodes.all() if row.role == "manager"]
            assert sorted(managers) == sorted([swarm[0].state.node_id, node.state.node_id])

        run_managers(1, story, limit_s=300, others=1)
    assert cuts > locked > 10
