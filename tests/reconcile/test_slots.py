"""Slots: which count, which go first, and which changes of a spec replace tasks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.model.base import Empty
from swarmlet.model.defaults import with_defaults
from swarmlet.model.service import (
    EndpointSpec,
    NetworkAttachmentConfig,
    Placement,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    RestartPolicy,
    ServiceMode,
    UpdateConfig,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.slots import (
    counting_tasks,
    is_dirty,
    newest,
    removal_order,
    replaces_tasks,
    replicas_of,
)
from tests.reconcile.world import World, node, replace, service_spec, task

RUNNING, PENDING, FAILED = TaskState.RUNNING, TaskState.PENDING, TaskState.FAILED
SHUTDOWN, COMPLETE = TaskState.SHUTDOWN, TaskState.COMPLETE


@pytest.mark.parametrize(
    ("mode", "replicas"),
    [
        (ServiceMode(), 1),
        (ServiceMode(replicated=ReplicatedMode()), 1),
        (ServiceMode(replicated=ReplicatedMode(replicas=0)), 0),
        (ServiceMode(replicated=ReplicatedMode(replicas=7)), 7),
        (ServiceMode(global_=Empty()), None),
        (ServiceMode(replicated_job=ReplicatedJobMode()), None),
        (ServiceMode(global_job=Empty()), None),
    ],
)
def test_replicas_of_is_one_by_default_and_none_in_other_modes(mode, replicas):
    assert replicas_of(replace(service_spec(), mode=mode)) == replicas


# slot -> (node, observed) of the seven tasks of a service, as it is scaled 7 -> 6 -> 4 -> 2
SCALED_DOWN = {
    1: ("n1", RUNNING),
    2: ("n1", RUNNING),
    3: ("n1", PENDING),
    4: ("n2", RUNNING),
    5: ("n2", RUNNING),
    6: ("n3", RUNNING),
    7: ("", PENDING),
}


@pytest.mark.parametrize(
    ("replicas", "survivors"),
    [
        (7, {1, 2, 3, 4, 5, 6, 7}),
        (6, {1, 2, 3, 4, 5, 6}),  # what has no node goes first
        (5, {1, 2, 4, 5, 6}),  # then third places: n1 is the most crowded node
        (4, {1, 2, 4, 6}),  # then second places, the highest slot first
        (3, {1, 4, 6}),
        (2, {1, 4}),  # first places: the lowest slots stay
        (1, {1}),
        (0, set()),
    ],
)
def test_removal_order_keeps_low_slots_on_all_nodes_when_scaled_down(replicas, survivors):
    live = {
        slot: [task(f"t{slot}", slot, on=on, state=state)]
        for slot, (on, state) in SCALED_DOWN.items()
    }
    assert set(removal_order(live)[:replicas]) == survivors


@pytest.mark.parametrize(
    ("slots", "order"),
    [
        # running before not running, on the same node
        ({1: [("n1", PENDING)], 2: [("n1", RUNNING)]}, [2, 1]),
        # by number where both run, or neither
        ({2: [("n1", RUNNING)], 1: [("n2", RUNNING)]}, [1, 2]),
        # a slot with two tasks goes before all that have one
        (
            {1: [("n1", RUNNING), ("n1", PENDING)], 2: [("n1", PENDING)], 3: [("n1", RUNNING)]},
            [3, 2, 1],
        ),
        # a turn counts per node: two nodes with two each lose one each
        (
            {1: [("a", RUNNING)], 2: [("a", RUNNING)], 3: [("b", RUNNING)], 4: [("b", RUNNING)]},
            [1, 3, 2, 4],
        ),
        # among those without a turn the running and the low-numbered stay longest
        ({5: [("", PENDING)], 4: [("", PENDING)], 9: [("a", RUNNING), ("b", PENDING)]}, [9, 4, 5]),
    ],
)
def test_removal_order_is_stable(slots, order):
    live = {
        slot: [task(f"t{slot}-{i}", slot, on=on, state=state) for i, (on, state) in enumerate(ts)]
        for slot, ts in slots.items()
    }
    assert removal_order(live) == order


@given(
    st.dictionaries(
        st.integers(1, 40),
        st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from([RUNNING, PENDING])),
        max_size=20,
    ),
    st.integers(0, 20),
)
def test_removal_order_is_the_same_when_some_were_removed_already(slots, kept):
    live = {n: [task(f"t{n}", n, on=on, state=state)] for n, (on, state) in slots.items()}
    order = removal_order(live)
    assert sorted(order) == sorted(live)
    fewer = {n: live[n] for n in order[:kept]}
    assert removal_order(fewer) == order[:kept]


def counting(*tasks, **policy):
    world = World()
    world.add_service(restart_policy=RestartPolicy(**policy))
    return [t.id for t in counting_tasks(world, tasks)]


def test_slot_counts_by_the_tasks_it_wants_to_run():
    old = task("a", state=SHUTDOWN, desired=SHUTDOWN)
    assert counting(old, task("b", desired=TaskState.READY)) == ["b"]
    assert counting(task("c"), task("b", state=FAILED), old) == ["b", "c"]


@pytest.mark.parametrize(
    ("condition", "state", "does_count"),
    [
        ("none", FAILED, True),
        ("none", COMPLETE, True),
        ("on-failure", COMPLETE, True),
        ("on-failure", FAILED, False),
        ("on-failure", SHUTDOWN, False),
        ("any", COMPLETE, False),
        ("", COMPLETE, False),
    ],
)
def test_slot_counts_by_its_newest_task_when_that_is_not_restarted(condition, state, does_count):
    older = task("z", state=FAILED, desired=SHUTDOWN, created_ms=1)
    last = task("a", state=state, desired=SHUTDOWN, created_ms=1, replaces=TaskID("z"))
    assert counting(last, older, condition=condition) == (["a"] if does_count else [])


def test_newest_is_who_was_replaced_by_nobody_even_in_the_same_millisecond():
    a, b, c = (
        task("a", created_ms=5, replaces=TaskID("b")),
        task("b", created_ms=5, replaces=TaskID("c")),
        task("c", created_ms=9),
    )
    assert newest([a, b, c]) is a
    assert newest([c, b]) is b
    assert newest([task("x", created_ms=1), c]) is c


BASE = service_spec("web", 3)
ON_EU = node(labels={"zone": "eu"})


def placed(**placement):
    return service_spec("web", 3, placement=Placement(**placement))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (BASE, BASE),
        (BASE, service_spec("web", 9)),
        (BASE, replace(BASE, labels={"a": "b"})),
        (BASE, replace(BASE, update_config=UpdateConfig(parallelism=2))),
        (BASE, replace(BASE, endpoint_spec=EndpointSpec(mode="vip"))),
        (BASE, placed()),
        (BASE, with_defaults(BASE)),
        (
            replace(BASE, networks=[NetworkAttachmentConfig(target="host")]),
            service_spec("web", 3, networks=[NetworkAttachmentConfig(target="host")]),
        ),
        (
            service_spec(ports=EndpointSpec(ports=[PortConfig(target_port=1)])),
            service_spec(
                ports=EndpointSpec(
                    ports=[PortConfig(target_port=1, protocol="tcp", publish_mode="ingress")]
                )
            ),
        ),
    ],
)
def test_replaces_tasks_is_false_for_what_tasks_are_not_made_of(old, new):
    assert not replaces_tasks(old, new)
    assert not replaces_tasks(new, old)


@pytest.mark.parametrize(
    "new",
    [
        service_spec("web", 3, image="other"),
        service_spec("web", 3, force_update=1),
        service_spec("web", 3, restart_policy=RestartPolicy(delay=1)),
        service_spec("web", 3, networks=[NetworkAttachmentConfig(target="host")]),
        replace(BASE, endpoint_spec=EndpointSpec(mode="dnsrr")),
        service_spec(ports=EndpointSpec(ports=[PortConfig(target_port=1)])),
        service_spec("web", 3, image="other", placement=Placement(constraints=["node.id==n1"])),
    ],
)
def test_replaces_tasks_is_true_for_what_tasks_are_made_of(new):
    assert replaces_tasks(BASE, new)
    assert replaces_tasks(BASE, new, [ON_EU])
    assert not replaces_tasks(BASE, new, [])


def test_replaces_tasks_asks_their_nodes_when_only_placement_changes():
    eu = placed(constraints=["node.labels.zone==eu"])
    assert replaces_tasks(BASE, eu)
    assert not replaces_tasks(BASE, eu, [ON_EU, ON_EU])
    assert replaces_tasks(BASE, eu, [ON_EU, node("n2")])
    assert replaces_tasks(BASE, eu, [ON_EU, None])
    assert not replaces_tasks(eu, placed(max_replicas=1), [node("n2")])
    assert is_dirty(BASE, placed(constraints=["nonsense"]), ON_EU)
