"""A cluster in dicts: what deciders see and change, by brute force and without the store.

`World` is a view and the only writer; `Leader` runs deciders on it as the control loop would, one
key at a time, with wall time that only moves when told.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random

import msgspec

from swarmlet.core.ids import ClusterID, NodeID, ServiceID, TaskID
from swarmlet.model.change import (
    ANY_VERSION,
    TABLES,
    Assign,
    Change,
    Create,
    Event,
    Exists,
    Guard,
    Note,
    Remove,
    SetDesired,
    SetStatus,
    Update,
)
from swarmlet.model.cluster import Cluster, OrchestrationConfig, SwarmSpec
from swarmlet.model.container import ContainerSpec
from swarmlet.model.node import (
    RUNTIME_LABEL,
    EngineDescription,
    Node,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
)
from swarmlet.model.service import (
    Platform,
    ReplicatedMode,
    Resources,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
    TaskSpec,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.base import Decider, Decision, Key, Moment, started

replace = msgspec.structs.replace

ROUNDS_MAX = 2_000
START_MS = 1_700_000_000_000

INDEXES: dict[tuple[type, str], Callable[[object], object]] = {
    (Task, "service"): lambda t: t.service_id,
    (Task, "node"): lambda t: t.node_id,
    (Task, "slot"): lambda t: (t.service_id, t.slot),
    (Task, "instance"): lambda t: None if t.slot else (t.service_id, t.node_id),
    (Task, "state"): lambda t: t.status.state,
    (Task, "unassigned"): lambda t: (
        t.status.state < TaskState.ASSIGNED and t.desired <= TaskState.COMPLETE
    ),
    (Task, "spec"): lambda t: spec_version_id(t.service_id, t.spec_version),
    (SpecVersion, "service"): lambda s: s.service_id,
}


def name_of(row) -> str:
    return row.name if isinstance(row, Service) else row.spec.name


class RefusedError(Exception):
    """The whole entry is refused."""


class Rows:
    """One table; every scan looks at every row."""

    def __init__(self, table: type) -> None:
        self.table, self.rows = table, {}

    def get(self, row_id):
        return self.rows.get(row_id)

    def all(self):
        return iter(list(self.rows.values()))

    def scan(self, index, key):
        if index == "name":
            return (r for r in list(self.rows.values()) if name_of(r).lower() == key)
        of = INDEXES[self.table, index]
        return (row for row in list(self.rows.values()) if of(row) == key)

    def count(self, index, key):
        return sum(1 for _ in self.scan(index, key))

    def __len__(self):
        return len(self.rows)


class World:
    """Satisfies `model.view.View`."""

    def __init__(self, *, history: int | None = None) -> None:
        self.index, self.now_ms = 0, START_MS
        self._born: dict[str, int] = {}  # row id -> index that made it
        self.tables = {table: Rows(table) for table in TABLES}
        self.clusters, self.nodes, self.services, self.specs, self.tasks = (
            self.tables[table] for table in TABLES[:5]
        )
        self.networks, self.secrets, self.configs, self.volumes = (
            self.tables[table] for table in TABLES[5:9]
        )
        spec = SwarmSpec(orchestration=OrchestrationConfig(task_history_retention_limit=history))
        self.put(Cluster(id=ClusterID("cluster"), spec=spec))

    def put(self, row) -> list[Event]:
        """Write a row as it stands (tests set the scene with it)."""
        self.index += 1
        self._born.setdefault(row.id, self.index)
        old = self.tables[type(row)].rows.get(row.id)
        new = replace(
            row,
            version=self.index,
            created_ms=old.created_ms if old else self.now_ms,
            updated_ms=self.now_ms,
        )
        self.tables[type(row)].rows[row.id] = new
        return [Event(type(row), old, new)]

    def drop(self, table: type, row_id: str) -> list[Event]:
        self.index += 1
        return [Event(table, self.tables[table].rows.pop(row_id), None)]

    def commit(self, changes: Sequence[Change], guards: Sequence[Guard] = ()) -> list[Event]:
        """Apply all or nothing; RefusedError leaves everything as it was."""
        for guard in guards:
            assert isinstance(guard, Exists)
            if self.tables[guard.table].get(guard.id) is None:
                raise RefusedError(guard)
        before = {table: dict(rows.rows) for table, rows in self.tables.items()}
        events: list[Event] = []
        try:
            for change in changes:
                events += self._apply(change)
        except RefusedError:
            for table, rows in before.items():
                self.tables[table].rows = rows
            raise
        return events

    def _apply(self, change: Change) -> list[Event]:  # noqa: PLR0911 - one a verb
        match change:
            case Create(obj=obj):
                self._require(self.tables[type(obj)].get(obj.id) is None, change)
                return self.put(obj)
            case Update(obj=obj, seen=seen):
                self._require(self._seen(type(obj), obj.id, seen), change)
                return self.put(obj)
            case Remove(table=table, id=row_id, seen=seen):
                self._require(self._seen(table, row_id, seen), change)
                return self.drop(table, row_id)
            case Assign(id=task_id, node_id=node_id, message=message, generic_resources=given):
                task = self.tasks.get(task_id)
                self._require(task is not None and self.nodes.get(node_id) is not None, change)
                self._require(task.status.state == TaskState.PENDING, change)
                self._require(task.node_id in ("", node_id), change)
                status = TaskStatus(state=TaskState.ASSIGNED, at_ms=self.now_ms, message=message)
                given = given or task.generic_resources
                return self.put(
                    replace(task, node_id=node_id, status=status, generic_resources=given)
                )
            case SetStatus(id=task_id, status=status):
                task = self.tasks.get(task_id)
                if task is None or status.state < task.status.state or status == task.status:
                    return []
                return self.put(replace(task, status=status))
            case SetDesired(id=task_id, desired=desired, seen=seen):
                task = self.tasks.get(task_id)
                if task is None or task.desired >= desired:
                    return []
                self._require(seen in (ANY_VERSION, task.version), change)
                return self.put(replace(task, desired=desired))
            case Note():
                return []
        raise AssertionError(change)

    def _seen(self, table: type, row_id: str, seen: int) -> bool:
        row = self.tables[table].get(row_id)
        return row is not None and seen in (ANY_VERSION, row.version)

    @staticmethod
    def _require(condition: bool, change: Change) -> None:
        if not condition:
            raise RefusedError(change)

    # Setting the scene ------------------------------------------------------------------------

    def add_service(self, name: str = "web", replicas: int | None = 3, **spec) -> list[Event]:
        made = service_spec(name, replicas, **spec)
        service = Service(id=ServiceID(name), name=name)
        version = SpecVersion(
            id=spec_version_id(name, 1), service_id=service.id, number=1, spec=made
        )
        return self.put(version) + self.put(service)

    def update_service(self, name: str, spec: ServiceSpec) -> list[Event]:
        service = self.services.get(name)
        number = service.spec_version + 1
        version = SpecVersion(
            id=spec_version_id(name, number), service_id=service.id, number=number, spec=spec
        )
        after = replace(service, spec_version=number, previous_spec_version=service.spec_version)
        return self.put(version) + self.put(after)

    def scale(self, name: str, replicas: int) -> list[Event]:
        service = self.services.get(name)
        spec = self.specs.get(spec_version_id(name, service.spec_version)).spec
        mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
        return self.update_service(name, replace(spec, mode=mode))

    def remove_service(self, name: str) -> list[Event]:
        return self.drop(Service, name)

    def report(self, task_id: str, state: TaskState) -> list[Event]:
        """The agent's word on a task; earlier states and tasks that are gone are skipped."""
        known = self.tasks.get(task_id)
        running_ms = known.status.running_ms if known is not None else 0
        status = TaskStatus(
            state=state,
            at_ms=self.now_ms,
            message=state.name.lower(),
            applied_at_ms=self.now_ms,
            running_ms=running_ms or (self.now_ms if state == TaskState.RUNNING else 0),
        )
        return self.commit([SetStatus(id=TaskID(task_id), status=status)])

    def service_tasks(self, name: str = "web") -> list[Task]:
        """By slot, then oldest first."""
        return sorted(self.tasks.scan("service", name), key=lambda t: (t.slot, self._born[t.id]))


def service_spec(name="web", replicas: int | None = 3, *, image="host", ports=None, **template):
    return ServiceSpec(
        name=name,
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        task_template=TaskSpec(container_spec=ContainerSpec(image=image), **template),
        endpoint_spec=ports,
    )


def node(
    node_id="n1",
    *,
    labels=None,
    state=NodeState.READY,
    availability="active",
    cpu_nano=8_000_000_000,
    memory_b=1 << 34,
    generic=(),
    arch="x86_64",
    runtimes="process",
    engine_labels=None,
    **fields,
) -> Node:
    return Node(
        id=NodeID(node_id),
        spec=NodeSpec(labels=labels or {}, availability=availability, role="worker"),
        status=NodeStatus(state=state, addr=fields.pop("addr", "10.0.0.1")),
        description=NodeDescription(
            hostname=fields.pop("hostname", f"host-{node_id}"),
            platform=Platform(architecture=arch, os="linux"),
            resources=Resources(
                nano_cpus=cpu_nano, memory_bytes=memory_b, generic_resources=list(generic)
            ),
            engine=EngineDescription(labels={RUNTIME_LABEL: runtimes, **(engine_labels or {})}),
        ),
        **fields,
    )


def task(task_id, slot=1, *, service="web", state=TaskState.RUNNING, on="n1", **fields) -> Task:
    status = fields.pop("status", TaskStatus(state=state))
    return Task(
        id=TaskID(task_id),
        service_id=ServiceID(service),
        slot=slot,
        node_id=NodeID(on),
        status=status,
        **fields,
    )


class Ids:
    """Ids in no order, the same ones for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng, self._count = Random(seed), 0

    def __call__(self) -> str:
        self._count += 1
        return f"{self._rng.randrange(36**4):06d}-{self._count}"


class Leader:
    """Runs deciders on a world until none has anything to do. `seed` cuts and refuses at random:
    of a decision only some first changes are committed, or none, and the key is decided again."""

    def __init__(self, world: World, deciders: Sequence[Decider], seed: int | None = None) -> None:
        self.world, self.deciders = world, deciders
        self.new_id = Ids(seed or 0)
        self._chance = None if seed is None else Random(seed)
        self.dirty: dict[tuple[int, Key], None] = {}
        self.wake: dict[tuple[int, Key], int] = {}
        self.decided: list[tuple[Key, Decision]] = []
        for number, decider in enumerate(deciders):
            for key in started(decider, world):
                self.dirty[number, key] = None

    @property
    def moment(self) -> Moment:
        return Moment(self.world.now_ms, self.new_id)

    def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            for number, decider in enumerate(self.deciders):
                if event.table not in decider.tables:
                    continue
                for key in decider.keys_of(event, self.world):
                    self.dirty[number, key] = None

    def run(self, rounds_max: int = ROUNDS_MAX) -> None:
        """Decide until at rest at this moment."""
        for _ in range(rounds_max):
            self._fire()
            if not self.dirty:
                return
            self._decide(self._next())
        raise AssertionError(f"never rests: {list(self.dirty)[:5]}, {self.decided[-3:]}")

    def run_for(self, period_ms: int) -> None:
        """Run, and let time pass from alarm to alarm."""
        end_ms = self.world.now_ms + period_ms
        self.run()
        while self.wake and min(self.wake.values()) <= end_ms:
            self.world.now_ms = max(self.world.now_ms, min(self.wake.values()))
            self.run()
        self.world.now_ms = end_ms

    def _next(self) -> tuple[int, Key]:
        return (
            next(iter(self.dirty)) if self._chance is None else self._chance.choice([*self.dirty])
        )

    def _fire(self) -> None:
        for where in [w for w, at_ms in self.wake.items() if at_ms <= self.world.now_ms]:
            del self.wake[where]
            self.dirty[where] = None

    def _decide(self, where: tuple[int, Key]) -> None:
        number, key = where
        del self.dirty[where]
        decision = self.deciders[number].decide(self.world, key, self.moment)
        self.decided.append((key, decision))
        self.wake.pop(where, None)
        if decision.wake_at_ms is not None:
            assert decision.wake_at_ms > self.world.now_ms, (key, decision)
            self.wake[where] = decision.wake_at_ms
        if not decision.changes:
            assert not decision.has_more
            return
        self.dirty[where] = None
        self._commit(decision)

    def _commit(self, decision: Decision) -> None:
        changes = decision.changes
        if self._chance is not None and self._chance.random() < 0.3:
            changes = changes[: self._cut(changes)]
        self.tell(self.world.commit(changes, decision.guards))

    def _cut(self, changes: Sequence[Change]) -> int:
        """A random prefix; a slot is handed over in one piece, as the store's entries are."""
        cut = self._chance.randrange(len(changes) + 1)
        return 0 if any(isinstance(change, Update) for change in changes) else cut


def assert_at_rest(world: World, make: Callable[[], Sequence[Decider]]) -> None:
    """Leaders that start afresh here find nothing to do: what is there is what should be."""
    leader = Leader(world, make())
    while leader.dirty:
        where = next(iter(leader.dirty))
        del leader.dirty[where]
        decision = leader.deciders[where[0]].decide(world, where[1], leader.moment)
        assert decision.changes == (), (where, decision)
