"""stop-after: when an agent that lost every manager stops which tasks, and what it says of it."""

import asyncio
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.agent.agent import Agent
from swarmlet.agent.disconnect import Contact, due
from swarmlet.agent.session import MISSED_BEATS_MAX
from swarmlet.core.ids import TaskID
from swarmlet.env.base import Env
from swarmlet.env.real import RealDisk
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.task import TaskState as S
from swarmlet.reconcile import disconnect
from tests.agent.fake_runtime import FakeRuntime, Script
from tests.agent.fakes import FakeManager, assigned, new_agent
from tests.agent.virtual_time import VirtualClock, run_virtual, until, virtual_env

A, B = TaskID("a"), TaskID("b")


@pytest.mark.parametrize(
    ("silent_s", "now", "next_in_s"),
    [(0.0, (), 10.0), (9.5, (), 0.5), (10.0, (A,), 20.0), (31.0, (A, B), None)],
)
def test_task_is_due_once_its_time_without_a_manager_is_over(silent_s, now, next_in_s):
    assert due({A: 10.0, B: 30.0}, silent_s) == (now, next_in_s)


@given(st.dictionaries(st.sampled_from([A, B, TaskID("c")]), st.floats(1, 100)), st.floats(0, 200))
def test_every_task_is_due_now_or_awaited_while_no_manager_is_heard(after_s, silent_s):
    found = due(after_s, silent_s)
    assert {task_id for task_id, limit in after_s.items() if limit <= silent_s} == set(found.now)
    assert (found.next_in_s is None) == (len(found.now) == len(after_s))


class Clock:
    mono, wall = 0.0, 1_000_000

    def mono_s(self):
        return self.mono

    def wall_ms(self):
        return self.wall


def test_silence_is_the_longer_of_what_two_clocks_say_and_none_in_a_session():
    clock = Clock()
    contact = Contact(clock)
    clock.mono, clock.wall = 5.0, 1_003_000
    assert contact.silent_s() == 5.0
    clock.wall = 1_060_000  # the host slept
    assert contact.silent_s() == 60.0
    contact.opened()
    clock.mono = 100.0
    assert contact.silent_s() is None
    contact.heard()
    clock.mono = 107.0
    contact.lost()  # noticed late: the clock began when it was heard last
    assert contact.silent_s() == 7.0


def test_agent_counts_the_beats_that_the_manager_reckons_with():
    assert disconnect.MISSED_BEATS == MISSED_BEATS_MAX


# An agent ----------------------------------------------------------------------------------------
class Host:
    def __init__(self, tmp_path) -> None:
        self.env: Env = virtual_env(RealDisk())
        self.scripts: dict[str, Script] = {}
        make = lambda task: self.scripts.get(task.id, Script())  # noqa: E731 - a script a task
        self.runtime = FakeRuntime(VirtualClock(), make)
        self.manager, self.state_dir = FakeManager(), str(tmp_path / "agent")

    async def live(self, story) -> None:
        agent = new_agent(self.env, self.runtime, self.manager, self.state_dir)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self.manager.run())
            running = group.create_task(agent.run())
            await story(agent)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            serving.cancel()

    def cut(self) -> None:
        """The manager says nothing more, and no other answers."""
        self.manager.is_up, self.manager.is_silent = False, True

    def heal(self) -> None:
        self.manager.is_up, self.manager.is_silent = True, False


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path)


def guarded(task_id: str, after="10s", **fields):
    task = assigned(task_id, **fields)
    return msgspec.structs.replace(task, service_labels={LABEL: f"stop-after {after}"})


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(("after", "at_s"), [("40s", (40, 41)), ("5s", (15, 16))])
def test_agent_stops_a_task_that_long_after_it_last_heard_a_manager(host, after, at_s):
    async def story(agent: Agent):
        await host.manager.assign(guarded("a", after), assigned("b"))
        await until(lambda: host.manager.state("b") == S.RUNNING == host.manager.state("a"))
        await asyncio.sleep(20.1)  # beats are answered: nothing happens
        host.cut()
        await until(lambda: not agent.is_registered())
        lost_s = agent._session.contact.silent_s()
        assert lost_s is not None
        assert 0 < lost_s <= 15.1  # three beats
        heard_s = now_s() - lost_s
        await until(lambda: host.runtime.running() == ["b"])
        assert at_s[0] <= now_s() - heard_s <= at_s[1]
        host.heal()
        await until(lambda: host.manager.state("a") == S.SHUTDOWN)
        after_words = f"stop-after {after}"
        assert after_words in host.manager.statuses["a"].err
        assert host.manager.state("b") == S.RUNNING
        await until(agent.is_at_rest)
        assert host.runtime.running() == ["b"]

    run_virtual(host.live(story))


def test_agent_stops_nothing_where_a_manager_is_back_in_time(host):
    async def story(agent: Agent):
        await host.manager.assign(guarded("a", "30s"))
        await until(lambda: host.manager.state("a") == S.RUNNING)
        host.cut()
        await until(lambda: not agent.is_registered())
        await until(lambda: agent._session.contact.silent_s() > 20)
        host.heal()
        await until(agent.is_registered)
        await asyncio.sleep(100)
        assert host.runtime.running() == ["a"]

    run_virtual(host.live(story))


def test_agent_starts_nothing_any_more_once_the_time_is_over(host):
    async def story(agent: Agent):
        host.scripts["a"] = Script(prepare_s=60)
        await host.manager.assign(guarded("a", "20s"))
        await until(lambda: host.manager.state("a") == S.PREPARING)
        host.cut()
        await asyncio.sleep(120)
        assert not host.runtime.running()
        host.heal()
        await until(lambda: host.manager.state("a") == S.SHUTDOWN)

    run_virtual(host.live(story))


def test_daemon_that_starts_without_a_manager_stops_what_it_adopted_in_time(host):
    async def before(_: Agent):
        await host.manager.assign(guarded("a", "20s"), guarded("b", "24h"))
        await until(lambda: host.manager.state("b") == S.RUNNING == host.manager.state("a"))

    async def after(agent: Agent):
        began_s = now_s()
        await until(lambda: host.runtime.running() == ["b"])
        assert 20 <= now_s() - began_s <= 21.5
        assert not agent.is_registered()

    async def both():
        await host.live(before)
        host.cut()
        await host.live(after)

    run_virtual(both())


def test_order_to_stop_that_came_before_says_nothing_of_a_lost_manager(host):
    async def story(agent: Agent):
        host.scripts["a"] = Script(stop_s=60)
        await host.manager.assign(guarded("a", "1s"))
        await until(lambda: host.manager.state("a") == S.RUNNING)
        await host.manager.assign(guarded("a", "1s", desired=S.SHUTDOWN))
        host.cut()
        await asyncio.sleep(60)
        host.heal()
        await until(lambda: host.manager.state("a") == S.SHUTDOWN)
        assert host.manager.statuses["a"].err == ""

    run_virtual(host.live(story))


@pytest.mark.parametrize(("stop_s", "took_s", "is_told"), [(1.0, 1.0, True), (60.0, 4.0, False)])
def test_host_that_shuts_down_stops_first_what_must_not_run_twice(host, stop_s, took_s, is_told):
    async def story(agent: Agent):
        host.scripts["a"] = Script(stop_s=stop_s)
        await host.manager.assign(guarded("a", "30s"), assigned("b"))
        await until(lambda: host.manager.state("b") == S.RUNNING == host.manager.state("a"))
        began_s = now_s()
        await agent.stop(is_host_stopping=True)
        assert took_s <= now_s() - began_s < took_s + 0.5
        await until(lambda: bool(host.manager.goodbyes))
        assert host.manager.goodbyes[0].is_host_stopping
        assert "host is shut down" in host.manager.problems[0]  # so that nothing comes here
        assert (host.manager.state("a") == S.SHUTDOWN) == is_told
        assert host.manager.state("b") == S.RUNNING

    run_virtual(host.live(story))


def test_host_that_shuts_down_says_goodbye_though_a_task_goes_at_that_moment(host):
    async def story(agent: Agent):
        await host.manager.assign(guarded("a", "30s"))
        await until(lambda: host.manager.state("a") == S.RUNNING)
        tell = agent._session.tell_condition

        async def tell_slowly(problem: str) -> None:
            await tell(problem)
            await host.manager.assign(gone=("a",))
            await until(lambda: not agent._worker.stop_after_s())

        agent._session.tell_condition = tell_slowly
        await agent.stop(is_host_stopping=True)
        await until(lambda: bool(host.manager.goodbyes))
        assert host.manager.goodbyes[0].is_host_stopping

    run_virtual(host.live(story))


def test_daemon_that_stops_alone_leaves_all_tasks_running(host):
    async def story(agent: Agent):
        await host.manager.assign(guarded("a", "30s"))
        await until(lambda: host.manager.state("a") == S.RUNNING)
        await agent.stop()
        await asyncio.sleep(100)
        assert not host.manager.problems
        assert host.runtime.running() == ["a"]

    run_virtual(host.live(story))
