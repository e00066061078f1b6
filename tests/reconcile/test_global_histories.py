"""Global services through random histories of nodes, tasks, updates and leaders."""

from collections import Counter
from random import Random

import pytest

from swarmlet.model.node import NodeState
from swarmlet.model.service import RestartPolicy, UpdateConfig
from swarmlet.model.task import TaskState
from swarmlet.reconcile.deciders import all_deciders
from tests.reconcile.everywhere import Swarm
from tests.reconcile.world import assert_at_rest, node

RUNNING, FAILED = TaskState.RUNNING, TaskState.FAILED


class Fate:
    """What happens to a swarm of a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.how = UpdateConfig(
            parallelism=self.rng.choice([0, 1, 2]),
            monitor=1,
            failure_action=self.rng.choice(["continue", "continue", "pause"]),
            order=self.rng.choice(["", "start-first"]),
        )
        self.force = 0
        self.swarm = Swarm(4, seed=seed, history=3, **self.spec())

    def spec(self, **more):
        return {
            "update": self.how,
            "policy": RestartPolicy(delay=1_000_000_000),
            "constraints": self.rng.choice([[], ["node.labels.zone==eu"]]),
            **more,
        }

    def node(self) -> None:
        how = self.rng.choice(
            [
                {},
                {"labels": {"zone": "eu"}},
                {"labels": {"zone": "eu"}},
                {"availability": "drain"},
                {"availability": "pause", "labels": {"zone": "eu"}},
                {"state": NodeState.DOWN},
                {"state": NodeState.DISCONNECTED},
            ]
        )
        self.swarm.tell(self.swarm.world.put(node(f"n{self.rng.randrange(6)}", **how)))

    def leave(self) -> None:
        node_id = f"n{self.rng.randrange(6)}"
        if self.swarm.world.nodes.get(node_id) is not None and self.rng.random() < 0.3:
            self.swarm.remove_node(node_id)

    def fail(self) -> None:
        up = [t for t in self.swarm.world.tasks.all() if t.status.state == RUNNING]
        if up:
            row = self.rng.choice(sorted(up, key=lambda t: t.id))
            self.swarm.report(row.id, self.rng.choice([FAILED, TaskState.COMPLETE]))

    def update(self) -> None:
        self.force += self.rng.randrange(2)
        self.swarm.update(**self.spec(force_update=self.force))

    def wait(self) -> None:
        self.swarm.pass_ms(self.rng.choice([10, 1_000, 61_000]))

    def run(self) -> None:
        swarm = self.swarm
        what = [self.node, self.node, self.leave, self.fail, self.update, self.wait, swarm.lead]
        for _ in range(25):
            self.rng.choice(what)()
            self.check()
            for row in sorted(swarm.world.tasks.all(), key=lambda t: t.id):
                if self.rng.random() < 0.7:
                    swarm.obey_in(row)
            self.check()

    def check(self) -> None:
        """Never two wanted on a node but while one starts before the other stops."""
        counts = Counter((t.node_id, t.spec_version) for t in self.swarm.wanted())
        assert max(counts.values(), default=0) <= 1
        both = Counter(t.node_id for t in self.swarm.wanted())
        assert max(both.values(), default=0) <= 2


@pytest.mark.parametrize("seed", range(30))
def test_swarm_ends_with_one_task_on_every_node_that_suits_and_rests(seed):
    fate = Fate(seed)
    fate.run()
    swarm = fate.swarm
    swarm.update(**fate.spec(force_update=99))
    for row in list(swarm.world.nodes.all()):
        swarm.set_node(row.id, labels=row.spec.labels)
    swarm.finish(40)
    constraints = swarm.world.specs.get(f"web@{swarm.service.spec_version}").spec.task_template
    eu_only = bool(constraints.placement.constraints)
    suiting = [
        row.id
        for row in swarm.world.nodes.all()
        if not eu_only or row.spec.labels.get("zone") == "eu"
    ]
    assert swarm.running() == sorted(suiting)
    assert swarm.of(swarm.service.spec_version) == sorted(suiting)
    assert max(Counter(t.node_id for t in swarm.world.tasks.all()).values(), default=0) <= 3
    assert not [t for t in swarm.world.tasks.all() if t.desired == TaskState.REMOVE]
    assert_at_rest(swarm.world, all_deciders)
