"""Updates that fail and are turned back: what they leave, and what a killed leader changes."""

from collections.abc import Iterator
from itertools import chain, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.limits import ENTRY_CHANGES_MAX
from swarmlet.model.change import Create, Update
from swarmlet.model.revision import back_to
from swarmlet.model.service import RestartPolicy, UpdateConfig, UpdateStatus
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.rollout import settings_of
from tests.reconcile.rolling import Cluster
from tests.reconcile.world import Leader, assert_at_rest, replace, service_spec

READY, RUNNING, SHUTDOWN = TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN
FAILED, COMPLETE, REJECTED = TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED
S = 1_000_000_000
BAD = "bad"
COUNTERS = {"host": 0, "new": 1, BAD: 666}
IMAGES = {counter: image for image, counter in COUNTERS.items()}


class Crashing(Cluster):
    """Tasks of the bad image fail as soon as they should run."""

    def __init__(self, replicas: int = 3, **config) -> None:
        config.setdefault("failure_action", "rollback")
        super().__init__(replicas, **config)

    def update(self, image: str = "new", **template) -> None:
        """An image is told by its counter here: all of them run on the nodes there are."""
        template.setdefault("force_update", COUNTERS[image])
        super().update(**template)

    def image(self, row: Task) -> str:
        spec = self.world.specs.get(f"web@{row.spec_version}").spec
        return IMAGES.get(spec.task_template.force_update, "other")

    def obey_in(self, row: Task) -> None:
        is_due = row.desired == RUNNING and row.status.state >= TaskState.ASSIGNED
        if self.image(row) == BAD and is_due and row.status.state < RUNNING:
            self.report(row.id, FAILED)
        else:
            super().obey_in(row)

    @property
    def status(self) -> UpdateStatus:
        return self.service.update_status

    def images(self) -> list[str]:
        return [self.image(row) for row in self.wanted()]

    def roll_back(self) -> None:
        """As the API does."""
        number = self.service.previous_spec_version
        target = self.world.specs.get(f"web@{number}")
        row = replace(self.service, previous_spec_version=self.service.spec_version)
        status = UpdateStatus(
            state="rollback_started", started_ms=1, message="manually requested rollback"
        )
        self.tell(self.world.commit(back_to(self.world, row, target, status=status, cause="")))


# Automatic ---------------------------------------------------------------------------------------
def test_update_that_fails_is_rolled_back_to_the_spec_before():
    cluster = Crashing(3, parallelism=1)
    cluster.update(image=BAD)
    started_ms = cluster.status.started_ms
    cluster.settle()
    failed = next(t for t in cluster.world.service_tasks() if t.status.state == FAILED)
    message = f"update rolled back due to failure or early termination of task {failed.id}"
    assert cluster.status == UpdateStatus(
        state="rollback_started", started_ms=started_ms, message=message
    )
    row = cluster.service
    assert (row.spec_version, row.previous_spec_version) == (3, 0)
    version = cluster.world.specs.get("web@3")
    assert (version.repeats, version.cause) == (1, message)
    assert version.spec == cluster.world.specs.get("web@1").spec
    cluster.finish()
    assert cluster.state == "rollback_completed"
    assert cluster.status.message == "rollback completed"
    assert cluster.status.completed_ms > started_ms
    assert cluster.images() == ["host"] * 3
    assert_at_rest(cluster.world, all_deciders)


def test_rollback_replaces_only_what_the_update_had_replaced():
    cluster = Crashing(4, parallelism=1)
    before = {t.slot: t.id for t in cluster.wanted()}
    cluster.update(image=BAD)
    cluster.finish()
    after = {t.slot: t.id for t in cluster.wanted()}
    assert after[1] != before[1]
    assert [after[slot] for slot in (2, 3, 4)] == [before[slot] for slot in (2, 3, 4)]


def test_start_first_update_that_fails_never_stops_an_old_task():
    cluster = Crashing(3, parallelism=0, order="start-first")
    before = cluster.wanted()
    cluster.update(image=BAD)
    cluster.finish()
    assert cluster.state == "rollback_completed"
    assert [t.id for t in cluster.wanted()] == [t.id for t in before]


def test_crash_within_the_monitor_of_the_last_task_rolls_back_too():
    cluster = Crashing(1)
    cluster.update()
    cluster.settle()
    cluster.pass_ms(20_000)
    cluster.report(cluster.of(2)[0].id, FAILED)
    assert cluster.state == "rollback_started"
    cluster.finish()
    assert cluster.state == "rollback_completed"


def test_rollback_is_complete_only_once_its_tasks_were_watched():
    cluster = Crashing(2, parallelism=0, rollback=UpdateConfig(monitor=7 * S))
    cluster.update(image=BAD)
    cluster.settle()
    assert cluster.state == "rollback_started"
    assert cluster.images() == ["host", "host"]
    cluster.pass_ms(6_999)
    assert cluster.state == "rollback_started"
    cluster.pass_ms(1)
    assert cluster.state == "rollback_completed"


def test_rollback_goes_by_the_rollback_settings_of_the_spec_it_returns_to():
    spec = replace(
        service_spec(),
        update_config=UpdateConfig(parallelism=1, order="start-first"),
        rollback_config=UpdateConfig(parallelism=2, delay=S, failure_action="continue"),
    )
    there, back = settings_of(spec), settings_of(spec, is_rollback=True)
    assert (there.parallelism, there.is_start_first, there.failure_action) == (1, True, "pause")
    assert (back.parallelism, back.is_start_first, back.failure_action) == (2, False, "continue")
    assert back.delay_ms == 1_000
    assert settings_of(service_spec(), is_rollback=True).parallelism == 1


def test_rollback_that_fails_is_paused_and_never_turned_again():
    cluster = Crashing(2, parallelism=1, rollback=UpdateConfig(failure_action="pause"))
    cluster.update(image=BAD)
    cluster.settle(2)
    while cluster.state == "rollback_started":
        row = next(t for t in cluster.of(3) if t.status.state >= TaskState.ASSIGNED)
        cluster.report(row.id, FAILED)
    assert cluster.state == "rollback_paused"
    assert cluster.status.message == (
        f"rollback paused due to failure or early termination of task {row.id}"
    )
    assert cluster.status.completed_ms == 0
    assert cluster.service.spec_version == 3
    cluster.finish()
    assert cluster.state == "rollback_paused"


def test_rollback_bears_failures_where_its_action_is_to_continue():
    cluster = Crashing(2, parallelism=0, rollback=UpdateConfig(failure_action="continue"))
    cluster.update(image=BAD)
    cluster.settle(2)
    row = next(t for t in cluster.of(3) if t.status.state >= TaskState.ASSIGNED)
    cluster.report(row.id, REJECTED)
    cluster.finish()
    assert cluster.state == "rollback_completed"


def test_failure_without_a_spec_to_return_to_pauses_and_says_so():
    cluster = Crashing(2)
    cluster.update(image=BAD)
    forgotten = replace(cluster.service, previous_spec_version=0)
    cluster.tell(cluster.world.put(forgotten))
    cluster.settle()
    assert cluster.state == "paused"
    assert cluster.status.message.endswith(": there is no previous spec")


def test_failures_of_an_earlier_update_do_not_count_for_the_rollback():
    """Version 2 lost a task within its monitor; going back to it starts with a clean sheet."""
    cluster = Crashing(2, parallelism=0, max_failure_ratio=0.5)
    cluster.update(force_update=7)
    cluster.report(cluster.of(2)[0].id, FAILED)
    cluster.finish()
    assert cluster.state == "completed"
    cluster.update(image=BAD)
    cluster.finish()
    assert cluster.state == "rollback_completed"
    assert cluster.service.spec_version == 4


@pytest.mark.parametrize("end", [FAILED, REJECTED, COMPLETE])
def test_restart_that_brings_the_new_spec_out_of_turn_counts_for_the_update(end):
    cluster = Crashing(3, parallelism=1, delay=600 * S)
    cluster.update(image=BAD)
    first = cluster.of(2)[0]
    cluster.tell(cluster.world.put(replace(first, status=replace(first.status, state=RUNNING))))
    cluster.report(next(t.id for t in cluster.of(1) if t.slot == 3), end)
    late = next(t for t in cluster.of(2) if t.slot == 3)
    assert late.updated_from == 1
    cluster.pass_ms(6_000)
    cluster.settle()
    assert cluster.state.startswith("rollback")


# By hand -----------------------------------------------------------------------------------------
def test_manual_rollback_replaces_tasks_and_a_second_one_goes_forward_again():
    cluster = Crashing(3, parallelism=0)
    cluster.update(image="new")
    cluster.finish()
    cluster.roll_back()
    assert cluster.state == "rollback_started"
    cluster.finish()
    assert (cluster.state, cluster.images()) == ("rollback_completed", ["host"] * 3)
    cluster.roll_back()
    cluster.finish()
    assert (cluster.state, cluster.images()) == ("rollback_completed", ["new"] * 3)
    assert_at_rest(cluster.world, all_deciders)


def test_manual_rollback_in_the_middle_of_an_update_ends_it():
    cluster = Crashing(4, parallelism=1)
    cluster.update(image="new")
    cluster.obey()
    cluster.roll_back()
    cluster.finish()
    assert (cluster.state, cluster.images()) == ("rollback_completed", ["host"] * 4)


def test_rollback_that_changes_no_task_is_complete_at_once():
    cluster = Crashing(3)
    cluster.update(force_update=0)
    before = cluster.wanted()
    cluster.roll_back()
    assert (cluster.state, cluster.wanted()) == ("rollback_completed", before)


def test_update_after_a_paused_rollback_goes_on_with_the_new_spec():
    cluster = Crashing(2, parallelism=1)
    cluster.update(image=BAD)
    cluster.settle(2)
    while cluster.state == "rollback_started":
        cluster.report(next(t.id for t in cluster.of(3) if t.status.state >= 192), FAILED)
    cluster.update(image="new")
    assert cluster.state == "updating"
    cluster.finish()
    assert (cluster.state, cluster.images()) == ("completed", ["new", "new"])


# Killed leaders ----------------------------------------------------------------------------------
class DeadError(Exception):
    """The leader was killed."""


class MortalLeader(Leader):
    """Dies after so many entries: nothing but what it committed is left of it."""

    entries_left = 0

    def _commit(self, decision):
        events = self.world.commit(decision.changes, decision.guards)
        self.entries_left -= 1
        if not self.entries_left:
            raise DeadError
        self.tell(events)


class MortalCluster(Crashing):
    """Each leader commits as many entries as `lives` says, and is killed then."""

    def __init__(self, lives: Iterator[int], replicas: int, **config) -> None:
        self.lives = lives
        super().__init__(replicas, **config)

    def lead(self) -> None:
        self.entries = 0
        self._survive(self._begin)

    def _begin(self) -> None:
        self.leader = MortalLeader(self.world, all_deciders())
        self.leader.new_id, self.leader.entries_left = self.new_id, next(self.lives)
        self.leader.run()

    def _survive(self, act) -> None:
        while True:
            try:
                act()
            except DeadError:
                act = self._begin
            else:
                return

    def tell(self, events) -> None:
        def told():
            self.leader.tell(events)
            self.leader.run()

        self._survive(told)
        self.check()

    def pass_ms(self, period_ms: int) -> None:
        end_ms = self.world.now_ms + period_ms

        def passed():
            self.leader.run_for(end_ms - self.world.now_ms)

        def begin_and_pass():
            self._begin()
            passed()

        act = passed
        while True:
            try:
                act()
            except DeadError:
                act = begin_and_pass
            else:
                return

    def check(self) -> None:
        """Where the new task is started first, one of each slot stays up."""
        if self.config.order == "start-first" and self.state in ("updating", "rollback_started"):
            up = {t.slot for t in self.wanted() if t.status.state == RUNNING}
            assert len(up) == self.replicas


def outcome(lives: Iterator[int], replicas: int, image: str, config) -> tuple[object, ...]:
    """How an update ends, and what is left of it."""
    cluster = MortalCluster(lives, replicas, **config)
    cluster.update(image=image)
    cluster.finish()
    assert_at_rest(cluster.world, all_deciders)
    message = cluster.status.message.rpartition(" ")[0] if cluster.status.message else ""
    number = cluster.service.spec_version
    return cluster.state, message, number, cluster.service.previous_spec_version, cluster.images()


CONFIGS = st.fixed_dictionaries(
    {
        "parallelism": st.integers(0, 3),
        "order": st.sampled_from(["stop-first", "start-first"]),
        "failure_action": st.sampled_from(["rollback", "rollback", "pause", "continue"]),
        "max_failure_ratio": st.sampled_from([0, 0.4]),
        "delay": st.sampled_from([0, 2 * S]),
        "rollback": st.sampled_from([None, UpdateConfig(parallelism=2, delay=S)]),
        "policy": st.sampled_from([RestartPolicy(), RestartPolicy(condition="none")]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.sampled_from([BAD, "new"]),
    CONFIGS,
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
)
def test_leader_killed_at_any_point_changes_nothing_in_the_outcome(replicas, image, config, lives):
    calm = outcome(repeat(10**9), replicas, image, dict(config))
    assert calm[0] in ("completed", "rollback_completed", "paused")
    if image == BAD and config["failure_action"] == "rollback":
        assert calm[0] == "rollback_completed"
    killed = outcome(chain(lives, repeat(10**9)), replicas, image, dict(config))
    assert killed[:2] == calm[:2]
    if calm[0] != "paused":  # when it pauses, how many were tried by then may differ
        assert killed == calm


@pytest.mark.parametrize("image", [BAD, "new"])
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_leader_killed_after_each_single_entry_changes_nothing(order, image):
    config = {"parallelism": 2, "order": order}
    calm = outcome(repeat(10**9), 3, image, dict(config))
    for entry in range(1, 40):
        assert outcome(chain([entry], repeat(10**9)), 3, image, dict(config)) == calm
    assert outcome(repeat(1), 3, image, dict(config)) == calm


def test_turning_back_is_one_entry_of_two_changes():
    cluster = Crashing(3)
    cluster.update(image=BAD)
    cluster.leader.decided.clear()
    cluster.settle()
    (turn,) = [d for _, d in cluster.leader.decided if "update rolled back" in "".join(d.reasons)]
    row, version = turn.changes
    assert isinstance(row, Update)
    assert isinstance(version, Create)
    assert row.obj.spec_version == version.obj.number == 3
    assert len(turn.changes) < ENTRY_CHANGES_MAX
