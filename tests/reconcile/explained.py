"""What `why` is asked in tests, and worlds to ask it about."""

from swarmlet.model.node import Node
from swarmlet.model.service import ResourceRequirements, Resources
from swarmlet.model.task import TaskState, TaskStatus
from swarmlet.reconcile.why.nodes import NodeFacts, explain_node
from swarmlet.reconcile.why.services import explain_service
from swarmlet.reconcile.why.tasks import explain_task
from tests.reconcile.world import START_MS, World, node, task

MIB = 1 << 20


def reserving(**amounts) -> ResourceRequirements:
    return ResourceRequirements(reservations=Resources(**amounts))


def world_of(*nodes: Node, **spec) -> World:
    world = World()
    for each in nodes or (node("n1", hostname="w1"),):
        world.put(each)
    world.add_service("web", **spec)
    return world


def pending(task_id="t1", slot=1, **fields):
    return task(task_id, slot, state=TaskState.PENDING, on="", **fields)


def why(world: World, task_id="t1"):
    return answer_of(explain_task(world, world.tasks.get(task_id), world.now_ms)).reason


def why_service(world: World, name="web"):
    return answer_of(explain_service(world, world.services.get(name), world.now_ms))


def why_node(world: World, node_id="n1", **facts):
    row = world.nodes.get(node_id)
    return answer_of(explain_node(world, row, NodeFacts(**facts), world.now_ms))


def status(state, *, ago_ms=5_000, **fields):
    at_ms = START_MS - ago_ms
    return TaskStatus(state=state, at_ms=at_ms, applied_at_ms=at_ms, **fields)


def answer_of(steps):
    """The end of work that is done in steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
