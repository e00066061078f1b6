"""Schedules: every time a job is due it runs once, whoever leads, or its history says why not."""

from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.ids import ServiceID
from swarmlet.model.base import Empty
from swarmlet.model.change import SetStatus
from swarmlet.model.cron import parse_cron
from swarmlet.model.job import (
    BESIDE_MAX,
    first_iteration,
    job_status_of,
    next_iteration,
    no_iteration_yet,
    open_iterations,
)
from swarmlet.model.job_history import RUNS_KEPT, history_of
from swarmlet.model.node import NodeState
from swarmlet.model.service import (
    JobHistory,
    JobRun,
    ReplicatedJobMode,
    RestartPolicy,
    Service,
    ServiceMode,
    SpecVersion,
    spec_version_id,
)
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.reconcile.jobs import JobsDecider
from swarmlet.reconcile.reaper import ReaperDecider
from swarmlet.reconcile.schedules import AHEAD_MAX_MS, SchedulesDecider, run_now
from tests.reconcile.world import Leader, World, assert_at_rest, node, replace, service_spec

COMPLETE, FAILED, RUNNING = TaskState.COMPLETE, TaskState.FAILED, TaskState.RUNNING
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
NOON_MS = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp() * 1000)
GLOBAL = ServiceMode(global_job=Empty())


def job_mode(total=1, most=None):
    return ServiceMode(
        replicated_job=ReplicatedJobMode(
            max_concurrent=total if most is None else most, total_completions=total
        )
    )


def deciders():
    return [JobsDecider(), SchedulesDecider()]


def with_tasks_reaped():
    return [*deciders(), ReaperDecider()]


def labels_of(schedule, **said):
    return {"swarmlet.schedule": schedule} | {
        f"swarmlet.schedule.{key.replace('_', '-')}": value for key, value in said.items()
    }


def job_spec(schedule=None, mode=None, **said):
    never = RestartPolicy(condition="none")
    spec = service_spec("job", restart_policy=never)
    labels = {} if schedule is None else labels_of(schedule, **said)
    return replace(spec, mode=mode or job_mode(), labels=labels)


def add_job(world, spec):
    status = no_iteration_yet() if spec.labels else first_iteration(world.now_ms)
    version = SpecVersion(
        id=spec_version_id("job", 1), service_id=ServiceID("job"), number=1, spec=spec
    )
    row = Service(id=ServiceID("job"), name="job", job_status=status)
    return world.put(version) + world.put(row)


def scene(schedule="0 * * * *", mode=None, make=deciders, **said):
    """At 11:30, an hourly job; and who leads."""
    world = World()
    world.now_ms = NOON_MS - 30 * MINUTE_MS
    for name in ("n1", "n2"):
        world.put(node(name))
    add_job(world, job_spec(schedule, mode, **said))
    leader = Leader(world, make())
    leader.run()
    return world, leader


def job(world):
    return world.services.get("job")


def runs(world):
    return history_of(job(world)).runs


def told(world):
    return [(run.outcome, run.count) for run in runs(world)]


def fired_at(world):
    """Minutes past noon, of the runs that began."""
    began = [run for run in runs(world) if run.trigger == "schedule" and run.started_ms]
    return [(run.scheduled_ms - NOON_MS) // MINUTE_MS for run in began]


def end(world, state=COMPLETE, *, iteration=None, exit_code=None):
    """The agents' word on every task that has not ended."""
    events = []
    code = (0 if state == COMPLETE else 1) if exit_code is None else exit_code
    for task in world.service_tasks("job"):
        if task.status.state < COMPLETE and iteration in (None, task.job_iteration):
            status = TaskStatus(
                state=state,
                at_ms=world.now_ms,
                applied_at_ms=world.now_ms,
                exit_code=code,
                err=f"exit {code}" if code else "",
            )
            events += world.commit([SetStatus(id=task.id, status=status)])
    return events


def pass_to(world, leader, ms):
    leader.run_for(ms - world.now_ms)


# Fires -------------------------------------------------------------------------------------------
def test_a_job_with_a_schedule_does_not_run_when_it_is_made():
    world, leader = scene()
    assert world.service_tasks("job") == []
    assert runs(world) == ()
    assert list(leader.wake.values()) == [NOON_MS]


def test_it_runs_when_its_schedule_says_so():
    world, leader = scene()
    pass_to(world, leader, NOON_MS)
    (run,) = runs(world)
    assert (run.iteration, run.trigger) == (1, "schedule")
    assert (run.scheduled_ms, run.started_ms, run.outcome) == (NOON_MS, NOON_MS, "")
    assert [task.job_iteration for task in world.service_tasks("job")] == [1]
    assert_at_rest(world, deciders)


def test_it_runs_at_the_time_of_its_zone():
    world, leader = scene("0 14 * * *", timezone="Europe/Berlin")
    pass_to(world, leader, NOON_MS + 3 * HOUR_MS)
    assert fired_at(world) == [60]


def test_a_run_ends_with_what_its_tasks_came_to():
    world, leader = scene(mode=job_mode(3))
    pass_to(world, leader, NOON_MS)
    world.now_ms += 5_000
    leader.tell(end(world))
    leader.run()
    (run,) = runs(world)
    assert (run.outcome, run.ended_ms) == ("complete", NOON_MS + 5_000)
    assert (run.completed, run.failed, run.exit_codes, run.err) == (3, 0, ((0, 3),), "")
    assert_at_rest(world, deciders)


def test_a_run_with_a_task_that_is_given_up_has_failed():
    world, leader = scene(mode=job_mode(2))
    pass_to(world, leader, NOON_MS)
    first, second = world.service_tasks("job")
    bad = TaskStatus(state=FAILED, at_ms=NOON_MS, exit_code=3, err="task: non-zero exit (3)")
    leader.tell(world.commit([SetStatus(id=first.id, status=bad)]))
    leader.run()
    assert told(world) == [("", 1)], "the other one still runs"
    leader.tell(world.report(second.id, COMPLETE))
    leader.run()
    (run,) = runs(world)
    assert (run.outcome, run.completed, run.failed) == ("failed", 1, 1)
    assert (run.exit_codes, run.err) == (((0, 1), (3, 1)), "task: non-zero exit (3)")


def test_a_run_goes_on_while_its_policy_restarts_what_failed():
    world, leader = scene(mode=job_mode(1))
    retry = RestartPolicy(condition="on-failure", max_attempts=1, delay=1_000_000_000)
    spec = world.specs.get("job@1").spec
    spec = replace(spec, task_template=replace(spec.task_template, restart_policy=retry))
    leader.tell(world.update_service("job", spec))
    pass_to(world, leader, NOON_MS)
    leader.tell(end(world, FAILED))
    leader.run_for(5_000)
    assert told(world) == [("", 1)]
    leader.tell(end(world, FAILED, exit_code=7))
    leader.run()
    assert told(world) == [("failed", 1)]
    assert runs(world)[0].exit_codes == ((1, 1), (7, 1))


def test_a_job_of_more_tasks_than_may_run_at_once_ends_with_the_last():
    world, leader = scene(mode=job_mode(3, most=1))
    pass_to(world, leader, NOON_MS)
    for _ in range(3):
        assert told(world) == [("", 1)]
        leader.tell(end(world))
        leader.run()
    assert told(world) == [("complete", 1)]


# Overlaps ----------------------------------------------------------------------------------------
def test_overlapping_runs_go_on_beside_each_other_where_that_is_allowed():
    world, leader = scene(concurrency="allow")
    pass_to(world, leader, NOON_MS + HOUR_MS)
    assert fired_at(world) == [0, 60]
    assert open_iterations(job(world)) == (1, 2)
    assert [task.desired for task in world.service_tasks("job")] == [COMPLETE, COMPLETE]
    leader.tell(end(world, iteration=1))
    leader.run()
    assert told(world) == [("complete", 1), ("", 1)]
    assert open_iterations(job(world)) == (2,)
    leader.tell(end(world))
    leader.run()
    assert told(world) == [("complete", 1), ("complete", 1)]
    assert_at_rest(world, deciders)


def test_no_more_overlap_than_are_kept_apart_and_none_is_stopped_for_another():
    world, leader = scene("* * * * *", concurrency="allow")
    pass_to(world, leader, NOON_MS)
    assert len(open_iterations(job(world))) == BESIDE_MAX + 1
    assert {task.desired for task in world.service_tasks("job")} == {COMPLETE}
    assert told(world)[-1] == ("skipped", 30 - BESIDE_MAX - 1)


def test_a_fire_is_skipped_while_an_earlier_run_goes_on_where_overlaps_are_forbidden():
    world, leader = scene(concurrency="forbid")
    pass_to(world, leader, NOON_MS + 2 * HOUR_MS)
    assert told(world) == [("", 1), ("skipped", 2)]
    assert runs(world)[1].scheduled_ms == NOON_MS + HOUR_MS
    leader.tell(end(world))
    pass_to(world, leader, NOON_MS + 3 * HOUR_MS)
    assert fired_at(world) == [0, 180]
    assert len(world.service_tasks("job")) == 2


def test_a_forbidden_fire_waits_as_long_as_its_starting_deadline():
    world, leader = scene(concurrency="forbid", starting_deadline="10m")
    pass_to(world, leader, NOON_MS + HOUR_MS + 5 * MINUTE_MS)
    assert told(world) == [("", 1)]
    leader.tell(end(world))
    leader.run()
    assert fired_at(world) == [0, 60]
    assert runs(world)[1].started_ms == NOON_MS + HOUR_MS + 5 * MINUTE_MS


def test_a_forbidden_fire_is_skipped_at_its_starting_deadline():
    world, leader = scene(concurrency="forbid", starting_deadline="10m")
    pass_to(world, leader, NOON_MS + HOUR_MS + 10 * MINUTE_MS)
    assert told(world) == [("", 1), ("skipped", 1)]
    leader.tell(end(world))
    leader.run()
    assert fired_at(world) == [0]


def test_fires_that_a_long_run_outlasted_while_they_waited_were_skipped():
    world, leader = scene("* * * * *", concurrency="forbid", starting_deadline="10m")
    pass_to(world, leader, NOON_MS - 26 * MINUTE_MS)
    leader.tell(end(world))
    leader.run()
    assert told(world) == [("complete", 1), ("skipped", 2), ("", 1)]
    assert fired_at(world) == [-29, -26]


def test_a_fire_replaces_the_run_that_goes_on_where_it_is_to():
    world, leader = scene(concurrency="replace")
    pass_to(world, leader, NOON_MS + HOUR_MS)
    first, second = runs(world)
    assert (first.outcome, first.ended_ms, second.outcome) == ("replaced", NOON_MS + HOUR_MS, "")
    assert open_iterations(job(world)) == (2,)
    desired = {task.job_iteration: task.desired for task in world.service_tasks("job")}
    assert desired[1] == TaskState.REMOVE


# Late --------------------------------------------------------------------------------------------
def test_of_the_fires_that_nobody_was_there_for_the_last_is_run():
    world, _ = scene()
    world.now_ms = NOON_MS + 2 * HOUR_MS + 7 * MINUTE_MS
    Leader(world, deciders()).run()
    assert told(world) == [("missed", 2), ("", 1)]
    assert fired_at(world) == [120]
    assert history_of(job(world)).decided_ms == NOON_MS + 2 * HOUR_MS


def test_a_fire_is_missed_once_its_starting_deadline_is_over():
    world, _ = scene(starting_deadline="5m")
    world.now_ms = NOON_MS + 5 * MINUTE_MS + 1
    leader = Leader(world, deciders())
    leader.run()
    assert told(world) == [("missed", 1)]
    pass_to(world, leader, NOON_MS + HOUR_MS)
    assert fired_at(world) == [60]


def test_a_leader_whose_clock_is_behind_runs_nothing_again():
    world, leader = scene()
    pass_to(world, leader, NOON_MS)
    world.now_ms = NOON_MS - 2_000
    leader = Leader(world, deciders())
    leader.run_for(HOUR_MS)
    assert fired_at(world) == [0]


def test_a_clock_that_was_far_ahead_does_not_stop_the_schedule_for_good():
    world, leader = scene()
    world.now_ms = NOON_MS + 3 * AHEAD_MAX_MS
    leader.run()
    world.now_ms = NOON_MS - MINUTE_MS
    leader = Leader(world, deciders(), seed=1)
    leader.run()
    assert history_of(job(world)).decided_ms == NOON_MS - MINUTE_MS
    leader.run_for(MINUTE_MS)
    assert fired_at(world)[-1] == 0


# The schedule changes ----------------------------------------------------------------------------
def test_a_new_schedule_does_not_look_at_the_past():
    world, leader = scene("0 0 * * *")
    world.now_ms = NOON_MS + 30 * MINUTE_MS
    leader.tell(world.update_service("job", job_spec("0 * * * *")))
    leader.run()
    assert runs(world) == ()
    leader.run_for(30 * MINUTE_MS)
    assert fired_at(world) == [60]


def test_the_same_schedule_said_again_runs_nothing_twice():
    world, leader = scene()
    pass_to(world, leader, NOON_MS)
    other = job_spec("5 * * * *")
    leader.tell(world.update_service("job", other))
    leader.run()
    leader.tell(world.update_service("job", job_spec("0 * * * *")))
    leader.run()
    assert fired_at(world) == [0]


def test_the_same_schedule_said_again_by_a_clock_that_is_behind_runs_nothing_twice():
    world, leader = scene()
    pass_to(world, leader, NOON_MS)
    for schedule in ("5 * * * *", "0 * * * *"):
        world.now_ms = NOON_MS - 5_000
        leader.tell(world.update_service("job", job_spec(schedule)))
        leader.run()
    leader.run_for(MINUTE_MS)
    assert fired_at(world) == [0]


def test_an_update_of_anything_else_leaves_the_schedule_alone():
    world, leader = scene()
    pass_to(world, leader, NOON_MS - MINUTE_MS)
    leader.tell(world.update_service("job", job_spec("0 * * * *", concurrency="forbid")))
    leader.run()
    assert history_of(job(world)).decided_ms == NOON_MS - 30 * MINUTE_MS
    assert runs(world) == ()


def test_a_schedule_that_this_host_cannot_read_runs_nothing_and_breaks_nothing():
    world, leader = scene("0 * * * *", timezone="Atlantis/Harbour")
    leader.run_for(2 * HOUR_MS)
    assert runs(world) == ()


# Jobs without one --------------------------------------------------------------------------------
def test_a_job_without_a_schedule_has_a_history_too():
    world = World()
    world.put(node())
    add_job(world, job_spec())
    leader = Leader(world, deciders())
    leader.run()
    assert [(run.iteration, run.trigger, run.outcome) for run in runs(world)] == [
        (0, "service", "")
    ]
    leader.tell(end(world))
    leader.run()
    assert told(world) == [("complete", 1)]
    leader.tell(world.put(next_iteration(job(world), world.now_ms)))
    leader.run()
    leader.tell(world.put(next_iteration(job(world), world.now_ms)))
    leader.run()
    assert told(world) == [("complete", 1), ("replaced", 1), ("", 1)]
    assert_at_rest(world, deciders)


def test_a_run_by_hand_is_one_of_the_history():
    world, leader = scene()
    row = run_now(world, job(world), JobRun(trigger="manual"), world.now_ms)
    leader.tell(world.put(row))
    leader.run()
    (run,) = runs(world)
    assert (run.iteration, run.trigger, run.scheduled_ms) == (1, "manual", 0)
    pass_to(world, leader, NOON_MS)
    assert open_iterations(job(world)) == (1, 2)


# Global jobs -------------------------------------------------------------------------------------
def test_a_run_on_every_node_ends_with_the_last_of_them():
    world, leader = scene(mode=GLOBAL)
    pass_to(world, leader, NOON_MS)
    first, second = world.service_tasks("job")
    leader.tell(world.report(first.id, COMPLETE))
    leader.run()
    assert told(world) == [("", 1)]
    leader.tell(world.report(second.id, COMPLETE))
    leader.run()
    assert told(world) == [("complete", 1)]


def test_a_run_on_every_node_does_not_go_on_for_a_node_that_is_down():
    world, leader = scene(mode=GLOBAL, concurrency="forbid")
    pass_to(world, leader, NOON_MS)
    first, second = world.service_tasks("job")
    leader.tell(world.report(first.id, COMPLETE))
    leader.run()
    leader.tell(world.put(node(second.node_id, state=NodeState.DOWN)))
    leader.run()
    assert told(world) == [("failed", 1)]
    pass_to(world, leader, NOON_MS + HOUR_MS)
    assert fired_at(world) == [0, 60]


# Bounds ------------------------------------------------------------------------------------------
def test_the_history_and_the_tasks_of_a_job_do_not_grow_for_ever():
    world, leader = scene("* * * * *", make=with_tasks_reaped)
    for _ in range(RUNS_KEPT + 10):
        leader.run_for(MINUTE_MS)
        leader.tell(end(world))
        leader.run()
    assert len(runs(world)) == RUNS_KEPT
    assert {run.outcome for run in runs(world)} == {"complete"}
    last = job_status_of(job(world)).iteration
    kept = {task.job_iteration for task in world.service_tasks("job")}
    assert kept == set(range(last - 4, last + 1))
    assert_at_rest(world, with_tasks_reaped)


def test_a_run_that_goes_on_is_never_forgotten():
    world, leader = scene("* * * * *", make=with_tasks_reaped, concurrency="allow")
    leader.run_for(MINUTE_MS)
    for _ in range(RUNS_KEPT + 10):
        leader.run_for(MINUTE_MS)
        for iteration in range(2, job_status_of(job(world)).iteration + 1):
            leader.tell(end(world, iteration=iteration))
        leader.run()
    assert (runs(world)[0].iteration, runs(world)[0].outcome) == (1, "")
    assert len([t for t in world.service_tasks("job") if t.job_iteration == 1]) == 1


# Whoever leads -----------------------------------------------------------------------------------
class Books:
    """Every fire that a history of changes decided, and how."""

    def __init__(self) -> None:
        self.ran, self.passed_over, self.begun = [], 0, []

    def tell(self, events) -> None:
        for event in events:
            if event.table is not Service or event.new is None:
                continue
            old = (event.old.job_history if event.old else None) or JobHistory()
            new = event.new.job_history or JobHistory()
            known = {run.iteration for run in old.runs}
            for run in new.runs:
                if run.iteration >= 0 and run.iteration not in known:
                    self.begun.append(run.iteration)
                    self.ran += [run.scheduled_ms] if run.trigger == "schedule" else []
            before, now = _passed_over(old), _passed_over(new)
            self.passed_over += sum(now[first] - before.get(first, 0) for first in now)


def _passed_over(history):
    """Fires that began no run, by the first of those that are told together."""
    told = [run for run in history.runs if run.outcome in ("skipped", "missed")]
    return {run.scheduled_ms: run.count for run in told}


class Swarm:
    """A world whose leaders come and go between any two of their changes."""

    def __init__(self, world, seed) -> None:
        self.world, self.chance, self.books = world, Random(seed), Books()
        put = world.put

        def put_and_note(row):
            events = put(row)
            self.books.tell(events)
            return events

        world.put = put_and_note
        self.elect()

    def elect(self) -> None:
        self.leader = Leader(self.world, deciders(), seed=self.chance.randrange(1 << 30))

    def go_on(self, period_ms) -> None:
        """Some seconds of leading: now and then it ends after a few decisions."""
        if self.chance.random() < 0.3:
            for _ in range(self.chance.randrange(6)):
                self.leader._fire()
                if self.leader.dirty:
                    self.leader._decide(self.leader._next())
            self.elect()
        self.leader.run_for(period_ms)


@given(
    st.sampled_from(["* * * * *", "*/3 * * * *", "7,8 * * * *"]),
    st.sampled_from(["allow", "forbid", "replace"]),
    st.sampled_from([None, "20s", "2m"]),
    st.integers(0, 1 << 30),
)
@settings(max_examples=40, deadline=None)
def test_every_fire_is_decided_once_whoever_leads(schedule, concurrency, deadline, seed):
    chance = Random(seed)
    said = {"concurrency": concurrency} | ({"starting_deadline": deadline} if deadline else {})
    world, _ = scene(schedule, **said)
    swarm, began_ms = Swarm(world, seed), history_of(job(world)).decided_ms
    for _ in range(25):
        swarm.go_on(chance.randrange(90_000))
        if chance.random() < 0.2:
            world.now_ms += chance.randrange(6 * MINUTE_MS)  # nobody leads
            swarm.elect()
        if chance.random() < 0.1:
            world.now_ms -= chance.randrange(3_000)  # another's clock
            swarm.elect()
        if chance.random() < 0.5:
            swarm.leader.tell(end(world, chance.choice([COMPLETE, FAILED])))
    swarm.leader.run()
    due = parse_cron(schedule).due(began_ms, history_of(job(world)).decided_ms)
    books = swarm.books
    assert books.ran == sorted(set(books.ran))
    assert books.begun == list(range(1, len(books.begun) + 1))
    assert len(books.ran) + books.passed_over == (0 if due is None else due.fires)
    assert parse_cron(schedule).due(history_of(job(world)).decided_ms, world.now_ms) is None or (
        concurrency == "forbid" and deadline
    )
    assert_at_rest(world, deciders)


@given(st.integers(0, 1 << 30))
@settings(max_examples=30, deadline=None)
def test_no_fire_is_left_out_by_changes_of_the_leader(seed):
    """Elections that take less than a minute, and a job that is due every minute."""
    chance = Random(seed)
    world, _ = scene("* * * * *")
    swarm, began_ms = Swarm(world, seed), history_of(job(world)).decided_ms
    for _ in range(20):
        swarm.go_on(chance.randrange(90_000))
        world.now_ms += chance.randrange(30_000)
        swarm.elect()
        swarm.leader.run()
        swarm.leader.tell(end(world))
        swarm.leader.run()
    fires = range(began_ms + MINUTE_MS, world.now_ms + 1, MINUTE_MS)
    assert swarm.books.ran == [fire - fire % MINUTE_MS for fire in fires]
    assert swarm.books.passed_over == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_fire_cut_short_anywhere_is_found_again_and_finished(seed):
    world, _ = scene(mode=job_mode(3))
    world.now_ms = NOON_MS
    leader = Leader(world, deciders(), seed=seed)
    for _ in range(seed):
        if leader.dirty:
            leader._decide(leader._next())
    Leader(world, deciders()).run()
    assert fired_at(world) == [0]
    assert [task.slot for task in world.service_tasks("job")] == [0, 1, 2]
    assert_at_rest(world, deciders)
