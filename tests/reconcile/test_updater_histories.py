"""Rolling updates while other things happen: other updates, scaling, lost nodes, new leaders."""

from random import Random

import pytest

from swarmlet.model.node import NodeState
from swarmlet.model.service import RestartPolicy
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.rollout import Rollout, end_of
from swarmlet.reconcile.slots import slots_of
from tests.reconcile.rolling import Cluster
from tests.reconcile.world import Leader, assert_at_rest, node, replace

RUNNING, FAILED = TaskState.RUNNING, TaskState.FAILED
COMPLETE, REJECTED = TaskState.COMPLETE, TaskState.REJECTED
S = 1_000_000_000


# What else happens meanwhile --------------------------------------------------------------------
def test_update_over_a_paused_one_goes_on_from_what_is_there():
    cluster = Cluster(3, parallelism=1)
    cluster.update()
    cluster.report(cluster.of(2)[0].id, FAILED)
    assert cluster.state == "paused"
    cluster.update()
    assert cluster.state == "updating"
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(3) == [1, 2, 3]
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_update_over_a_running_one_ends_with_the_newest_spec(order):
    cluster = Cluster(4, parallelism=2, order=order)
    cluster.update()
    cluster.obey()
    cluster.update()
    slots = [t.slot for t in cluster.wanted()]
    assert max(slots.count(slot) for slot in slots) <= 2
    cluster.finish()
    assert cluster.slots_of(3) == [1, 2, 3, 4]
    assert len(cluster.wanted()) == 4
    assert cluster.state == "completed"


def test_update_that_is_taken_back_keeps_the_old_tasks():
    cluster = Cluster(2, parallelism=1, order="start-first")
    cluster.update(force_update=7)
    old = cluster.of(1)
    cluster.update(force_update=0)
    assert cluster.wanted() == old
    assert cluster.state == ""
    assert_at_rest(cluster.world, all_deciders)


def test_scale_up_during_an_update_makes_new_tasks_beside_the_limit():
    cluster = Cluster(2, parallelism=1)
    cluster.update()
    cluster.scale(5)
    assert [t.spec_version for t in cluster.wanted() if t.slot > 2] == [3, 3, 3]
    cluster.finish()
    assert cluster.state == "completed"
    assert len(cluster.wanted()) == 5
    assert {t.spec_version for t in cluster.wanted()} <= {2, 3}


def test_scale_down_during_an_update_is_done_before_more_slots_are_tried():
    cluster = Cluster(5, parallelism=1)
    cluster.update()
    cluster.scale(2)
    assert len({t.slot for t in cluster.wanted()}) == 2
    cluster.finish()
    assert {t.spec_version for t in cluster.wanted()} <= {2, 3}
    assert len(cluster.wanted()) == 2
    assert cluster.state == "completed"


def test_service_removed_in_the_middle_leaves_nothing():
    cluster = Cluster(3, parallelism=1, order="start-first")
    cluster.update()
    cluster.tell(cluster.world.remove_service("web"))
    cluster.finish(5)
    assert len(cluster.world.tasks) == 0
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_new_task_that_must_leave_its_node_is_no_failure(order):
    cluster = Cluster(2, parallelism=1, order=order)
    cluster.update()
    cluster.obey()
    (new,) = [t for t in cluster.of(2) if t.slot == 1]
    cluster.tell(cluster.world.put(node(new.node_id, availability="drain")))
    cluster.finish()
    assert cluster.state == "completed"
    assert cluster.slots_of(2) == [1, 2]
    assert new.node_id not in {t.node_id for t in cluster.wanted()}


def test_moved_task_holds_the_place_of_the_one_that_had_to_leave():
    cluster = Cluster(3, parallelism=1)
    cluster.update()
    (new,) = cluster.of(2)
    cluster.tell(cluster.world.put(node(new.node_id, state=NodeState.DOWN)))
    moved = next(t for t in cluster.of(2) if t.replaces == new.id)
    tried = [t.slot for t in cluster.world.service_tasks() if t.updated_from]
    assert tried == [1]
    cluster.report(moved.id, RUNNING)
    tried = [t.slot for t in cluster.world.service_tasks() if t.updated_from]
    assert len(tried) == 2


def test_late_task_of_the_old_spec_is_replaced_too():
    cluster = Cluster(2, parallelism=2)
    cluster.update()
    cluster.finish()
    assert cluster.state == "completed"
    late = replace(cluster.wanted()[0], id="late", slot=2, spec_version=1, updated_from=0)
    cluster.tell(cluster.world.drop(Task, cluster.wanted()[1].id))
    cluster.tell(cluster.world.put(late))
    cluster.finish()
    assert {t.spec_version for t in cluster.wanted()} == {2}
    assert len(cluster.wanted()) == 2


def test_clock_set_back_holds_nobody_up():
    cluster = Cluster(2, parallelism=1, delay=10 * S)
    cluster.update()
    cluster.settle()
    cluster.world.now_ms -= 3_600_000
    cluster.lead()
    assert cluster.slots_of(2) == [1, 2]
    assert end_of(1_000_000, 10, 999_000) == 1_000_010
    assert end_of(0, 10, 5) == 0


def test_new_leader_goes_on_at_every_point():
    """The same tasks are made, whether one leads all the time or a new one after every event."""
    ends = []
    for changes in (False, True):
        cluster = Cluster(4, parallelism=2, delay=3 * S)
        cluster.update()
        for _ in range(30):
            for row in cluster.world.service_tasks():
                cluster.obey_in(cluster.world.tasks.get(row.id))
                if changes:
                    cluster.lead()
            cluster.pass_ms(2_000)
        made = [(t.slot, t.spec_version, t.desired) for t in cluster.world.service_tasks()]
        ends.append((made, cluster.state))
    assert ends[0] == ends[1]
    assert ends[0][1] == "completed"


# Histories --------------------------------------------------------------------------------------
class History:
    """Random updates, failures, nodes and leaders around one service."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.order = self.rng.choice(["stop-first", "start-first"])
        self.parallelism = self.rng.randint(0, 3)
        self.cluster = Cluster(
            self.rng.randint(1, 6),
            policy=RestartPolicy(
                delay=S, condition=self.rng.choice(["any", "any", "on-failure", "none"])
            ),
            order=self.order,
            parallelism=self.parallelism,
            delay=self.rng.choice([0, 2 * S]),
            monitor=self.rng.choice([S, 20 * S]),
            failure_action=self.rng.choice(["pause", "continue"]),
            max_failure_ratio=self.rng.choice([0, 0.5, 1]),
        )
        self.world = self.cluster.world

    def run(self) -> None:
        acts = [self.update, self.fail, self.fail, self.scale, self.change_node, self.wait]
        acts += [self.lead, self.wait, self.wait]
        for _ in range(25):
            self.rng.choice(acts)()
            self.obey()
            self.check()
        for name in ("n1", "n2", "n3"):
            self.cluster.tell(self.world.put(node(name)))
        for _ in range(60):
            self.cluster.settle(1)
            self.check()
            self.cluster.pass_ms(10_000)
            self.check()

    def update(self) -> None:
        self.cluster.update(force_update=self.rng.randint(1, 3))

    def fail(self) -> None:
        alive = [t for t in self.world.service_tasks() if 192 <= t.status.state <= RUNNING]
        for row in self.rng.sample(alive, min(len(alive), 1)):
            self.cluster.report(row.id, self.rng.choice([FAILED, COMPLETE, REJECTED]))

    def scale(self) -> None:
        replicas = self.rng.randint(0, 6)
        self.cluster.replicas = replicas
        spec = self.world.specs.get(f"web@{self.cluster.service.spec_version}").spec
        self.cluster.update(force_update=spec.task_template.force_update)

    def change_node(self) -> None:
        how = self.rng.choice([{}, {"state": NodeState.DOWN}, {"availability": "drain"}])
        self.cluster.tell(self.world.put(node(f"n{self.rng.randint(1, 3)}", **how)))

    def wait(self) -> None:
        self.cluster.pass_ms(self.rng.choice([10, 1_000, 25_000]))

    def lead(self) -> None:
        self.cluster.leader = Leader(self.world, all_deciders(), self.world.index + 2**40)
        self.cluster.leader.run()

    def obey(self) -> None:
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            if self.rng.random() < 0.7:
                self.cluster.obey_in(row)

    def counting(self) -> list[Task]:
        live = slots_of(self.world, self.cluster.service).live
        return [row for tasks in live.values() for row in tasks]

    def check(self) -> None:
        self.check_wanted()
        self.check_index()

    def check_index(self) -> None:
        """What the updater keeps is what a look at all tasks would find."""
        service = self.cluster.service
        updater = next(d for d in self.cluster.leader.deciders if d.name == "updater")
        kept = updater._rollouts.get(service.id)
        if kept is None or kept.spec_version != service.spec_version:
            return
        found = Rollout(self.world, service)
        assert kept.refresh(self.world)
        assert found.refresh(self.world)
        assert (kept.taken, kept.tried) == (found.taken, found.tried)
        assert (kept.in_flight, kept.failed) == (found.in_flight, found.failed)
        assert kept.fresh_count == found.fresh_count
        now_ms = self.world.now_ms
        assert kept.resting(now_ms) == found.resting(now_ms)
        assert kept.last_reached_ms() == found.last_reached_ms()
        assert kept.fresh(self.world, 99) == found.fresh(self.world, 99)

    def check_wanted(self) -> None:
        wanted = self.cluster.wanted()
        pairs = [(t.slot, t.spec_version) for t in wanted]
        assert len(set(pairs)) == len(pairs), "a slot has two tasks of one version"
        spare = 0
        if self.order == "start-first":
            # what is in flight when another update comes is left to end beside its own
            spare = len(wanted) if not self.parallelism else 6
        assert len(wanted) <= self.cluster.replicas + spare
        slots = [t.slot for t in wanted]
        assert max((slots.count(slot) for slot in slots), default=0) <= 1 + bool(spare)


@pytest.mark.parametrize("seed", range(60))
def test_update_ends_completed_or_paused_with_a_reason_whatever_happens(seed):
    history = History(seed)
    history.run()
    cluster = history.cluster
    assert cluster.state in ("", "completed", "paused"), cluster.service
    if cluster.state == "paused":
        assert "failure or early termination of task " in cluster.service.update_status.message
    elif cluster.state == "completed" and history.order == "stop-first":
        current = history.world.specs.get(f"web@{cluster.service.spec_version}").spec
        for row in history.counting():
            made_from = history.world.specs.get(f"web@{row.spec_version}").spec
            assert made_from.task_template == current.task_template
    assert {t.status.state for t in cluster.wanted()} <= {RUNNING}
    assert_at_rest(history.world, all_deciders)
