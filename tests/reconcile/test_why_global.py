"""Why a global service runs on some nodes and not on others."""

import pytest

from swarmlet.model.base import Empty
from swarmlet.model.node import NodeState
from swarmlet.model.service import Placement, RestartPolicy, ServiceMode
from swarmlet.model.task import TaskState
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.explained import reserving, why, why_service, world_of
from tests.reconcile.world import Leader, World, node, replace

SHUTDOWN, RUNNING = TaskState.SHUTDOWN, TaskState.RUNNING


class Scene:
    """A global service on these nodes, with agents that obey."""

    def __init__(self, *nodes, **spec) -> None:
        self.world = world_of(*nodes, **spec)
        made = self.world.specs.get("web@1")
        mode = ServiceMode(global_=Empty())
        self.world.put(replace(made, spec=replace(made.spec, mode=mode)))
        self.leader = Leader(self.world, all_deciders())
        self.obey()

    def obey(self) -> None:
        self.leader.run()
        for _ in range(3):
            for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
                host = self.world.nodes.get(row.node_id)
                is_up = host is not None and host.status.state == NodeState.READY
                if is_up and TaskState.ASSIGNED <= row.status.state <= RUNNING:
                    goal = SHUTDOWN if row.desired > RUNNING else row.desired
                    self.leader.tell(self.world.report(row.id, TaskState(goal)))
                    self.leader.run()

    def change(self, node_id: str, **how) -> None:
        self.leader.tell(self.world.put(node(node_id, hostname=f"w{node_id[1:]}", **how)))
        self.obey()


def three(**spec) -> Scene:
    return Scene(*(node(f"n{n}", hostname=f"w{n}") for n in (1, 2, 3)), **spec)


def test_service_that_is_everywhere_is_well_and_says_nothing():
    found = why_service(three().world)
    assert (found.running, found.wanted, found.verdict, found.reasons) == (3, 3, "well", ())


def test_nodes_that_are_kept_out_are_counted_and_no_trouble():
    scene = three()
    scene.change("n1", availability="drain")
    scene.change("n2", state=NodeState.DOWN)
    found = why_service(scene.world)
    assert (found.running, found.wanted, found.verdict, found.waiting) == (1, 1, "well", ())
    (reason,) = found.reasons
    assert (reason.code, reason.sentence) == (
        "kept-out",
        "It is global, and has no task on nodes that are kept out: 1 down and 1 drained.",
    )


def test_task_that_was_stopped_on_a_drained_node_says_why_no_other_comes():
    scene = three()
    scene.change("n1", availability="drain")
    (row,) = scene.world.tasks.scan("instance", ("web", "n1"))
    reason = why(scene.world, row.id)
    assert (reason.code, reason.verdict) == ("node-drained", "well")
    assert reason.sentence == "Ended 0 s ago; w1 is drained and gets no other."


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"availability": "pause"}, "node-paused", "w1 is paused"),
        ({"labels": {"zone": "us"}}, "node-unfit", "w1 is not within the constraints"),
    ],
)
def test_what_keeps_a_node_out_is_named(how, code, words):
    scene = Scene(
        *(node(f"n{n}", hostname=f"w{n}", labels={"zone": "eu"}) for n in (1, 2)),
        placement=Placement(constraints=["node.labels.zone==eu"]),
    )
    (row,) = scene.world.tasks.scan("instance", ("web", "n1"))
    scene.change("n1", **{"labels": {"zone": "eu"}, **how})
    scene.leader.tell(scene.world.report(row.id, TaskState.FAILED))
    scene.obey()
    reason = why(scene.world, row.id)
    assert reason.code == code
    assert words in reason.sentence


def test_paused_node_that_runs_its_task_still_is_wanted():
    scene = three()
    scene.change("n1", availability="pause")
    found = why_service(scene.world)
    assert (found.running, found.wanted, found.verdict) == (3, 3, "well")


def test_service_that_no_node_is_meant_for_is_unplaced():
    scene = three(placement=Placement(constraints=["node.labels.zone==eu"]))
    found = why_service(scene.world)
    assert (found.running, found.wanted, found.verdict) == (0, 0, "unplaced")
    assert [reason.sentence for reason in found.reasons] == [
        "It is global, and none of 3 nodes is meant for it: 3 not within the constraints."
    ]


def test_service_in_a_swarm_without_nodes_is_unplaced():
    world = World()
    world.add_service()
    made = world.specs.get("web@1")
    mode = ServiceMode(global_=Empty())
    world.put(replace(made, spec=replace(made.spec, mode=mode)))
    (reason,) = why_service(world).reasons
    assert reason.sentence == "It is global, and none of 0 nodes is meant for it."


def test_task_without_room_on_its_node_says_what_is_short():
    scene = Scene(
        node("n1", hostname="w1"),
        node("n2", hostname="w2", memory_b=1 << 20),
        resources=reserving(memory_bytes=1 << 30),
    )
    found = why_service(scene.world)
    assert (found.running, found.wanted, found.verdict) == (1, 2, "unplaced")
    (group,) = found.waiting
    assert group.tasks[0].name == "web.w2"
    assert group.reason.sentence.startswith("It belongs on w2, which lacks only")


def test_node_that_has_no_task_yet_is_wanted():
    scene = three()
    scene.world.put(node("n4", hostname="w4"))
    found = why_service(scene.world)
    assert (found.running, found.wanted) == (3, 4)
    assert [reason.code for reason in found.reasons] == ["too-few"]


def test_task_that_is_not_restarted_says_so_where_its_node_is_open():
    scene = three(restart_policy=RestartPolicy(condition="none"))
    (row,) = scene.world.tasks.scan("instance", ("web", "n1"))
    scene.leader.tell(scene.world.report(row.id, TaskState.FAILED))
    scene.obey()
    assert why(scene.world, row.id).code == "not-restarted"
    assert why_service(scene.world).wanted == 3
