"""From an entry's events to Docker's messages, and from messages to readers."""

import pytest
from msgspec.structs import replace

from swarmlet.core.errors import NotFoundError
from swarmlet.manager.event_feed import READER_EVENTS_MAX, SLICE_EVENTS, EventFeed
from swarmlet.model.change import (
    Create,
    Note,
    Remove,
    SetDesired,
    SetNodeStatus,
    SetStatus,
    Update,
)
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.network import Network, NetworkSpec
from swarmlet.model.node import Node, NodeState, NodeStatus
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import Service, UpdateStatus
from swarmlet.model.task import Task, TaskStatus
from swarmlet.model.task import TaskState as S
from swarmlet.store.store import Store
from tests.manager.control_world import SELF, new_swarm, task_of, web, worker
from tests.store.memory_log import MemoryLog
from tests.store.worlds import StepClock, new_store, seeded_env

EVERYTHING_NS = 1
FOUNDED_AT = 1


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


async def past_of(feed, since_ns=EVERYTHING_NS, until_ns=0, *, with_tasks=False):
    with feed.subscribe(anything, with_past=True, with_tasks=with_tasks) as reader:
        return [one async for one in reader.past(since_ns, until_ns)]


async def news(feed, *, with_tasks=False):
    """All that is kept but the founding's, as (kind, action, attributes)."""
    kept = feed.kept(0, FOUNDED_AT, with_tasks=with_tasks)
    return [(one.kind, one.action, one.attributes) for _, one in kept]


def service_row(swarm, service_id):
    return swarm.view.services.get(service_id)


async def test_service_is_told_from_its_creation_to_its_end(swarm, feed):
    created = await swarm.control.create_service(web())
    await swarm.control.update_service(
        created.id, service_row(swarm, created.id).version, web(replicas=3)
    )
    await swarm.control.remove_service("web")
    assert await news(feed) == [
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
    assert (await news(feed))[-1][2] == {"name": "web", "image.old": "host", "image.new": "nginx:2"}


async def test_progress_of_an_update_is_told_by_its_state(swarm, feed):
    created = await swarm.control.create_service(web())
    for state in ("updating", "updating", "completed"):
        row = service_row(swarm, created.id)
        status = UpdateStatus(state=state)
        await swarm.put(Update(obj=replace(row, update_status=status), seen=row.version))
    assert [attributes for _, _, attributes in (await news(feed))[1:]] == [
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
    assert await news(feed) == [
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
    assert await news(feed) == [
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
    assert [kind for kind, _, _ in await news(feed)] == ["service"]


async def test_message_of_a_nodes_state_is_told_where_it_is_new(swarm, feed):
    await swarm.put(worker("n1", "box", state=NodeState.READY))
    held = NodeStatus(state=NodeState.DISCONNECTED, message="its replacement is held")
    await swarm.put(SetNodeStatus(id="n1", status=held))
    await swarm.put(SetNodeStatus(id="n1", status=replace(held, state=NodeState.DOWN)))
    (_, _, first), (_, _, second) = (await news(feed))[1:]
    assert first["message"] == "its replacement is held"
    assert "message" not in second


async def test_tasks_are_told_from_their_creation_to_their_end_to_those_who_ask(swarm, feed):
    await swarm.put(
        Create(obj=Service(id="w", name="web")),
        worker("n1", "box"),
        task_of("w", "t1", slot=3, node_id="n1", state=S.NEW),
    )
    failed = TaskStatus(state=S.FAILED, message="started", err="it broke", exit_code=3)
    await swarm.put(SetStatus(id="t1", status=failed))
    await swarm.put(SetDesired(id="t1", desired=S.SHUTDOWN))
    await swarm.put(Remove(table=Task, id="t1"))
    about = {"name": "web.3", "service.id": "w", "service.name": "web"}
    about |= {"node.id": "n1", "node.name": "box"}
    told = [one for one in await news(feed, with_tasks=True) if one[0] == "task"]
    assert told == [
        ("task", "create", {**about, "state.new": "new", "desired.new": "running"}),
        (
            "task",
            "update",
            {
                **about,
                "state.old": "new",
                "state.new": "failed",
                "message": "started",
                "err": "it broke",
                "exitcode": "3",
            },
        ),
        ("task", "update", {**about, "desired.old": "running", "desired.new": "shutdown"}),
        ("task", "remove", {**about, "state.old": "failed", "desired.old": "shutdown"}),
    ]
    assert "task" not in {kind for kind, _, _ in await news(feed)}


async def test_what_changes_nothing_that_is_told_of_a_task_is_not_told(swarm, feed):
    await swarm.put(Create(obj=Service(id="w", name="web")), task_of("w", "t1", state=S.PENDING))
    for reason in ("no suitable node (2 nodes)", "no suitable node (3 nodes)"):
        await swarm.put(SetStatus(id="t1", status=TaskStatus(state=S.PENDING, err=reason)))
    _, created, why = await news(feed, with_tasks=True)
    assert created[1] == "create"
    assert why[2]["err"] == "no suitable node (2 nodes)"


async def test_task_of_a_service_and_a_node_that_are_gone_is_told_with_their_names(swarm, feed):
    await swarm.put(Create(obj=Service(id="w", name="web")), worker("n1", "box"))
    await swarm.put(task_of("w", "t1", slot=1, node_id="n1"))
    await swarm.put(Remove(table=Service, id="w"), Remove(table=Node, id="n1"))
    with feed.subscribe(anything, with_tasks=True) as reader:
        await swarm.put(Remove(table=Task, id="t1"))
        live = await anext(reader)
    await swarm.put(Create(obj=Config(id="c", spec=ConfigSpec(name="c"))))
    (*_, past, _) = await past_of(feed, with_tasks=True)
    assert past == live
    assert live.attributes["service.name"] == "web"
    assert live.attributes["node.name"] == "box"


async def test_note_is_told_as_it_stands_and_changes_nothing(swarm, feed):
    before = swarm.view.index
    note = Note(kind="task", action="exec", id="t1", attributes=(("who", "root"), ("cmd", "sh")))
    with feed.subscribe(anything, with_tasks=True) as reader, feed.subscribe(anything) as dockers:
        await swarm.put(note, Create(obj=Config(id="c", spec=ConfigSpec(name="c"))))
        told = [await anext(reader), await anext(reader)]
        assert (await anext(dockers)).kind == "config"  # Docker's clients hear of no task
    assert [one.kind for one in told] == ["config", "task"]
    assert (told[1].action, told[1].id) == ("exec", "t1")
    assert told[1].attributes == {"who": "root", "cmd": "sh"}
    assert swarm.view.index == before + 1
    assert [one.kind for one in await past_of(feed)][-1] == "config"
    assert (await past_of(feed, with_tasks=True))[-1] == told[1]


async def test_note_goes_with_its_entry_or_not_at_all(swarm, feed):
    note = Note(kind="task", action="exec", id="t1")
    with pytest.raises(NotFoundError):
        await swarm.put(note, Remove(table=Config, id="gone"))
    assert await news(feed, with_tasks=True) == []


async def test_every_manager_tells_the_same_of_the_past(swarm, feed):
    await swarm.control.create_service(web())
    node = swarm.view.nodes.get(SELF)
    await swarm.put(Update(obj=replace(node, role="worker"), seen=node.version))
    replayed, restored = new_store(7)[0], new_store(8)[0]
    feeds = [EventFeed(seeded_env(2).clock) for _ in range(2)]
    for other, store in zip(feeds, (replayed, restored), strict=True):
        other.follow(store)
    swarm.log.replay(replayed)
    restored.restore(swarm.store.snapshot())
    expected = await past_of(feed, with_tasks=True)
    assert [one.kind for one in expected].count("service") == 1
    for other in feeds:
        assert await past_of(other, with_tasks=True) == expected


async def test_past_that_a_snapshot_brings_is_not_told_as_new(swarm, feed):
    await swarm.control.create_service(web())
    other, joining = EventFeed(seeded_env(2).clock), new_store(7)[0]
    other.follow(joining)
    with other.subscribe(anything) as reader:
        joining.restore(swarm.store.snapshot())
        (entry,) = await next_entries(swarm)
        joining.apply(swarm.store.index, entry)
        assert (await anext(reader)).id == "c"
    assert [one.kind for one in await past_of(other)].count("service") == 1


async def test_log_that_is_replayed_in_the_same_swarm_is_not_told_as_new(swarm, feed):
    """Also where a leader's clock was behind that of the one before."""
    clock = StepClock()
    store = Store(seeded_env(3, clock))
    log = MemoryLog(store)
    store.attach(log)
    feed.follow(store)
    with feed.subscribe(anything) as reader:
        for name, by_ms in (("first", 0), ("second", -60_000), ("third", 0)):
            clock.now_ms += by_ms
            await store.commit([Create(obj=Config(id=name, spec=ConfigSpec(name=name)))])
        assert [(await anext(reader)).id for _ in range(3)] == ["first", "second", "third"]
        again = new_store(7)[0]
        feed.follow(again)
        log.replay(again)
        await store.commit([Create(obj=Config(id="new", spec=ConfigSpec(name="new")))])
        assert (await anext(reader)).id == "new"


async def next_entries(swarm):
    before = len(swarm.log.entries)
    await swarm.put(Create(obj=Config(id="c", spec=ConfigSpec(name="c"))))
    return swarm.log.entries[before:]


async def test_reader_gets_what_comes_and_the_past_only_if_asked(swarm, feed):
    await put_config(swarm, 1)
    with feed.subscribe(anything) as reader:
        await put_config(swarm, 2)
        assert (await anext(reader)).id == "c2"


async def put_config(swarm, number):
    await swarm.put(_config(f"c{number}"))


def _config(name):
    return Create(obj=Config(id=name, spec=ConfigSpec(name=name)))


async def test_past_is_bounded_at_both_ends(swarm, feed):
    await put_config(swarm, 1)
    at_ns = (await past_of(feed))[-1].at_ms * 1_000_000
    assert (await past_of(feed, at_ns, at_ns))[-1].id == "c1"
    assert await past_of(feed, at_ns + 1, 0) == []
    assert await past_of(feed, 0, at_ns - 1) == []


async def test_what_comes_while_the_past_is_read_is_told_once_and_in_order(swarm, feed):
    count = 3 * SLICE_EVENTS
    for number in range(count):
        await put_config(swarm, number)
    found = []
    with feed.subscribe(anything, with_past=True) as reader:
        async for one in reader.past(EVERYTHING_NS, 0):
            found.append(one.id)
            if len(found) in (SLICE_EVENTS, 2 * SLICE_EVENTS):
                await put_config(swarm, count + len(found))
        await put_config(swarm, 9_999)
        found.append((await anext(reader)).id)
    expected = [*range(count), count + SLICE_EVENTS, count + 2 * SLICE_EVENTS, 9_999]
    assert [one for one in found if one.startswith("c")] == [f"c{one}" for one in expected]


async def test_reader_of_the_past_is_not_cut_off_however_much_comes_meanwhile(swarm, feed):
    with feed.subscribe(anything, with_past=True) as reader:
        past = aiter(reader.past(EVERYTHING_NS, 0))
        await anext(past)
        for number in range(READER_EVENTS_MAX + 10):
            await put_config(swarm, number)
        rest = [one async for one in past]
    assert rest[-1].id == f"c{READER_EVENTS_MAX + 9}"


@pytest.mark.parametrize("first", [0, 3])
async def test_reader_that_falls_behind_holds_nothing_and_misses_nothing(swarm, feed, first):
    reader = feed.subscribe(anything, with_tasks=True)
    await swarm.put(*(_config(f"a{number}") for number in range(5)))
    found = [(await anext(reader)).id for _ in range(first)]
    for number in range(READER_EVENTS_MAX):
        await put_config(swarm, number)
    assert not reader._queue
    while len(found) < 100:
        found.append((await anext(reader)).id)
    await put_config(swarm, 9_999)
    while found[-1] != "c9999":
        found.append((await anext(reader)).id)
    await put_config(swarm, 10_000)
    assert (await anext(reader)).id == "c10000"
    assert found == [
        *(f"a{number}" for number in range(5)),
        *(f"c{number}" for number in (*range(READER_EVENTS_MAX), 9_999)),
    ]
