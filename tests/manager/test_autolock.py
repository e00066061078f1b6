"""A manager's keys follow the swarm's lock: what is written, rotated and asked for, and again
after what went wrong."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from swarmlet.ca.key_file import new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.unlock_key import UNLOCKED, Kek, kek_of, unlock_keys_with
from swarmlet.core.errors import DiskFullError, LockedError, UnavailableError
from swarmlet.env.base import Env
from swarmlet.env.sealed import seal_key
from swarmlet.manager.autolock import KeyKeeper
from swarmlet.model.change import Update
from swarmlet.model.cluster import EncryptionConfig
from swarmlet.model.view import cluster_of
from tests.agent.virtual_time import START_MS, run_virtual, virtual_env
from tests.ca.swarm import Swarm
from tests.manager.control_world import new_swarm
from tests.sim.disk import SimDisk

FOLDER = "/data/certificates"


class World:
    """A manager's store and key files, and its keeper in front of a log that takes its time."""

    def __init__(self, kek=UNLOCKED):
        self.disk = SimDisk()
        self.files = NodeFiles(self.disk, FOLDER)
        self.env: Env = virtual_env(self.disk, 1)
        ca, key = Swarm(lambda: START_MS), new_key(self.env.entropy)
        self.keys = new_node_keys(key, b"r" * 32, b"n" * 32)
        chain = ca.signed(key.public_key(), "node1", "manager")
        self.files.write(ca.root.cert_pem, chain, self.keys, kek)
        self.rotated, self.reasons, self.fails = [], [], []
        self.store = None

    async def rotate(self, key):
        await asyncio.sleep(1)
        if self.fails:
            raise self.fails.pop(0)
        self.rotated.append(key)

    @asynccontextmanager
    async def running(self):
        if self.store is None:
            self.store = (await new_swarm()).store
        keeper = KeyKeeper(
            self.env, self.store, self.files, rotate=self.rotate, renew=self.reasons.append
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(keeper.run())
            yield
            task.cancel()

    async def lock(self, key):
        """With `key`, or not any more where it is empty."""
        row = cluster_of(self.store.view())
        spec = replace(row.spec, encryption_config=EncryptionConfig(auto_lock_managers=bool(key)))
        changed = replace(row, spec=spec, unlock_keys=unlock_keys_with(key))
        await self.store.commit([Update(obj=changed, seen=row.version)])

    def now(self):
        return self.files.read()[2]


def play(world, story):
    async def main():
        async with world.running():
            await story()

    run_virtual(main())


def test_lock_seals_the_keys_rotates_the_data_key_and_asks_for_a_certificate():
    world = World()

    async def story():
        await asyncio.sleep(10)
        assert (world.rotated, world.reasons) == ([], [])
        await world.lock(b"1" * 32)
        await asyncio.sleep(0.5)
        assert world.disk.plaintext_contains(b"PRIVATE KEY") == []
        keys = world.now()
        assert keys.raft_dek_pending not in (b"", keys.raft_dek)  # durable before it is used
        await asyncio.sleep(10)
        assert world.rotated == [seal_key(keys.raft_dek_pending)]
        assert world.reasons == ["its key was on the disk in the clear"]
        assert world.now() == replace(
            world.keys, raft_dek=keys.raft_dek_pending, tls_key_needs_rotation=True
        )

    play(world, story)
    with pytest.raises(LockedError):
        NodeFiles(world.disk, FOLDER).read()


def test_another_unlock_key_seals_again_and_rotates_nothing():
    world = World(Kek(key=b"0" * 32, version=1))

    async def story():
        for key in (b"1" * 32, b"2" * 32):
            await world.lock(key)
            await asyncio.sleep(1)
            NodeFiles(world.disk, FOLDER).unlock(key)
        await world.lock(b"")
        await asyncio.sleep(1)
        assert NodeFiles(world.disk, FOLDER).read()[2] == world.keys
        assert (world.rotated, world.reasons) == ([], [])

    play(world, story)


def test_many_changes_at_once_end_with_the_last():
    world = World()

    async def story():
        for number in range(9):
            await world.lock(bytes([number]) * 32 if number % 3 else b"")
        await asyncio.sleep(60)
        kek = kek_of(cluster_of(world.store.view()))
        files = NodeFiles(world.disk, FOLDER)
        files.unlock(kek.key)
        assert files.read()[2] == world.now()
        assert not world.now().raft_dek_pending

    play(world, story)


def test_start_goes_on_with_a_rotation_that_was_interrupted():
    world = World()
    world.files.change_keys(lambda keys: replace(keys, raft_dek_pending=b"p" * 32))

    async def story():
        await asyncio.sleep(10)
        assert world.rotated == [seal_key(b"p" * 32)]
        assert world.now() == replace(world.keys, raft_dek=b"p" * 32)

    play(world, story)


def test_start_begins_what_a_crash_left_to_be_done():
    world = World()
    world.files.take_kek(Kek(key=b"1" * 32, version=1))

    async def story():
        await world.lock(b"1" * 32)
        await asyncio.sleep(10)
        assert len(world.rotated) == len(world.reasons) == 1
        assert world.now().raft_dek not in (b"", world.keys.raft_dek)

    play(world, story)


def test_full_disk_and_a_log_that_cannot_are_tried_again(caplog):
    world = World()
    world.fails = [DiskFullError("There is no room."), UnavailableError("Not now.")]

    async def story():
        world.disk.error_at(0, DiskFullError("There is no room left."))
        await world.lock(b"1" * 32)
        await asyncio.sleep(60)
        assert len(world.rotated) == 1
        NodeFiles(world.disk, FOLDER).unlock(b"1" * 32)

    play(world, story)
    told = [record for record in caplog.records if record.message == "autolock.not_yet"]
    assert [record.step for record in told] == ["lock", "keys", "keys"]
