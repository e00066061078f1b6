"""The dispatcher against a hand-driven agent: who may register, what is refused, what is told
when."""

import asyncio
import gc
import itertools
import weakref
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from swarmlet.core.errors import UnavailableError
from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.manager.dispatcher import LEADER_WEIGHT
from swarmlet.manager.status_batch import StatusBatch
from swarmlet.model.base import Driver
from swarmlet.model.change import Create, Remove, SetDesired, SetNodeStatus, Update
from swarmlet.model.cluster import JoinTokens, RootCA, TaskDefaults
from swarmlet.model.container import ContainerSpec
from swarmlet.model.node import (
    IssuanceState,
    ManagerStatus,
    Node,
    NodeCertificate,
    NodeState,
    NodeStatus,
)
from swarmlet.model.service import SpecVersion, TaskSpec, spec_version_id
from swarmlet.model.task import TaskState as S
from swarmlet.model.task import TaskStatus
from swarmlet.model.view import cluster_of
from swarmlet.wire.channel import AgentChannel, ChannelClosedError, memory_channel
from swarmlet.wire.messages import (
    Assignments,
    Goodbye,
    Heartbeat,
    Hello,
    LogBatch,
    ManagerAddr,
    Message,
    StatusAck,
    StatusReport,
    SwarmInfo,
    Welcome,
    decode_assigned_task,
)
from tests.agent.virtual_time import until
from tests.manager.swarm import (
    DESCRIPTION,
    NODE,
    OTHER,
    WEB,
    Swarm,
    node_row,
    play,
    task_row,
    web_spec,
)


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path)


async def connect(swarm: Swarm, protocol: int = 1, node_id: NodeID = NODE) -> AgentChannel:
    channel = await swarm.manager.connector().open_session()
    await channel.send(Hello(protocol=protocol, node_id=node_id, description=DESCRIPTION))
    return channel


async def registered(swarm: Swarm) -> AgentChannel:
    channel = await connect(swarm)
    welcome = await channel.receive()
    assert isinstance(welcome, Welcome)
    assert not welcome.refusal
    assert welcome.heartbeat_period_s == 5
    return channel


async def assignments(channel: AgentChannel) -> Assignments:
    while isinstance(message := await channel.receive(), Heartbeat | SwarmInfo):
        pass
    assert isinstance(message, Assignments)
    return message


async def is_cut_off(channel: AgentChannel) -> bool:
    try:
        while True:
            await channel.receive()
    except ChannelClosedError:
        return True


REFUSALS = [
    (dict(protocol=3), "protocol 3, this manager 1"),
    (dict(node_id=OTHER), "its certificate says node-1"),
]


@pytest.mark.parametrize(("hello", "words"), REFUSALS)
def test_dispatcher_refuses_a_stranger_in_words(swarm: Swarm, hello: dict, words: str):
    async def story(swarm: Swarm):
        channel = await connect(swarm, **hello)
        welcome = await channel.receive()
        assert isinstance(welcome, Welcome)
        assert words in welcome.refusal
        assert await is_cut_off(channel)
        assert swarm.node().status.state != NodeState.READY

    play(swarm, story)


def test_dispatcher_refuses_a_node_that_is_not_in_the_store(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.store.commit([Remove(table=Node, id=NODE)])
        welcome = await (await connect(swarm)).receive()
        assert isinstance(welcome, Welcome)
        assert "not part of this swarm" in welcome.refusal

    play(swarm, story)


def test_dispatcher_understands_a_neighbouring_protocol(swarm: Swarm):
    async def story(swarm: Swarm):
        welcome = await (await connect(swarm, protocol=2)).receive()
        assert isinstance(welcome, Welcome)
        assert not welcome.refusal

    play(swarm, story)


def test_dispatcher_gives_up_an_agent_that_says_nothing(swarm: Swarm):
    async def story(swarm: Swarm):
        mute = await swarm.manager.connector().open_session()
        assert await is_cut_off(mute)
        channel = await registered(swarm)
        assert await is_cut_off(channel)
        await until(lambda: swarm.node().status.state == NodeState.DISCONNECTED)

    play(swarm, story)


def test_dispatcher_has_no_sessions_where_the_manager_does_not_lead(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        swarm.log.lose()
        assert await is_cut_off(channel)
        with pytest.raises(UnavailableError, match="does not lead"):
            await swarm.manager.connector().open_session()

    play(swarm, story)


def test_dispatcher_closes_the_older_session_of_a_node(swarm: Swarm):
    async def story(swarm: Swarm):
        older = await registered(swarm)
        newer = await registered(swarm)
        assert await is_cut_off(older)
        await assignments(newer)
        await asyncio.sleep(7)
        await newer.send(Heartbeat())
        assert isinstance(await newer.receive(), Heartbeat)
        assert swarm.node().status.state == NodeState.READY

    play(swarm, story)


async def beat_for(channel: AgentChannel, seconds: int) -> None:
    for _ in range(seconds):
        await channel.send(Heartbeat())
        await asyncio.sleep(1)


def test_dispatcher_keeps_a_node_ready_whose_older_session_ends_while_it_registers(swarm: Swarm):
    async def story(swarm: Swarm):
        older = await registered(swarm)
        swarm.log.hold()
        newer = await connect(swarm)
        await asyncio.sleep(0.1)
        older.close()
        await asyncio.sleep(0.1)
        swarm.log.release()
        await beat_for(newer, 15)
        assert swarm.node().status.state == NodeState.READY

    play(swarm, story)


def test_dispatcher_keeps_a_node_ready_whose_earlier_registration_fails_late(swarm: Swarm):
    async def story(swarm: Swarm):
        swarm.log.fail_next("silent")
        await connect(swarm)
        await asyncio.sleep(5)
        newer = await registered(swarm)
        await beat_for(newer, 40)
        assert swarm.node().status.state == NodeState.READY

    play(swarm, story)


def test_dispatcher_counts_a_node_down_that_left_before_it_was_registered(swarm: Swarm):
    async def story(swarm: Swarm):
        swarm.log.hold()
        channel = await connect(swarm)
        await asyncio.sleep(0.1)
        channel.close()
        swarm.log.release()
        await until(lambda: swarm.node().status.state == NodeState.READY)
        await until(lambda: swarm.node().status.state == NodeState.DOWN)

    play(swarm, story)


def test_dispatcher_keeps_a_node_ready_that_registers_while_many_others_are_awaited(swarm: Swarm):
    async def story(swarm: Swarm):
        others = [NodeID(f"a{number:04}") for number in range(ENTRY_CHANGES_MAX)]
        await swarm.store.batch([Create(obj=node_row(node_id)) for node_id in others])
        await swarm.store.batch(
            [SetNodeStatus(id=one, status=NodeStatus(state=2)) for one in (*others, NODE)]
        )
        swarm.log.lose()
        await asyncio.sleep(1)
        swarm.log.lead()
        swarm.log.hold()
        await asyncio.sleep(1)
        channel = await connect(swarm)
        await asyncio.sleep(1)
        swarm.log.release()
        await beat_for(channel, 30)
        assert swarm.node().status.state == NodeState.READY

    play(swarm, story)


def test_dispatcher_ends_the_session_of_a_removed_node(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        await swarm.store.commit([Remove(table=Node, id=NODE)])
        assert await is_cut_off(channel)

    play(swarm, story)


def test_dispatcher_marks_a_node_down_when_it_left_for_good(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        await channel.send(Goodbye(back_in_s=0))
        channel.close()
        await until(lambda: swarm.node().status.state == NodeState.DOWN, limit_s=0.5)

    play(swarm, story)


def test_dispatcher_tells_everything_first_and_then_only_differences(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(
            task_row("a"),
            task_row("over", S.FAILED, desired=S.SHUTDOWN),
            task_row("new", S.PENDING),
            task_row("else", node_id=OTHER),
        )
        channel = await registered(swarm)
        first = await assignments(channel)
        assert first.is_complete
        assert [item.id for item in first.put] == ["a", "over"]
        body = decode_assigned_task(first.put[0].body)
        assert (body.service_name, body.task_name) == ("web", "web.1.a")
        assert body.service_labels == {"tier": "front"}
        assert body.ports == (("", "tcp", 80, 0),)
        assert body.spec.container_spec == ContainerSpec(image="host", command=["true"])
        await swarm.store.commit([SetDesired(id="a", desired=int(S.SHUTDOWN))])
        await swarm.create(task_row("b"))
        second = await assignments(channel)
        assert not second.is_complete
        assert (second.applies_to, second.results_in) == (first.results_in, 2)
        third = await assignments(channel)
        told = {
            item.id: decode_assigned_task(item.body).desired for item in (*second.put, *third.put)
        }
        assert told == {"a": S.SHUTDOWN, "b": S.RUNNING}

    play(swarm, story)


def test_dispatcher_gives_tasks_the_swarms_log_driver_where_their_spec_names_none(swarm: Swarm):
    async def story(swarm: Swarm):
        cluster = cluster_of(swarm.store.view())
        defaults = TaskDefaults(log_driver=Driver(name="none"))
        spec = replace(cluster.spec, task_defaults=defaults)
        row = replace(cluster, spec=spec)
        await swarm.store.commit([Update(obj=row, seen=cluster.version)])
        await swarm.create(task_row("a"))
        told = await assignments(await registered(swarm))
        assert decode_assigned_task(told.put[0].body).spec.log_driver == Driver(name="none")

    play(swarm, story)


def test_dispatcher_hands_a_nodes_tasks_the_credentials_of_their_own_spec_version(swarm: Swarm):
    async def story(swarm: Swarm):
        row = swarm.store.view().specs.get(spec_version_id(WEB, 1))
        newer = replace(row, id=spec_version_id(WEB, 2), number=2, registry_auth="bmV3")
        await swarm.store.commit([Create(obj=newer)])
        await swarm.create(task_row("a"), replace(task_row("b"), spec_version=2))
        told = await assignments(await registered(swarm))
        bodies = [decode_assigned_task(item.body) for item in told.put]
        assert [(body.id, body.registry_auth) for body in bodies] == [("a", ""), ("b", "bmV3")]

    play(swarm, story)


def test_dispatcher_does_not_echo_what_the_agent_reported(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a"))
        channel = await registered(swarm)
        await assignments(channel)
        await report(channel, "a", S.RUNNING)
        answer = await channel.receive()
        assert answer == StatusAck(number=1)
        assert swarm.task("a").status.state == S.RUNNING
        await asyncio.sleep(7)
        await channel.send(Heartbeat())
        assert await channel.receive() == Heartbeat()

    play(swarm, story)


def test_dispatcher_answers_a_beat_only_where_it_told_nothing_for_longer_than_a_period(
    swarm: Swarm,
):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        await assignments(channel)
        heard_s: list[float] = []

        async def listen() -> None:
            while True:
                assert await channel.receive() == Heartbeat()
                heard_s.append(asyncio.get_running_loop().time())

        async with asyncio.TaskGroup() as group:
            listening = group.create_task(listen())
            for _ in range(20):
                await channel.send(Heartbeat())
                await asyncio.sleep(4.5)
            listening.cancel()
        assert len(heard_s) == 9
        assert max(b - a for a, b in itertools.pairwise(heard_s)) <= 2 * 5

    play(swarm, story)


def test_dispatcher_drops_a_status_that_goes_backwards_or_says_nothing_new(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a", S.RUNNING))
        channel = await registered(swarm)
        await assignments(channel)
        proposals = swarm.log.proposals
        await report(channel, "a", S.STARTING)
        await report(channel, "a", S.RUNNING)
        await report(channel, "unknown", S.RUNNING)
        for _ in range(3):
            assert isinstance(await channel.receive(), StatusAck)
        assert swarm.task("a").status.state == S.RUNNING
        assert swarm.log.proposals <= proposals + 1

    play(swarm, story)


async def report(channel: AgentChannel, name: str, state: int) -> None:
    status = TaskStatus(state=int(state))
    await channel.send(StatusReport(number=1, statuses=((TaskID(name), status),)))


OFFENCES: list[Message] = [
    StatusReport(number=1, statuses=((TaskID("foreign"), TaskStatus(state=S.RUNNING)),)),
    StatusReport(number=1, statuses=((TaskID("a"), TaskStatus(state=S.ASSIGNED)),)),
    StatusReport(number=1, statuses=((TaskID("a"), TaskStatus(state=513)),)),
    LogBatch(is_last=True),
]


@pytest.mark.parametrize("offence", OFFENCES)
def test_dispatcher_ends_the_session_of_an_agent_that_breaks_a_rule(swarm: Swarm, offence: Message):
    async def story(swarm: Swarm):
        await swarm.create(task_row("a"), task_row("foreign", node_id=OTHER))
        channel = await registered(swarm)
        await channel.send(offence)
        assert await is_cut_off(channel)
        assert swarm.task("foreign").status.state == S.ASSIGNED
        assert swarm.task("a").status.state == S.ASSIGNED

    play(swarm, story)


async def told(channel: AgentChannel) -> SwarmInfo:
    while not isinstance(message := await channel.receive(), SwarmInfo):
        pass
    return message


def test_dispatcher_tells_what_the_swarm_is_behind_the_welcome_and_on_each_change(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        first = await channel.receive()
        assert first == SwarmInfo(
            managers=(ManagerAddr(node_id=NODE, addr="127.0.0.1:2377", weight=LEADER_WEIGHT),),
            root_pem=b"",
            certificate_state=0,
            role="manager",
        )
        row = swarm.node()
        asked = replace(row, certificate=NodeCertificate(state=IssuanceState.ROTATE))
        await swarm.store.commit([Update(obj=asked, seen=row.version)])
        assert await told(channel) == replace(first, certificate_state=5)
        row = swarm.node()
        await swarm.store.commit([Update(obj=replace(row, role="worker"), seen=row.version)])
        assert await told(channel) == replace(first, certificate_state=5, role="worker")
        cluster = cluster_of(swarm.store.view())
        turned = replace(cluster, root_ca=RootCA(cert_pem=b"new"))
        await swarm.store.commit([Update(obj=turned, seen=cluster.version)])
        assert (await told(channel)).root_pem == b"new"

    play(swarm, story)


def test_dispatcher_tells_nobody_of_what_is_not_theirs(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        await assignments(channel)
        row = swarm.node(OTHER)
        asked = replace(row, certificate=NodeCertificate(state=IssuanceState.ROTATE))
        await swarm.store.commit([Update(obj=asked, seen=row.version)])
        cluster = cluster_of(swarm.store.view())
        tokens = replace(cluster, root_ca=replace(cluster.root_ca, tokens=JoinTokens(worker="x")))
        await swarm.store.commit([Update(obj=tokens, seen=cluster.version)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await channel.receive()

    play(swarm, story)


def test_dispatcher_tells_everybody_of_a_managers_new_place_in_turn(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        await told(channel)
        member = msgspec.structs.replace(swarm.log.members()[0], address="10.0.0.9:2377")
        swarm.manager.dispatcher._members = lambda: (member,)
        row = swarm.node()
        placed = replace(row, manager=ManagerStatus(raft_id=1, addr=member.address))
        await swarm.store.commit([Update(obj=placed, seen=row.version)])
        assert (await told(channel)).managers[0].addr == member.address

    play(swarm, story)


def test_dispatcher_refuses_a_node_that_registers_again_and_again_until_it_was_quiet(swarm: Swarm):
    async def story(swarm: Swarm):
        for _ in range(10):
            await registered(swarm)
            await asyncio.sleep(2)
        welcome = await (await connect(swarm)).receive()
        assert f"{NODE} registers again and again: do two daemons" in welcome.refusal
        await asyncio.sleep(6.1)
        await registered(swarm)

    play(swarm, story)


def test_dispatcher_keeps_nothing_of_a_session_that_ended(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        session = weakref.ref(swarm.manager.dispatcher._sessions[NODE])
        channel.close()
        await asyncio.sleep(1)
        gc.collect()
        assert session() is None
        await registered(swarm)
        session = weakref.ref(swarm.manager.dispatcher._sessions[NODE])
        await asyncio.sleep(20)  # it falls silent
        gc.collect()
        assert session() is None

    play(swarm, story)


def test_dispatcher_names_the_addresses_of_two_daemons_that_are_the_same_node(swarm: Swarm):
    async def register_from(addr: str) -> Welcome:
        channel, far = memory_channel()
        swarm.manager.dispatcher.open_session(far, NODE, addr)
        await channel.send(Hello(protocol=1, node_id=NODE, description=DESCRIPTION))
        welcome = await channel.receive()
        assert isinstance(welcome, Welcome)
        return welcome

    async def story(swarm: Swarm):
        for _ in range(5):
            assert not (await register_from("10.0.0.2")).refusal
            assert not (await register_from("10.0.0.3")).refusal
        first, again = await register_from("10.0.0.2"), await register_from("10.0.0.2")
        assert "again and again, from 10.0.0.3 and 10.0.0.2: do two" in first.refusal
        assert again.refusal == first.refusal  # so an agent says it once only

    play(swarm, story)


def test_dispatcher_lets_a_node_register_at_once_that_stopped_in_order(swarm: Swarm):
    async def story(swarm: Swarm):
        for _ in range(20):
            channel = await registered(swarm)
            await channel.send(Goodbye(back_in_s=60))
            channel.close()
            await asyncio.sleep(0.1)

    play(swarm, story)


def test_dispatcher_cuts_off_a_node_that_does_not_read(swarm: Swarm):
    async def story(swarm: Swarm):
        channel = await registered(swarm)
        await assignments(channel)
        for number in range(2000):
            swarm.manager.dispatcher.post(NODE, StatusAck(number=number))
        await until(lambda: swarm.node().status.state == NodeState.DISCONNECTED, limit_s=1)

    play(swarm, story)


def test_dispatcher_sends_a_large_complete_list_in_parts(swarm: Swarm):
    async def story(swarm: Swarm):
        env = [f"BIG={'x' * 200_000}"]
        template = TaskSpec(container_spec=ContainerSpec(image="host", env=env))
        spec = msgspec.structs.replace(web_spec(), task_template=template)
        row = SpecVersion(id=f"{WEB}@2", service_id=WEB, number=2, spec=spec)
        names = [f"t{number:02}" for number in range(60)]
        tasks = [msgspec.structs.replace(task_row(name), spec_version=2) for name in names]
        await swarm.store.commit([Create(obj=row), *(Create(obj=task) for task in tasks)])
        channel = await registered(swarm)
        parts = [await assignments(channel)]
        while parts[-1].has_more:
            parts.append(await assignments(channel))
        assert len(parts) > 5
        assert all(part.is_complete for part in parts)
        assert [item.id for part in parts for item in part.put] == names

    play(swarm, story)


def test_status_batch_keeps_what_is_further_where_an_older_report_comes_late(swarm: Swarm):
    async def story(swarm: Swarm):
        await swarm.create(task_row("t"))
        batch = StatusBatch(swarm.store, swarm.env, NODE)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(batch.run())
            await asyncio.sleep(0)
            for state in (S.FAILED, S.RUNNING):
                await batch.add([(TaskID("t"), TaskStatus(state=int(state)))], lambda: None)
            await swarm.reaches("t", S.FAILED)
            running.cancel()

    play(swarm, story)


@pytest.mark.parametrize(("count", "pause_s"), [(1, 0.01), (50, 0.05), (400, 0.1)])
def test_status_batch_pauses_the_longer_the_more_it_has_just_written(
    swarm: Swarm, count: int, pause_s: float
):
    async def story(swarm: Swarm):
        ids = [TaskID(f"t{number}") for number in range(count)]
        for task_id in ids:
            await swarm.create(task_row(task_id))
        batch, loop = StatusBatch(swarm.store, swarm.env, NODE), asyncio.get_running_loop()
        written: list[float] = []
        async with asyncio.TaskGroup() as group:
            running = group.create_task(batch.run())
            await asyncio.sleep(0)
            for number, state in enumerate((S.ACCEPTED, S.PREPARING), start=1):
                statuses = [(task_id, TaskStatus(state=int(state))) for task_id in ids]
                await batch.add(statuses, lambda: written.append(loop.time()))
                await until(lambda wanted=number: len(written) == wanted)
            running.cancel()
        assert written[1] - written[0] == pytest.approx(pause_s, abs=0.005)

    play(swarm, story)
