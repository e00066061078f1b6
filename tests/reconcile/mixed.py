"""A small swarm with services of every mode under everything that happens to one, all deciders, and
what must hold of it at every moment (`check`) and in the end (`check_end`)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from swarmlet.core.ids import ServiceID
from swarmlet.model.base import Empty
from swarmlet.model.change import Create, Event
from swarmlet.model.job import first_iteration, is_job, next_iteration, open_iterations
from swarmlet.model.node import DrainPlan, NodeState
from swarmlet.model.rebalance import LABEL as REBALANCE
from swarmlet.model.service import (
    EndpointSpec,
    Placement,
    PortConfig,
    ReplicatedJobMode,
    ReplicatedMode,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    SpecVersion,
    UpdateConfig,
    spec_version_id,
)
from swarmlet.model.task import Task, TaskState
from swarmlet.reconcile.base import Decider
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.eligibility import Standing, standing_of
from swarmlet.reconcile.slots import Dirt, replicas_of
from tests.reconcile.floor import Floor
from tests.reconcile.world import Ids, Leader, World, node, replace, service_spec

READY, RUNNING, COMPLETE = TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE
SHUTDOWN, FAILED, REJECTED = TaskState.SHUTDOWN, TaskState.FAILED, TaskState.REJECTED
MEMORY_B = 12
NODES = ("n0", "n1", "n2", "n3", "n4")
SECOND_NS = 1_000_000_000
GLOBAL, GLOBAL_JOB = ServiceMode(global_=Empty()), ServiceMode(global_job=Empty())


class Watched(Leader):
    """Whose every entry is judged, and everybody else's."""

    def __init__(self, world: World, deciders: Sequence[Decider], seed=None) -> None:
        self.floor = Floor()
        super().__init__(world, deciders, seed)

    def tell(self, events: Iterable[Event]) -> None:
        events = list(events)
        self.floor.judge(self.world, events)
        super().tell(events)


class Mixed:
    """`seed` says what happens; `cuts` also loses decisions, or all but their first changes."""

    def __init__(self, seed: int, *, cuts: bool = True) -> None:
        self.rng, self.new_id, self.floor = Random(seed), Ids(), Floor()
        self.world = World(history=2)
        self.seed = seed if cuts else None
        self.seen: dict[str, Task] = {}
        self.shrunk: dict[str, None] = {}  # nodes that may hold more than they have, for now
        for node_id in NODES:
            self.world.put(self.host(node_id))
        self.lead()
        for name in ("web", "db", "agent", "batch", "sweep"):
            self.create(name)

    def host(self, node_id: str, **fields):
        labels = {"zone": "ab"[int(node_id[1:]) % 2]}
        return node(node_id, labels=labels, memory_b=fields.pop("memory_b", MEMORY_B), **fields)

    def lead(self) -> None:
        self.leader = Watched(self.world, all_deciders(), self.seed)
        self.leader.new_id, self.leader.floor = self.new_id, self.floor

    def tell(self, events: Iterable[Event]) -> None:
        self.leader.tell(events)

    # What users do ------------------------------------------------------------------------------
    def spec(self, name: str) -> ServiceSpec:
        rng = self.rng
        memory_b = rng.choice((0, 1, 2))
        placement = rng.choice(
            (None, Placement(constraints=["node.labels.zone==a"]), Placement(max_replicas=2))
        )
        made = service_spec(
            name,
            None,
            restart_policy=RestartPolicy(delay=rng.choice((0, 1, 5)) * SECOND_NS),
            resources=ResourceRequirements(reservations=Resources(memory_bytes=memory_b)),
            placement=placement,
            force_update=rng.randrange(3),
        )
        config = UpdateConfig(
            parallelism=rng.choice((1, 2)),
            order=rng.choice(("stop-first", "start-first", "")),
            monitor=SECOND_NS,
            failure_action=rng.choice(("continue", "pause", "rollback")),
        )
        label = rng.choice(("", "on-join", "continuous", "continuous even-single"))
        labels = {REBALANCE: label} if label else {}
        made = replace(made, mode=self.mode(name), labels=labels)
        if is_job(made.mode):
            return made
        ports = self.ports(name)
        if ports is not None:  # else the old task holds the port the new one waits for
            config = replace(config, order="stop-first")
        return replace(made, update_config=config, endpoint_spec=ports)

    def mode(self, name: str) -> ServiceMode:
        rng = self.rng
        if name in ("agent", "sweep"):
            return GLOBAL if name == "agent" else GLOBAL_JOB
        if name == "batch":
            most = rng.choice((None, 1, 2, 5))
            return ServiceMode(
                replicated_job=ReplicatedJobMode(max_concurrent=most, total_completions=5)
            )
        return ServiceMode(replicated=ReplicatedMode(replicas=rng.randint(0, 5)))

    def ports(self, name: str) -> EndpointSpec | None:
        if name != "db" or self.rng.random() < 0.5:
            return None
        port = PortConfig(protocol="tcp", target_port=80, published_port=5432, publish_mode="host")
        return EndpointSpec(ports=[port])

    def create(self, name: str) -> None:
        spec = self.spec(name)
        status = first_iteration(self.world.now_ms) if is_job(spec.mode) else None
        version = SpecVersion(
            id=spec_version_id(name, 1), service_id=ServiceID(name), number=1, spec=spec
        )
        row = Service(id=ServiceID(name), name=name, job_status=status)
        self.tell(self.world.commit((Create(obj=row), Create(obj=version))))

    def change(self) -> None:
        """As the API does it: the update before is forgotten, a job begins anew."""
        if not self.world.services.rows:
            return
        name = self.rng.choice(sorted(self.world.services.rows))
        before = self.spec_of(name)
        spec = self.spec(name)
        if self.rng.random() < 0.4:
            spec = replace(before, mode=spec.mode)
        events = self.world.update_service(name, spec)
        service = replace(self.world.services.get(name), update_status=None)
        if is_job(spec.mode):
            service = next_iteration(service, self.world.now_ms)
        self.tell([*events, *self.world.put(service)])

    def remove(self) -> None:
        """And made anew, if it was removed before."""
        names = ("web", "db", "agent", "batch", "sweep")
        name = self.rng.choice(names)
        if self.world.services.get(name) is not None:
            self.tell(self.world.remove_service(name))
        elif not any(self.world.tasks.scan("service", name)):
            for row in list(self.world.specs.scan("service", name)):
                self.tell(self.world.drop(SpecVersion, row.id))
            self.create(name)

    # What befalls nodes and tasks ---------------------------------------------------------------
    def change_node(self) -> None:
        node_id = self.rng.choice(NODES)
        how = self.rng.choice(("down", "drain", "gently", "pause", "active", "shrink", "relabel"))
        old = self.world.nodes.get(node_id)
        new = self.host(node_id, settled_ms=old.settled_ms)
        if how == "down":
            new = replace(new, status=replace(new.status, state=NodeState.DOWN))
        elif how == "gently":
            spec = replace(new.spec, availability="drain")
            new = replace(new, spec=spec, drain=DrainPlan(began_ms=self.world.now_ms))
        elif how == "shrink":
            new = self.host(node_id, settled_ms=old.settled_ms, memory_b=3)
            self.shrunk[node_id] = None
        elif how == "relabel":
            labels = {"zone": self.rng.choice("ab")}
            new = replace(new, spec=replace(new.spec, labels=labels))
        else:
            new = replace(new, spec=replace(new.spec, availability=how))
        self.tell(self.world.put(new))

    def fail(self) -> None:
        """What runs ends by itself."""
        running = sorted(
            (t for t in self.world.tasks.all() if t.status.state == RUNNING), key=lambda t: t.id
        )
        for row in self.rng.sample(running, min(len(running), self.rng.randint(1, 3))):
            self.tell(self.world.report(row.id, self.rng.choice((FAILED, COMPLETE))))

    def obey(self, share: float = 0.8) -> None:
        """Tasks on nodes that are up go on to where they should be, and jobs' tasks end."""
        for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
            if self.is_heard(row) and self.rng.random() < share:
                goal = SHUTDOWN if row.desired > COMPLETE else TaskState(row.desired)
                if goal == COMPLETE and row.status.state < RUNNING:
                    goal = RUNNING
                if goal > row.status.state:
                    self.tell(self.world.report(row.id, goal))

    def is_heard(self, row: Task) -> bool:
        on = self.world.nodes.get(row.node_id)
        is_up = on is not None and on.status.state == NodeState.READY
        return is_up and TaskState.ASSIGNED <= row.status.state <= RUNNING

    def act(self) -> None:
        acts = (self.fail, self.change, self.change, self.change_node, self.remove, self.wait)
        self.rng.choice((*acts, self.lead))()
        self.obey()
        self.leader.run()
        self.check()

    def wait(self) -> None:
        self.leader.run_for(self.rng.choice((10, 1_000, 31_000, 61_000)))

    def heal(self) -> None:
        for node_id in NODES:
            settled_ms = self.world.nodes.get(node_id).settled_ms
            self.tell(self.world.put(self.host(node_id, settled_ms=settled_ms)))

    def finish(self, rounds: int = 60) -> None:
        """No more is asked for, and every node is there."""
        self.heal()
        for _ in range(rounds):
            self.obey(1.0)
            self.leader.run_for(20_000)
            self.check()
            self.shrunk.clear()

    # What must hold -----------------------------------------------------------------------------
    def spec_of(self, name: str) -> ServiceSpec:
        service = self.world.services.get(name)
        return self.world.specs.get(spec_version_id(name, service.spec_version)).spec

    def check(self) -> None:
        for row in self.world.tasks.all():
            old = self.seen.get(row.id, row)
            assert row.desired >= old.desired, (old, row)
            assert row.status.state >= old.status.state, (old, row)
            assert old.node_id in ("", row.node_id), (old, row)
            assert self.world.specs.get(spec_version_id(row.service_id, row.spec_version))
            self.seen[row.id] = row
        assert not self.floor.wrongs, self.floor.wrongs
        self._check_places()
        self._check_jobs()
        self._check_nodes()

    def _check_places(self) -> None:
        """One task of a place should run, or two where one starts before the other stops."""
        places: dict[tuple, list[Task]] = {}
        for row in self.world.tasks.all():
            if row.desired == RUNNING and row.status.state <= RUNNING:
                place = row.slot or row.node_id
                places.setdefault((row.service_id, place), []).append(row)
        for place, rows in places.items():
            assert len(rows) <= 2, (place, rows)
            assert len(rows) == 1 or any(self.may_be_two(row) for row in rows), (place, rows)

    def may_be_two(self, row: Task) -> bool:
        service = self.world.services.get(row.service_id)
        spec = self.world.specs.get(spec_version_id(row.service_id, row.spec_version)).spec
        specs = [spec] if service is None else [spec, self.spec_of(row.service_id)]
        configs = [one.update_config for one in specs if one.update_config is not None]
        if any(config.order == "start-first" for config in configs):
            return True
        on = self.world.nodes.get(row.node_id)
        is_drained = on is not None and on.drain is not None
        return is_drained or bool(row.move_ms) or bool(row.moved_ms)

    def _check_jobs(self) -> None:
        for name in ("batch", "sweep"):
            service = self.world.services.get(name)
            if service is None:
                continue
            job = self.spec_of(name).mode.replicated_job
            rows = list(self.world.tasks.scan("service", name))
            for iteration in open_iterations(service) if job is not None else ():
                ended = {
                    t.slot
                    for t in rows
                    if t.job_iteration == iteration and t.status.state == COMPLETE
                }
                assert len(ended) <= 5, (iteration, rows)
            most = len(rows) if job is None else (job.max_concurrent or 5)
            wanted = [t for t in rows if t.desired == COMPLETE and t.status.state <= RUNNING]
            assert len(wanted) <= most, (most, wanted)

    def _check_nodes(self) -> None:
        for host in self.world.nodes.all():
            held = [
                row
                for row in self.world.tasks.scan("node", host.id)
                if TaskState.ASSIGNED <= row.status.state <= RUNNING
            ]
            specs = [
                self.world.specs.get(spec_version_id(row.service_id, row.spec_version)).spec
                for row in held
            ]
            memory_b = sum(s.task_template.resources.reservations.memory_bytes for s in specs)
            assert memory_b <= MEMORY_B or host.id in self.shrunk, (host.id, held)
            ports = Counter(p.published_port for s in specs for p in _ports(s))
            assert max(ports.values(), default=0) <= 1, (host.id, held)

    def check_end(self) -> None:
        for service in self.world.services.all():
            spec = self.spec_of(service.name)
            rows = list(self.world.tasks.scan("service", service.id))
            live = [t for t in rows if t.desired <= RUNNING]
            if is_job(spec.mode):
                self._check_job_end(service, spec, rows)
            elif spec.mode.global_ is not None:
                hosts = [h for h in self.world.nodes.all() if standing_of(h, spec) is Standing.OPEN]
                assert sorted(t.node_id for t in live) == sorted(h.id for h in hosts)
            else:
                assert len({t.slot for t in live}) == len(live) == replicas_of(spec)

    def _check_job_end(self, service: Service, spec: ServiceSpec, rows: list[Task]) -> None:
        last = service.job_status.iteration
        ended = [t for t in rows if t.job_iteration == last and t.status.state == COMPLETE]
        if spec.mode.replicated_job is not None:
            assert len({t.slot for t in ended}) == 5, (last, rows)
        assert not [t for t in rows if t.desired == COMPLETE and t.status.state <= RUNNING], rows

    # The same again ----------------------------------------------------------------------------
    def copy(self) -> "Mixed":
        """The same swarm at this moment, under a leader of its own."""
        other = object.__new__(Mixed)
        other.rng, other.new_id, other.floor = Random(1), Ids(1), Floor()
        other.seed, other.seen, other.shrunk = None, dict(self.seen), dict(self.shrunk)
        other.world = World()
        other.world.index, other.world.now_ms = self.world.index, self.world.now_ms
        other.world._born = dict(self.world._born)
        for table, rows in self.world.tables.items():
            other.world.tables[table].rows = dict(rows.rows)
        other.lead()
        return other

    def outcome(self) -> Counter:
        """What is wanted, and how far it is; not where, nor what was."""
        found: Counter = Counter()
        for row in self.world.tasks.all():
            spec = self.world.specs.get(spec_version_id(row.service_id, row.spec_version)).spec
            is_over = row.desired > COMPLETE or (row.desired < COMPLETE < row.status.state)
            if not is_over:
                is_bound = spec.mode.global_ is not None or spec.mode.global_job is not None
                place = row.node_id if is_bound else ""
                state = int(row.status.state)
                service = self.world.services.get(row.service_id)
                is_dirty = service is None or Dirt(self.world, service).is_on(self.world, row)
                what = (row.service_id, place, is_dirty, int(row.desired), row.job_iteration)
                found[*what, state] += 1
        for service in self.world.services.all():
            state = service.update_status.state if service.update_status else ""
            found[service.name, service.spec_version, state] += 1
        return found


def _ports(spec: ServiceSpec) -> Iterable[PortConfig]:
    return () if spec.endpoint_spec is None else spec.endpoint_spec.ports
