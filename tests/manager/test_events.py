"""From an entry's events to Docker's messages, and from messages to readers."""

import asyncio

import pytest
from msgspec.structs import replace

from swarmlet.manager.event_feed import EVENTS_KEPT, READER_EVENTS_MAX, EventFeed
from swarmlet.model.change import Create, Remove, SetNodeStatus, Update
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.node import Node, NodeState, NodeStatus
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import Service, UpdateStatus
from tests.manager.control_world import SELF, new_swarm, task_of, web, worker
from tests.store.worlds import seeded_env

EVERYTHING_NS = 1


def anything(_message):
    return True


@pytest.fixture
async def swarm():
    return await new_swarm()


@pytest.fixture
def feed(swarm):
    feed = EventFeed(seeded_env(1).clock)
    feed.follow(swarm.store)
    return feed


def told(feed):
    """All that is kept, as (kind, action, attributes)."""
    past = feed.subscribe(EVERYTHING_NS, 0, anything).past
    return [(one.kind, one.action, one.attributes) for one in past]


def service_row(swarm, service_id):
    return swarm.view.services.get(service_id)


async def test_service_is_told_from_its_creation_to_its_end(swarm, feed):
    created = await swarm.control.create_service(web())
    await swarm.control.update_service(
        created.id, service_row(swarm, created.id).version, web(replicas=3)
    )
    await swarm.control.remove_service("web")
    assert told(feed) == [
        ("service", "create", {"name": "web"}),
        ("service", "update", {"name": "web", "replicas.old": "1", "replicas.new": "3"}),
        ("service", "remove", {"name": "web"}),
    ]


async def test_update_names_both_images(swarm, feed):
    created = await swarm.control.create_service(web())
    row = service_row(swarm, created.id)
    old = swarm.view.specs.get(f"{created.id}@1")
    template = old.spec.task_template
    container = replace(template.container_spec, image="nginx:2")
    spec = replace(old.spec, task_template=replace(template, container_spec=container))
    await swarm.put(
        Update(obj=replace(row, spec_version=2), seen=row.version),
        Create(obj=replace(old, id=f"{created.id}@2", number=2, spec=spec)),
    )
    assert told(feed)[-1][2] == {"name": "web", "image.old": "host", "image.new": "nginx:2"}


async def test_progress_of_an_update_is_told_by_its_state(swarm, feed):
    created = await swarm.control.create_service(web())
    for state in ("updating", "updating", "completed"):
        row = service_row(swarm, created.id)
        status = UpdateStatus(state=state)
        await swarm.put(Update(obj=replace(row, update_status=status), seen=row.version))
    assert [attributes for _, _, attributes in told(feed)[1:]] == [
        {"name": "web", "updatestate.new": "updating"},
        {"name": "web"},
        {"name": "web", "updatestate.old": "updating", "updatestate.new": "completed"},
    ]


async def test_node_tells_availability_role_and_state(swarm, feed):
    await swarm.put(worker("n1", "box", state=NodeState.READY))
    row = swarm.view.nodes.get("n1")
    spec = replace(row.spec, availability="drain")
    await swarm.put(Update(obj=replace(row, spec=spec, role="manager"), seen=row.version))
    await swarm.put(SetNodeStatus(id="n1", status=NodeStatus(state=NodeState.DOWN)))
    await swarm.put(Remove(table=Node, id="n1"))
    availability = {"availability.old": "active", "availability.new": "drain"}
    role = {"role.old": "worker", "role.new": "manager"}
    assert told(feed) == [
        ("node", "create", {"name": "box"}),
        ("node", "update", {"name": "box", **availability, **role}),
        ("node", "update", {"name": "box", "state.old": "ready", "state.new": "down"}),
        ("node", "remove", {"name": "box"}),
    ]


async def test_secrets_configs_and_networks_tell_their_names_and_nothing_they_hold(swarm, feed):
    await swarm.put(
        Create(obj=Secret(id="s1", spec=SecretSpec(name="key", data=b"hush"))),
        Create(obj=Config(id="c1", spec=ConfigSpec(name="conf", data=b"x"))),
        Create(obj=Network(id="n1", spec=NetworkSpec(name="front"))),
    )
    await swarm.put(Remove(table=Secret, id="s1"))
    assert told(feed) == [
        ("secret", "create", {"name": "key"}),
        ("config", "create", {"name": "conf"}),
        ("network", "create", {"name": "front"}),
        ("secret", "remove", {"name": "key"}),
    ]


async def test_what_lists_hide_and_tasks_are_not_told(swarm, feed):
    await swarm.put(
        Create(obj=Secret(id="s1", spec=SecretSpec(name="key"), internal=True)),
        Create(obj=Network(id="n1", spec=NetworkSpec(name="bridge"), predefined=True)),
        Create(obj=Service(id="w", name="web")),
        task_of("w", "t1"),
    )
    assert [kind for kind, _, _ in told(feed)] == ["service"]


async def test_stamp_is_the_entrys_so_that_a_replay_tells_the_same(swarm, feed):
    await swarm.control.create_service(web())
    node = swarm.view.nodes.get(SELF)
    await swarm.put(Update(obj=replace(node, role="worker"), seen=node.version))
    again = EventFeed(seeded_env(2).clock)
    replayed = (await new_swarm()).store
    again.follow(replayed)
    for index, entry in enumerate(swarm.log.entries, 1):
        if index > replayed.index:
            replayed.apply(index, entry)
    assert feed.subscribe(EVERYTHING_NS, 0, anything).past
    assert (
        again.subscribe(EVERYTHING_NS, 0, anything).past
        == feed.subscribe(EVERYTHING_NS, 0, anything).past
    )


async def test_the_last_256_are_kept(swarm, feed):
    for number in range(EVENTS_KEPT + 4):
        await swarm.put(Create(obj=Config(id=f"c{number}", spec=ConfigSpec(name=f"c{number}"))))
    names = [attributes["name"] for _, _, attributes in told(feed)]
    assert (len(names), names[0], names[-1]) == (256, "c4", "c259")


async def test_reader_gets_what_comes_and_the_past_only_if_asked(swarm, feed):
    await swarm.put(Create(obj=Config(id="c1", spec=ConfigSpec(name="c1"))))
    with feed.subscribe(0, 0, anything) as reader:
        await swarm.put(Create(obj=Config(id="c2", spec=ConfigSpec(name="c2"))))
        assert reader.past == ()
        assert (await anext(reader)).id == "c2"


async def test_past_is_bounded_at_both_ends(swarm, feed):
    await swarm.put(Create(obj=Config(id="c1", spec=ConfigSpec(name="c1"))))
    (one,) = feed.subscribe(EVERYTHING_NS, 0, anything).past
    at_ns = one.at_ms * 1_000_000
    assert feed.subscribe(at_ns, at_ns, anything).past == (one,)
    assert feed.subscribe(at_ns + 1, 0, anything).past == ()
    assert feed.subscribe(0, at_ns - 1, anything).past == ()


async def test_reader_that_does_not_read_is_cut_off_and_holds_nothing(swarm, feed):
    reader = feed.subscribe(0, 0, anything)
    for number in range(READER_EVENTS_MAX + 1):
        await swarm.put(Create(obj=Config(id=f"c{number}", spec=ConfigSpec(name=f"c{number}"))))
    async with asyncio.timeout(1):
        await reader.cut_off()
    assert reader.is_behind
    assert [one async for one in reader] == []
