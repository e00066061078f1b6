"""Fast placement against brute force, over random histories of a cluster.

Every decision must place exactly what brute force places, node by node; with commits that are
refused or cut, new leaders, nodes that come and go, and tasks that fail. SWARMLET_HISTORIES sets
how many histories; each is a seed, which a failure names.
"""

import os
from collections import defaultdict
from contextlib import suppress
from random import Random

import pytest

from swarmlet.core.ids import ServiceID
from swarmlet.model.base import Driver
from swarmlet.model.change import Assign, SetStatus
from swarmlet.model.container import Mount, VolumeOptions
from swarmlet.model.node import NodeState, Plugin
from swarmlet.model.service import (
    DiscreteGenericResource,
    EndpointSpec,
    GenericResource,
    Limit,
    NamedGenericResource,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    SpreadOver,
)
from swarmlet.model.task import Task, TaskState, TaskStatus
from swarmlet.reconcile.base import Moment, started
from swarmlet.reconcile.scheduler.place import PENDING, SchedulerDecider
from tests.reconcile.brute import Brute, is_waiting, wishes
from tests.reconcile.world import RefusedError, World, node, replace, service_spec, task

HISTORIES = int(os.environ.get("SWARMLET_HISTORIES", "500"))
BATCH = 100
STEPS = 25


def generic(kind, count):
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=count))


def named(kind, name):
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=name))


def random_node(rng, number):
    gpus = rng.choice([(), (), (generic("gpu", 2),), (named("gpu", "a"), named("gpu", "b"))])
    plugins = rng.choice([(), (), ("Volume rex:latest",), ("Log syslog", "Volume rex"), ("Log x",)])
    row = node(
        f"n{number:02}",
        labels=rng.choice([{}, {"dc": rng.choice("abc"), "rack": rng.choice("xy")}]),
        state=rng.choice([NodeState.READY] * 9 + [NodeState.DOWN, NodeState.DISCONNECTED]),
        availability=rng.choice(["active"] * 9 + ["", "pause", "drain"]),
        cpu_nano=rng.randint(0, 8),
        memory_b=rng.randint(0, 8),
        generic=gpus,
        arch=rng.choice(["x86_64", "aarch64"]),
        runtimes=rng.choice(["process"] * 8 + ["process,oci", "docker", ""]),
        engine_labels=rng.choice(
            [{}, {"disk": "ssd"}, {"swarmlet.limits.process": rng.choice(["", "memory"])}]
        ),
    )
    listed = [Plugin(type=kind, name=name) for kind, name in map(str.split, plugins)]
    engine = replace(row.description.engine, plugins=listed)
    return replace(row, description=replace(row.description, engine=engine))


def random_plugins(rng, spec):
    """Now and then the log goes to a driver, or a volume comes from one."""
    template = spec.task_template
    driver = rng.choice([None] * 5 + [Driver(name="syslog"), Driver(name="none")])
    volume = VolumeOptions(driver_config=Driver(name=rng.choice(["rex", "rex", "local"])))
    mounts = [Mount(type="volume", source="v", target="/v", volume_options=volume)]
    container = replace(template.container_spec, mounts=rng.choice([[], [], [], mounts]))
    template = replace(template, log_driver=driver, container_spec=container)
    return replace(spec, task_template=template)


def random_spec(rng, name):
    port = PortConfig(target_port=80, published_port=rng.choice([80, 81]), publish_mode="host")
    spread = rng.choice(
        [
            (),
            (),
            ("node.labels.dc",),
            ("node.labels.dc", "node.labels.rack"),
            ("engine.labels.disk",),
            ("service==s0",),
            ("service!=s1", "node.labels.dc"),
            ("service==s1", "service!=s2"),
        ]
    )
    reserved = Resources(
        nano_cpus=rng.choice([0, 0, 1, 2]),
        memory_bytes=rng.choice([0, 0, 1, 3]),
        generic_resources=rng.choice([[], [], [], [generic("gpu", 1)], [generic("gpu", 2)]]),
    )
    spec = service_spec(
        name,
        1,
        image=rng.choice(["host"] * 9 + ["nginx"]),
        ports=rng.choice([None, None, EndpointSpec(ports=[port])]),
        resources=ResourceRequirements(
            reservations=reserved,
            limits=rng.choice([None, None, Limit(memory_bytes=1), Limit(nano_cpus=1, pids=-1)]),
        ),
        placement=Placement(
            constraints=rng.choice(
                [
                    [],
                    [],
                    ["node.labels.dc==A"],
                    ["node.labels.dc != b", "node.id!=n03"],
                    ["node.id!=n01"],
                    ["engine.labels.disk==ssd"],
                    ["service!=s0"],
                    ["service==s1"],
                    ["node.labels.dc!=b", "service==s0", "service != s2"],
                ]
            ),
            platforms=rng.choice(
                [[], [], [Platform(os="linux", architecture="amd64")], [Platform(os="linux")]]
            ),
            max_replicas=rng.choice([0, 0, 0, 1, 2]),
            preferences=[
                PlacementPreference(spread=SpreadOver(spread_descriptor=key)) for key in spread
            ],
        ),
    )
    is_packed = rng.random() < 0.2
    spec = replace(spec, labels={"swarmlet.strategy": "binpack"} if is_packed else {})
    return random_plugins(rng, spec)


def placements(decision):
    return sorted((c.id, c.node_id) for c in decision.changes if isinstance(c, Assign))


def pieces(resources):
    """[(kind, name or number)] of what a task got."""
    found = []
    for resource in resources:
        by_name, counted = resource.named_resource_spec, resource.discrete_resource_spec
        found.append((by_name.kind, by_name.value) if by_name else (counted.kind, counted.value))
    return found


class History:
    """One random history; `check` is called for every decision."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.world, self.decider = World(), SchedulerDecider()
        for number in range(self.rng.randint(0, 8)):
            self.world.put(random_node(self.rng, number))
        for number in range(self.rng.randint(1, 5)):
            name = f"s{number}"
            self.world.add_service(name)
            self.world.update_service(name, random_spec(self.rng, name))
        self.new_tasks = 0
        self.is_due = True
        started(self.decider, self.world)

    def tell(self, events) -> None:
        for event in events:
            self.is_due |= PENDING in self.decider.keys_of(event, self.world)

    def run(self) -> None:
        for _ in range(STEPS):
            self.rng.choices(
                [
                    self.arrive,
                    self.change_task,
                    self.fail_often,
                    self.change_node,
                    self.update,
                    self.wait,
                    self.lead,
                ],
                [8, 8, 1, 4, 1, 1, 1],
            )[0]()
            self.place()

    # What happens -------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Tasks of one service wait for a node; now and then they come with one."""
        service = self.world.services.get(f"s{self.rng.randrange(len(self.world.services))}")
        for _ in range(self.rng.choice([1, 1, 2, 5, 20])):
            self.new_tasks += 1
            row = task(
                f"t{self.rng.randrange(1000):03}-{self.new_tasks}",
                self.rng.randint(1, 30),
                service=service.id,
                state=TaskState.PENDING,
                on="",
                spec_version=service.spec_version,
                desired=self.rng.choice([TaskState.READY, TaskState.RUNNING]),
            )
            self.tell(self.world.put(row))

    def change_task(self) -> None:
        """A task moves on, is told to stop, or vanishes."""
        for row in self.some_tasks(self.rng.choice([1, 1, 4])):
            what = self.rng.random()
            if what < 0.4:
                later = [s for s in TaskState if s > row.status.state and s < TaskState.REMOVE]
                if later and row.node_id:
                    self.tell(self.world.report(row.id, self.rng.choice(later)))
            elif what < 0.8:
                told = max(row.desired, self.rng.choice([TaskState.SHUTDOWN, TaskState.REMOVE]))
                self.tell(self.world.put(replace(row, desired=int(told))))
            elif row.status.state not in (TaskState.FAILED, TaskState.REJECTED):
                self.tell(self.world.drop(Task, row.id))

    def fail_often(self) -> None:
        """A service fails five times on one node."""
        nodes = sorted(n.id for n in self.world.nodes.all())
        if not nodes:
            return
        on = self.rng.choice(nodes)
        service = self.world.services.get("s0")
        for _ in range(self.rng.choice([4, 5, 6])):
            self.new_tasks += 1
            status = TaskStatus(state=TaskState.ASSIGNED)
            row = task(
                f"f{self.new_tasks}",
                service="s0",
                on=on,
                status=status,
                spec_version=service.spec_version,
                desired=TaskState.SHUTDOWN,
            )
            self.tell(self.world.put(row))
            end = self.rng.choice([TaskState.FAILED, TaskState.REJECTED])
            self.tell(self.world.report(row.id, end))

    def change_node(self) -> None:
        number = self.rng.randint(0, 9)
        node_id = f"n{number:02}"
        if self.world.nodes.get(node_id) is not None and self.rng.random() < 0.3:
            self.tell(self.world.drop(type(node()), node_id))
        else:
            self.tell(self.world.put(random_node(self.rng, number)))

    def update(self) -> None:
        name = f"s{self.rng.randrange(len(self.world.services))}"
        self.tell(self.world.update_service(ServiceID(name), random_spec(self.rng, name)))

    def wait(self) -> None:
        self.world.now_ms += self.rng.choice([1_000, 200_000])

    def lead(self) -> None:
        self.decider = SchedulerDecider()
        started(self.decider, self.world)
        self.is_due = True

    def some_tasks(self, count):
        rows = [self.world.tasks.rows[key] for key in sorted(self.world.tasks.rows)]
        return self.rng.sample(rows, min(count, len(rows)))

    # What must follow ---------------------------------------------------------------------------

    def decide(self):
        return self.decider.decide(self.world, PENDING, Moment(self.world.now_ms, str))

    def place(self) -> None:
        """Decide until at rest. Where nothing was said to be due, nothing may be found."""
        for _ in range(40):
            was_due, self.is_due = self.is_due, False
            brute = Brute(self.world)
            turns = list(brute.turns())
            decision = self.decide()
            self.check(decision, turns)
            self.check_given(decision, turns, brute)
            assert was_due or not decision.changes, "work was there, and no event said so"
            if not decision.changes:
                break
            assert placements(self.decide()) == placements(decision), "the same view, decided twice"
            if self.rng.random() < 0.1:
                self.rng.choice([self.change_node, self.change_task])()
                self.change_node()  # meanwhile, before our own entry
            what = self.rng.random()
            keep = (
                len(decision.changes) if what > 0.3 else self.rng.randrange(len(decision.changes))
            )
            self.is_due = True
            with suppress(RefusedError):
                self.tell(self.world.commit(decision.changes[:keep]))
        else:
            raise AssertionError("never rests")
        self.check_reasons()

    def check(self, decision, turns) -> None:
        got = [(c.id, c.node_id) for c in decision.changes if isinstance(c, Assign)]
        want = [pair for _, _, placed, _ in turns for pair in placed]
        specs = {t: spec for _, spec, placed, _ in turns for t, _ in placed}
        assert {t for t, _ in got} == {t for t, _ in want}
        plain = [t for t in specs if not specs[t].task_template.placement.preferences]
        assert {t: n for t, n in got if t in plain} == {t: n for t, n in want if t in plain}
        for key, _, placed, _ in turns:
            ids = {t for t, _ in placed}
            assert sorted(n for t, n in got if t in ids) == sorted(n for _, n in placed), key
        told = {c.id for c in decision.changes if isinstance(c, SetStatus)}
        assert told.isdisjoint(specs)

    def check_given(self, decision, turns, brute) -> None:
        """The same pieces go to the tasks of each node, by name where they have names."""
        got, want = defaultdict(list), defaultdict(list)
        for change in decision.changes:
            if isinstance(change, Assign) and change.id in brute.given:
                got[change.node_id] += pieces(change.generic_resources)
        for task_id, node_id in (pair for _, _, placed, _ in turns for pair in placed):
            want[node_id] += brute.given[task_id]
        assert {n: sorted(map(str, g)) for n, g in got.items()} == {
            n: sorted(map(str, g)) for n, g in want.items()
        }

    def check_reasons(self) -> None:
        """At rest every task that waits bears a reason: the present one, where ports and limits do
        not make it depend on what was placed since."""
        brute = Brute(self.world)
        for key, spec, placed, left in brute.turns():
            assert not placed
            for task_id in left:
                err = self.world.tasks.get(task_id).status.err
                placement = spec.task_template.placement
                others = wishes(placement.constraints)
                if spec.endpoint_spec is None and not placement.max_replicas and not others:
                    assert err == brute.reason(key, spec)
                assert err.startswith("no suitable node")
        for row in self.world.tasks.all():
            if row.status.state < TaskState.ASSIGNED:
                assert row.desired == TaskState.REMOVE or is_waiting(row)


@pytest.mark.parametrize("first", range(0, HISTORIES, BATCH))
def test_history_agrees_with_brute_force(first):
    for seed in range(first, min(first + BATCH, HISTORIES)):
        try:
            History(seed).run()
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}: {problem}") from problem
