"""One global service on some nodes, and what happens to them."""

from swarmlet.model.base import Empty
from swarmlet.model.change import Event
from swarmlet.model.node import Node, NodeState
from swarmlet.model.service import Placement, Service, ServiceMode, ServiceSpec
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.world import Ids, Leader, World, node, replace, service_spec

RUNNING, SHUTDOWN = TaskState.RUNNING, TaskState.SHUTDOWN


def global_spec(
    *, update=None, labels=None, constraints=(), policy=None, **template
) -> ServiceSpec:
    made = service_spec(
        "web",
        placement=Placement(constraints=list(constraints)),
        restart_policy=policy,
        **template,
    )
    return replace(
        made,
        mode=ServiceMode(global_=Empty()),
        update_config=update,
        labels=labels or {},
    )


class Swarm:
    """Some nodes, one global service, all deciders, and agents that obey when told to."""

    def __init__(self, nodes: int = 3, seed: int | None = None, **spec) -> None:
        self.world, self.new_id, self.seed = World(history=spec.pop("history", None)), Ids(), seed
        self.nodes = {f"n{number}": node(f"n{number}") for number in range(nodes)}
        for row in self.nodes.values():
            self.world.put(row)
        self.world.add_service()
        self.world.put(replace(self.world.specs.get("web@1"), spec=global_spec(**spec)))
        self.lead()
        self.settle()

    def lead(self) -> None:
        self.leader = Leader(self.world, all_deciders(), self.seed)
        self.leader.new_id = self.new_id
        self.leader.run()

    def tell(self, events: list[Event]) -> None:
        self.leader.tell(events)
        self.leader.run()

    def update(self, **spec) -> None:
        events = self.world.update_service("web", global_spec(**spec))
        self.tell([*events, *self.world.put(replace(self.service, update_status=None))])

    def set_node(self, node_id: str, **fields) -> None:
        """What is said of a node; all else of it is as a plain node has it."""
        self.tell(self.world.put(node(node_id, **fields)))

    def remove_node(self, node_id: str) -> None:
        """As the API does: its tasks are orphaned."""
        for row in self.on(node_id):
            self.tell(self.world.report(row.id, TaskState.ORPHANED))
        self.tell(self.world.drop(Node, node_id))

    def report(self, task_id: str, state: TaskState) -> None:
        self.tell(self.world.report(task_id, state))

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
                self.obey_in(row)

    def obey_in(self, row: Task) -> None:
        on = self.world.nodes.get(row.node_id)
        is_up = on is not None and on.status.state == NodeState.READY
        if is_up and TaskState.ASSIGNED <= row.status.state <= RUNNING:
            goal = SHUTDOWN if row.desired > RUNNING else row.desired
            if goal > row.status.state:
                self.report(row.id, TaskState(goal))

    def pass_ms(self, period_ms: int) -> None:
        self.leader.run_for(period_ms)

    def finish(self, rounds: int = 30) -> None:
        for _ in range(rounds):
            self.settle(2)
            self.pass_ms(10_000)

    @property
    def service(self) -> Service:
        return self.world.services.get("web")

    @property
    def state(self) -> str:
        return self.service.update_status.state if self.service.update_status else ""

    def on(self, node_id: str) -> list[Task]:
        return [t for t in self.world.service_tasks() if t.node_id == node_id]

    def wanted(self) -> list[Task]:
        return [t for t in self.world.service_tasks() if t.desired <= RUNNING]

    def running(self) -> list[str]:
        """The nodes where a task is wanted and runs, each as often as one does."""
        return sorted(t.node_id for t in self.wanted() if t.status.state == RUNNING)

    def of(self, version: int) -> list[str]:
        return sorted(t.node_id for t in self.wanted() if t.spec_version == version)
