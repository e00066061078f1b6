"""The scheduler as a decider: placing, waiting with a reason, giving up, and coming to rest."""

import pytest

from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Assign, SetStatus
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    EndpointSpec,
    Placement,
    PlacementPreference,
    PortConfig,
    ResourceRequirements,
    Resources,
    SpecVersion,
    SpreadOver,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.scheduler.group import Group
from swarmlet.reconcile.scheduler.nodeset import NodeState as Counted
from swarmlet.reconcile.scheduler.place import LINES_MAX, PENDING, SchedulerDecider
from swarmlet.reconcile.scheduler.pool import Pools
from swarmlet.reconcile.scheduler.waiting import Waiting
from tests.reconcile.world import (
    Leader,
    World,
    assert_at_rest,
    node,
    replace,
    service_spec,
    task,
)

ASSIGNED, RUNNING, FAILED = TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED
SHUTDOWN, WAITING = TaskState.SHUTDOWN, TaskState.PENDING


def scheduler():
    return [SchedulerDecider()]


def scene(*nodes, **spec):
    world = World()
    for row in nodes:
        world.put(row)
    world.add_service(**spec)
    return world, Leader(world, scheduler())


def arrive(world, leader, *slots, **fields):
    for slot in slots:
        fields = {"on": "", "state": WAITING, **fields}
        leader.tell(world.put(task(f"t{slot}", slot, **fields)))
    leader.run()


def placed(world):
    return {t.id: t.node_id for t in world.tasks.all() if t.status.state == ASSIGNED}


def errs(world):
    return {t.status.err for t in world.tasks.all() if t.status.state == WAITING}


def written(leader):
    """How many changes were made in all."""
    return sum(len(decision.changes) for _, decision in leader.decided)


def reserving(**reserved):
    return ResourceRequirements(reservations=Resources(**reserved))


def test_tasks_spread_over_the_nodes_in_order_of_slot_and_id():
    world, leader = scene(node("n2"), node("n1"), node("n3"))
    arrive(world, leader, 4, 2, 1, 3)
    assert placed(world) == {"t1": "n1", "t2": "n2", "t3": "n3", "t4": "n1"}
    assert world.tasks.get("t1").status.message == "scheduler assigned task to node"
    assert_at_rest(world, scheduler)


def test_nodes_with_fewer_tasks_of_the_service_go_before_emptier_ones():
    world, leader = scene(node("n1"), node("n2"))
    world.add_service("other")
    for number in range(5):
        leader.tell(world.put(task(f"o{number}", number, service="other", on="n2")))
    leader.tell(world.put(task("w", 1, on="n1")))
    arrive(world, leader, 2, 3)
    assert placed(world) == {"t2": "n2", "t3": "n1"}


def test_task_waits_with_the_reason_and_is_placed_when_a_node_comes():
    world, leader = scene(node("n1", availability="drain"), node("n2", state=NodeState.DOWN))
    arrive(world, leader, 1, 2)
    assert errs(world) == {"no suitable node (2 nodes not available for new tasks)"}
    leader.tell(world.put(node("n3")))
    leader.run()
    assert placed(world) == {"t1": "n3", "t2": "n3"}
    assert {t.status.err for t in world.tasks.all()} == {""}


def test_task_waits_without_nodes():
    world, leader = scene()
    arrive(world, leader, 1)
    assert errs(world) == {"no suitable node"}
    assert_at_rest(world, scheduler)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"image": "nginx"}, "no docker or oci runtime, which the image needs, on 1 node"),
        (
            {"placement": Placement(constraints=["node.labels.zone==eu"])},
            "scheduling constraints not satisfied on 1 node",
        ),
        ({"resources": reserving(nano_cpus=10**12)}, "insufficient resources on 1 node"),
    ],
)
def test_each_filter_gives_its_reason(spec, reason):
    world, leader = scene(node("n1"), **spec)
    arrive(world, leader, 1)
    assert errs(world) == {f"no suitable node ({reason})"}
    assert leader.decided[-2][1].reasons == (f"service web: no suitable node ({reason})",)


def test_host_port_is_taken_once_a_node_until_its_holder_stopped():
    port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    world, leader = scene(node("n1"), node("n2"), ports=EndpointSpec(ports=[port]))
    arrive(world, leader, 1, 2, 3)
    assert placed(world) == {"t1": "n1", "t2": "n2"}
    assert errs(world) == {"no suitable node (host-mode port already in use on 2 nodes)"}
    leader.tell(world.put(replace(world.tasks.get("t2"), desired=int(SHUTDOWN))))
    leader.run()
    assert "t3" not in placed(world)
    leader.tell(world.report("t2", SHUTDOWN))
    leader.run()
    assert placed(world)["t3"] == "n2"


def test_max_replicas_counts_tasks_that_are_still_wanted():
    world, leader = scene(node("n1"), placement=Placement(max_replicas=2))
    arrive(world, leader, 1, 2, 3)
    assert errs(world) == {"no suitable node (max replicas per node limit exceed on 1 node)"}
    leader.tell(world.put(replace(world.tasks.get("t1"), desired=int(SHUTDOWN))))
    leader.run()
    assert placed(world)["t3"] == "n1"


def test_reservations_of_stopping_tasks_count_until_they_stopped():
    world, leader = scene(node("n1", memory_b=10), resources=reserving(memory_bytes=6))
    arrive(world, leader, 1, 2)
    assert placed(world) == {"t1": "n1"}
    leader.tell(world.put(replace(world.tasks.get("t1"), desired=int(SHUTDOWN))))
    leader.run()
    assert placed(world) == {"t1": "n1"}
    leader.tell(world.report("t1", FAILED))
    leader.run()
    assert placed(world) == {"t2": "n1"}


def test_reason_is_written_once_and_again_only_when_it_changed():
    world, leader = scene(node("n1"), resources=reserving(nano_cpus=10**12))
    arrive(world, leader, 1, 2, 3)
    assert written(leader) == 3
    for labels in ({"a": "b"}, {"c": "d"}):
        leader.tell(world.put(node("n1", labels=labels)))
        leader.run()
    assert written(leader) == 3
    leader.tell(world.put(node("n2")))
    leader.run()
    assert written(leader) == 6
    assert errs(world) == {"no suitable node (insufficient resources on 2 nodes)"}
    arrive(world, leader, 4)
    assert written(leader) == 7


def test_nothing_is_tried_again_when_nothing_was_loosened_for_it():
    world, leader = scene(node("n1", cpu_nano=9), resources=reserving(nano_cpus=10))
    world.add_service("small")
    arrive(world, leader, 1)
    arrive(world, leader, 2, service="small")
    decider = leader.deciders[0]
    (event,) = world.report("t2", RUNNING)
    assert decider.keys_of(event, world) == ()
    (event,) = world.report("t2", FAILED)
    assert decider.keys_of(event, world) == (), "what was freed is too little for the other"
    (event,) = world.put(replace(world.nodes.get("n1"), updated_ms=1))
    assert decider.keys_of(event, world) == (), "nothing of the node that placement looks at"
    (event,) = world.put(node("n1", cpu_nano=10))
    assert list(decider.keys_of(event, world)) == [PENDING]


def test_room_for_one_is_offered_to_the_first_that_waits_alone():
    pools = Pools({"n1": Counted(node("n1", memory_b=1))})
    groups = [Group((f"s{n}", 1), service_spec(resources=reserving(memory_bytes=1))) for n in "abc"]
    waiting = Waiting()
    for group in groups:
        waiting.put(group, task(group.service_id, service=group.service_id, state=WAITING))
    lines = [waiting.next_line(pools) for _ in groups]
    for line in reversed(lines):
        waiting.stick(line, "full")
    (state,) = pools.pool(groups[0].pool_key).passing.nodes.values()
    assert waiting.wake(pools, state)
    assert waiting.wake(pools, state)
    assert waiting.next_line(pools) is lines[0]
    assert [line.is_stuck for line in lines] == [False, True, True]
    assert waiting.next_line(pools) is lines[1]
    state.hold(groups[0].needs)
    assert waiting.next_line(pools) is None
    assert [line.is_stuck for line in lines] == [False, False, True]


def test_lines_that_find_no_room_are_tried_a_thousand_at_a_time():
    world, leader = scene(node("n1", memory_b=0))
    for number in range(LINES_MAX + 2):
        world.add_service(f"s{number:04}", resources=reserving(memory_bytes=1))
        fields = {"on": "", "state": WAITING}
        leader.tell(world.put(task(f"t{number:04}", service=f"s{number:04}", **fields)))
    decision = leader.deciders[0].decide(world, PENDING, leader.moment)
    assert [change.id for change in decision.changes] == [f"t{n:04}" for n in range(LINES_MAX)]
    leader.run()
    assert errs(world) == {"no suitable node (insufficient resources on 1 node)"}
    leader.tell(world.put(node("n1", memory_b=9)))
    leader.run()
    assert sorted(placed(world)) == [f"t{number:04}" for number in range(9)]
    assert_at_rest(world, scheduler)


def test_room_goes_to_the_next_that_waits_where_the_first_may_not_have_it():
    needs = reserving(memory_bytes=1)
    world, leader = scene(node("n1", memory_b=2), resources=needs)
    for number, service in enumerate("abcd"):
        world.add_service(service, resources=needs, placement=Placement(max_replicas=1))
        arrive(world, leader, number, service=service)
    arrive(world, leader, 9, service="a")
    assert placed(world) == {"t0": "n1", "t1": "n1"}
    for ends, comes in (("t1", "t2"), ("t2", "t3")):
        leader.tell(world.report(ends, FAILED))
        leader.run()
        assert placed(world) == {"t0": "n1", comes: "n1"}


def test_refused_assignments_are_counted_again_and_placed_elsewhere():
    world, leader = scene(
        node("n1", memory_b=1), node("n2", memory_b=1), resources=reserving(memory_bytes=1)
    )
    decider = leader.deciders[0]
    leader.tell(world.put(task("t1", 1, on="", state=WAITING)))
    decision = decider.decide(world, PENDING, leader.moment)
    assert decision.changes == (Assign(id="t1", node_id="n1"),)
    leader.tell(world.drop(Task, "t1"))  # so the entry is refused
    arrive(world, leader, 2, 3)
    assert placed(world) == {"t2": "n1", "t3": "n2"}


def test_node_that_is_replaced_while_tasks_are_promised_to_it_is_counted_right():
    world, leader = scene(node("n1", memory_b=1), resources=reserving(memory_bytes=1))
    leader.tell(world.put(task("t1", 1, on="", state=WAITING)))
    leader.deciders[0].decide(world, PENDING, leader.moment)
    leader.tell(world.drop(type(node()), "n1"))
    leader.tell(world.put(node("n1", memory_b=1)))
    arrive(world, leader, 2)
    assert placed(world) == {"t1": "n1"}


def test_decide_places_a_thousand_at_a_time():
    world, leader = scene(node("n1"), node("n2"))
    for slot in range(ENTRY_CHANGES_MAX + 5):
        leader.tell(world.put(task(f"t{slot:04}", slot, on="", state=WAITING)))
    decision = leader.deciders[0].decide(world, PENDING, leader.moment)
    assert (len(decision.changes), decision.has_more) == (ENTRY_CHANGES_MAX, True)
    leader.run()
    assert sorted(placed(world)) == [f"t{slot:04}" for slot in range(ENTRY_CHANGES_MAX + 5)]


def test_reasons_are_written_a_thousand_at_a_time():
    world, leader = scene()
    for slot in range(ENTRY_CHANGES_MAX + 5):
        leader.tell(world.put(task(f"t{slot:04}", slot, on="", state=WAITING)))
    leader.run()
    sizes = [len(d.changes) for _, d in leader.decided if d.changes]
    assert sizes == [ENTRY_CHANGES_MAX, 5]


@pytest.mark.parametrize("state", [TaskState.NEW, WAITING])
@pytest.mark.parametrize("on", ["", "n1"])
def test_task_is_shut_down_when_it_is_not_wanted_and_was_never_assigned(state, on):
    world, leader = scene(node("n1"))
    arrive(world, leader, 1, state=state, on=on, desired=SHUTDOWN)
    assert world.tasks.get("t1").status.state == SHUTDOWN
    assert_at_rest(world, scheduler)


def test_task_to_be_removed_is_left_to_the_reaper():
    world, leader = scene(node("n1"))
    arrive(world, leader, 1, desired=TaskState.REMOVE)
    assert written(leader) == 0


def test_task_is_not_placed_before_its_addresses_are_there():
    world, leader = scene(node("n1"), ports=EndpointSpec(ports=[PortConfig(target_port=80)]))
    arrive(world, leader, 1)
    assert placed(world) == {}
    assert errs(world) == {""}, "the reason is the allocator's"


def test_task_of_a_service_that_is_gone_is_not_placed():
    world, leader = scene(node("n1"))
    arrive(world, leader, 1, service="gone")
    assert written(leader) == 0


def test_task_holds_its_resources_though_its_spec_went_with_its_service():
    world, leader = scene(node("n1", memory_b=1), resources=reserving(memory_bytes=1))
    world.add_service("other", resources=reserving(memory_bytes=1))
    arrive(world, leader, 1)
    leader.tell(world.remove_service("web"))
    leader.tell(world.drop(SpecVersion, "web@1"))
    leader.tell(world.report("t1", RUNNING))
    arrive(world, leader, 2, service="other")
    assert placed(world) == {}
    leader.tell(world.report("t1", FAILED))
    leader.run()
    assert placed(world) == {"t2": "n1"}


def test_task_of_a_spec_that_is_gone_does_not_stop_a_new_leader():
    world, _ = scene(node("n1"))
    world.put(task("t1", 1, service="gone", on="n1"))
    assert_at_rest(world, scheduler)


def test_preset_task_is_assigned_where_it_belongs_or_waits_for_that_node():
    world, leader = scene(node("n1"), node("n2", memory_b=1), resources=reserving(memory_bytes=2))
    arrive(world, leader, 1, on="n2")
    arrive(world, leader, 2, on="n1")
    arrive(world, leader, 3, on="n9")
    assert placed(world) == {"t2": "n1"}
    assert world.tasks.get("t1").status.err == "no suitable node (insufficient resources on 1 node)"
    assert world.tasks.get("t3").status.err == "no suitable node (node n9 does not exist)"
    before = written(leader)
    leader.tell(world.put(node("n2", memory_b=1, labels={"a": "b"})))
    leader.run()
    assert written(leader) == before
    leader.tell(world.put(node("n2", memory_b=2)))
    leader.tell(world.put(node("n9", state=NodeState.DOWN)))
    leader.run()
    assert placed(world) == {"t1": "n2", "t2": "n1"}
    assert "1 node not available" in world.tasks.get("t3").status.err
    assert_at_rest(world, scheduler)


def test_preset_tasks_share_a_node_up_to_max_replicas():
    world, leader = scene(node("n1"), placement=Placement(max_replicas=2))
    for slot in (1, 2, 3):
        leader.tell(world.put(task(f"t{slot}", slot, on="n1", state=WAITING)))
    leader.run()
    assert placed(world) == {"t1": "n1", "t2": "n1"}
    assert errs(world) == {"no suitable node (max replicas per node limit exceed on 1 node)"}


def test_preset_task_waits_for_room_on_its_node():
    world, leader = scene(node("n1", memory_b=1), resources=reserving(memory_bytes=1))
    arrive(world, leader, 1, on="n1")
    arrive(world, leader, 2, on="n1")
    leader.tell(world.report("t1", FAILED))
    leader.run()
    assert placed(world) == {"t2": "n1"}


def test_preset_task_is_assigned_where_more_than_an_entry_holds_wait_as_before():
    world, _ = scene(node("n1", memory_b=0), node("n2"), resources=reserving(memory_bytes=1))
    reason = "no suitable node (insufficient resources on 1 node)"
    status = TaskStatus(state=WAITING, err=reason)
    for number in range(ENTRY_CHANGES_MAX):
        world.put(task(f"a{number}", on="n1", status=status))
    world.put(task("b", on="n2", status=status))
    Leader(world, scheduler()).run()
    assert placed(world) == {"b": "n2"}
    assert_at_rest(world, scheduler)


def fail(world, leader, on, times, *, slot=1, version=1):
    for number in range(times):
        name = f"f{world.index}-{number}"
        fields = {"on": on, "desired": SHUTDOWN, "spec_version": version}
        leader.tell(world.put(task(name, slot, status=TaskStatus(state=RUNNING), **fields)))
        leader.tell(world.report(name, FAILED))


@pytest.mark.parametrize(
    ("times", "slot", "version", "chosen"),
    [
        (4, 1, 1, "empty"),
        (5, 1, 1, "busy"),
        (5, 0, 1, "busy"),  # of the first task of a job
        (5, 1, 2, "empty"),  # of another spec version
    ],
)
def test_node_where_a_service_failed_five_times_is_the_last_choice(times, slot, version, chosen):
    world, leader = scene(node("empty"), node("busy"))
    world.scale("web", 5)
    world.add_service("other")
    for number in range(3):
        leader.tell(world.put(task(f"o{number}", number, service="other", on="busy")))
    fail(world, leader, "empty", times, slot=slot, version=version)
    arrive(world, leader, 1)
    assert placed(world) == {"t1": chosen}
    fresh = Leader(world, scheduler())
    arrive(world, fresh, 2, service="other")
    assert placed(world)["t2"] == "empty"


def test_new_leader_remembers_failures_from_the_rows():
    world, leader = scene(node("a"), node("b"))
    fail(world, leader, "a", 5)
    arrive(world, Leader(world, scheduler()), 1)
    assert placed(world) == {"t1": "b"}


def test_failures_are_forgotten_after_five_minutes():
    world, leader = scene(node("a"), node("b"))
    fail(world, leader, "a", 5)
    world.now_ms += 300_000
    arrive(world, leader, 1)
    assert placed(world) == {"t1": "a"}


def test_spread_fills_the_branches_evenly_and_starts_with_the_emptiest():
    labels = {"a1": "a", "a2": "a", "b1": "b"}
    nodes = [node(name, labels={"dc": dc}) for name, dc in labels.items()]
    over = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.dc"))
    world, leader = scene(*nodes, placement=Placement(preferences=[over]))
    world.add_service("other")
    leader.tell(world.put(task("o", 1, service="other", on="a1")))
    leader.tell(world.put(task("p", 1, service="other", on="a2")))
    arrive(world, leader, 1)
    assert placed(world) == {"t1": "b1"}
    arrive(world, leader, 2, 3, 4)
    on = [labels[n] for n in placed(world).values()]
    assert (on.count("a"), on.count("b")) == (2, 2)


def test_spread_takes_turns_among_branches_for_services_of_one_replica():
    nodes = [node(f"n{number}", labels={"dc": f"d{number % 5}"}) for number in range(10)]
    world, leader = scene(*nodes)
    over = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.dc"))
    for number in range(40):
        name = f"one{number}"
        world.add_service(name, placement=Placement(preferences=[over]))
        leader.tell(world.put(task(name, 1, service=name, on="", state=WAITING)))
    leader.run()
    totals = [list(placed(world).values()).count(n.id) for n in nodes]
    assert (min(totals), max(totals)) == (4, 4)


def test_more_classes_than_pools_are_all_placed_and_woken():
    world, leader = scene(node("n1", memory_b=0))
    for number in range(80):
        name = f"s{number}"
        world.add_service(name, resources=reserving(memory_bytes=number + 1))
        leader.tell(world.put(task(name, 1, service=name, on="", state=WAITING)))
    leader.run()
    assert placed(world) == {}
    leader.tell(world.put(node("n1", memory_b=80 * 81 // 2)))
    leader.run()
    assert len(placed(world)) == 80
    for number in range(80, 160):
        name = f"s{number}"
        world.add_service(name, resources=reserving(memory_bytes=number - 79))
        leader.tell(world.put(task(name, 1, service=name, on="", state=WAITING)))
    leader.run()
    for number in range(80):
        leader.tell(world.report(f"s{number}", FAILED))
        leader.run()
    assert len(placed(world)) == 80


def test_gauges_tell_how_many_wait():
    world, leader = scene()
    arrive(world, leader, 1, 2)
    assert leader.deciders[0].gauges() == {"waiting_tasks": 2, "pools": 1, "groups": 1}
    leader.tell(world.put(node("n1")))
    leader.run()
    assert leader.deciders[0].gauges()["waiting_tasks"] == 0


def test_status_keeps_its_other_fields_when_a_reason_is_written():
    world, leader = scene()
    arrive(world, leader, 1)
    statuses = [c for _, d in leader.decided for c in d.changes if isinstance(c, SetStatus)]
    assert [s.status.state for s in statuses] == [WAITING]
    assert statuses[0].status.message == "pending task scheduling"
