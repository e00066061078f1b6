"""A root rotation on the leader, with nodes that renew, are away, go and come."""

import asyncio

import pytest
from msgspec.structs import replace

from swarmlet.ca.join_token import cert_digest
from swarmlet.core.ids import ClusterID, JoinTokenID
from swarmlet.manager.root_rotation import ROUND_S, RootRotator, aim_of, issuer_of
from swarmlet.model.change import Create, Update
from swarmlet.model.cluster import Cluster, RootCA, RootRotation, SwarmSpec
from swarmlet.model.join_token import JoinToken
from swarmlet.model.node import IssuanceState, NodeState
from swarmlet.reconcile.ca_rotation import FAILED_PAUSE_S, Aim
from tests.agent.virtual_time import until
from tests.manager.rotating import Rotating, play, reporting

DAY_S = 86_400.0


def is_over(swarm: Rotating) -> bool:
    return swarm.cluster.root_ca.rotation is None


def test_hundred_nodes_are_asked_thirty_a_round_and_the_new_root_takes_its_place():
    async def story(swarm: Rotating):
        before, target = swarm.cluster.root_ca, swarm.new_root()
        token = JoinToken(id=JoinTokenID("extra"), role="worker", secret_hash=b"h")
        await swarm.put(Create(obj=token))
        began_s = swarm.env.clock.mono_s()
        await swarm.rotate(target, number=7)
        await until(lambda: is_over(swarm))
        after = swarm.cluster.root_ca
        assert (after.cert_pem, after.key_pem) == (target.cert_pem, target.key_pem)
        assert after.cert_digest == cert_digest(target.cert_pem)
        assert after.last_forced_rotation == 7
        for old, new in (
            (before.tokens.worker, after.tokens.worker),
            (before.tokens.manager, after.tokens.manager),
        ):
            assert new != old
            assert new.startswith(f"SWMTKN-1-{after.cert_digest}-")
        assert len(swarm.store.view().join_tokens) == 0
        assert swarm.asked == {f"n{number:03}": 1 for number in range(100)}
        assert per_round(swarm, began_s) == [30, 30, 30, 10]
        assert swarm.env.clock.mono_s() - began_s < 4 * ROUND_S

    play(100, story)


def per_round(swarm: Rotating, began_s: float) -> list[int]:
    counts: dict[int, int] = {}
    for at_s in swarm.rounds:
        number = round((at_s - began_s) / ROUND_S)
        counts[number] = counts.get(number, 0) + 1
    return [counts[number] for number in sorted(counts)]


def test_nothing_is_written_while_no_rotation_runs():
    async def story(swarm: Rotating):
        proposals = swarm.log.proposals
        await asyncio.sleep(DAY_S)
        assert swarm.log.proposals == proposals
        assert swarm.rotator.is_at_rest()
        assert swarm.rotator.gauges()["swarmlet_root_rotation"] == 0.0

    play(3, story)


def test_node_that_is_off_for_months_holds_the_old_root_until_it_is_back():
    async def story(swarm: Rotating):
        swarm.off.add("n001")
        target = swarm.new_root()
        await swarm.rotate(target)
        await until(lambda: swarm.shown_by(target) == 3)
        proposals = swarm.log.proposals
        await asyncio.sleep(90 * DAY_S)
        assert swarm.log.proposals == proposals
        assert swarm.cluster.root_ca.cert_pem == swarm.root.cert_pem
        assert swarm.cluster.root_ca.tokens.worker == "old-worker"
        assert swarm.node("n001").certificate.state == IssuanceState.ROTATE
        assert swarm.rotator.is_at_rest()
        assert swarm.rotator.gauges() == {
            "swarmlet_root_rotation": 1.0,
            "swarmlet_root_rotation_nodes_left": 1.0,
        }
        swarm.wake("n001")
        await until(lambda: is_over(swarm), 2 * ROUND_S)
        assert swarm.shown_by(target) == 4

    play(4, story)


def test_removing_the_node_that_is_waited_for_ends_the_rotation_at_once():
    async def story(swarm: Rotating):
        await swarm.put(Create(obj=reporting("silent", b"")))
        swarm.off.add("silent")
        target = swarm.new_root()
        await swarm.rotate(target)
        await until(lambda: swarm.shown_by(target) == 4)
        await asyncio.sleep(10 * ROUND_S)
        assert not is_over(swarm)
        await swarm.remove("silent")
        await until(lambda: is_over(swarm), 0.1)

    play(4, story)


def test_log_names_who_holds_a_rotation_up_and_not_too_often(caplog):
    async def story(swarm: Rotating):
        await swarm.put(
            Create(obj=reporting("silent", b"")),
            Create(obj=reporting("away", swarm.root.cert_pem, NodeState.DOWN)),
        )
        swarm.off.update(("silent", "away"))
        with caplog.at_level("INFO", logger="swarmlet.manager"):
            await swarm.rotate(swarm.new_root())
            await asyncio.sleep(10 * ROUND_S)
        (told,) = (line for line in caplog.records if line.message == "rotation.waiting")
        assert (told.silent, told.away, told.nodes) == (("silent",), ("away",), 42)

    play(40, story)


def test_next_leader_goes_on_where_the_last_one_stopped():
    async def main_story(swarm: Rotating):
        target = swarm.new_root()
        await swarm.rotate(target)
        await until(lambda: swarm.shown_by(target) >= 20)
        assert not is_over(swarm)
        second = RootRotator(swarm.store, swarm.env)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(second.run())
            await until(lambda: is_over(swarm))
            running.cancel()
        assert swarm.shown_by(target) == 70
        assert max(swarm.asked.values()) == 1

    play(70, main_story)


def test_another_rotation_replaces_the_one_that_runs():
    async def story(swarm: Rotating):
        first, second = swarm.new_root(), swarm.new_root()
        await swarm.rotate(first, 1)
        await until(lambda: swarm.shown_by(first) >= 30)
        await swarm.rotate(second, 2)
        await until(lambda: is_over(swarm))
        assert swarm.cluster.root_ca.cert_pem == second.cert_pem
        assert swarm.cluster.root_ca.last_forced_rotation == 2
        assert swarm.shown_by(second) == 70

    play(70, story)


def test_nodes_come_back_to_the_old_signer_where_a_rotation_is_given_up():
    async def story(swarm: Rotating):
        target = swarm.new_root()
        await swarm.rotate(target)
        await until(lambda: swarm.shown_by(target) >= 30)
        await swarm.rotate(None)
        await until(lambda: swarm.shown_by(swarm.root) == 70)
        await until(swarm.rotator.is_at_rest)
        root_ca = swarm.cluster.root_ca
        assert (root_ca.cert_pem, root_ca.tokens.worker) == (swarm.root.cert_pem, "old-worker")

    play(70, story)


@pytest.mark.parametrize("fault", ["full", "lost", "unknown", "late", "duplicate"])
def test_rotation_ends_whatever_becomes_of_single_writes(fault: str):
    async def story(swarm: Rotating):
        target = swarm.new_root()
        await swarm.rotate(target)
        swarm.log.fail_next(fault)
        await until(lambda: swarm.shown_by(target) == 10)
        swarm.log.fail_next(fault)
        await until(lambda: is_over(swarm))
        assert swarm.cluster.root_ca.cert_pem == target.cert_pem
        assert swarm.shown_by(target) == 10

    play(10, story)


def test_node_that_joins_while_the_end_is_written_counts():
    async def story(swarm: Rotating):
        target = swarm.new_root()
        swarm.off.update(("n000", "new"))
        await swarm.rotate(target)
        await until(lambda: swarm.node("n000").certificate.state == IssuanceState.ROTATE)
        swarm.log.hold()
        row = swarm.node("n000")
        shown = replace(row, description=reporting("x", target.cert_pem).description)
        async with asyncio.TaskGroup() as group:
            group.create_task(swarm.put(Update(obj=shown, seen=row.version)))
            group.create_task(swarm.put(Create(obj=reporting("new", b""))))
            await asyncio.sleep(0)
            swarm.log.release(1)  # all that are there show it; one more is in flight
            await asyncio.sleep(1.0)
            swarm.log.release()
        await asyncio.sleep(ROUND_S)
        assert not is_over(swarm)
        swarm.wake("n000", "new")
        await until(lambda: is_over(swarm))
        assert swarm.shown_by(target) == 2

    play(1, story)


def test_rotation_that_changes_while_its_end_is_written_is_left_alone():
    async def story(swarm: Rotating):
        first, second = swarm.new_root(), swarm.new_root()
        swarm.off.add("n000")
        await swarm.rotate(first)
        await until(lambda: swarm.node("n000").certificate.state == IssuanceState.ROTATE)
        row = swarm.node("n000")
        shown = replace(row, description=reporting("x", first.cert_pem).description)
        swarm.log.hold()
        async with asyncio.TaskGroup() as group:
            group.create_task(swarm.put(Update(obj=shown, seen=row.version)))
            group.create_task(swarm.rotate(second, 2))
            await asyncio.sleep(0.1)
            swarm.log.release()
        await asyncio.sleep(1.0)
        rotation = swarm.cluster.root_ca.rotation
        assert rotation is not None
        assert rotation.cert_pem == second.cert_pem
        swarm.wake("n000")
        await until(lambda: is_over(swarm))
        assert swarm.cluster.root_ca.cert_pem == second.cert_pem

    play(1, story)


def test_key_of_the_target_may_change_on_the_way():
    async def story(swarm: Rotating):
        target = swarm.new_root()
        swarm.off.add("n000")
        await swarm.rotate(target)
        await until(lambda: swarm.shown_by(target) == 4)
        await swarm.rotate(replace(target, key_pem=b""), 2)
        swarm.wake("n000")
        await until(lambda: is_over(swarm))
        assert swarm.cluster.root_ca.cert_pem == target.cert_pem
        assert swarm.cluster.root_ca.key_pem == b""
        assert max(swarm.asked.values()) == 1

    play(5, story)


def test_who_should_sign_is_told_by_the_rotation_else_by_the_root():
    swarm = Rotating()
    target = swarm.new_root()
    own = RootCA(cert_pem=swarm.root.cert_pem, key_pem=swarm.root.key_pem)
    rotating = replace(own, rotation=RootRotation(cert_pem=target.cert_pem))
    at_home = Aim(issuer=issuer_of(swarm.root.cert_pem), is_rotation=False)
    assert aim_of(cluster_with(own)) == at_home
    assert aim_of(cluster_with(replace(own, key_pem=b""))) == at_home
    assert aim_of(cluster_with(rotating)) == Aim(
        issuer=issuer_of(target.cert_pem), is_rotation=True
    )
    assert aim_of(cluster_with(RootCA())) is None


def cluster_with(root_ca: RootCA) -> Cluster:
    return Cluster(id=ClusterID("c"), spec=SwarmSpec(), root_ca=root_ca)


def test_failed_renewal_is_asked_again_later_not_at_once():
    async def story(swarm: Rotating):
        swarm.off.add("n000")
        await swarm.rotate(swarm.new_root())
        await until(lambda: swarm.node("n000").certificate.state == IssuanceState.ROTATE)
        row = swarm.node("n000")
        failed = replace(row.certificate, state=int(IssuanceState.FAILED), err="no")
        await swarm.put(Update(obj=replace(row, certificate=failed), seen=row.version))
        failed_s = swarm.env.clock.mono_s()
        await until(
            lambda: swarm.node("n000").certificate.state == IssuanceState.ROTATE, limit_s=120.0
        )
        waited_s = swarm.env.clock.mono_s() - failed_s
        assert FAILED_PAUSE_S <= waited_s <= FAILED_PAUSE_S + ROUND_S + 0.1

    play(1, story)
