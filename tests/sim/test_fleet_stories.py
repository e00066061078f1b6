"""What becomes of tasks when a host goes, by every way in which one can go: whole daemons, three
managers and twelve workers, on virtual time."""

import asyncio

import pytest
from msgspec.structs import replace

from swarmlet.model.node import NodeState
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import Placement
from swarmlet.model.task import Task, TaskState
from tests.sim.fleet import Fleet, Machine
from tests.sim.group_loop import run_group_sim
from tests.sim.world import service_spec

REPLICAS = 24


class Story:
    """A swarm at rest that runs one service, on workers alone."""

    def __init__(self, label: str = "") -> None:
        self.fleet = Fleet("story", 3, 12)
        self._label = label

    async def begin(self) -> None:
        await self.fleet.form()
        await self.fleet.settle()
        control = (await self.fleet.until_led()).engine.control()
        spec = service_spec("web", REPLICAS)
        template = replace(
            spec.task_template, placement=Placement(constraints=["node.role==worker"])
        )
        labels = {LABEL: self._label} if self._label else {}
        spec = replace(spec, task_template=template, labels=labels)
        self.fleet.truth.asked["web"] = [0]
        await control.create_service(spec)
        await self.until(lambda: len(self.running()) == REPLICAS)

    @property
    def view(self):
        leader = self.fleet.leader()
        assert leader is not None
        return leader.member.store.view()

    def running(self) -> list[Task]:
        return [
            task
            for task in self.view.tasks.all()
            if task.desired == TaskState.RUNNING == task.status.state
        ]

    def tasks_of(self, machine: Machine) -> set[str]:
        return {task.id for task in self.running() if task.node_id == machine.node_id}

    def all_tasks(self) -> set[str]:
        return {task.id for task in self.view.tasks.all()}

    def state_of(self, machine: Machine) -> int:
        return self.view.nodes.get(machine.node_id).status.state

    def message_of(self, machine: Machine) -> str:
        return self.view.nodes.get(machine.node_id).status.message

    def elsewhere(self, *gone: Machine) -> bool:
        nodes = {machine.node_id for machine in gone}
        tasks = self.running()
        return len(tasks) == REPLICAS and not any(task.node_id in nodes for task in tasks)

    async def until(self, condition, limit_s: float = 60.0) -> float:
        """How long that took."""
        began_s = self.fleet.now_s
        while self.fleet.leader() is None or not condition():
            assert self.fleet.now_s - began_s < limit_s, "it never came to hold"
            await asyncio.sleep(0.05)
            self.fleet.truth.look()
        return self.fleet.now_s - began_s

    async def for_s(self, seconds: float) -> None:
        until_s = self.fleet.now_s + seconds
        while self.fleet.now_s < until_s:
            await asyncio.sleep(0.25)
            self.fleet.truth.look()


def tell(work, label: str = "") -> None:
    """Run `work` with a story and one of its workers, then let all come to rest."""
    story = Story(label)

    async def whole() -> None:
        await story.begin()
        await work(story, story.fleet.machines[-1])
        await story.fleet.heal()
        await story.fleet.settle()
        await story.fleet.end()

    run_group_sim(story.fleet.clock, whole())


def test_tasks_of_a_host_without_power_run_elsewhere_within_seconds_and_nowhere_twice():
    async def work(story, host):
        await host.end("power")
        assert await story.until(lambda: story.elsewhere(host)) <= 8.0  # images take up to 8 s
        await host.boot()
        await story.until(lambda: story.state_of(host) == NodeState.READY)
        assert host.runtime.running() == []

    tell(work)


def test_surplus_of_a_host_that_was_cut_off_stops_when_it_is_back():
    async def work(story, host):
        before = story.tasks_of(host)
        host.isolate()
        await story.until(lambda: story.elsewhere(host))
        assert set(host.runtime.running()) == before  # it knows of nothing
        host.reconnect()
        await story.until(lambda: host.runtime.running() == [])
        assert len(story.running()) == REPLICAS

    tell(work)


def test_nothing_moves_while_a_daemon_is_away_for_twenty_seconds_in_order():
    async def work(story, host):
        before, own = story.all_tasks(), story.tasks_of(host)
        await host.end("stop")
        await story.until(lambda: story.state_of(host) == NodeState.DISCONNECTED, 2.0)
        await story.for_s(20.0)
        assert set(host.runtime.running()) == own
        await host.boot()
        await story.until(lambda: story.state_of(host) == NodeState.READY)
        await story.for_s(5.0)
        assert story.all_tasks() == before

    tell(work)


def test_tasks_are_adopted_where_a_daemon_that_was_killed_is_back_in_time():
    async def work(story, host):
        before = story.all_tasks()
        await host.end("kill")
        await story.until(lambda: story.state_of(host) == NodeState.DISCONNECTED, 1.0)
        await asyncio.sleep(1.5)
        await host.boot()
        await story.until(lambda: story.state_of(host) == NodeState.READY)
        await story.for_s(5.0)
        assert story.all_tasks() == before

    tell(work)


def test_tasks_of_a_daemon_that_stays_dead_run_elsewhere_though_they_run_on_there():
    async def work(story, host):
        own = story.tasks_of(host)
        await host.end("kill")
        assert 3.0 <= await story.until(lambda: story.state_of(host) == NodeState.DOWN) <= 4.0
        await story.until(lambda: story.elsewhere(host))
        assert set(host.runtime.running()) == own

    tell(work)


def test_replacement_is_held_while_the_leader_may_be_the_one_who_is_cut_off():
    async def work(story, _):
        lost = story.fleet.machines[-6:]
        before = story.all_tasks()
        for host in lost:
            host.isolate()
        await story.until(lambda: all(story.message_of(host) for host in lost), 6.0)
        await story.for_s(12.0)
        assert story.all_tasks() == before
        assert all("held" in story.message_of(host) for host in lost)
        await story.until(lambda: story.elsewhere(*lost), 60.0)

    tell(work)


def test_nothing_moves_where_many_that_were_lost_at_once_are_back_before_the_hold_is_over():
    async def work(story, _):
        lost = story.fleet.machines[-6:]
        before = story.all_tasks()
        for host in lost:
            host.isolate()
        await story.for_s(12.0)
        for host in lost:
            host.reconnect()
        await story.for_s(20.0)
        assert story.all_tasks() == before

    tell(work)


def test_host_that_flaps_is_given_more_time_and_that_is_said():
    async def work(story, host):
        for _ in range(3):
            await host.end("kill")
            await asyncio.sleep(1.0)
            await host.boot()
            await story.until(lambda: story.state_of(host) == NodeState.READY)
            await story.for_s(3.0)
        before = story.all_tasks()
        await host.end("kill")
        await story.for_s(20.0)
        assert story.state_of(host) == NodeState.DISCONNECTED
        assert story.all_tasks() == before
        assert "30 s" in story.message_of(host)
        assert await story.until(lambda: story.state_of(host) == NodeState.DOWN) <= 15.0

    tell(work)


@pytest.mark.parametrize("how", ["stop", "kill", "power"])
def test_no_task_of_a_living_host_moves_when_the_leader_goes(how):
    async def work(story, _):
        before = story.all_tasks()
        leader = story.fleet.leader()
        await leader.end(how)
        await story.until(lambda: story.fleet.leader() not in (None, leader))
        workers = story.fleet.machines[3:]
        took_s = await story.until(
            lambda: all(story.state_of(host) == NodeState.READY for host in workers)
        )
        assert took_s <= 10.0
        await story.for_s(30.0)
        assert story.all_tasks() == before

    tell(work)


def test_task_that_is_to_stop_when_cut_off_never_runs_twice():
    async def work(story, host):
        own = story.tasks_of(host)
        host.isolate()
        await story.until(lambda: story.elsewhere(host), 120.0)
        assert not own & set(host.runtime.running())

    tell(work, "stop-after 10s")


def test_task_that_is_never_replaced_waits_for_its_host():
    async def work(story, host):
        own = story.tasks_of(host)
        host.isolate()
        await story.for_s(60.0)
        assert story.tasks_of(host) == own
        host.reconnect()
        await story.for_s(10.0)
        assert story.tasks_of(host) == own

    tell(work, "never-replace")


@pytest.mark.parametrize("jump_s", [50 * 60, -50 * 60, 10 * 24 * 3600, -10 * 24 * 3600])
def test_no_node_is_taken_for_lost_because_a_clock_was_set(jump_s):
    """The leader's; then another leads, whose clock is right; then the first one's is set right."""

    async def work(story, _):
        before, leader = story.all_tasks(), story.fleet.leader()
        leader.clock.skew_ms = jump_s * 1000
        await story.for_s(30.0)
        assert {node.status.state for node in story.view.nodes.all()} == {NodeState.READY}
        leader.isolate()
        await story.until(lambda: story.fleet.leader() not in (None, leader))
        await story.for_s(30.0)
        assert {
            node.status.state for node in story.view.nodes.all() if node.id != leader.node_id
        } == {NodeState.READY}
        leader.clock.skew_ms = 0
        leader.reconnect()
        await story.until(lambda: story.state_of(leader) == NodeState.READY)
        assert story.all_tasks() == before

    tell(work)


def test_swarm_whose_power_went_runs_all_of_its_tasks_again_by_itself():
    async def work(story, _):
        for machine in story.fleet.machines:
            await machine.end("power")
        assert not any(machine.runtime.running() for machine in story.fleet.machines)
        for machine in story.fleet.machines:
            await asyncio.sleep(1.0)
            await machine.boot()
        await story.until(lambda: len(story.running()) == REPLICAS)

    tell(work)


@pytest.mark.parametrize("other", ["", "cut"])
def test_no_task_is_missing_while_a_host_is_drained_gently(other):
    async def work(story, host):
        nodes = {machine.node_id: machine for machine in story.fleet.machines}
        control = (await story.fleet.until_led()).engine.control()
        await control.drain_node(host.node_id)
        if other:
            story.fleet.founders[1].isolate()

        def are_all_up():
            up = sum(len(machine.runtime.running()) for machine in nodes.values())
            assert up >= REPLICAS
            return not host.runtime.running()

        await story.until(are_all_up)
        assert story.elsewhere(host)

    tell(work)


def test_leader_that_stood_still_takes_nobody_for_lost():
    async def work(story, _):
        before, leader = story.all_tasks(), story.fleet.leader()
        for pause_s in (2.5, 6.0, 40.0):
            await leader.pause(pause_s)
            await story.for_s(20.0)
            assert story.all_tasks() == before
        nodes = [node for node in story.view.nodes.all() if node.id != leader.node_id]
        assert {node.status.state for node in nodes} == {NodeState.READY}

    tell(work)


def test_tasks_of_a_host_that_stands_still_run_elsewhere_and_stop_there_once_it_goes_on():
    async def work(story, host):
        standing = asyncio.get_running_loop().create_task(host.pause(25.0))
        await story.until(lambda: story.elsewhere(host))
        assert host.runtime.running()
        await standing
        await story.until(lambda: host.runtime.running() == [])

    tell(work)
