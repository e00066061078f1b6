"""Secrets and configs on the way to a node: before the task that needs them, never without one, and
taken back with the last."""

from msgspec.structs import replace

from swarmlet.core.ids import ConfigID, NodeID, SecretID
from swarmlet.core.limits import ASSIGNMENT_BATCH_MAX
from swarmlet.manager.assignments import PART_SIZE_MAX_B, AssignmentFeed
from swarmlet.model.base import Driver
from swarmlet.model.change import Create, Remove, SetStatus
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.container import ConfigReference, ContainerSpec, SecretReference
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.service import SpecVersion, TaskSpec, spec_version_id
from swarmlet.model.task import Task, TaskStatus
from swarmlet.model.task import TaskState as S
from swarmlet.wire.messages import Assignments, decode_payload
from tests.manager.swarm import NODE, OTHER, WEB, Swarm, play, task_row, web_spec

GOLANG = Driver(name="golang")


class Node:
    """What a node holds by what it was told, checked message by message."""

    def __init__(self, swarm: Swarm, node_id: NodeID = NODE) -> None:
        self.feed = AssignmentFeed(node_id, swarm.store, self._take)
        self.told: list[Assignments] = []
        self.holds: dict[tuple[str, str], bytes] = {}
        self.most_b = 0

    async def _take(self, message) -> None:
        assert isinstance(message, Assignments)
        assert message.applies_to == len(self.told)
        assert len(message.put) <= ASSIGNMENT_BATCH_MAX
        self.told.append(message)
        self.most_b = max(self.most_b, sum(len(item.body) for item in message.put))
        for item in message.put:
            self.holds[item.kind, item.id] = item.body
        for key in message.gone:
            del self.holds[key]

    async def list_all(self) -> None:
        async def nothing() -> None:
            pass

        await self.feed.send_all(nothing)

    async def change(self, *task_ids: str) -> list[Assignments]:
        for task_id in task_ids:
            self.feed.touch(task_id)
        before = len(self.told)
        await self.feed.send_changes()
        return self.told[before:]

    def keys(self) -> list[tuple[str, str]]:
        return list(self.holds)


async def set_scene(swarm: Swarm, size_b: int = 3) -> None:
    """Spec version 2 of the service needs secret s and config c."""
    secret = SecretSpec(name="key", data=b"x" * size_b)
    config = ConfigSpec(name="conf", data=b"y" * size_b, templating=GOLANG)
    container = ContainerSpec(
        image="host",
        secrets=[SecretReference(secret_id="s", secret_name="key")],
        configs=[ConfigReference(config_id="c", config_name="conf")],
    )
    spec = replace(web_spec(), task_template=TaskSpec(container_spec=container))
    row_id = spec_version_id(WEB, 2)
    await swarm.store.commit(
        [
            Create(obj=Secret(id=SecretID("s"), spec=secret)),
            Create(obj=Config(id=ConfigID("c"), spec=config)),
            Create(obj=SpecVersion(id=row_id, service_id=WEB, number=2, spec=spec)),
        ]
    )


def needing(task_id: str, state: S = S.ASSIGNED, **more) -> Task:
    return replace(task_row(task_id, state, **more), spec_version=2)


def test_payloads_come_before_the_task_and_only_where_one_needs_them(tmp_path):
    async def story(swarm: Swarm):
        await set_scene(swarm)
        await swarm.create(needing("a"), task_row("b"), needing("over", S.FAILED))
        node, other = Node(swarm), Node(swarm, OTHER)
        await node.list_all()
        await other.list_all()
        assert node.keys() == [
            ("config", "c"),
            ("secret", "s"),
            *(("task", one) for one in ("a", "b", "over")),
        ]
        assert other.keys() == []
        secret = decode_payload(node.holds["secret", "s"])
        assert (secret.id, secret.name, secret.data, secret.templating) == ("s", "key", b"xxx", "")
        assert decode_payload(node.holds["config", "c"]).templating == "golang"
        assert "xxx" not in repr(secret)

    play(Swarm(tmp_path), story)


def test_second_user_brings_nothing_and_the_last_to_end_takes_them_back(tmp_path):
    async def story(swarm: Swarm):
        await set_scene(swarm)
        node = Node(swarm)
        await node.list_all()
        await swarm.create(needing("a"))
        (told,) = await node.change("a")
        assert [item.kind for item in told.put] == ["config", "secret", "task"]
        await swarm.create(needing("b"))
        (told,) = await node.change("b")
        assert [item.kind for item in told.put] == ["task"]
        over = TaskStatus(state=int(S.COMPLETE))
        await swarm.store.commit([SetStatus(id="a", status=over)])
        assert await node.change("a") == []
        await swarm.store.commit([Remove(table=Task, id="b")])
        (told,) = await node.change("b")
        assert told.gone == (("config", "c"), ("secret", "s"), ("task", "b"))
        assert node.keys() == [("task", "a")]

    play(Swarm(tmp_path), story)


def test_node_that_registers_anew_is_told_everything_again(tmp_path):
    async def story(swarm: Swarm):
        await set_scene(swarm)
        await swarm.create(needing("a", S.RUNNING))
        for _ in range(2):
            node = Node(swarm)
            await node.list_all()
            assert len(node.holds) == 3

    play(Swarm(tmp_path), story)


def test_payload_that_was_removed_is_left_out(tmp_path):
    async def story(swarm: Swarm):
        await set_scene(swarm)
        await swarm.create(needing("a"))
        await swarm.store.commit([Remove(table=Secret, id="s")])
        node = Node(swarm)
        await node.list_all()
        assert node.keys() == [("config", "c"), ("task", "a")]

    play(Swarm(tmp_path), story)


def test_large_payloads_come_in_messages_of_bounded_size(tmp_path):
    async def story(swarm: Swarm):
        await set_scene(swarm, 500_000)
        await swarm.create(*(needing(f"t{number:03}") for number in range(250)))
        node = Node(swarm)
        await node.list_all()
        assert len(node.holds) == 252
        assert len(node.told) == 3
        assert [message.has_more for message in node.told] == [True, True, False]
        assert node.most_b <= 2 * PART_SIZE_MAX_B

    play(Swarm(tmp_path), story)
