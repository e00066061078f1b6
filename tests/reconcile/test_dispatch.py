"""What a node is told: all that is bound to it, nothing twice, never its own reports."""

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.model.task import NetworkAttachment, TaskState
from swarmlet.reconcile.dispatch import Difference, fingerprint, plan
from tests.reconcile.world import World, replace, task

READY, RUNNING = TaskState.READY, TaskState.RUNNING


def world_of(*tasks):
    world = World()
    for row in tasks:
        world.put(row)
    return world


def sent(*tasks):
    return {row.id: fingerprint(row) for row in tasks}


def test_plan_sends_every_task_bound_to_the_node_whatever_became_of_it():
    world = world_of(
        task("d", state=RUNNING),
        task("c", state=TaskState.FAILED, desired=TaskState.SHUTDOWN),
        task("b", state=TaskState.ASSIGNED),
        task("a", state=TaskState.PENDING),
        task("other", on="n2"),
        task("nowhere", on="", state=TaskState.PENDING),
    )
    assert plan(world, "n1", {}) == Difference(("b", "c", "d"), ())


def test_plan_sends_nothing_again_when_only_the_status_changed():
    row = task("a", state=TaskState.ASSIGNED)
    world = world_of(row)
    world.report("a", RUNNING)
    assert plan(world, "n1", sent(row), ["a"]) == Difference((), ())
    assert plan(world, "n1", sent(row)) == Difference((), ())


def test_plan_sends_again_what_the_node_acts_upon():
    row = task("a", desired=READY)
    changes = [
        {"desired": int(RUNNING)},
        {"networks": (NetworkAttachment(network_id="n"),)},
        {"spec_version": 2},
        {"slot": 2},
        {"job_iteration": 2},
    ]
    for change in changes:
        world = world_of(replace(row, **change))
        assert plan(world, "n1", sent(row), ["a"]) == Difference(("a",), ()), change


def test_plan_takes_back_what_is_gone():
    row, other = task("a"), task("b")
    world = world_of(other)
    assert plan(world, "n1", sent(row, other)) == Difference((), ("a",))
    assert plan(world, "n1", sent(row, other), ["a", "a", "b"]) == Difference((), ("a",))


def test_plan_looks_at_the_dirty_ones_alone():
    world = world_of(task("a"), task("b"))
    assert plan(world, "n1", {}, ["b", "never-there"]) == Difference(("b",), ())


ROWS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(
        st.sampled_from(["n1", "n2"]),
        st.sampled_from([0, 192, 512, 704]),
        st.sampled_from([384, 512]),
    ),
)


@given(ROWS, ROWS)
def test_plan_of_what_changed_equals_plan_of_everything(before, after):
    def rows(of):
        return [task(i, on=on, state=TaskState(s), desired=d) for i, (on, s, d) in of.items()]

    had = sent(*[t for t in rows(before) if t.node_id == "n1" and t.status.state >= 192])
    world = world_of(*rows(after))
    dirty = [i for i in "abcdef" if before.get(i) != after.get(i)]
    change = plan(world, "n1", had, dirty)
    assert change == plan(world, "n1", had)
    has = {i: p for i, p in had.items() if i not in change.gone}
    has |= {i: fingerprint(world.tasks.get(i)) for i in change.put}
    assert plan(world, "n1", has) == Difference((), ())
    assert set(has) == {t.id for t in rows(after) if t.node_id == "n1" and t.status.state >= 192}
