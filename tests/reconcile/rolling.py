"""One service on three nodes, to be updated."""

from swarmlet.model.change import Event
from swarmlet.model.node import NodeState
from swarmlet.model.service import RestartPolicy, Service, UpdateConfig
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.world import Ids, Leader, World, node, replace, service_spec

RUNNING, SHUTDOWN = TaskState.RUNNING, TaskState.SHUTDOWN


class Cluster:
    """One service on three nodes, all deciders, and agents that obey when told to."""

    def __init__(self, replicas: int = 4, *, policy: RestartPolicy | None = None, **config) -> None:
        self.world, self.new_id = World(history=config.pop("history", None)), Ids()
        for number in (1, 2, 3):
            self.world.put(node(f"n{number}"))
        self.replicas, self.number = replicas, 0
        self.rollback: UpdateConfig | None = config.pop("rollback", None)
        self.policy, self.config = policy or RestartPolicy(), UpdateConfig(**config)
        spec = self.spec()
        self.world.add_service(replicas=replicas)
        row = self.world.specs.get("web@1")
        self.world.put(replace(row, spec=spec))
        self.lead()
        self.settle()

    def spec(self, **template):
        made = service_spec("web", self.replicas, restart_policy=self.policy, **template)
        return replace(made, update_config=self.config, rollback_config=self.rollback)

    def lead(self) -> None:
        self.leader = Leader(self.world, all_deciders())
        self.leader.new_id = self.new_id
        self.leader.run()

    def tell(self, events: list[Event]) -> None:
        self.leader.tell(events)
        self.leader.run()

    def update(self, **template) -> None:
        """As the API does: the status of the update before goes."""
        self.number += 1
        template.setdefault("force_update", self.number)
        events = self.world.update_service("web", self.spec(**template))
        self.tell([*events, *self.world.put(replace(self.service, update_status=None))])

    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self.update(force_update=self.number)

    def report(self, task_id: str, state: TaskState) -> None:
        self.tell(self.world.report(task_id, state))

    def obey(self) -> None:
        """Once through all tasks: each goes to where it should be."""
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            self.obey_in(row)

    def obey_in(self, row: Task) -> None:
        if TaskState.ASSIGNED <= row.status.state <= RUNNING and self.is_up(row):
            goal = SHUTDOWN if row.desired > RUNNING else row.desired
            if goal > row.status.state:
                self.report(row.id, TaskState(goal))

    def is_up(self, row: Task) -> bool:
        on = self.world.nodes.get(row.node_id)
        return on is not None and on.status.state == NodeState.READY

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            self.obey()

    def pass_ms(self, period_ms: int) -> None:
        self.leader.run_for(period_ms)

    @property
    def service(self) -> Service:
        return self.world.services.get("web")

    @property
    def state(self) -> str:
        return self.service.update_status.state if self.service.update_status else ""

    def wanted(self) -> list[Task]:
        return [t for t in self.world.service_tasks() if t.desired <= RUNNING]

    def of(self, version: int) -> list[Task]:
        return [t for t in self.wanted() if t.spec_version == version]

    def slots_of(self, version: int) -> list[int]:
        return [t.slot for t in self.of(version)]

    def finish(self, rounds: int = 40) -> None:
        for _ in range(rounds):
            self.settle(2)
            self.pass_ms(10_000)
