"""The agent against a manager made of one channel, on virtual time, its state on a real disk."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from swarmlet.agent.agent import Agent
from swarmlet.agent.session import DESCRIBE_PERIOD_S
from swarmlet.core.errors import DiskFullError
from swarmlet.env.base import Env
from swarmlet.env.real import RealDisk
from swarmlet.model.container import ContainerSpec
from swarmlet.model.node import NodeDescription
from swarmlet.model.task import TaskState as S
from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.messages import Assignments, Goodbye
from tests.agent.fake_runtime import FakeRuntime, Script
from tests.agent.fakes import FakeManager, assigned, items, new_agent
from tests.agent.virtual_time import VirtualClock, run_virtual, until, virtual_env


class FullableDisk(RealDisk):
    """A disk whose open files take no more while it is full."""

    is_full = False

    def create(self, path, mode=0o600):
        return self._fullable(super().create(path, mode))

    def open(self, path):
        return self._fullable(super().open(path))

    def _fullable(self, file):
        write = file.write

        def write_or_refuse(data):
            if self.is_full:
                raise DiskFullError("no room")
            write(data)

        file.write = write_or_refuse
        return file


@dataclass
class World:
    """One host, its disk and a manager; agents come and go."""

    env: Env
    state_dir: str
    runtime: FakeRuntime
    scripts: dict[str, Script] = field(default_factory=dict)
    manager: FakeManager = field(default_factory=FakeManager)
    describe: Callable[[], NodeDescription] | None = None

    async def with_agent(self, story: Callable[[Agent], Awaitable[None]], *, end: str = "crash"):
        agent = new_agent(self.env, self.runtime, self.manager, self.state_dir, self.describe)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self.manager.run())
            running = group.create_task(agent.run())
            await story(agent)
            if end == "crash":
                running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            serving.cancel()

    async def reaches(self, task_id: str, state: int, limit_s: float = 60.0):
        await until(lambda: self.manager.state(task_id) == state, limit_s)


@pytest.fixture
def world(tmp_path: Path) -> World:
    env = virtual_env(RealDisk())
    scripts: dict[str, Script] = {}
    runtime = FakeRuntime(VirtualClock(), lambda task: scripts.get(task.id, Script()))
    return World(env, str(tmp_path / "agent"), runtime, scripts)


def test_agent_brings_a_task_through_all_states_and_back(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        await until(agent.is_at_rest)
        status = world.manager.statuses["a"]
        assert (status.message, status.container_id) == ("started", "fake-a")
        await world.manager.assign(assigned("a", S.SHUTDOWN))
        await world.reaches("a", S.SHUTDOWN)
        assert world.manager.statuses["a"].exit_code == 143
        assert world.manager.states("a") == sorted(set(world.manager.states("a")))
        await world.manager.assign(gone=("a",))
        await until(lambda: world.runtime.removed == ["a"])

    run_virtual(world.with_agent(story))


def test_agent_holds_a_task_at_ready_until_running_is_desired(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a", S.READY))
        await world.reaches("a", S.READY)
        await asyncio.sleep(100)
        assert not world.runtime.running()
        assert agent.is_at_rest()
        await world.manager.assign(assigned("a", S.RUNNING))
        await world.reaches("a", S.RUNNING)

    run_virtual(world.with_agent(story))


def test_agent_ignores_an_order_that_lowers_what_is_desired(world: World):
    async def story(_: Agent):
        await world.manager.assign(assigned("a", S.SHUTDOWN, S.ASSIGNED))
        await world.reaches("a", S.SHUTDOWN)
        await world.manager.assign(assigned("a", S.RUNNING))
        await asyncio.sleep(10)
        assert not world.runtime.running()

    run_virtual(world.with_agent(story))


ENDS = [
    (Script(runs_s=5, exit_code=0), S.COMPLETE, ""),
    (Script(runs_s=5, exit_code=3), S.FAILED, "task: non-zero exit (3)"),
    (Script(check_problem="no such image"), S.REJECTED, "no such image"),
    (Script(prepare_problem="pull failed"), S.REJECTED, "pull failed"),
    (Script(start_problem="exec format error"), S.FAILED, "exec format error"),
    (Script(prepare_hiccups=3), S.RUNNING, ""),
]


@pytest.mark.parametrize(("script", "state", "err"), ENDS)
def test_agent_reports_how_a_task_ends(world: World, script: Script, state: int, err: str):
    async def story(agent: Agent):
        world.scripts["a"] = script
        await world.manager.assign(assigned("a"))
        await world.reaches("a", state)
        await until(agent.is_at_rest)
        assert world.manager.statuses["a"].err == err
        assert world.manager.statuses["a"].exit_code == script.exit_code

    run_virtual(world.with_agent(story))


def test_agent_tries_a_temporary_problem_again_every_second_and_says_so(world: World):
    async def story(_: Agent):
        world.scripts["a"] = Script(prepare_hiccups=3)
        began_s = asyncio.get_running_loop().time()
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        assert 3 <= asyncio.get_running_loop().time() - began_s < 4
        told = [(state, err) for _, state, err in world.manager.history]
        assert (S.PREPARING, "the image store is busy") in told

    run_virtual(world.with_agent(story))


def test_agent_stops_a_task_that_is_still_preparing(world: World):
    async def story(_: Agent):
        world.scripts["a"] = Script(prepare_s=1000)
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.PREPARING)
        await world.manager.assign(assigned("a", S.SHUTDOWN))
        await world.reaches("a", S.SHUTDOWN, limit_s=2)

    run_virtual(world.with_agent(story))


def test_agent_gives_the_grace_period_once_when_more_is_desired_meanwhile(world: World):
    async def story(_: Agent):
        world.scripts["a"] = Script(stop_s=1000)
        container = ContainerSpec(image="host", stop_grace_period=20 * 10**9)
        await world.manager.assign(assigned("a", container=container))
        await world.reaches("a", S.RUNNING)
        began_s = asyncio.get_running_loop().time()
        await world.manager.assign(assigned("a", S.SHUTDOWN, container=container))
        await asyncio.sleep(15)
        await world.manager.assign(assigned("a", S.REMOVE, container=container))
        await world.reaches("a", S.SHUTDOWN)
        assert asyncio.get_running_loop().time() - began_s < 21
        assert world.manager.statuses["a"].exit_code == 137

    run_virtual(world.with_agent(story))


def test_agent_starts_no_successor_while_the_task_before_it_is_stopped(world: World):
    async def story(_: Agent):
        world.scripts["old"] = Script(stop_s=8)
        await world.manager.assign(assigned("old"))
        await world.reaches("old", S.RUNNING)
        await world.manager.assign(assigned("new"), assigned("old", S.SHUTDOWN))
        await world.reaches("new", S.STARTING)
        await asyncio.sleep(7)
        assert world.runtime.running() == ["old"]
        await world.reaches("new", S.RUNNING, limit_s=2)
        assert world.manager.state("old") == S.SHUTDOWN
        await world.manager.assign(assigned("first"))  # as in an update that starts first
        await world.reaches("first", S.RUNNING, limit_s=2)

    run_virtual(world.with_agent(story))


def test_agent_starts_no_successor_while_an_unhealthy_task_is_stopped(world: World):
    async def story(_: Agent):
        world.scripts["old"] = Script(healthy_s=1, health_problem="unhealthy container", stop_s=8)
        await world.manager.assign(assigned("old"))
        await world.reaches("old", S.FAILED)
        await world.manager.assign(assigned("new"))
        await asyncio.sleep(7)
        assert world.runtime.running() == ["old"]
        await world.reaches("new", S.RUNNING, limit_s=2)

    run_virtual(world.with_agent(story))


def test_agent_starts_few_tasks_at_once(world: World):
    async def story(_: Agent):
        names = [f"t{number}" for number in range(30)]
        for name in names:
            world.scripts[name] = Script(start_s=1)
        await world.manager.assign(*map(assigned, names))
        for name in names:
            await world.reaches(name, S.RUNNING)
        assert world.runtime.starting_most == 8

    run_virtual(world.with_agent(story))


def test_agent_fails_only_the_task_whose_shell_breaks(world: World):
    def scripts(task):
        assert task.id != "broken", "a bug"
        return Script()

    world.runtime = FakeRuntime(VirtualClock(), scripts)

    async def story(_: Agent):
        await world.manager.assign(assigned("broken"), assigned("b"))
        await world.reaches("b", S.RUNNING)
        await world.reaches("broken", S.REJECTED)
        assert "internal error" in world.manager.statuses["broken"].err
        await world.manager.assign(gone=("broken",))
        await asyncio.sleep(5)

    run_virtual(world.with_agent(story))


@pytest.mark.parametrize("end", ["crash", "stop"])
def test_agent_adopts_running_tasks_after_a_restart(world: World, end: str):
    async def before(agent: Agent):
        world.scripts["late"] = Script(runs_s=50, exit_code=7)
        await world.manager.assign(assigned("a"), assigned("late"), assigned("ready", S.READY))
        await world.reaches("a", S.RUNNING)
        await world.reaches("late", S.RUNNING)
        await world.reaches("ready", S.READY)
        if end == "stop":
            await agent.stop()
            await asyncio.sleep(0.1)
            assert [bye.back_in_s for bye in world.manager.goodbyes] == [60]

    async def after(agent: Agent):
        assert world.runtime.running() == ["a"]
        await until(agent.is_at_rest)
        assert world.manager.state("a") == S.RUNNING
        assert world.manager.state("late") == S.FAILED
        assert world.manager.statuses["late"].exit_code == 7
        assert world.manager.state("ready") == S.READY
        assert world.runtime.tasks["a"].starts == 1
        assert not world.runtime.removed

    async def both():
        await world.with_agent(before, end=end)
        await asyncio.sleep(100)
        world.manager = FakeManager()
        for known in (assigned("a"), assigned("late"), assigned("ready", S.READY)):
            world.manager.wanted[known.id] = known
        await world.with_agent(after)

    run_virtual(both())


def test_agent_removes_what_only_the_runtime_or_only_the_database_knows(world: World):
    async def before(_: Agent):
        await world.manager.assign(assigned("a"), assigned("b"))
        await world.reaches("a", S.RUNNING)
        await world.reaches("b", S.RUNNING)

    async def after(_: Agent):
        await until(lambda: sorted(world.runtime.removed) == ["b", "stranger"])
        assert world.runtime.running() == ["a"]

    async def both():
        await world.with_agent(before)
        await world.runtime.prepare(assigned("stranger"))
        await world.runtime.start(assigned("stranger"))
        del world.manager.wanted["b"]
        await world.with_agent(after)

    run_virtual(both())


def test_agent_reports_tasks_lost_when_the_host_was_rebooted(world: World):
    async def before(_: Agent):
        await world.manager.assign(assigned("a"), assigned("r", S.READY))
        await world.reaches("a", S.RUNNING)
        await world.reaches("r", S.READY)

    async def after(_: Agent):
        await world.reaches("a", S.FAILED)
        await world.manager.assign(assigned("r", S.RUNNING))
        await world.reaches("r", S.RUNNING)  # prepared anew before it was started

    async def both():
        await world.with_agent(before)
        world.runtime.reboot()
        await world.with_agent(after)

    run_virtual(both())


def test_agent_starts_nothing_from_an_earlier_life_before_a_manager_says_that_it_is_wanted(
    world: World,
):
    world.scripts["a"] = Script(start_s=5.0)

    async def before(_: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.STARTING)
        world.manager.is_up = False

    async def after(_: Agent):
        await asyncio.sleep(60)
        assert world.runtime.running() == []
        world.manager.wanted.clear()  # another node has it by now
        world.manager.is_up = True
        await until(lambda: not world.runtime.tasks)
        assert world.runtime.running() == []

    async def both():
        await world.with_agent(before)
        world.runtime.reboot()
        await world.with_agent(after)

    run_virtual(both())


def test_agent_leaves_no_plaintext_on_disk_and_a_private_key_file(world: World):
    async def story(_: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)

    run_virtual(world.with_agent(story))
    files = {path.name: path for path in Path(world.state_dir).iterdir()}
    assert sorted(files) == ["agent.key", "tasks.log"]
    assert files["agent.key"].stat().st_mode & 0o777 == 0o600
    assert b"geheim" not in files["tasks.log"].read_bytes()


def test_agent_registers_anew_and_reports_everything_when_the_session_is_lost(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        world.manager.is_up = False
        world.manager.statuses.clear()
        assert world.manager.channel is not None
        world.manager.channel.close()
        await asyncio.sleep(60)
        assert not agent.is_at_rest()
        world.manager.is_up = True
        await world.reaches("a", S.RUNNING, limit_s=9)
        assert len(world.manager.hellos) == 2
        assert world.manager.hellos[1].session_id == "s"
        assert world.runtime.tasks["a"].starts == 1

    run_virtual(world.with_agent(story))


def test_agent_repeats_a_report_that_nobody_acknowledged(world: World):
    async def story(_: Agent):
        world.manager.acknowledges = False
        await world.manager.assign(assigned("a"))
        await until(lambda: len(world.manager.history) == 1)
        world.manager.acknowledges = True
        await world.reaches("a", S.RUNNING)
        assert len(world.manager.hellos) == 2

    run_virtual(world.with_agent(story))


def test_agent_asks_for_everything_again_when_an_assignment_is_missing(world: World):
    async def story(_: Agent):
        await until(lambda: world.manager.channel is not None)
        await world.manager.send(Assignments(is_complete=False, applies_to=99, results_in=100))
        await until(lambda: len(world.manager.hellos) == 2)

    run_virtual(world.with_agent(story))


def test_agent_takes_a_complete_list_in_parts(world: World):
    async def story(_: Agent):
        await world.manager.assign(assigned("a"), assigned("b"))
        await world.reaches("a", S.RUNNING)
        await world.reaches("b", S.RUNNING)
        everything = world.manager.wanted
        for number, (task_id, has_more) in enumerate((("a", True), ("b", False)), 100):
            await world.manager.send(
                Assignments(
                    is_complete=True,
                    applies_to=0,
                    results_in=number,
                    put=items(everything[task_id]),
                    has_more=has_more,
                )
            )
        await asyncio.sleep(10)
        assert world.runtime.running() == ["a", "b"]
        assert not world.runtime.removed

    run_virtual(world.with_agent(story))


def test_agent_registers_anew_when_its_description_changed(world: World):
    name = ["one"]
    world.describe = lambda: NodeDescription(hostname=name[0])

    async def story(_: Agent):
        await until(lambda: len(world.manager.hellos) == 1)
        name[0] = "two"
        await asyncio.sleep(30)
        assert [hello.description.hostname for hello in world.manager.hellos] == ["one", "two"]
        assert [goodbye.back_in_s for goodbye in world.manager.goodbyes] == [15]

    run_virtual(world.with_agent(story))


def test_agent_that_stops_when_it_has_changed_promises_no_other_time(world: World):
    name = ["one"]
    world.describe = lambda: NodeDescription(hostname=name[0])
    open_session, promised = world.manager.open_session, []

    async def open_slowly():
        channel = await open_session()
        send = channel.send

        async def send_slowly(message):
            if isinstance(message, Goodbye):
                promised.append(message.back_in_s)
                await asyncio.sleep(0.5)  # the line is full
            await send(message)

        channel.send = send_slowly
        return channel

    world.manager.open_session = open_slowly

    async def story(agent: Agent):
        await until(agent.is_registered)
        name[0] = "two"
        await asyncio.sleep(DESCRIBE_PERIOD_S - 0.1)
        await agent.stop()
        assert promised == [60]

    run_virtual(world.with_agent(story, end="stop"))


def test_agent_waits_longer_each_time_when_it_is_refused(world: World):
    async def story(agent: Agent):
        world.manager.refusal = "this node was removed"
        await asyncio.sleep(600)
        assert 60 < len(world.manager.hellos) < 300
        assert not agent.is_at_rest()

    run_virtual(world.with_agent(story))


def test_agent_beats_and_gives_up_a_manager_that_fell_silent(world: World):
    async def story(_: Agent):
        await asyncio.sleep(100)
        assert 19 <= world.manager.beats <= 24
        assert len(world.manager.hellos) == 1
        world.manager.is_silent = True
        await asyncio.sleep(20)
        assert len(world.manager.hellos) == 2

    run_virtual(world.with_agent(story))


def test_agent_removes_all_its_tasks_when_it_leaves(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a"), assigned("b", S.READY))
        await world.reaches("a", S.RUNNING)
        await world.reaches("b", S.READY)
        await agent.leave()
        await asyncio.sleep(0.1)
        assert sorted(world.runtime.removed) == ["a", "b"]
        assert [bye.back_in_s for bye in world.manager.goodbyes] == [0]

    run_virtual(world.with_agent(story, end="leave"))


def test_agent_that_leaves_says_so_where_its_session_has_just_ended(world: World):
    """As a manager's does that withdraws from its group."""

    async def story(agent: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        world.manager.channel.close()
        await asyncio.sleep(0)
        await agent.leave()
        await asyncio.sleep(0.1)
        assert [bye.back_in_s for bye in world.manager.goodbyes] == [0]

    run_virtual(world.with_agent(story, end="leave"))


def test_agent_removes_even_what_it_has_not_adopted_yet_when_it_leaves_at_once(world: World):
    async def before(_: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)

    async def after(agent: Agent):
        await agent.leave()
        assert sorted(world.runtime.removed) == ["a", "stranger"]

    async def both():
        await world.with_agent(before)
        await world.runtime.prepare(assigned("stranger"))
        await world.runtime.start(assigned("stranger"))
        await world.with_agent(after, end="leave")

    run_virtual(both())


def test_agent_removes_its_tasks_without_delay_when_it_leaves_on_a_full_disk(world: World):
    async def story(agent: Agent):
        await world.manager.assign(assigned("a"))
        await world.reaches("a", S.RUNNING)
        disk.is_full = True
        await agent.leave(timeout_s=5)
        assert world.runtime.removed == ["a"]
        disk.is_full = False

    disk = FullableDisk()
    world.env = virtual_env(disk)
    run_virtual(world.with_agent(story, end="leave"))


def test_agent_ends_when_cancelled_though_its_session_breaks_at_that_moment(world: World):
    class Breaking(FakeManager):
        async def open_session(self):
            channel = await super().open_session()
            receive = channel.receive

            async def broken():
                try:
                    return await receive()
                except asyncio.CancelledError:
                    raise ChannelClosedError from None

            channel.receive = broken
            return channel

    async def story(_: Agent):
        await until(lambda: world.manager.beats > 0)

    world.manager = Breaking()
    run_virtual(world.with_agent(story))
