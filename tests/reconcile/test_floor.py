"""An update stops no more than its parallelism says, also over what another left unfinished."""

import pytest

from swarmlet.model.node import DrainPlan
from swarmlet.model.service import UpdateConfig
from swarmlet.model.task import TaskState
from tests.reconcile.mixed import Watched
from tests.reconcile.rolling import Cluster
from tests.reconcile.world import World, node, replace, task

RUNNING, READY = TaskState.RUNNING, TaskState.READY


def fewest_while(cluster, periods=90):
    """How few ran at any moment until all is done; one task a time goes on."""
    fewest = len(cluster.wanted())
    for _ in range(periods):
        for row in sorted(cluster.world.tasks.all(), key=lambda t: t.id):
            cluster.obey_in(row)
            fewest = min(fewest, running(cluster))
        cluster.pass_ms(1_000)
        fewest = min(fewest, running(cluster))
    return fewest


def running(cluster):
    return sum(t.status.state == RUNNING for t in cluster.world.tasks.all())


@pytest.mark.parametrize("parallelism", [1, 2])
@pytest.mark.parametrize("then", ["update", "label", "scale"])
def test_what_an_update_has_stopped_counts_for_the_next_one(parallelism, then):
    cluster = Cluster(6, parallelism=parallelism)
    cluster.update()
    if then == "update":
        cluster.update()
    elif then == "label":
        cluster.update(force_update=cluster.number)
    else:
        cluster.scale(6)
    assert fewest_while(cluster) == 6 - parallelism
    assert cluster.state == "completed"
    assert len(cluster.of(3)) + len(cluster.of(2)) == 6
    assert then != "update" or len(cluster.of(3)) == 6


def test_next_update_begins_with_what_is_down():
    cluster = Cluster(6, parallelism=2)
    cluster.update()
    down = sorted(cluster.slots_of(2))
    cluster.config = UpdateConfig(parallelism=1)
    cluster.update()
    assert cluster.slots_of(3) == down[:1]
    assert fewest_while(cluster) == 4
    assert len(cluster.of(3)) == 6


def test_task_on_a_gently_drained_node_runs_on_while_its_service_is_updated():
    cluster = Cluster(3, parallelism=1, order="start-first")
    host = cluster.world.nodes.get(cluster.wanted()[0].node_id)
    spec = replace(host.spec, availability="drain")
    plan = DrainPlan(began_ms=cluster.world.now_ms)
    cluster.tell(cluster.world.put(replace(host, spec=spec, drain=plan)))
    cluster.update()
    assert fewest_while(cluster) == 3
    assert len(cluster.of(2)) == 3


@pytest.mark.parametrize(
    ("order", "stopped", "wrong"),
    [
        ("start-first", 1, "before another ran"),
        ("stop-first", 1, ""),
        ("stop-first", 2, "was stopped with"),
    ],
)
def test_judge_sees_who_stops_too_many(order, stopped, wrong):
    world = World()
    world.put(node("n1"))
    world.add_service(replicas=3)
    row = world.specs.get("web@1")
    config = UpdateConfig(parallelism=1, order=order)
    world.put(replace(row, spec=replace(row.spec, update_config=config)))
    leader = Watched(world, [])
    rows = [task(f"t{slot}", slot) for slot in (1, 2, 3)]
    for one in rows:
        leader.tell(world.put(one))
    for one in rows[:stopped]:
        leader.tell(world.put(task(f"{one.id}-new", one.slot, state=READY, replaces=one.id)))
        leader.tell(world.put(replace(world.tasks.get(one.id), desired=TaskState.SHUTDOWN)))
    assert bool(leader.floor.wrongs) == bool(wrong)
    assert all(wrong in one for one in leader.floor.wrongs)
