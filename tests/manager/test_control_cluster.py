"""The swarm's settings, its tokens and its nodes through the API's verbs."""

import pytest
from msgspec.structs import replace

from swarmlet.ca.unlock_key import kek_of
from swarmlet.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleVersionError,
    UnsupportedError,
)
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.manager.control import accepted_swarm
from swarmlet.manager.control.nodes import ORPHANED_MESSAGE
from swarmlet.model.change import Create
from swarmlet.model.cluster import CAConfig, EncryptionConfig, OrchestrationConfig, SwarmSpec
from swarmlet.model.defaults import complete_swarm
from swarmlet.model.node import NodeSpec
from swarmlet.model.task import TaskState
from swarmlet.model.view import cluster_of
from tests.manager.control_world import SELF, new_swarm, task_of, worker
from tests.store.worlds import START_MS, service, spec

DAY_MS = 24 * 3_600 * 1_000


async def update(swarm, given, *, version=None, worker=False, manager=False, unlock=False):
    current = cluster_of(swarm.view).version
    await swarm.control.update_cluster(
        current if version is None else version,
        given,
        rotate_worker_token=worker,
        rotate_manager_token=manager,
        rotate_unlock_key=unlock,
    )


# The swarm ---------------------------------------------------------------------------------------
async def test_swarm_spec_is_replaced_whole_and_zero_means_default():
    swarm = await new_swarm()
    labels = {"a": "b"}
    retention = OrchestrationConfig(task_history_retention_limit=2)
    await update(swarm, SwarmSpec(labels=labels, orchestration=retention))
    now = cluster_of(swarm.view).spec
    assert now.labels == labels
    assert now.orchestration == retention
    assert now.raft.snapshot_interval == 10_000
    await update(swarm, SwarmSpec(name="default"))
    assert cluster_of(swarm.view).spec.orchestration.task_history_retention_limit == 5
    assert cluster_of(swarm.view).spec.labels == {}


async def test_tokens_are_rotated_one_by_one():
    swarm = await new_swarm()
    first = cluster_of(swarm.view).root_ca
    await update(swarm, SwarmSpec(), worker=True)
    second = cluster_of(swarm.view).root_ca
    await update(swarm, SwarmSpec(), manager=True)
    third = cluster_of(swarm.view).root_ca
    assert first.tokens.worker != second.tokens.worker == third.tokens.worker
    assert first.tokens.manager == second.tokens.manager != third.tokens.manager
    assert third.tokens.manager.startswith(f"SWMTKN-1-{first.cert_digest}-")
    assert replace(third, tokens=first.tokens) == first


LOCKING = SwarmSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))


async def test_unlock_key_comes_with_autolock_is_rotated_and_goes_with_it(caplog):
    caplog.set_level("INFO", "swarmlet")
    swarm, keks = await new_swarm(), []
    for given, rotate in [
        (SwarmSpec(), True),  # there is none to rotate: nothing to refuse, as Docker
        (LOCKING, False),
        (LOCKING, False),
        (LOCKING, True),
        (SwarmSpec(), True),
        (LOCKING, False),
    ]:
        await update(swarm, given, unlock=rotate)
        keks.append(kek_of(cluster_of(swarm.view)))
    none, first, kept, rotated, gone, again = (kek.key for kek in keks)
    assert none == gone == b""
    assert len({first, rotated, again}) == 3
    assert kept == first
    assert {len(first), len(rotated), len(again)} == {32}
    assert [one.subsystem for one in cluster_of(swarm.view).unlock_keys] == ["swarm-manager"]
    versions = [kek.version for kek in keks]
    assert versions == sorted(set(versions))
    told = [record.change for record in caplog.records if record.message == "autolock.changed"]
    assert told == ["enabled", "rotated", "disabled", "enabled"]


async def test_update_of_an_old_version_rotates_no_unlock_key():
    swarm = await new_swarm()
    await update(swarm, LOCKING)
    before = cluster_of(swarm.view)
    with pytest.raises(StaleVersionError):
        await update(swarm, LOCKING, version=before.version - 1, unlock=True)
    assert cluster_of(swarm.view) is before


BAD_UPDATES = [
    (SwarmSpec(name="foo"), {}, InvalidArgumentError, 'swarm spec must be named "default"'),
    (SwarmSpec(), {"version": 1_000}, StaleVersionError, "update out of sequence"),
    (
        SwarmSpec(ca_config=CAConfig(node_cert_expiry=3_599 * 10**9)),
        {},
        InvalidArgumentError,
        "minimum certificate expiry time is: 1h0m0s",
    ),
    (SwarmSpec(ca_config=CAConfig(force_rotate=-1)), {}, InvalidArgumentError, "ForceRotate"),
]


@pytest.mark.parametrize(("given", "how", "error", "words"), BAD_UPDATES)
async def test_bad_update_of_the_swarm_is_refused_and_changes_nothing(given, how, error, words):
    swarm = await new_swarm()
    before = cluster_of(swarm.view)
    with pytest.raises(error, match=words):
        await update(swarm, given, **how)
    assert cluster_of(swarm.view) is before


def test_spec_of_a_new_swarm_is_judged_as_an_update_is():
    assert accepted_swarm(SwarmSpec()) == complete_swarm(SwarmSpec())
    with pytest.raises(UnsupportedError, match="its own root"):
        accepted_swarm(SwarmSpec(ca_config=CAConfig(signing_ca_cert="C", signing_ca_key="K")))
    with pytest.raises(InvalidArgumentError):
        accepted_swarm(SwarmSpec(name="foo"))


# Nodes -------------------------------------------------------------------------------------------
async def test_node_gets_name_labels_and_availability():
    swarm = await new_swarm()
    node = swarm.view.nodes.get(SELF)
    wanted = NodeSpec(name="n", labels={"zone": "a"}, role="manager", availability="drain")
    await swarm.control.update_node(SELF, node.version, wanted)
    now = swarm.view.nodes.get(SELF)
    assert now.spec == wanted
    assert replace(now, spec=node.spec, version=node.version, updated_ms=node.updated_ms) == node


async def test_bad_update_of_a_node_is_refused():
    swarm = await new_swarm()
    await swarm.put(worker("w1"))
    version = swarm.view.nodes.get(SELF).version
    good = NodeSpec(role="manager", availability="active")
    cases = [
        ("nope", version, good, NotFoundError, "node nope not found"),
        (SELF, version + 100, good, StaleVersionError, "update out of sequence"),
        (SELF, version, replace(good, availability="zzz"), InvalidArgumentError, '"zzz"'),
        (SELF, version, replace(good, role=""), InvalidArgumentError, "invalid Role"),
        (SELF, version, replace(good, role="worker"), FailedPreconditionError, "last manager"),
    ]
    before = swarm.view.index
    for ref, seen, spec_, error, words in cases:
        with pytest.raises(error, match=words):
            await swarm.control.update_node(ref, seen, spec_)
    assert swarm.view.index == before


@pytest.mark.parametrize("force", [False, True])
async def test_member_of_the_raft_group_cannot_be_removed(force):
    swarm = await new_swarm()
    with pytest.raises(FailedPreconditionError) as refused:
        await swarm.control.remove_node(SELF, force=force)
    assert refused.value.message == (
        f"node {SELF} is a cluster manager and is a member of the raft cluster. "
        "It must be demoted to worker before removal"
    )
    assert "leave --force" in refused.value.remedy


async def test_ready_node_is_removed_only_by_force():
    swarm = await new_swarm()
    await swarm.put(worker("w1", state=2), worker("w2", state=1))
    with pytest.raises(FailedPreconditionError) as refused:
        await swarm.control.remove_node("w1", force=False)
    assert refused.value.message == "node w1 is not down and can't be removed"
    await swarm.control.remove_node("w1", force=True)
    await swarm.control.remove_node("w2", force=False)
    assert [node.id for node in swarm.view.nodes.all()] == [SELF]


async def test_removed_node_leaves_orphans_and_a_refused_certificate():
    swarm = await new_swarm()
    await swarm.put(worker("w1", state=1), Create(obj=service()), Create(obj=spec()))
    await swarm.put(
        task_of("sa", "t1", node_id="w1", slot=1),
        task_of("sa", "t2", node_id="w1", slot=1, state=TaskState.FAILED),
        task_of("sa", "t3", node_id=SELF, slot=2),
    )
    await swarm.control.remove_node("w1", force=False)
    states = {task.id: task.status.state for task in swarm.view.tasks.all()}
    assert states == {"t1": TaskState.ORPHANED, "t2": TaskState.FAILED, "t3": TaskState.RUNNING}
    assert swarm.view.tasks.get("t1").status.message == ORPHANED_MESSAGE
    (removed,) = cluster_of(swarm.view).removed_certificates
    assert removed.node_id == "w1"
    assert removed.expires_ms == START_MS + (90 + 365) * DAY_MS


async def test_node_with_more_tasks_than_an_entry_holds_is_removed():
    swarm = await new_swarm()
    await swarm.put(worker("w1", state=1), Create(obj=service()), Create(obj=spec()))
    count = ENTRY_CHANGES_MAX + 5
    await swarm.store.batch(task_of("sa", f"t{n}", node_id="w1", slot=n) for n in range(count))
    await swarm.control.remove_node("w1", force=False)
    assert swarm.view.nodes.get("w1") is None
    assert swarm.view.tasks.count("state", int(TaskState.ORPHANED)) == count
