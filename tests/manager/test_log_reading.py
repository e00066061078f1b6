"""One reading of many nodes' logs."""

import pytest

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.manager.log_progress import Progress
from swarmlet.manager.log_reading import ASKED_MAX, Reading
from swarmlet.model.task import TaskState
from swarmlet.wire.messages import CloseLogs, LogBatch, LogLine, LogOptions, OpenLogs
from tests.reconcile.world import World, node, task
from tests.store.worlds import seeded_env

COUNT = 3 * ASKED_MAX


class Nodes:
    """So many with a task each, that are asked and answer when told to."""

    def __init__(self, *, follow: bool) -> None:
        self.world = World()
        self.world.add_service(replicas=COUNT)
        for number in range(COUNT):
            self.world.put(node(f"n{number:03}"))
            row = task(f"t{number:03}", number + 1, state=TaskState.RUNNING, on=f"n{number:03}")
            self.world.put(row)
        self.asked: list[tuple[NodeID, OpenLogs]] = []
        self.closed = 0
        self.reading = Reading(
            seeded_env(1),
            self.post,
            lambda: self.world,
            Progress(LogOptions(follow=follow), 0),
            is_resumed=False,
        )
        self.reading.begin((), ("web",))

    def post(self, node_id: NodeID, message: object) -> bool:
        if isinstance(message, OpenLogs):
            self.asked.append((node_id, message))
        else:
            assert isinstance(message, CloseLogs)
            self.closed += 1
        return True

    async def send(self, wanted: OpenLogs) -> None:
        """The last of one line."""
        lines = (LogLine(wanted.task_ids[0], 1, 1, b"x\n"),)
        await self.reading.put(wanted.subscription, LogBatch(lines=lines, is_last=True))


async def test_nodes_open_their_streams_a_few_at_a_time_while_following():
    nodes = Nodes(follow=True)
    assert len(nodes.asked) == ASKED_MAX
    for number in range(COUNT):
        nodes.reading.open(nodes.asked[number][1].subscription)
        assert len(nodes.asked) == min(COUNT, ASKED_MAX + number + 1)
    assert len({node_id for node_id, _ in nodes.asked}) == COUNT == len(nodes.reading.streams)


async def test_nodes_send_their_logs_a_few_at_a_time_where_they_are_read_to_the_end():
    nodes = Nodes(follow=False)
    got: set[TaskID] = set()
    for number in range(COUNT):
        assert len(nodes.asked) == min(COUNT, ASKED_MAX + number)
        wanted = nodes.asked[number][1]
        nodes.reading.open(wanted.subscription)
        await nodes.send(wanted)
        got.update(line.task_id for line in await nodes.reading.take())
    assert len(got) == COUNT
    assert await nodes.reading.take() == ()


@pytest.mark.parametrize("follow", [True, False])
async def test_node_that_is_lost_before_it_sent_anything_gives_its_turn_to_another(follow: bool):
    nodes = Nodes(follow=follow)
    nodes.reading.lose(nodes.asked[0][0])
    assert len(nodes.asked) == ASKED_MAX + 1
    nodes.reading.close()
    assert nodes.closed == ASKED_MAX
    assert len(nodes.asked) == ASKED_MAX + 1  # and then nobody is asked any more
