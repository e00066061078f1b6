"""What users ask of placement: beside services or away from them, packed, pieces, plugins."""

import msgspec
import pytest

from swarmlet.core.ids import NetworkID
from swarmlet.model.base import Driver
from swarmlet.model.container import ContainerSpec, Mount, VolumeOptions
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.node import Plugin
from swarmlet.model.service import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
    NetworkAttachmentConfig,
    Placement,
    PlacementPreference,
    SpreadOver,
)
from swarmlet.model.strategy import BINPACK, LABEL
from swarmlet.reconcile.base import started
from tests.reconcile.test_scheduler import (
    ASSIGNED,
    FAILED,
    RUNNING,
    WAITING,
    arrive,
    errs,
    placed,
    reserving,
    scene,
    scheduler,
)
from tests.reconcile.world import assert_at_rest, node, replace, service_spec, task

ABC = tuple(node(f"n{number}") for number in (1, 2, 3))


def beside(*constraints, rather=()):
    spreads = [PlacementPreference(spread=SpreadOver(spread_descriptor=text)) for text in rather]
    return {"placement": Placement(constraints=list(constraints), preferences=spreads)}


def others(world, leader, service, *nodes):
    """Tasks of another service that run on these nodes."""
    world.add_service(service)
    for node_id in nodes:
        leader.tell(world.put(task(f"{service}-{node_id}", service=service, on=node_id)))
    leader.run()


# Beside other services ------------------------------------------------------------------------
def test_tasks_go_only_where_a_service_they_need_is():
    world, leader = scene(*ABC, **beside("service==db"))
    others(world, leader, "db", "n2")
    arrive(world, leader, 1, 2)
    assert placed(world) == {"t1": "n2", "t2": "n2"}
    assert_at_rest(world, scheduler)


def test_tasks_keep_away_from_a_service_and_from_each_other():
    world, leader = scene(*ABC, **beside("service!=db", "service!=web"))
    others(world, leader, "db", "n2")
    arrive(world, leader, 1, 2, 3)
    assert placed(world) == {"t1": "n1", "t2": "n3"}
    assert errs(world) == {
        "no suitable node (services asked for are not there, or unwanted ones are, on 3 nodes)"
    }
    assert_at_rest(world, scheduler)


def test_name_of_a_service_is_compared_without_regard_to_case():
    world, leader = scene(*ABC, **beside("service==DB"))
    others(world, leader, "db", "n3")
    arrive(world, leader, 1)
    assert placed(world) == {"t1": "n3"}


@pytest.mark.parametrize("state", [ASSIGNED, RUNNING])
def test_task_waits_for_a_service_and_follows_it(state):
    world, leader = scene(*ABC, **beside("service==db"))
    arrive(world, leader, 1)
    assert "services asked for" in errs(world).pop()
    world.add_service("db")
    leader.tell(world.put(task("d", service="db", on="n3", state=state)))
    leader.run()
    assert world.tasks.get("t1").node_id == "n3"
    assert_at_rest(world, scheduler)


@pytest.mark.parametrize("is_placed_here", [True, False])
def test_task_that_has_its_node_waits_there_for_a_service(is_placed_here):
    world, leader = scene(*ABC, **beside("service==db"))
    for number in (1, 2, 3):
        arrive(world, leader, number, on=f"n{number}")
    assert "services asked for" in errs(world).pop()
    world.add_service("db", placement=Placement(constraints=["node.id==n2"]))
    fields = {"on": "", "state": WAITING} if is_placed_here else {"on": "n2", "state": RUNNING}
    leader.tell(world.put(task("d", service="db", **fields)))
    leader.run()
    assert {"t2"} <= placed(world).keys() <= {"d", "t2"}
    assert_at_rest(world, scheduler)


def test_service_and_the_one_that_needs_it_are_placed_in_one_go():
    world, leader = scene(*ABC, **beside("service==db"))
    world.add_service("db", resources=reserving(nano_cpus=-1))  # its turn comes last
    for name in ("web", "db"):
        leader.tell(world.put(task(name, service=name, on="", state=WAITING)))
    leader.run()
    assert world.tasks.get("web").node_id == world.tasks.get("db").node_id == "n1"
    assert len([d for _, d in leader.decided if d.changes]) == 1


def test_task_takes_the_place_that_an_unwanted_service_leaves():
    world, leader = scene(node("n1"), **beside("service!=db"))
    others(world, leader, "db", "n1")
    arrive(world, leader, 1)
    assert placed(world) == {}
    leader.tell(world.report("db-n1", FAILED))
    leader.run()
    assert placed(world) == {"t1": "n1"}


def test_what_is_preferred_goes_before_balance_and_after_failures():
    world, leader = scene(*ABC, **beside(rather=("service==cache", "service!=batch")))
    others(world, leader, "cache", "n2", "n3")
    others(world, leader, "batch", "n3")
    arrive(world, leader, 1, 2)
    assert placed(world) == {"t1": "n2", "t2": "n2"}
    for number in range(5):
        leader.tell(world.put(task(f"f{number}", 9, on="n2", state=ASSIGNED, desired=640)))
        leader.tell(world.report(f"f{number}", FAILED))
    arrive(world, leader, 3, 4)
    assert {world.tasks.get(t).node_id for t in ("t3", "t4")} == {"n1", "n3"}


def test_preference_does_not_keep_tasks_waiting():
    world, leader = scene(node("n1"), **beside(rather=("service==nowhere", "service!=web")))
    arrive(world, leader, 1, 2)
    assert placed(world) == {"t1": "n1", "t2": "n1"}


# Packing --------------------------------------------------------------------------------------
def packed(world, **spec):
    """The world's service, with its label."""
    made = replace(service_spec(**spec), labels={LABEL: BINPACK})
    row = world.specs.get("web@1")
    world.put(msgspec.structs.replace(row, spec=made))


def test_packed_tasks_fill_one_node_after_the_other():
    rows = [node(f"n{number}", cpu_nano=3, memory_b=0) for number in (1, 2, 3)]
    world, leader = scene(*rows)
    packed(world, resources=reserving(nano_cpus=1))
    leader.tell(world.put(task("o", service="other", on="n2")))
    arrive(world, leader, 1, 2, 3, 4)
    assert placed(world) == {"t1": "n1", "t2": "n1", "t3": "n1", "t4": "n2"}
    assert_at_rest(world, scheduler)


def test_packed_tasks_take_the_node_that_others_have_filled_meanwhile():
    rows = [node(f"n{number}", cpu_nano=4, memory_b=0) for number in (1, 2)]
    world, leader = scene(*rows)
    packed(world, resources=reserving(nano_cpus=1))
    arrive(world, leader, 1)
    world.add_service("big", resources=reserving(nano_cpus=3))
    leader.tell(world.put(task("b", service="big", on="", state=WAITING)))
    leader.run()
    assert placed(world) == {"t1": "n1", "b": "n2"}
    arrive(world, leader, 2)
    assert world.tasks.get("t2").node_id == "n2"


def test_packed_tasks_still_spread_over_labels_and_heed_the_limit():
    rows = [node(f"n{n}", labels={"dc": f"d{n % 2}"}, cpu_nano=9) for n in (1, 2, 3, 4)]
    world, leader = scene(*rows)
    spread = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.dc"))
    packed(world, placement=Placement(preferences=[spread], max_replicas=2))
    arrive(world, leader, 1, 2, 3, 4, 5, 6)
    nodes = sorted(placed(world).values())
    assert nodes == ["n1", "n1", "n2", "n2", "n3", "n4"]


# Generic resources ----------------------------------------------------------------------------
def gpus(*names):
    return [
        GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=name))
        for name in names
    ]


def pieces(count):
    return [
        GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=count))
    ]


def given(world):
    return {t.id: list(t.generic_resources) for t in world.tasks.all() if t.generic_resources}


def test_tasks_get_pieces_of_their_own_by_name():
    reserved = reserving(generic_resources=pieces(1))
    world, leader = scene(node("n1", generic=gpus("a", "b")), resources=reserved)
    arrive(world, leader, 1, 2, 3)
    assert given(world) == {"t1": gpus("a"), "t2": gpus("b")}
    assert errs(world) == {"no suitable node (insufficient resources on 1 node)"}
    leader.tell(world.report("t1", FAILED))
    leader.run()
    assert given(world)["t3"] == gpus("a")
    assert_at_rest(world, scheduler)


def test_tasks_get_numbers_where_pieces_have_no_names():
    reserved = reserving(generic_resources=pieces(2))
    world, leader = scene(node("n1", generic=pieces(5)), resources=reserved)
    arrive(world, leader, 1, 2, 3)
    assert given(world) == {"t1": pieces(2), "t2": pieces(2)}


def test_new_leader_knows_who_has_which_piece():
    reserved = reserving(generic_resources=pieces(1))
    world, leader = scene(node("n1", generic=gpus("a", "b", "c")), resources=reserved)
    arrive(world, leader, 1, 2)
    leader.tell(world.report("t1", FAILED))
    started(leader.deciders[0], world)
    arrive(world, leader, 3, 4)
    assert given(world) == {"t1": gpus("a"), "t2": gpus("b"), "t3": gpus("a"), "t4": gpus("c")}


# Plugins --------------------------------------------------------------------------------------
def with_plugins(node_id, *plugins):
    row = node(node_id)
    listed = [Plugin(type=kind, name=name) for kind, name in plugins]
    engine = replace(row.description.engine, plugins=listed)
    return replace(row, description=replace(row.description, engine=engine))


def spec_with(*, volume="", log="", network=""):
    mounts = []
    if volume:
        options = VolumeOptions(driver_config=Driver(name=volume))
        mounts.append(Mount(type="volume", source="v", target="/v", volume_options=options))
    spec = service_spec()
    template = replace(
        spec.task_template,
        container_spec=ContainerSpec(image="host", mounts=mounts),
        log_driver=Driver(name=log) if log else None,
        networks=[NetworkAttachmentConfig(target=network)] if network else [],
    )
    return replace(spec, task_template=template)


@pytest.mark.parametrize(
    ("wanted", "has", "fits"),
    [
        ({}, [("Log", "x")], True),
        ({"volume": "rex"}, [], True),
        ({"volume": "rex"}, [("Volume", "rex")], True),
        ({"volume": "rex"}, [("Volume", "rex:latest")], True),
        ({"volume": "rex"}, [("Volume", "rex:1")], False),
        ({"volume": "rex"}, [("Log", "rex")], False),
        ({"volume": "local"}, [("Log", "x")], True),
        ({"log": "syslog"}, [("Log", "syslog")], True),
        ({"log": "syslog"}, [("Log", "json-file")], False),
        ({"log": "syslog"}, [("Volume", "local")], True),
        ({"log": "none"}, [("Log", "json-file")], True),
        ({"network": "host"}, [("Network", "host")], True),
        ({"network": "bridge"}, [("Network", "host")], False),
        ({"network": "none"}, [("Network", "null")], True),
        ({"network": "blue"}, [("Network", "macvlan")], True),
        ({"network": "blue"}, [("Network", "host")], False),
    ],
)
def test_node_needs_the_plugins_that_tasks_use(wanted, has, fits):
    world, leader = scene(with_plugins("n1", *has))
    blue = NetworkSpec(name="blue", driver="macvlan")
    world.put(Network(id=NetworkID("b1"), spec=blue, predefined=True))
    world.put(msgspec.structs.replace(world.specs.get("web@1"), spec=spec_with(**wanted)))
    arrive(world, leader, 1)
    assert placed(world) == ({"t1": "n1"} if fits else {})
    assert errs(world) == (set() if fits else {"no suitable node (missing plugin on 1 node)"})
