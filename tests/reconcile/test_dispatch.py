"""What a node is told: all that is bound to it, nothing twice, never its own reports."""

from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.ids import ServiceID
from swarmlet.model.container import ConfigReference, ContainerSpec, SecretReference
from swarmlet.model.service import ServiceSpec, SpecVersion, TaskSpec, spec_version_id
from swarmlet.model.task import NetworkAttachment, TaskState, TaskStatus
from swarmlet.reconcile.dispatch import Difference, PayloadUsers, fingerprint, needed, plan
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


# Secrets and configs ------------------------------------------------------------------------------
KEYS = {
    1: (("secret", "s1"),),
    2: (("secret", "s1"), ("secret", "s2"), ("config", "c1")),
    3: (("config", "c1"), ("config", "c2")),
    4: (),
}


def with_specs(*tasks):
    """Spec version N of the service refers to KEYS[N], some of it twice."""
    world = world_of(*tasks)
    for number, keys in KEYS.items():
        secrets = [SecretReference(secret_id=i) for kind, i in keys if kind == "secret"]
        configs = [ConfigReference(config_id=i) for kind, i in keys if kind == "config"]
        container = ContainerSpec(image="host", secrets=secrets * 2, configs=configs)
        spec = ServiceSpec(name="web", task_template=TaskSpec(container_spec=container))
        service_id = ServiceID("web")
        row_id = spec_version_id(service_id, number)
        world.put(SpecVersion(id=row_id, service_id=service_id, number=number, spec=spec))
    return world


def test_payloads_are_needed_by_tasks_of_the_node_that_are_not_over():
    world = with_specs(
        task("a", spec_version=2, state=TaskState.ASSIGNED),
        task("stopping", spec_version=1, state=RUNNING, desired=TaskState.SHUTDOWN),
        task("over", spec_version=1, state=TaskState.FAILED),
        task("lost", spec_version=1, state=TaskState.ORPHANED),
        task("else", spec_version=1, on="n2"),
        task("early", spec_version=1, state=TaskState.PENDING),
        task("plain", spec_version=4),
    )
    asked = ("a", "stopping", "over", "lost", "else", "early", "plain", "nowhere")
    assert [needed(world, "n1", one) for one in asked] == [KEYS[2], KEYS[1], *[()] * 6]


def test_payload_comes_with_its_first_user_and_goes_with_its_last():
    world, users = with_specs(task("a", spec_version=1), task("b", spec_version=2)), PayloadUsers()
    assert users.turn(world, "n1", ["a"]) == ((("secret", "s1"),), ())
    assert users.turn(world, "n1", ["a", "b"]) == ((("config", "c1"), ("secret", "s2")), ())
    world.report("a", TaskState.COMPLETE)
    assert users.turn(world, "n1", ["a"]) == ((), ())  # b has it still
    world.put(replace(world.tasks.get("b"), status=TaskStatus(state=TaskState.FAILED)))
    gone = (("config", "c1"), ("secret", "s1"), ("secret", "s2"))
    assert users.turn(world, "n1", ["b"]) == ((), gone)
    assert users.turn(world, "n1", ["a", "b"]) == ((), ())


def test_payload_that_passes_from_one_task_to_the_next_stays():
    world, users = with_specs(task("old", spec_version=1)), PayloadUsers()
    users.turn(world, "n1", ["old"])
    world.report("old", TaskState.SHUTDOWN)
    world.put(task("new", spec_version=1))
    assert users.turn(world, "n1", ["new", "old"]) == ((), ())


HISTORIES = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from(["n1", "n1", "n2", "gone"]),
            st.sampled_from([64, 192, 512, 576, 704]),
            st.sampled_from(sorted(KEYS)),
        ),
        max_size=4,
    ),
    max_size=8,
)


@given(HISTORIES)
def test_what_a_node_holds_is_what_its_tasks_need_after_every_turn(history):
    world, users = with_specs(), PayloadUsers()
    holds = set()
    for turn in history:
        for task_id, on, state, version in turn:
            if on == "gone":
                world.tables[type(task("x"))].rows.pop(task_id, None)
            else:
                world.put(task(task_id, on=on, state=TaskState(state), spec_version=version))
        put, gone = users.turn(world, "n1", sorted({one[0] for one in turn}))
        assert not holds & set(put)
        assert set(gone) <= holds
        holds = holds - set(gone) | set(put)
        assert holds == {key for one in "abcd" for key in needed(world, "n1", one)}
    fresh = PayloadUsers().turn(world, "n1", ["a", "b", "c", "d"])
    assert set(fresh.put) == holds
