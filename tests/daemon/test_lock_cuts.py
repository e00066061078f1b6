"""The power goes while a swarm's lock changes, at each operation of a manager's disk: what is left
opens with the key before or after it, has every acknowledged write, and ends sealed as asked."""

import asyncio
from random import Random

import pytest
from msgspec.structs import replace

from swarmlet.api.engine import InitRequest
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.unlock_key import WrongKeyError, kek_of
from swarmlet.core.errors import SwarmError
from swarmlet.env.sealed import seal_key
from swarmlet.model.cluster import EncryptionConfig, SwarmSpec
from swarmlet.model.config import ConfigSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.view import cluster_of
from tests.daemon.sim_nodes import PORT, SimNode
from tests.sim.disk import SimCrash
from tests.sim.loop import SimClock, run_sim
from tests.sim.world import DATA
from tests.wire.memory_link import MemoryNet

SETTLE_S = 5.0  # the lock, the DEK's rotation and the renewal are done by then
MARK = b"payload-that-nobody-may-read"


def spec(*, locks):
    return complete_swarm(SwarmSpec(encryption_config=EncryptionConfig(auto_lock_managers=locks)))


class Manager(SimNode):
    """The only one of its swarm. `keys`: all unlock keys there ever were, oldest first."""

    def __init__(self, clock):
        super().__init__(MemoryNet(), "m.x", clock)
        self.keys, self.deks = [], []

    async def found(self, *, locks):
        await self.engine.init_swarm(
            InitRequest(spec=spec(locks=locks), listen_addr=f"{self.host}:{PORT}")
        )
        self.note()

    async def update(self, *, locks, rotates=False):
        control = self.engine.control()
        await control.update_cluster(
            self.cluster.version,
            replace(
                self.cluster.spec, encryption_config=EncryptionConfig(auto_lock_managers=locks)
            ),
            rotate_worker_token=False,
            rotate_manager_token=False,
            rotate_unlock_key=rotates,
        )

    async def write(self, name):
        await self.engine.control().create_config(ConfigSpec(name=name, data=MARK))

    def names(self):
        return [one.spec.name for one in self.member.store.view().configs.all()]

    @property
    def cluster(self):
        return cluster_of(self.member.store.view())

    def note(self):
        """What can be known of keys in this process."""
        found = [self.engine._host.kek.kek.key]
        if self.member is not None:
            found += [kek_of(row).key for row in self.member.store.view().clusters.all()]
        self.keys = list(dict.fromkeys([*self.keys, *filter(None, found)]))

    def secrets(self):
        keys = self.engine._host.node_files().read()[2]
        self.deks += [dek for dek in (keys.raft_dek, keys.raft_dek_pending) if dek]

    async def up_again(self, seed):
        """After the power cut; unlocked with the one key that fits, where it is locked."""
        await self.kill()
        self.disk.crash(Random(f"{seed}/cut"))
        await self.start()
        if self.state.state == "locked":
            await self.unlock()

    async def unlock(self):
        fitting = []
        for key in self.keys:
            try:
                NodeFiles(self.disk, f"{DATA}/certificates").unlock(key)
            except WrongKeyError:
                with pytest.raises(WrongKeyError):
                    await self.engine.unlock_swarm(key)
                assert self.state.state == "locked"
            else:
                fitting.append(key)
        assert len(fitting) == 1
        await self.engine.unlock_swarm(fitting[0])
        await self.until("active")


async def cut(node, step, operation, where):
    """Whether the power went during `step`, or in what follows from it."""
    node.disk.fail_at(operation, where)
    acting = asyncio.ensure_future(step())
    await asyncio.wait((acting, node._task), return_when=asyncio.FIRST_COMPLETED)
    if not node.disk.is_dead:
        await asyncio.wait((node._task,), timeout=SETTLE_S)
    if not node.disk.is_dead:
        node.disk.fail_at(10**9)
        await acting
        return False
    acting.cancel()
    await asyncio.wait((acting,))
    if not acting.cancelled():
        assert isinstance(acting.exception(), SimCrash | SwarmError | BaseExceptionGroup | None)
    return True


def check_sealed(node):
    """The disk says what the swarm asks for, and nothing else."""
    kek, files = kek_of(node.cluster), NodeFiles(node.disk, f"{DATA}/certificates")
    if kek.locks:
        assert node.disk.plaintext_contains(b"PRIVATE KEY") == []
        files.unlock(kek.key)
    keys = files.read()[2]
    assert not keys.raft_dek_needs_rotation
    assert not keys.raft_dek_pending
    assert not keys.tls_key_needs_rotation
    for secret in (MARK, keys.tls_key_pem, keys.raft_dek, keys.node_dek, *node.keys):
        found = node.disk.plaintext_contains(secret)
        assert found == [] or (not kek.locks and "swarm-node.key" in found[0])
    if kek.locks and node.deks:
        assert keys.raft_dek not in node.deks  # those were on the disk in the clear
        for dek in node.deks:
            assert node.disk.plaintext_contains(seal_key(dek).key_id) == []


def play(story):
    clock = SimClock()

    async def whole():
        node = Manager(clock)
        await node.start()
        await story(node)
        await node.stop()

    run_sim(clock, whole())


STEPS = {
    "enabling": (False, {"locks": True}),
    "rotation": (True, {"locks": True, "rotates": True}),
    "disabling": (True, {"locks": False}),
}


@pytest.mark.parametrize("where", ["before", "half", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_power_cut_at_any_operation_of_a_change_of_the_lock_loses_nothing(name, where):
    locks, change = STEPS[name]
    cuts, operation = 0, 0
    while operation == cuts:

        async def story(node, operation=operation):
            nonlocal cuts
            await node.found(locks=locks)
            await node.write("before")
            if not locks:
                node.secrets()
            acknowledged = []

            async def step():
                await node.update(**change)
                node.note()
                acknowledged.append(change)
                await node.write("behind")
                acknowledged.append("behind")

            was_cut = await cut(node, step, operation, where)
            node.note()
            if was_cut:
                cuts += 1
                await node.up_again(operation)
                assert "before" in node.names()
                assert not acknowledged or kek_of(node.cluster).locks is change["locks"]
                assert "behind" not in acknowledged or "behind" in node.names()
                if kek_of(node.cluster).locks is not change["locks"]:
                    await node.update(**change)
                node.note()
                await asyncio.sleep(SETTLE_S)
            check_sealed(node)
            await node.up_again("again")
            assert "before" in node.names()

        play(story)
        operation += 1
    assert cuts > 10


@pytest.mark.parametrize("where", ["before", "half", "after"])
def test_power_cut_at_any_operation_of_a_locked_founding_leaves_no_open_key(where):
    cuts, operation = 0, 0
    while operation == cuts:

        async def story(node, operation=operation):
            nonlocal cuts
            was_cut = await cut(node, lambda: node.found(locks=True), operation, where)
            assert node.disk.plaintext_contains(b"PRIVATE KEY") == []
            node.note()
            if was_cut:
                cuts += 1
                await node.up_again(operation)
                if node.state.state == "inactive":
                    await node.found(locks=True)
            node.note()
            await node.write("one")
            await asyncio.sleep(SETTLE_S)
            check_sealed(node)
            await node.up_again("again")
            assert node.names() == ["one"]

        play(story)
        operation += 1
    assert cuts > 20
