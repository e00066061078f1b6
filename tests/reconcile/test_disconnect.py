"""on-disconnect: when tasks of a node that is down are replaced, and what their status says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.manager import node_session
from swarmlet.model.base import Driver
from swarmlet.model.container import ContainerSpec, Mount, VolumeOptions
from swarmlet.model.node import Node, NodeState, NodeStatus
from swarmlet.model.on_disconnect import LABEL
from swarmlet.model.service import RestartPolicy
from swarmlet.model.task import TaskState
from swarmlet.reconcile import disconnect
from swarmlet.reconcile.orphans import orphans
from swarmlet.reconcile.replicated import ReplicatedDecider
from swarmlet.reconcile.slots import Difference, difference
from swarmlet.reconcile.updater import UpdaterDecider
from tests.reconcile.world import START_MS, Leader, World, assert_at_rest, node, replace

READY, RUNNING, SHUTDOWN = TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN
ORPHANED = TaskState.ORPHANED

LOST_MS = START_MS + 20_000  # when the node was last heard
CLOSED_MS = LOST_MS + 1_000  # when its session was seen to end


def both():
    return [ReplicatedDecider(), UpdaterDecider()]


def spec_with(world, rule, **fields):
    made = world.specs.get("web@1").spec
    labels = {LABEL: rule} if rule else {}
    return replace(made, labels=labels, **fields)


def scene(rule, *, replicas=1, **fields):
    """A service at rest; its tasks run on n1, n2, n3 in turn."""
    world = World()
    for node_id in ("n1", "n2", "n3"):
        world.put(node(node_id))
    world.add_service(replicas=replicas, restart_policy=RestartPolicy())
    world.put(replace(world.specs.get("web@1"), spec=spec_with(world, rule, **fields)))
    leader = Leader(world, both())
    leader.run()
    settle(world, leader)
    return world, leader


def settle(world, leader):
    """What has no node gets one that is ready, what may run does; then all rests."""
    leader.run()
    up = sorted(
        n.id
        for n in world.nodes.all()
        if n.status.state == NodeState.READY and n.spec.availability == "active"
    )
    for number, row in enumerate(world.service_tasks()):
        if row.desired <= RUNNING and row.status.state < TaskState.ASSIGNED and up:
            status = replace(row.status, state=int(TaskState.ASSIGNED))
            host = up[number % len(up)]
            leader.tell(world.put(replace(row, node_id=host, status=status)))
        row = world.tasks.get(row.id)
        host = world.nodes.get(row.node_id)
        hears = host is not None and host.status.state == NodeState.READY
        if hears and row.status.state < row.desired <= RUNNING:
            leader.tell(world.report(row.id, TaskState(row.desired)))
        elif hears and row.desired >= SHUTDOWN and row.status.state <= RUNNING:
            leader.tell(world.report(row.id, SHUTDOWN))
    leader.run()


def lose(world, leader, node_id="n1", state=NodeState.DOWN, **fields):
    """Its session is seen to end a second after it was last heard, and it is down soon after."""
    world.now_ms = max(world.now_ms, CLOSED_MS + 3_000)
    status = NodeStatus(
        state=state, since_ms=world.now_ms, heard_ms=LOST_MS, lost_ms=(CLOSED_MS,), addr="x"
    )
    leader.tell(world.put(replace(node(node_id, **fields), status=status)))
    leader.run()


def wanted(world, slot=1):
    return [t for t in world.service_tasks() if t.slot == slot and t.desired <= RUNNING]


def first(world):
    return world.service_tasks()[0]


# When ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "after_ms"),
    [
        # the last word, its time on the way, what is longer of D and three beats, two seconds and
        # a hundredth of D for clocks, the grace, and the kill
        ("stop-after 30s", 1_000 + 3_000 + 30_000 + 300 + 2_000 + 10_000 + 5_000),
        ("stop-after 1s", 1_000 + 3_000 + 15_000 + 10 + 2_000 + 10_000 + 5_000),
        ("stop-after 10m", 1_000 + 3_000 + 600_000 + 6_000 + 2_000 + 10_000 + 5_000),
    ],
)
def test_stop_after_is_replaced_once_its_agent_has_surely_stopped_it(rule, after_ms):
    world, leader = scene(rule)
    lose(world, leader)
    at_ms = LOST_MS + after_ms
    leader.run_for(at_ms - 1 - world.now_ms)
    assert [t.desired for t in wanted(world)] == [RUNNING]
    assert first(world).node_id == "n1"
    assert "stop-after" in first(world).status.err
    leader.run_for(1)
    (new,) = wanted(world)
    assert (new.replaces, new.desired, new.attempt) == (first(world).id, RUNNING, 0)
    assert_at_rest(world, both)


def test_whole_silence_is_reckoned_with_where_nobody_saw_the_loss():
    world, leader = scene("stop-after 30s")
    status = NodeStatus(state=NodeState.DOWN, since_ms=LOST_MS + 9_000, heard_ms=LOST_MS)
    world.now_ms = LOST_MS + 9_000
    leader.tell(world.put(replace(node("n1"), status=status)))
    leader.run()
    # three beats of 5.5 s and a look, instead of the second after which the session was closed
    (at_ms,) = leader.wake.values()
    assert at_ms == LOST_MS + 16_500 + 1_000 + 3_000 + 30_000 + 300 + 2_000 + 15_000


def test_manager_that_stood_still_is_reckoned_with_as_it_says():
    world, leader = scene("stop-after 30s")
    lost_ms = LOST_MS + 60_000  # it talked on until then
    world.now_ms = lost_ms + 3_000
    status = NodeStatus(
        state=NodeState.DOWN, since_ms=world.now_ms, heard_ms=LOST_MS, lost_ms=(lost_ms,)
    )
    leader.tell(world.put(replace(node("n1"), status=status)))
    leader.run()
    (at_ms,) = leader.wake.values()
    assert at_ms == lost_ms + 3_000 + 30_000 + 300 + 2_000 + 15_000


@pytest.mark.parametrize("rule", ["", "keep", "swarmlet"])
def test_keep_is_replaced_at_once_also_where_the_label_means_nothing(rule):
    world, leader = scene(rule)
    lose(world, leader)
    assert [t.replaces for t in wanted(world)] == [first(world).id]


BACK = {
    "back": (lambda: node("n1"), False),
    "drained": (lambda: node("n1", state=NodeState.DOWN, availability="drain"), True),
}


@pytest.mark.parametrize("how", sorted(BACK))
def test_never_replace_waits_until_its_node_is_back_or_drained(how):
    world, leader = scene("never-replace")
    lose(world, leader)
    leader.run_for(10**9)
    (task,) = wanted(world)
    assert task.id == first(world).id
    assert "never-replace" in task.status.err
    row, is_replaced = BACK[how]
    leader.tell(world.put(row()))
    settle(world, leader)
    assert [t.id == task.id for t in wanted(world)] == [not is_replaced]
    assert_at_rest(world, both)


def test_task_held_back_on_a_node_that_goes_and_comes_back_is_released():
    """Its delay is over meanwhile, and nothing else happens to it."""
    world, leader = scene("never-replace")
    leader.tell(world.report(first(world).id, TaskState.FAILED))
    leader.run()
    (held,) = wanted(world)
    status = replace(held.status, state=int(TaskState.READY))
    leader.tell(world.put(replace(held, node_id="n1", status=status)))
    lose(world, leader)
    leader.run_for(10**6)
    leader.tell(world.put(node("n1")))
    leader.run()
    assert [(t.id, t.desired) for t in wanted(world)] == [(held.id, TaskState.RUNNING)]
    assert_at_rest(world, both)


def test_never_replace_ends_when_its_node_is_removed():
    world, leader = scene("never-replace")
    lose(world, leader)
    leader.tell(world.report(first(world).id, ORPHANED))
    leader.tell(world.drop(Node, "n1"))
    leader.run()
    assert [t.replaces for t in wanted(world)] == [first(world).id]


def test_task_that_its_agent_stopped_for_want_of_a_manager_goes_on_elsewhere_at_once():
    world, leader = scene("stop-after 30s")
    lose(world, leader)
    leader.tell(world.put(node("n1")))
    leader.tell(world.report(first(world).id, SHUTDOWN))
    leader.run()
    (new,) = wanted(world)
    assert (new.attempt, new.start_at_ms, new.desired) == (0, world.now_ms, RUNNING)


# What else puts a task beside it ---------------------------------------------------------------
@pytest.mark.parametrize("rule", ["stop-after 30s", "never-replace"])
@pytest.mark.parametrize("ways", [("update",), ("scale",), ("scale", "update")])
def test_nothing_is_started_beside_it_in_another_way(rule, ways):
    world, leader = scene(rule)
    lose(world, leader)
    for way in ways:
        if way == "update":
            template = replace(spec_with(world, rule).task_template, force_update=1)
            spec = spec_with(world, rule, task_template=template)
            leader.tell(world.update_service("web", spec))
        else:
            leader.tell(world.scale("web", 0))
            leader.run()
            leader.tell(world.scale("web", 1))
        leader.run()
    (new,) = wanted(world)
    assert (new.desired, new.id == first(world).id) == (READY, False)
    safe_ms = LOST_MS + 51_300
    leader.run_for(safe_ms - 1 - world.now_ms)
    assert wanted(world)[0].desired == READY
    leader.run_for(1)
    assert wanted(world)[0].desired == (RUNNING if rule.startswith("stop") else READY)
    leader.tell(world.put(node("n1")))
    settle(world, leader)
    assert wanted(world)[0].desired == RUNNING
    assert_at_rest(world, both)


@pytest.mark.parametrize(("rule", "orphaned"), [("never-replace", 0), ("keep", 1)])
def test_update_that_waits_for_a_lost_node_waits_longer_than_a_day(rule, orphaned):
    world, leader = scene(rule)
    leader.tell(world.put(node("n1", state=NodeState.DISCONNECTED)))
    template = replace(spec_with(world, rule).task_template, force_update=1)
    leader.tell(world.update_service("web", spec_with(world, rule, task_template=template)))
    leader.run()
    lose(world, leader)
    leader.run_for(86_400_000)
    assert first(world).desired == SHUTDOWN
    assert len(orphans(world, "n1", world.now_ms)) == orphaned


def test_task_that_is_slow_to_stop_is_waited_for_longer_than_a_minute():
    world, leader = scene("stop-after 30s")
    leader.tell(world.put(node("n1", availability="drain")))
    leader.run_for(10**7)
    assert [t.desired for t in wanted(world)] == [READY]
    leader.tell(world.report(first(world).id, SHUTDOWN))
    leader.run()
    assert [t.desired for t in wanted(world)] == [RUNNING]


def test_drained_node_that_is_cut_off_holds_the_successor_until_its_agent_stopped():
    world, leader = scene("stop-after 5m")
    lose(world, leader, state=NodeState.DISCONNECTED, availability="drain")
    assert [t.desired for t in wanted(world)] == [READY]
    safe_ms = LOST_MS + 4_000 + 300_000 + 3_000 + 2_000 + 15_000
    leader.run_for(safe_ms - 1 - world.now_ms)
    assert [t.desired for t in wanted(world)] == [READY]
    leader.run_for(1)
    assert [t.desired for t in wanted(world)] == [RUNNING]


# The rule that counts --------------------------------------------------------------------------
def test_service_that_changes_its_mind_is_heard_at_once_but_for_what_agents_must_know():
    world, leader = scene("never-replace")
    lose(world, leader)
    leader.tell(world.update_service("web", spec_with(world, "keep")))
    leader.run()
    assert [t.desired for t in wanted(world)] == [RUNNING]
    assert wanted(world)[0].id != first(world).id

    made = world.specs.get("web@1").spec
    for rule, expected in [("stop-after 9s", Difference.ALL), ("keep", Difference.NONE)]:
        assert difference(made, spec_with(world, rule)) is expected
    other = spec_with(world, "stop-after 9s")
    assert difference(other, spec_with(world, "stop-after 9000ms")) is Difference.NONE
    assert difference(other, spec_with(world, "keep")) is Difference.ALL


def test_change_to_stop_after_replaces_tasks_and_until_then_the_old_rule_holds():
    world, leader = scene("keep", replicas=2)
    leader.tell(world.update_service("web", spec_with(world, "stop-after 30s")))
    leader.run()
    assert {t.spec_version for t in world.service_tasks()} == {1, 2}
    lose(world, leader, "n2")  # whose task the update has not reached
    moved = [t for t in world.service_tasks() if t.slot == 2 and t.desired <= RUNNING]
    assert [t.desired for t in moved] == [RUNNING]


def volume(**driver):
    options = VolumeOptions(driver_config=Driver(**driver)) if driver else None
    return Mount(type="volume", source="data", target="/data", volume_options=options)


def test_service_with_a_volume_of_its_node_is_never_replaced_by_default():
    world, leader = scene("")
    made = world.specs.get("web@1")
    container = ContainerSpec(image="host", mounts=[volume()])
    template = replace(made.spec.task_template, container_spec=container)
    world.put(replace(made, spec=replace(made.spec, task_template=template)))
    lose(world, leader)
    assert [t.id for t in wanted(world)] == [first(world).id]


def test_manager_ends_a_session_when_the_reckoning_says():
    assert disconnect.MISSED_BEATS == node_session.MISSED_BEATS_MAX
    assert disconnect.BEAT_JITTER_MS == node_session.BEAT_JITTER_S * 1_000


# Histories -------------------------------------------------------------------------------------
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.integers(1, 3)),
        st.tuples(st.just("heal"), st.integers(1, 3)),
        st.tuples(st.just("drain"), st.integers(1, 3)),
        st.tuples(st.just("activate"), st.integers(1, 3)),
        st.tuples(st.just("update"), st.just(0)),
        st.tuples(st.just("scale"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1_000, 9_000, 40_000, 90_000])),
        st.tuples(st.just("lead"), st.just(0)),
    ),
    max_size=14,
)
AFTER_MS, BEATS_MS, GRACE_MS = 20_000, 15_000, 10_000


class Hosts:
    """Three hosts whose agents do as they are told, or as they must where they are cut off.

    A cut is seen by the manager at the worst moment: it is told nothing for three beats, and the
    agent last heard it just before it gave up.
    """

    def __init__(self, world, leader) -> None:
        self.world, self.leader = world, leader
        self.cut_ms: dict[str, int] = {}  # when a manager was last heard
        self.held: dict[str, dict[str, int]] = {"n1": {}, "n2": {}, "n3": {}}  # id -> desired

    def hears(self, node_id) -> bool:
        return node_id not in self.cut_ms

    def cut(self, node_id) -> None:
        if not self.hears(node_id):
            return
        heard_ms = self.world.now_ms
        self.listen()
        self.pass_time(17_500)
        self.cut_ms[node_id] = self.world.now_ms
        self.put(node_id, NodeState.DISCONNECTED, heard_ms)
        self.pass_time(3_000)
        self.put(node_id, NodeState.DOWN, heard_ms)

    def put(self, node_id, state, heard_ms=0) -> None:
        row = self.world.nodes.get(node_id)
        status = NodeStatus(state=state, since_ms=self.world.now_ms, heard_ms=heard_ms)
        self.leader.tell(self.world.put(replace(row, status=status)))

    def listen(self) -> None:
        """Hosts that hear take over what is wanted; what is desired elsewhere stays unheard."""
        for task in list(self.world.tasks.all()):
            if task.node_id and self.hears(task.node_id):
                self.held[task.node_id][task.id] = task.desired

    def pass_time(self, period_ms) -> None:
        end_ms = self.world.now_ms + period_ms
        while self.world.now_ms < end_ms:
            self.leader.run_for(min(1_000, end_ms - self.world.now_ms))
            self.work()

    def work(self) -> None:
        self.listen()
        settle(self.world, self.leader)
        self.listen()
        self.check()

    def running(self) -> list[str]:
        """What runs for real, by slot: an agent that is cut off stops at the last moment it may."""
        slots = []
        for node_id, held in self.held.items():
            for task_id, desired in held.items():
                task = self.world.tasks.get(task_id)
                is_over = task is None or task.status.state > RUNNING
                if self.hears(node_id):
                    runs = not is_over and task.status.state == RUNNING
                else:
                    stop_ms = self.cut_ms[node_id] + max(AFTER_MS, BEATS_MS) + GRACE_MS
                    runs = desired == RUNNING and not is_over and self.world.now_ms <= stop_ms
                if runs:
                    slots.append(task.slot)
        return slots

    def check(self) -> None:
        running = self.running()
        assert len(running) == len(set(running)), "two of a slot run at once"

    def heal(self, node_id) -> None:
        """The agent reports what it stopped, then hears what is wanted."""
        cut_ms = self.cut_ms.pop(node_id, None)
        if cut_ms is None:
            return
        self.put(node_id, NodeState.READY)
        if self.world.now_ms >= cut_ms + max(AFTER_MS, BEATS_MS):
            for task_id in self.held[node_id]:
                task = self.world.tasks.get(task_id)
                if task is not None and task.status.state <= RUNNING:
                    self.leader.tell(self.world.report(TaskID(task_id), SHUTDOWN))
        self.work()


def act(hosts, verb, what):
    world, leader = hosts.world, hosts.leader
    match verb:
        case "cut":
            hosts.cut(f"n{what}")
        case "heal":
            hosts.heal(f"n{what}")
        case "drain" | "activate":
            row = world.nodes.get(f"n{what}")
            word = "drain" if verb == "drain" else "active"
            spec = replace(row.spec, availability=word)
            leader.tell(world.put(replace(row, spec=spec)))
        case "update":
            service = world.services.get("web")
            made = world.specs.get(f"web@{service.spec_version}").spec
            template = made.task_template
            again = replace(template, force_update=template.force_update + 1)
            leader.tell(world.update_service("web", replace(made, task_template=again)))
        case "scale":
            leader.tell(world.scale("web", what))
        case "fail":
            tasks = [t for t in world.service_tasks() if t.status.state == RUNNING]
            tasks = [t for t in tasks if hosts.hears(t.node_id)]
            if tasks:
                leader.tell(world.report(tasks[what % len(tasks)].id, TaskState.FAILED))
        case "wait":
            hosts.pass_time(what)
        case "lead":
            hosts.leader = Leader(world, both(), seed=2**42 + world.index)


@settings(max_examples=120, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_two_of_a_slot_never_run_at_once_whatever_is_cut_off(steps, seed):
    world, _ = scene("stop-after 20s", replicas=2)
    hosts = Hosts(world, Leader(world, both(), seed + 2**41))
    hosts.work()
    for verb, what in steps:
        act(hosts, verb, what)
        hosts.work()
    for number in (1, 2, 3):
        hosts.heal(f"n{number}")
        act(hosts, "activate", number)
    hosts.pass_time(200_000)
    service = world.services.get("web")
    replicas = world.specs.get(f"web@{service.spec_version}").spec.mode.replicated.replicas
    assert len(hosts.running()) == replicas
    assert_at_rest(world, both)
