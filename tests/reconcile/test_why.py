"""Why tasks, services and nodes are as they are: sentences, codes and groups, state by state."""

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.model.container import HealthConfig
from swarmlet.model.node import (
    NodeState,
    NodeStatus,
)
from swarmlet.model.service import (
    DiscreteGenericResource,
    EndpointSpec,
    GenericResource,
    Placement,
    Platform,
    PortConfig,
    RestartPolicy,
    Service,
    UpdateStatus,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.why.answers import GROUPS_MAX, NAMED_MAX
from swarmlet.reconcile.why.words import amount, cpus, left, size, span
from tests.reconcile.explained import (
    MIB,
    pending,
    reserving,
    status,
    why,
    why_node,
    why_service,
    world_of,
)
from tests.reconcile.world import START_MS, World, node, replace, service_spec, task

# Placement ------------------------------------------------------------------------------------


def test_nearest_node_is_the_one_that_lacks_only_memory():
    eu = {"zone": "eu"}
    world = world_of(
        *(node(f"d{n}", hostname=f"d{n}", availability="drain", labels=eu) for n in range(3)),
        *(node(f"u{n}", hostname=f"u{n}") for n in range(2)),
        node("n2", hostname="w2", labels=eu, memory_b=824 * MIB),
        resources=reserving(memory_bytes=1024 * MIB),
        placement=Placement(constraints=["node.labels.zone==eu"]),
    )
    world.put(pending())
    reason = why(world)
    assert reason.code == "no-suitable-node"
    assert reason.sentence == (
        "No node can take it: 3 nodes are drained, 2 nodes do not satisfy node.labels.zone==eu, "
        "1 node lacks memory; nearest: w2, which lacks only 200 MiB of memory."
    )
    assert reason.remedy == (
        "free 200 MiB of memory on w2, or reserve less: "
        "`swarmlet service update --reserve-memory ... web`"
    )
    assert [(c.filter, c.what, c.nodes) for c in reason.placement.counts] == [
        ("ready", "drain", 3),
        ("constraint", "node.labels.zone==eu", 2),
        ("resource", "memory", 1),
    ]
    (lack,) = reason.placement.nearest.lacks
    assert (lack.filter, lack.what, lack.missing) == ("resource", "memory", 200 * MIB)


PORT = EndpointSpec(ports=[PortConfig(target_port=80, published_port=80, publish_mode="host")])
GPU = [GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=2))]


@pytest.mark.parametrize(
    ("on", "spec", "words", "remedy"),
    [
        ({"availability": "drain"}, {}, "is drained", "node update --availability active w1"),
        ({"availability": "pause"}, {}, "is paused", "node update --availability active w1"),
        ({"state": NodeState.DOWN}, {}, "is down", "node why w1"),
        ({"state": NodeState.DISCONNECTED}, {}, "is disconnected", "node why w1"),
        ({"state": NodeState.UNKNOWN}, {}, "is not heard of yet", "node why w1"),
        ({}, {"image": "nginx"}, "has no docker or oci runtime", "join-token worker"),
        (
            {},
            {"placement": Placement(constraints=["node.labels.a==b"])},
            "does not satisfy node.labels.a==b",
            "node update --label-add a=b w1",
        ),
        (
            {},
            {"placement": Placement(constraints=["node.id!=n1"])},
            "does not satisfy node.id!=n1",
            "service update --constraint-rm 'node.id!=n1' web",
        ),
        (
            {},
            {"placement": Placement(platforms=[Platform(os="linux", architecture="arm64")])},
            "is not linux/arm64",
            "join-token worker",
        ),
        (
            {"cpu_nano": 1_500_000_000},
            {"resources": reserving(nano_cpus=2_000_000_000)},
            "lacks only 0.5 CPUs",
            "--reserve-cpu",
        ),
        (
            {"memory_b": 0},
            {"resources": reserving(memory_bytes=3 << 29)},
            "lacks only 1.5 GiB of memory",
            "--reserve-memory",
        ),
        ({}, {"resources": reserving(generic_resources=GPU)}, "lacks only 2 gpu", "reserve less"),
        (
            {"availability": "drain", "cpu_nano": 0, "memory_b": 0},
            {"resources": reserving(nano_cpus=10**9, memory_bytes=MIB)},
            "is drained, lacks 1 CPU and lacks 1 MiB of memory",
            "--availability active",
        ),
    ],
)
def test_only_node_says_all_that_it_lacks(on, spec, words, remedy):
    world = world_of(node("n1", hostname="w1", **on), **spec)
    world.put(pending())
    reason = why(world)
    assert reason.sentence.startswith(f"The only node, w1, {words}")
    assert remedy in reason.remedy
    assert why_service(world).verdict == "unplaced"


def test_port_in_use_and_replicas_at_their_limit_are_counted_from_what_runs():
    world = world_of(node("n1", hostname="w1"), node("n2", hostname="w2"), ports=PORT)
    for number in (1, 2):
        world.put(task(f"r{number}", number, on=f"n{number}"))
    world.put(pending("t3", 3))
    assert (
        "2 nodes have port 80/tcp in use; nearest: w1, which has port" in why(world, "t3").sentence
    )

    world = world_of(node("n1"), node("n2"), placement=Placement(max_replicas=1))
    for number in (1, 2):
        world.put(task(f"r{number}", number, on=f"n{number}"))
    world.put(pending("t3", 3))
    reason = why(world, "t3")
    assert "2 nodes have 1 of the service, as many as it allows on one" in reason.sentence
    assert "--replicas-max-per-node" in reason.remedy


def test_swarm_without_a_node_says_so():
    world = World()
    world.add_service("web")
    world.put(pending())
    assert why(world).sentence == "The swarm has no node."


def test_task_that_fits_waits_for_its_turn():
    world = world_of()
    world.put(pending())
    assert (why(world).code, why(world).verdict) == ("placing", "unsettled")


def test_network_that_is_missing_is_why_a_task_has_no_place():
    ports = EndpointSpec(ports=[PortConfig(target_port=80, published_port=80)])
    world = world_of(ports=ports)
    world.put(pending())
    assert why(world).code == "network"
    assert "ingress network" in why(world).sentence
    assert why_service(world).verdict == "unplaced"


def test_task_of_one_node_says_what_that_node_lacks():
    world = world_of(node("n1", hostname="w1", availability="pause"), node("n2"))
    world.put(task("t1", 0, state=TaskState.PENDING, on="n1"))
    assert why(world).sentence == "It belongs on w1, which is paused."
    assert why_node(world).verdict == "unplaced"


# States of one task ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "desired", "code", "words"),
    [
        (TaskState.NEW, TaskState.RUNNING, "new", "is being allocated"),
        (TaskState.ASSIGNED, TaskState.RUNNING, "assigned", "not taken it yet: for 5 s on w1"),
        (TaskState.ACCEPTED, TaskState.RUNNING, "accepted", "prepares it next: for 5 s on w1"),
        (TaskState.PREPARING, TaskState.RUNNING, "preparing", "(its image, its files): for 5 s"),
        (TaskState.READY, TaskState.RUNNING, "ready", "starts next"),
        (TaskState.STARTING, TaskState.RUNNING, "starting", "Is starting: for 5 s on w1"),
        (TaskState.RUNNING, TaskState.RUNNING, "running", "Runs on w1 for 5 s."),
        (TaskState.FAILED, TaskState.RUNNING, "restarting", "Ended 5 s ago (boom); the next one"),
        (TaskState.RUNNING, TaskState.SHUTDOWN, "stopping", "Is being stopped on w1."),
        (TaskState.SHUTDOWN, TaskState.REMOVE, "stopped", "was stopped as wanted 5 s ago"),
        (TaskState.FAILED, TaskState.REMOVE, "failed", "failed 5 s ago on w1: boom."),
        (TaskState.ORPHANED, TaskState.REMOVE, "failed", "was orphaned 5 s ago on w1"),
    ],
)
def test_state_of_a_task_has_a_code_and_a_sentence(state, desired, code, words):
    world = world_of()
    error = "boom" if state > TaskState.RUNNING else ""
    on = "n1" if state >= TaskState.ASSIGNED else ""
    world.put(task("t1", on=on, status=status(state, err=error), desired=int(desired)))
    reason = why(world)
    assert reason.code == code
    assert words in reason.sentence


def test_error_of_a_task_that_is_being_prepared_is_said():
    world = world_of()
    for said in ("no such image: x", "no such image: x."):
        world.put(task("t1", status=status(TaskState.PREPARING, err=said)))
        assert why(world).sentence.endswith("for 5 s on w1; no such image: x.")
        assert why(world).error == said


def test_health_check_that_has_yet_to_pass_is_said():
    world = world_of()
    spec = service_spec("web")
    container = replace(spec.task_template.container_spec, healthcheck=HealthConfig(test=["CMD"]))
    template = replace(spec.task_template, container_spec=container)
    world.update_service("web", replace(spec, task_template=template))
    world.put(task("t1", status=status(TaskState.STARTING), spec_version=2))
    assert why(world).code == "starting-unhealthy"


def held_back(attempt=2, start_in_ms=14_000, state=TaskState.FAILED):
    world = world_of()
    failed = status(state, err="task: non-zero exit (3)", exit_code=3)
    world.put(task("t0", status=failed, desired=int(TaskState.SHUTDOWN)))
    world.put(
        task(
            "t1",
            status=status(TaskState.READY),
            desired=int(TaskState.READY),
            replaces=TaskID("t0"),
            attempt=attempt,
            start_at_ms=START_MS + start_in_ms,
        )
    )
    return world


def test_task_that_is_held_back_says_until_when_and_after_which_failure():
    reason = why(held_back())
    assert reason.sentence == (
        "Is held back for 14 s more, after 2 failures in a row; the last: task: non-zero exit (3)."
    )
    assert (reason.code, reason.until_ms) == ("held-back", START_MS + 14_000)
    assert (reason.task_id, reason.attempt) == ("t0", 2)
    assert reason.remedy == "`swarmlet task logs t0`"


def test_logs_of_what_never_began_are_no_remedy():
    reason = why(held_back(state=TaskState.REJECTED))
    assert reason.code == "held-back"
    assert reason.remedy == ""


def test_task_waits_for_one_that_may_still_run_on_a_node_that_is_away():
    world = held_back(start_in_ms=0)
    spec = replace(service_spec("web", 1), labels={"swarmlet.on-disconnect": "never-replace"})
    world.update_service("web", spec)
    world.put(replace(world.nodes.get("n1"), status=NodeStatus(state=int(NodeState.DOWN))))
    world.put(task("t0", status=status(TaskState.RUNNING), desired=int(TaskState.REMOVE)))
    world.put(node("n2", hostname="w2"))
    world.put(replace(world.tasks.get("t1"), node_id="n2"))
    reason = why(world)
    assert reason.code == "predecessor"
    assert reason.sentence == (
        "Waits for its predecessor on w1 to stop, which nobody can tell while its node is away."
    )
    assert reason.until_ms == 0


def test_task_that_fails_again_and_again_has_a_code_of_its_own():
    assert why(held_back(attempt=3)).code == "failing"


def test_task_whose_delay_is_over_starts_next():
    assert why(held_back(start_in_ms=0)).code == "ready"


def test_task_waits_for_its_predecessor_to_stop():
    world = held_back(start_in_ms=0)
    world.put(task("t0", status=status(TaskState.RUNNING), desired=int(TaskState.SHUTDOWN)))
    reason = why(world)
    assert reason.sentence == "Waits for its predecessor on w1 to stop; 60 s more at most."
    assert (reason.code, reason.task_id) == ("predecessor", "t0")


@pytest.mark.parametrize(
    ("policy", "state", "code", "words"),
    [
        (RestartPolicy(condition="none"), TaskState.FAILED, "not-restarted", "condition is none"),
        (RestartPolicy(condition="on-failure"), TaskState.COMPLETE, "finished", "on-failure"),
        (RestartPolicy(max_attempts=1), TaskState.FAILED, "not-restarted", "the 1 restart allowed"),
        (RestartPolicy(), TaskState.FAILED, "restarting", "the next one follows"),
    ],
)
def test_slot_that_is_given_up_says_which_rule_did_it(policy, state, code, words):
    world = world_of(replicas=1, restart_policy=policy)
    for number in (1, 2):
        world.put(task(f"t{number}", status=status(state), desired=int(TaskState.SHUTDOWN)))
    reason = why(world, "t2")
    assert reason.code == code
    assert words in reason.sentence
    found = why_service(world)
    assert [group.reason.code for group in found.waiting] == [code]
    assert (found.running, found.wanted, found.verdict) == (0, 1, "unsettled")


def test_task_whose_service_is_gone_goes_with_it():
    world = world_of()
    world.put(task("t1"))
    world.drop(Service, "web")
    assert why(world).code == "service-removed"


# Services -------------------------------------------------------------------------------------


def test_service_that_runs_is_well():
    world = world_of(replicas=2)
    for number in (1, 2):
        world.put(task(f"t{number}", number))
    found = why_service(world)
    assert (found.running, found.wanted, found.verdict) == (2, 2, "well")
    assert (found.reasons, found.waiting, found.lately) == ((), (), ())


def test_service_scaled_to_zero_is_well_and_says_so():
    found = why_service(world_of(replicas=0))
    assert [reason.code for reason in found.reasons] == ["scaled-to-zero"]
    assert found.verdict == "well"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("updating", "update-in-progress"),
        ("paused", "update-paused"),
        ("rollback_started", "rollback-in-progress"),
        ("rollback_paused", "rollback-paused"),
        ("completed", ""),
        ("rollback_completed", ""),
    ],
)
def test_update_that_is_not_over_is_a_reason(state, code):
    world = world_of(replicas=0)
    row = world.services.get("web")
    update = UpdateStatus(state=state, started_ms=START_MS - 1, message="task t9 failed")
    world.put(replace(row, update_status=update))
    found = why_service(world)
    assert [reason.code for reason in found.reasons[1:]] == ([code] if code else [])
    assert (found.verdict == "well") == (not code)


def test_tasks_with_one_reason_are_one_group_and_few_are_named():
    world = world_of(node("n1", availability="drain"), replicas=500)
    for number in range(1, 501):
        world.put(pending(f"t{number}", number))
    found = why_service(world)
    (group,) = found.waiting
    assert (group.count, len(group.tasks), found.unshown) == (500, NAMED_MAX, 0)
    assert [ref.name for ref in group.tasks[:3]] == ["web.1", "web.2", "web.3"]


def test_answer_is_bounded_whatever_the_reasons():
    world = world_of(replicas=100)
    for number in range(1, 101):
        error = f"error {number}"
        world.put(task(f"t{number}", number, status=status(TaskState.PREPARING, err=error)))
    found = why_service(world)
    assert len(found.waiting) == GROUPS_MAX
    assert found.unshown == 100 - GROUPS_MAX


def test_failures_of_the_last_ten_minutes_are_told_of_also_where_all_runs():
    world = world_of(replicas=1)
    world.put(task("t2"))
    for number, ago_ms in enumerate((599_000, 5_000, 601_000)):
        failed = status(TaskState.FAILED, err="boom", ago_ms=ago_ms)
        world.put(task(f"f{number}", status=failed, desired=int(TaskState.SHUTDOWN)))
    found = why_service(world)
    (group,) = found.lately
    assert (group.count, group.reason.code, found.verdict) == (2, "failed", "well")
    assert group.reason.sentence == "It failed 5 s ago on w1: boom."  # the last one speaks


def test_missing_and_surplus_slots_are_said():
    world = world_of(replicas=2)
    world.put(task("t1", 1))
    assert [reason.code for reason in why_service(world).reasons] == ["too-few"]
    for number in (2, 3):
        world.put(task(f"t{number}", number))
    assert [reason.code for reason in why_service(world).reasons] == ["too-many"]


# Words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (span(0), "0 s"),
        (span(-5), "0 s"),
        (span(119_999), "119 s"),
        (span(120_000), "2 min"),
        (span(7_200_000), "2 h"),
        (span(172_800_000), "2 days"),
        (left(1, 0), "1 s"),
        (size(1), "1 B"),
        (size(1023), "1023 B"),
        (size(1024), "1 KiB"),
        (size(1025), "1.1 KiB"),
        (size(200 * MIB), "200 MiB"),
        (size(3 << 29), "1.5 GiB"),
        (cpus(10**9), "1 CPU"),
        (cpus(1), "0.001 CPUs"),
        (amount("gpu", 2), "2 gpu"),
    ],
)
def test_amounts_are_written_for_people_and_never_less_than_they_are(said, words):
    assert said == words
