"""The enforcer of constraints: what does not suit its node any more ends there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.model.node import NodeState
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
    Placement,
    ResourceRequirements,
    Resources,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.disconnect import NEVER_MS, runs_until_ms
from swarmlet.reconcile.enforcer import SETTLED_MS, EnforcerDecider
from swarmlet.reconcile.eviction import CAUSE, EVICTED, was_evicted
from swarmlet.reconcile.restart import failures_in_row
from tests.reconcile.world import Leader, World, assert_at_rest, node, replace, service_spec, task

RUNNING, REJECTED, SHUTDOWN = TaskState.RUNNING, TaskState.REJECTED, TaskState.SHUTDOWN
EU = {"zone": "eu"}
EU_ONLY = ["node.labels.zone==eu"]


def enforcer():
    return [EnforcerDecider()]


def needs(memory_b=0, gpus=0, constraints=()):
    generic = [
        GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=gpus))
    ]
    return {
        "placement": Placement(constraints=list(constraints)),
        "resources": ResourceRequirements(
            reservations=Resources(memory_bytes=memory_b, generic_resources=generic if gpus else [])
        ),
    }


def gpus(count):
    return (
        GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=count)),
    )


def scene(*tasks, **template):
    """One node in the EU with these tasks of one service."""
    world = World()
    world.put(node("n1", labels=EU, generic=gpus(4)))
    world.add_service(**template)
    for row in tasks:
        world.now_ms += 1
        world.put(row)
    return world


def ended(world, *events):
    """Ids of the tasks that the enforcer ends once this happened."""
    leader = Leader(world, enforcer())
    leader.tell(events)
    leader.run()
    assert_at_rest(world, enforcer)
    return [t.id for t in world.service_tasks() if was_evicted(t)]


def test_task_ends_where_its_node_loses_the_label_it_needs():
    world = scene(task("t"), **needs(constraints=EU_ONLY))
    assert ended(world) == []
    assert ended(world, *world.put(node("n1"))) == ["t"]
    status = world.tasks.get("t").status
    assert (status.state, status.message, status.err) == (REJECTED, EVICTED, CAUSE)
    assert world.tasks.get("t").desired == RUNNING  # its orchestrator's to change


@pytest.mark.parametrize(
    "how",
    [
        {"availability": "pause"},
        {"availability": "drain"},
        {"state": NodeState.DOWN},
    ],
)
def test_task_on_a_node_that_takes_none_is_left_alone(how):
    world = scene(task("t"), **needs(constraints=EU_ONLY))
    assert ended(world, *world.put(node("n1", **how))) == []


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DISCONNECTED])
def test_task_ends_on_a_node_that_is_not_heard_of(state):
    world = scene(task("t"), **needs(constraints=EU_ONLY))
    assert ended(world, *world.put(node("n1", state=state))) == ["t"]


@pytest.mark.parametrize(
    ("row", "is_ended"),
    [
        (task("t", state=TaskState.ASSIGNED), True),
        (task("t", state=TaskState.STARTING), True),
        (task("t", desired=TaskState.COMPLETE), True),
        (task("t", desired=TaskState.READY), True),
        (task("t", state=TaskState.PENDING), False),
        (task("t", desired=SHUTDOWN), False),
        (task("t", state=TaskState.FAILED), False),
        (task("t", on="n2"), False),
    ],
)
def test_only_what_is_on_the_node_and_wanted_is_ended(row, is_ended):
    world = scene(row, **needs(constraints=EU_ONLY))
    assert ended(world, *world.put(node("n1"))) == ["t"] * is_ended


def test_task_stays_where_it_suits_what_its_service_asks_for_now():
    """Its own spec asks for more than the present one."""
    world = scene(task("t"), **needs(constraints=EU_ONLY))
    world.update_service("web", service_spec())
    assert ended(world, *world.put(node("n1"))) == []


def test_task_that_breaks_the_present_constraints_alone_waits_for_the_update():
    world = scene(task("t"))
    world.update_service("web", service_spec(**needs(constraints=["node.labels.zone==us"])))
    assert ended(world) == []


def test_newest_task_goes_first_where_the_node_shrank():
    world = scene(task("old"), task("mid", 2), task("new", 3), **needs(memory_b=10))
    assert ended(world, *world.put(node("n1", memory_b=25))) == ["new"]
    assert ended(world, *world.put(node("n1", memory_b=9))) == ["old", "mid", "new"]


def test_generic_resources_are_counted():
    world = scene(task("a"), task("b", 2), **needs(gpus=2))
    assert ended(world) == []
    assert ended(world, *world.put(node("n1", generic=gpus(3)))) == ["b"]


def test_task_ends_whose_piece_the_node_has_no_more():
    def named(*names):
        return tuple(
            GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=name))
            for name in names
        )

    rows = [task(name, n, generic_resources=named(name)) for n, name in enumerate("abc")]
    world = scene(*rows, **needs(gpus=1))
    assert ended(world, *world.put(node("n1", generic=named("c", "b")))) == ["a"]
    assert ended(world, *world.put(node("n1", generic=gpus(2)))) == ["a", "b", "c"]


def test_node_that_has_not_said_what_it_has_ends_nothing():
    world = scene(task("a"), **needs(memory_b=10))
    assert ended(world, *world.put(node("n1", memory_b=0, cpu_nano=0))) == []


def test_node_is_looked_at_again_for_what_was_placed_there_meanwhile():
    """The scheduler chose the node by the row before."""
    world = scene(**needs(constraints=EU_ONLY))
    leader = Leader(world, enforcer())
    leader.tell(world.put(node("n1")))
    leader.run()
    world.put(task("late", state=TaskState.ASSIGNED))
    leader.run_for(SETTLED_MS)
    assert was_evicted(world.tasks.get("late"))
    assert not leader.wake


def test_new_leader_looks_at_every_node():
    world = scene(task("t"), **needs(constraints=EU_ONLY))
    world.put(node("n1"))
    leader = Leader(world, enforcer())
    leader.run()
    assert was_evicted(world.tasks.get("t"))


def test_node_change_that_suits_nobody_differently_wakes_nothing():
    world = scene()
    (event,) = world.put(replace(world.nodes.get("n1"), certificate=None))
    assert list(EnforcerDecider().keys_of(event, world)) == []


def test_replicated_task_moves_to_a_node_that_suits_and_counts_no_failure():
    world = World()
    world.put(node("n1", labels=EU))
    world.put(node("n2", labels=EU))
    world.add_service(replicas=1, **needs(constraints=EU_ONLY))
    leader = Leader(world, all_deciders())
    leader.run()
    (first,) = world.service_tasks()
    leader.tell(world.report(first.id, RUNNING))
    leader.tell(world.put(node(first.node_id)))
    leader.run_for(10_000)
    old, new = world.service_tasks()
    assert (old.desired, old.status.state) == (SHUTDOWN, REJECTED)
    assert (new.desired, new.attempt) == (RUNNING, 0)
    assert {first.node_id, new.node_id} == {"n1", "n2"}
    assert failures_in_row(old) == 0


def test_task_that_was_made_before_the_constraint_it_breaks_moves_by_an_update():
    """It stayed when the constraint came, for its node satisfied it; now it does not any more."""
    world = World()
    for node_id in ("n1", "n2"):
        world.put(node(node_id, labels=EU))
    world.add_service(replicas=1)
    leader = Leader(world, all_deciders())
    leader.run()
    (first,) = world.service_tasks()
    leader.tell(world.report(first.id, RUNNING))
    placement = Placement(constraints=EU_ONLY)
    leader.tell(world.update_service("web", service_spec(replicas=1, placement=placement)))
    leader.run()
    assert [t.id for t in world.service_tasks()] == [first.id]
    leader.tell(world.put(node(first.node_id)))
    leader.run()
    old, new = world.service_tasks()
    assert (old.desired, old.status.state) == (SHUTDOWN, RUNNING)
    assert (new.updated_from, new.spec_version) == (1, 2)
    assert {old.node_id, new.node_id} == {"n1", "n2"}
    assert world.services.get("web").update_status.state == "updating"


def test_nothing_runs_beside_an_ended_task_until_it_has_surely_stopped():
    """Where the service says that no two of a slot run at once: nothing is heard of its end."""
    world = scene(task("t"))
    spec = replace(service_spec(), labels={LABEL: "never-replace"})
    world.put(replace(world.specs.get("web@1"), spec=spec))
    status = replace(
        world.tasks.get("t").status, state=REJECTED, message=EVICTED, applied_at_ms=1_000
    )
    row = replace(world.tasks.get("t"), status=status)
    surely_ms = runs_until_ms(world, row)
    assert 1_000 + 10_000 < surely_ms < 1_000 + 30_000
    host = world.nodes.get("n1")
    down = replace(host.status, state=NodeState.DOWN)
    world.put(replace(host, status=down))
    assert runs_until_ms(world, row) == NEVER_MS
    world.put(replace(host, status=replace(down, heard_ms=surely_ms)))
    assert runs_until_ms(world, row) == surely_ms
    world.put(replace(world.specs.get("web@1"), spec=service_spec()))
    assert runs_until_ms(world, row) == 0


SIZES = st.lists(st.integers(0, 5), max_size=8)


@given(sizes=SIZES, room=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_what_stays_fits_and_what_ends_does_not_fit_beside_what_is_older(sizes, room):
    world = World()
    world.put(node("n1", memory_b=room))
    for number, size in enumerate(sizes):
        name = f"s{number}"
        world.add_service(name, **needs(memory_b=size))
        world.now_ms += 1
        world.put(task(f"t{number}", service=name))
    leader = Leader(world, enforcer())
    leader.run()
    held = 0
    for number, size in enumerate(sizes):
        is_ended = was_evicted(world.tasks.get(f"t{number}"))
        assert is_ended == (held + size > room)
        held += 0 if is_ended else size
    assert held <= room
    assert_at_rest(world, enforcer)
