"""What an update would do, compared with what it then does."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.model.base import Empty
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    Placement,
    ReplicatedJobMode,
    ResourceRequirements,
    Resources,
    ServiceMode,
    UpdateConfig,
    UpdateStatus,
)
from swarmlet.model.task import TaskState
from swarmlet.model.view import spec_of
from swarmlet.reconcile.plan import BATCHES_MAX, plan_update
from tests.reconcile.rolling import Cluster
from tests.reconcile.world import World, node, replace, service_spec, task

RUNNING = TaskState.RUNNING


def run(steps):
    """The result of work in steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def plan(world, new):
    return run(plan_update(world, world.services.get("web"), new, world.now_ms))


def told(found):
    return [(one.slot, one.action, one.node_id, one.reason) for one in found.steps]


def world_of(*nodes, **spec):
    world = World()
    for row in nodes or (node("n1"), node("n2")):
        world.put(row)
    world.add_service(**spec)
    return world


# Replicated --------------------------------------------------------------------------------------
def test_plan_of_a_rollback_goes_by_the_rollback_settings_of_the_spec_that_comes_back():
    world = world_of(replicas=2)
    back = replace(
        service_spec("web", 2, force_update=1),
        update_config=UpdateConfig(parallelism=1),
        rollback_config=UpdateConfig(parallelism=0, order="start-first"),
    )
    service = world.services.get("web")
    found = run(plan_update(world, service, back, world.now_ms, is_rollback=True))
    assert (found.settings.parallelism, found.settings.is_start_first) == (0, True)
    same = spec_of(world, service)
    assert run(plan_update(world, service, same, world.now_ms, is_rollback=True)).number == 2


def test_spec_that_says_the_same_does_nothing():
    world = world_of(replicas=2)
    found = plan(world, spec_of(world, world.services.get("web")))
    assert (found.changes, found.steps, found.number) == ((), (), 1)
    assert found.version == world.services.get("web").version


def test_same_spec_is_a_new_try_where_the_update_did_not_end():
    world = world_of(replicas=1)
    world.put(task("t1"))
    world.put(replace(world.services.get("web"), update_status=UpdateStatus(state="paused")))
    found = plan(world, spec_of(world, world.services.get("web")))
    assert (found.number, told(found)) == (2, [(1, "keep", "", "")])


def test_plan_of_a_new_image_replaces_every_task_where_there_is_room():
    world = world_of(replicas=2)
    world.put(task("t1", 1, on="n1"))
    world.put(task("t2", 2, on="n2"))
    found = plan(world, service_spec(replicas=2, force_update=1))
    assert told(found) == [(1, "replace", "n1", ""), (2, "replace", "n2", "")]
    assert [one.old.id for one in found.steps] == ["t1", "t2"]
    assert (found.number, found.is_job, found.settings.parallelism) == (2, False, 1)


def test_plan_of_fewer_replicas_removes_the_ones_that_go_first():
    world = world_of(replicas=3)
    for number, at in ((1, "n1"), (2, "n2"), (3, "n1")):
        world.put(task(f"t{number}", number, on=at))
    found = plan(world, service_spec(replicas=2))
    assert [(one.slot, one.action) for one in found.steps] == [
        (1, "keep"),
        (2, "keep"),
        (3, "remove"),
    ]
    assert [change.path for change in found.changes] == ["Mode.Replicated.Replicas"]


def test_task_without_a_place_has_the_reason_beside_it():
    world = world_of(node("n1", cpu_nano=2_000_000_000), replicas=1)
    world.put(task("t1"))
    reserved = Resources(nano_cpus=2_000_000_000)
    new = service_spec(replicas=2, resources=ResourceRequirements(reservations=reserved))
    assert told(plan(world, new)) == [
        (1, "replace", "", "no suitable node (insufficient resources on 1 node)"),
        (2, "create", "n1", ""),
    ]


@pytest.mark.parametrize(("order", "where"), [("stop-first", "n1"), ("start-first", "")])
def test_old_task_gives_up_its_room_before_or_after_as_the_order_says(order, where):
    reserved = Resources(nano_cpus=2_000_000_000)
    resources = ResourceRequirements(reservations=reserved)
    world = world_of(node("n1", cpu_nano=3_000_000_000), replicas=1, resources=resources)
    world.put(task("t1"))
    new = service_spec(replicas=1, resources=resources, force_update=1)
    config = Cluster(1, parallelism=1, order=order).config
    ((slot, action, at, _),) = told(plan(world, replace(new, update_config=config)))
    assert (slot, action, at) == (1, "replace", where)


def test_start_first_update_moves_on_through_the_room_that_old_tasks_leave():
    reserved = Resources(nano_cpus=1_000_000_000)
    resources = ResourceRequirements(reservations=reserved)
    world = world_of(node("n1", cpu_nano=4_000_000_000), replicas=3, resources=resources)
    for number in (1, 2, 3):
        world.put(task(f"t{number}", number))
    new = service_spec(replicas=3, resources=resources, force_update=1)
    config = Cluster(1, parallelism=0, order="start-first").config
    steps = told(plan(world, replace(new, update_config=config)))
    assert steps == [(slot, "replace", "n1", "") for slot in (1, 2, 3)]


def test_plan_of_a_large_service_takes_few_turns_and_places_every_task():
    world = world_of(*(node(f"n{number}") for number in range(8)), replicas=300)
    for number in range(300):
        world.put(task(f"t{number}", number + 1, on=f"n{number % 8}"))
    steps = plan_update(
        world, world.services.get("web"), service_spec(replicas=300, force_update=1), world.now_ms
    )
    turns = sum(1 for _ in steps)
    assert turns <= BATCHES_MAX + 3
    found = plan(world, service_spec(replicas=300, force_update=1))
    assert {one.action for one in found.steps} == {"replace"}
    counts = Counter(one.node_id for one in found.steps)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_plan_of_placement_keeps_the_tasks_whose_node_will_do():
    world = world_of(node("n1", labels={"disk": "ssd"}), node("n2"), replicas=2)
    world.put(task("t1", 1, on="n1"))
    world.put(task("t2", 2, on="n2"))
    new = service_spec(replicas=2, placement=Placement(constraints=["node.labels.disk==ssd"]))
    assert told(plan(world, new)) == [(1, "keep", "", ""), (2, "replace", "n1", "")]


# Other modes -------------------------------------------------------------------------------------
def test_plan_of_a_global_service_goes_node_by_node():
    everywhere = ServiceMode(global_=Empty())
    world = world_of(
        node("n1"),
        node("n2"),
        node("n3", availability="drain"),
        node("n4", availability="pause"),
        node("n5", labels={"x": "y"}),
        node("n6", runtimes="docker"),
    )
    row = world.specs.get("web@1")
    world.put(replace(row, spec=replace(row.spec, mode=everywhere)))
    for number in (1, 3, 4, 5):
        world.put(task(f"t{number}", 0, on=f"n{number}"))
    only = Placement(constraints=["node.labels.x!=y"])
    new = replace(service_spec(force_update=1, placement=only), mode=everywhere)
    found = plan(world, new)
    assert [(one.action, one.old and one.old.id, one.node_id) for one in found.steps] == [
        ("replace", "t1", "n1"),
        ("create", None, "n2"),
        ("remove", "t3", ""),
        ("keep", "t4", ""),
        ("remove", "t5", ""),
        ("create", None, "n6"),
    ]
    (homeless,) = [one for one in found.steps if one.reason]
    assert homeless.reason.startswith("no suitable node (no process runtime")


def test_plan_of_a_job_ends_this_iteration_and_begins_the_next():
    job = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=5))
    world = world_of(replicas=1)
    row = world.specs.get("web@1")
    world.put(replace(row, spec=replace(row.spec, mode=job)))
    world.put(task("t1", 0, desired=TaskState.COMPLETE))
    world.put(task("t2", 1, desired=TaskState.COMPLETE, state=TaskState.COMPLETE))
    found = plan(world, world.specs.get("web@1").spec)
    assert found.is_job
    assert sorted((one.slot, one.action) for one in found.steps) == [
        (0, "create"),
        (0, "remove"),
        (1, "create"),
    ]
    everywhere = replace(found and world.specs.get("web@1").spec)
    everywhere = replace(everywhere, mode=ServiceMode(global_job=Empty()))
    world.put(node("n2", state=NodeState.DOWN))
    assert [one.node_id for one in plan(world, everywhere).steps if one.action == "create"] == [
        "n1"
    ]


@pytest.mark.parametrize("label_after", ["@daily", ""])
def test_plan_of_a_job_with_a_schedule_begins_nothing(label_after):
    """Nor does the update that takes the schedule away."""
    job = ServiceMode(replicated_job=ReplicatedJobMode(max_concurrent=2, total_completions=2))
    world = world_of(replicas=1)
    row = world.specs.get("web@1")
    old = replace(row.spec, mode=job, labels={"swarmlet.schedule": "@hourly"})
    world.put(replace(row, spec=old))
    world.put(task("t1", 0, desired=TaskState.COMPLETE))
    found = plan(world, replace(old, labels={"swarmlet.schedule": label_after}))
    assert (found.is_job, found.is_scheduled, found.steps) == (True, True, ())
    assert [change.path for change in found.changes] == ["Labels[swarmlet.schedule]"]


# Against what happens ----------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 3),
    st.booleans(),
    st.lists(st.integers(1, 3), max_size=5),
)
def test_plan_forecasts_what_the_deciders_then_do(replicas, wanted, parallelism, is_same, others):
    """On a swarm where nothing else happens: the same slots keep their tasks, and as many of the
    new ones end on each node."""
    cluster = Cluster(replicas, parallelism=parallelism)
    world = cluster.world
    world.add_service("db", len(others))
    for slot, number in enumerate(others, 1):
        world.put(task(f"db{slot}", slot, service="db", on=f"n{number}"))
    cluster.lead()
    before = {row.slot: row for row in cluster.wanted()}
    cluster.replicas = wanted
    new = cluster.spec(force_update=0 if is_same else 9)
    forecast = plan(world, new)
    cluster.update(force_update=0 if is_same else 9)
    cluster.finish(30)
    after = {row.slot: row for row in cluster.wanted()}
    kept = {one.slot for one in forecast.steps if one.action == "keep"}
    new_slots = {one.slot for one in forecast.steps if one.action in ("replace", "create")}
    removed = {one.slot for one in forecast.steps if one.action == "remove"}
    if forecast.changes:
        assert {slot for slot in after if before.get(slot) == after[slot]} == kept
        assert set(after) == kept | new_slots
        assert set(before) - set(after) == removed - new_slots
    forecast_nodes = sorted(
        one.node_id for one in forecast.steps if one.slot in new_slots and one.node_id
    )
    assert forecast_nodes == sorted(after[slot].node_id for slot in new_slots)
