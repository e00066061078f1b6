"""The allocator: who may be placed, who may not yet and why, and a service's ports."""

import pytest

from swarmlet.core.ids import NetworkID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.service import EndpointSpec, NetworkAttachmentConfig, PortConfig
from swarmlet.model.task import NetworkAttachment, TaskState
from swarmlet.reconcile.allocator.allocate import AllocatorDecider
from swarmlet.reconcile.allocator.needs import missing
from tests.reconcile.world import Leader, World, assert_at_rest, replace, task

NEW, PENDING = TaskState.NEW, TaskState.PENDING
HOST_PORT = PortConfig(target_port=80, published_port=8080, publish_mode="host")
INGRESS_PORT = PortConfig(target_port=80, published_port=8080)


def allocator():
    return [AllocatorDecider()]


def scene(*networks, ports=(), drivers=("overlay",)):
    world = World()
    for driver in drivers:
        spec = NetworkSpec(name=f"my-{driver}", driver=driver)
        world.put(Network(id=NetworkID(f"id-{driver}"), spec=spec))
    world.add_service(
        networks=[NetworkAttachmentConfig(target=target) for target in networks],
        ports=EndpointSpec(ports=list(ports)) if ports else None,
    )
    return world


def status_of(world):
    leader = Leader(world, allocator())
    leader.tell(world.put(task("t", state=NEW, on="")))
    leader.run()
    assert_at_rest(world, allocator)
    return world.tasks.get("t").status


@pytest.mark.parametrize(
    ("networks", "ports"),
    [
        ((), ()),
        (("host",), ()),
        (("none",), ()),
        (("id-bridge",), ()),
        (("My-Bridge", "my-host"), (HOST_PORT,)),
    ],
)
def test_task_passes_when_it_needs_no_address(networks, ports):
    status = status_of(scene(*networks, ports=ports, drivers=("bridge", "host")))
    assert (status.state, status.err) == (PENDING, "")
    assert status.message == "pending task scheduling"


@pytest.mark.parametrize(
    ("networks", "ports", "err"),
    [
        (("my-overlay",), (), "no address on network my-overlay has been allocated"),
        (("id-overlay",), (), "no address on network my-overlay has been allocated"),
        (("nowhere", "host"), (), "network nowhere does not exist"),
        ((), (INGRESS_PORT,), "no address on the ingress network has been allocated"),
        (("a", "b"), (), "network a does not exist; network b does not exist"),
    ],
)
def test_task_is_pending_with_the_reason_when_it_needs_an_address(networks, ports, err):
    status = status_of(scene(*networks, ports=ports))
    assert (status.state, status.err) == (PENDING, err)


def test_nothing_is_missing_once_the_address_is_there():
    world = scene("my-overlay")
    spec = world.specs.get("web@1").spec
    attached = task("t", networks=(NetworkAttachment(network_id="id-overlay"),))
    assert missing(world, spec, attached) == ""
    assert missing(world, spec, task("t", networks=(NetworkAttachment(network_id="other"),)))


@pytest.mark.parametrize("desired", [TaskState.SHUTDOWN, TaskState.REMOVE])
def test_task_stays_new_when_it_is_not_wanted(desired):
    world = scene()
    world.put(task("t", state=NEW, on="", desired=desired))
    Leader(world, allocator()).run()
    assert world.tasks.get("t").status.state == NEW


def test_task_stays_new_when_its_spec_went_with_its_service():
    world = scene()
    world.put(task("t", state=NEW, on="", service="gone"))
    Leader(world, allocator()).run()
    assert world.tasks.get("t").status.state == NEW


def test_tasks_pass_a_thousand_at_a_time():
    world = scene()
    leader = Leader(world, allocator())
    for n in range(ENTRY_CHANGES_MAX + 1):
        leader.tell(world.put(task(f"t{n}", n, state=NEW, on="")))
    leader.run()
    sizes = [len(d.changes) for _, d in leader.decided if d.changes]
    assert sizes == [ENTRY_CHANGES_MAX, 1]
    assert {t.status.state for t in world.tasks.all()} == {PENDING}


def test_endpoint_takes_over_ports_in_host_mode_and_follows_them():
    world = scene(ports=(HOST_PORT, replace(INGRESS_PORT, published_port=9)))
    leader = Leader(world, allocator())
    leader.run()
    (port,) = world.services.get("web").endpoint.ports
    assert port == replace(HOST_PORT, protocol="tcp")
    spec = replace(world.specs.get("web@1").spec, endpoint_spec=None)
    leader.tell(world.update_service("web", spec))
    leader.run()
    assert world.services.get("web").endpoint.ports == ()
    leader.tell(world.remove_service("web"))
    leader.run()
    assert_at_rest(world, allocator)


def test_service_without_ports_is_not_written():
    world = scene()
    before = world.services.get("web")
    Leader(world, allocator()).run()
    assert world.services.get("web") is before
