"""What `why` says against what the scheduler decides, over random histories of a cluster."""

from collections import Counter

import pytest

from swarmlet.model.change import Assign
from swarmlet.model.task import TaskState
from swarmlet.reconcile.why.answers import NAMED_MAX
from swarmlet.reconcile.why.nodes import NodeFacts, explain_node
from swarmlet.reconcile.why.services import explain_service
from swarmlet.reconcile.why.tasks import (
    Sight,
    explain_task,
    is_running,
    reason_of,
    slot_of,
    waits_for_a_node,
)
from tests.reconcile.brute import Brute, failing, wishes
from tests.reconcile.explained import answer_of
from tests.reconcile.test_scheduler_histories import HISTORIES, History
from tests.reconcile.test_together import Cluster

SEEDS = max(20, HISTORIES // 10)
BATCH = 10

FIRST = {
    "ready": "not available for new tasks",
    "runtime": "runtime",
    "limit": "limit",
    "plugin": "missing plugin",
    "constraint": "scheduling constraints not satisfied",
    "platform": "unsupported platform",
    "resource": "insufficient resources",
    "host-port": "host-mode port already in use",
    "affinity": "services asked for are not there, or unwanted ones are,",
    "max-replicas": "max replicas per node limit exceed",
}


class ExplainedHistory(History):
    """At rest after every step, everything is explained and compared."""

    explained = 0

    def check_reasons(self) -> None:
        super().check_reasons()
        if self.rng.random() < 0.5:
            return
        brute = Brute(self.world)
        assert not any(isinstance(c, Assign) for c in self.decide().changes)
        stuck = {t: (key, spec) for key, spec, _, left in brute.turns() for t in left}
        sight = Sight(self.world, self.world.now_ms)
        answer_of(sight.prepare(self.world.tasks.all()))
        codes = Counter()
        for row in self.world.tasks.all():
            reason = reason_of(sight, row, slot_of(self.world, row))
            assert reason.code
            assert reason.sentence.endswith("."), reason
            codes[reason.code] += 1
            assert explain_alone(self.world, row) == reason, "asked alone, it is the same"
            if row.id in stuck:
                self.check_placement(brute, *stuck[row.id], row, reason)
        assert codes["placing"] == 0, "what could be placed is placed"
        self.check_service()
        self.check_node()

    def check_placement(self, brute, key, spec, row, reason) -> None:
        self.explained += 1
        found = reason.placement
        assert reason.code == "no-suitable-node"
        assert (found.nodes, found.fitting) == (len(brute.nodes), 0)
        assert found.scheduler == brute.reason(key, spec)
        placement = spec.task_template.placement
        others = wishes(placement.constraints)
        if spec.endpoint_spec is None and not placement.max_replicas and not others:
            assert found.scheduler == row.status.err, "the scheduler said otherwise"
        kept_out = Counter(
            failing(node, spec) or brute.lacking(n, key[0], spec) for n, node in brute.nodes.items()
        )
        counted = Counter()
        for count in found.counts:
            counted[FIRST[count.filter]] += count.nodes
        assert counted == kept_out
        if found.nearest is not None:
            first = found.nearest.lacks[0]
            node = brute.nodes[found.nearest.node_id]
            whose = failing(node, spec) or brute.lacking(node.id, key[0], spec)
            assert FIRST[first.filter] == whose
            if any(not failing(node, spec) for node in brute.nodes.values()):
                assert not failing(node, spec), "a node that lacks only room is nearer"

    def check_service(self) -> None:
        for service in self.world.services.all():
            found = answer_of(explain_service(self.world, service, self.world.now_ms))
            tasks = [t for t in self.world.service_tasks(service.id) if t.desired < 800]
            open_tasks = {t.id for t in tasks if t.desired <= TaskState.RUNNING}
            not_running = {t for t in open_tasks if not is_running(self.world, self.row(t))}
            counted = sum(group.count for group in found.waiting) + found.unshown
            by_slot = Counter(t.slot for t in tasks)
            without = [
                s for s in by_slot if not any(t.slot == s and t.id in open_tasks for t in tasks)
            ]
            assert counted == len(not_running) + len(without)
            named = [ref.id for group in found.waiting + found.lately for ref in group.tasks]
            assert len(named) == len(set(named)), "one task, one reason"
            if all(group.count <= NAMED_MAX for group in found.waiting) and not found.unshown:
                assert not_running <= set(named)
            has_stuck = any(waits_for_a_node(self.world, t) for t in tasks)
            assert (found.verdict == "unplaced") == has_stuck

    def check_node(self) -> None:
        brute = Brute(self.world)
        for node in self.world.nodes.all():
            found = answer_of(explain_node(self.world, node, NodeFacts(), self.world.now_ms))
            free = {amount.what: amount.total - amount.reserved for amount in found.amounts}
            for what, left in free.items():
                assert left == brute.free[node.id][what]

    def row(self, task_id):
        return self.world.tasks.get(task_id)


def explain_alone(world, row):
    return answer_of(explain_task(world, row, world.now_ms)).reason


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_what_why_says_is_what_the_scheduler_decides(first):
    explained = 0
    for seed in range(first, min(first + BATCH, SEEDS)):
        history = ExplainedHistory(seed)
        try:
            history.run()
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}: {problem}") from problem
        explained += history.explained
    assert explained > 0, "no task ever waited"


LEADERS_WORK = {"new", "placing", "node-down", "node-gone"}
"""Codes that say that the leader is about to do something: at rest there is nothing it is about to
do. `too-few` and `too-many` of a service are the same."""


class ExplainedCluster(Cluster):
    """All deciders at work; whenever they rest, everything is explained."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.codes = Counter()

    def check(self) -> None:
        super().check()
        now_ms = self.world.now_ms
        for row in self.world.tasks.all():
            reason = explain_alone(self.world, row)
            self.codes[reason.code] += 1
            assert reason.sentence.endswith("."), reason
            assert reason.code not in LEADERS_WORK, (row, reason)
            if reason.code == "restarting":
                assert reason.until_ms > now_ms, (row, reason)
            assert not 0 < reason.until_ms <= now_ms, (row, reason)
            has_ended = row.status.state > TaskState.RUNNING
            runs = is_running(self.world, row)
            assert (reason.verdict == "well") == (runs or self.is_past(row, has_ended)), reason
        for service in self.world.services.all():
            found = answer_of(explain_service(self.world, service, now_ms))
            assert not {"too-few", "too-many"} & {reason.code for reason in found.reasons}
            running = sum(is_running(self.world, t) for t in self.world.service_tasks(service.id))
            assert found.running == running
            is_whole = running == found.wanted
            assert (found.verdict == "well") == (is_whole and not found.waiting), found
        for host in self.world.nodes.all():
            found = answer_of(explain_node(self.world, host, NodeFacts(), now_ms))
            here = [t for t in self.world.tasks.scan("node", host.id)]
            assert found.running == sum(is_running(self.world, t) for t in here)
            assert found.wanted == found.running + sum(g.count for g in found.waiting)

    def is_past(self, row, has_ended: bool) -> bool:
        """Whether a task has ended as it should, and something else has its slot."""
        slot = slot_of(self.world, row)
        is_last = not any(t.desired <= TaskState.RUNNING for t in slot)
        return has_ended and row.desired > TaskState.RUNNING and not (slot and is_last)


def test_everything_is_explained_whenever_a_leader_rests():
    codes = Counter()
    for seed in range(15):
        cluster = ExplainedCluster(seed)
        try:
            cluster.run()
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}: {problem}") from problem
        codes += cluster.codes
    assert {"running", "no-suitable-node", "held-back", "predecessor", "stopping"} <= set(codes)
