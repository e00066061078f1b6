"""What a node says that lies: nothing absurd gets into the store, or to whoever reads it."""

import asyncio
import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmlet.api.render.common import rfc3339, rfc3339_fixed
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import TaskID
from swarmlet.core.limits import NS_PER_MS, STATUS_BATCH_MAX, UINT63_MAX
from swarmlet.manager.hearsay import (
    BACK_IN_MAX_S,
    DESCRIPTION_SIZE_MAX_B,
    STATUS_SIZE_MAX_B,
    WALL_MAX_MS,
    WORDS_LENGTH_MAX,
    check_line,
)
from swarmlet.model.node import EngineDescription, NodeDescription, NodeState
from swarmlet.model.service import DiscreteGenericResource, GenericResource, Resources
from swarmlet.model.task import TaskState as S
from swarmlet.model.task import TaskStatus
from swarmlet.wire.channel import AgentChannel, ChannelClosedError
from swarmlet.wire.messages import Goodbye, Hello, LogLine, StatusReport, Welcome
from tests.manager.swarm import DESCRIPTION, NODE, Swarm, play, task_row

TASK = TaskID("t1")


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


async def said(swarm: Swarm, description: NodeDescription) -> tuple[AgentChannel, Welcome]:
    channel = await swarm.manager.connector().open_session()
    await channel.send(Hello(protocol=1, node_id=NODE, description=description))
    welcome = await channel.receive()
    assert isinstance(welcome, Welcome)
    return channel, welcome


async def is_cut_off(channel: AgentChannel) -> bool:
    try:
        async with asyncio.timeout(1):
            while True:
                await channel.receive()
    except ChannelClosedError:
        return True
    except TimeoutError:
        return False


def has_discrete(value: int) -> Resources:
    discrete = DiscreteGenericResource(kind="gpu", value=value)
    return Resources(generic_resources=[GenericResource(discrete_resource_spec=discrete)])


LIES = {
    "a hostname of megabytes": dict(hostname="h" * DESCRIPTION_SIZE_MAX_B),
    "labels without end": dict(
        engine=EngineDescription(labels={str(n): "x" * 100 for n in range(3_000)})
    ),
    "a hostname that clears the screen": dict(hostname="\x1b[2J"),
    "less than no memory": dict(resources=Resources(memory_bytes=-1)),
    "more CPUs than clients can read": dict(resources=Resources(nano_cpus=UINT63_MAX + 1)),
    "more of a thing than clients can read": dict(resources=has_discrete(UINT63_MAX + 1)),
}


@pytest.mark.parametrize("lie", LIES)
def test_node_is_refused_that_says_it_has(swarm: Swarm, lie: str):
    async def story(swarm: Swarm):
        _, welcome = await said(swarm, replace(DESCRIPTION, **LIES[lie]))
        assert welcome.refusal
        assert swarm.node().description == NodeDescription()
        _, welcome = await said(swarm, DESCRIPTION)
        assert not welcome.refusal

    play(swarm, story)


@pytest.mark.parametrize(
    "lie",
    [
        dict(at_ms=WALL_MAX_MS + 1),
        dict(at_ms=-1),
        dict(running_ms=WALL_MAX_MS + 1),
        dict(pid=UINT63_MAX + 1),
        dict(exit_code=UINT63_MAX + 1),
        dict(container_id="x" * STATUS_SIZE_MAX_B),
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_session_ends_at_a_status_with_an_absurd(swarm: Swarm, lie: dict):
    async def story(swarm: Swarm):
        channel, _ = await said(swarm, DESCRIPTION)
        await swarm.create(task_row("t1"))
        status = TaskStatus(state=int(S.RUNNING), **lie)
        await channel.send(StatusReport(number=1, statuses=((swarm.task("t1").id, status),)))
        assert await is_cut_off(channel)
        assert swarm.task("t1").status.state == S.ASSIGNED

    play(swarm, story)


def test_session_ends_at_a_report_without_end(swarm: Swarm):
    async def story(swarm: Swarm):
        channel, _ = await said(swarm, DESCRIPTION)
        status = TaskStatus(state=int(S.RUNNING))
        many = tuple((TaskID(f"t{n}"), status) for n in range(STATUS_BATCH_MAX + 1))
        await channel.send(StatusReport(number=1, statuses=many))
        assert await is_cut_off(channel)
        channel, _ = await said(swarm, DESCRIPTION)
        await channel.send(StatusReport(number=1, statuses=many[1:]))
        assert not await is_cut_off(channel)

    play(swarm, story)


def test_words_of_a_status_are_cut(swarm: Swarm):
    async def story(swarm: Swarm):
        channel, _ = await said(swarm, DESCRIPTION)
        await swarm.create(task_row("t1"))
        status = TaskStatus(state=int(S.FAILED), message="m" * 1_000_000, err="e" * 1_000_000)
        await channel.send(StatusReport(number=1, statuses=((swarm.task("t1").id, status),)))
        await swarm.reaches("t1", S.FAILED)
        kept = swarm.task("t1").status
        assert kept.message == "m" * WORDS_LENGTH_MAX
        assert kept.err == "e" * WORDS_LENGTH_MAX

    play(swarm, story)


@pytest.mark.parametrize("back_in_s", [math.nan, math.inf, 1e300])
def test_node_that_says_goodbye_for_ever_is_down_in_the_end(swarm: Swarm, back_in_s: float):
    async def story(swarm: Swarm):
        channel, _ = await said(swarm, DESCRIPTION)
        await channel.send(Goodbye(back_in_s=back_in_s))
        channel.close()
        await asyncio.sleep(1)
        assert swarm.node().status.state == NodeState.DISCONNECTED
        await asyncio.sleep(BACK_IN_MAX_S)
        assert swarm.node().status.state == NodeState.DOWN

    play(swarm, story)


@pytest.mark.parametrize(
    ("stream", "at_ns"), [(0, 1), (3, 1), (1, -1), (1, (WALL_MAX_MS + 1) * NS_PER_MS)]
)
def test_log_line_is_refused_that_no_client_understands(stream: int, at_ns: int):
    """Stream 3 would be the manager's own error to a client."""
    with pytest.raises(InvalidArgumentError):
        check_line(LogLine(TASK, at_ns, stream, b"x"))


def test_last_moment_that_is_let_in_can_be_shown():
    assert rfc3339(WALL_MAX_MS) == "9999-12-31T23:59:59.999Z"
    check_line(LogLine(TASK, WALL_MAX_MS * NS_PER_MS, 2, b"x"))
    assert rfc3339_fixed(WALL_MAX_MS * NS_PER_MS).startswith("9999-12-31T23:59:59.999")
