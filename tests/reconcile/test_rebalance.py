"""Rebalancing: who is moved, how, how many at a time, and when it is over."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.change import Note
from swarmlet.model.node import NodeState
from swarmlet.model.on_disconnect import LABEL as ON_DISCONNECT
from swarmlet.model.rebalance import LABEL, Rebalance, rebalance_said_by
from swarmlet.model.service import (
    Placement,
    PlacementPreference,
    RestartPolicy,
    SpreadOver,
    UpdateConfig,
    UpdateStatus,
)
from swarmlet.model.task import TaskState
from swarmlet.reconcile.balance import REST_MS, STEADY_MS
from swarmlet.reconcile.balance_books import PATIENCE_MS
from swarmlet.reconcile.balance_plan import planned_moves
from swarmlet.reconcile.deciders import all_deciders
from swarmlet.reconcile.rebalance import CHECK_PERIOD_MS, MOVES_PER_MINUTE, RebalanceDecider
from swarmlet.reconcile.why.services import explain_service
from tests.reconcile.explained import answer_of
from tests.reconcile.world import Ids, Leader, World, assert_at_rest, node, replace, service_spec

RUNNING, SHUTDOWN, FAILED = TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.FAILED
MINUTE_MS = 60_000


class Cluster:
    """Nodes that come and go, all deciders, and agents that do as they are told when asked to."""

    def __init__(self, nodes=2, seed=None) -> None:
        self.world, self.seed, self.new_id = World(), seed, Ids()
        for number in range(1, nodes + 1):
            self.world.put(node(f"n{number}"))
        self.lead()
        self.down: list[str] = []

    def lead(self) -> None:
        self.leader = Leader(self.world, all_deciders(), self.seed)
        self.leader.new_id = self.new_id
        self.leader.run()

    def create(self, name="web", replicas=6, mode="", policy=None, **fields) -> None:
        spec = service_spec(name, replicas, restart_policy=policy, **fields.pop("template", {}))
        labels = {**({LABEL: mode} if mode else {}), **fields.pop("labels", {})}
        self.tell(self.world.add_service(name, replicas))
        self.tell(self.world.update_service(name, replace(spec, labels=labels, **fields)))
        self.obey()

    def tell(self, events) -> None:
        self.leader.tell(events)
        self.leader.run()

    def set_label(self, mode) -> None:
        """Of the swarm."""
        cluster = self.world.clusters.get("cluster")
        spec = replace(cluster.spec, labels={LABEL: mode})
        self.tell(self.world.put(replace(cluster, spec=spec)))

    def ask(self) -> None:
        cluster = self.world.clusters.get("cluster")
        self.tell(self.world.put(replace(cluster, rebalance_asked_ms=self.world.now_ms)))

    def come(self, *node_ids, **fields) -> None:
        for node_id in node_ids:
            old = self.world.nodes.get(node_id)
            new = node(node_id, **fields)
            self.tell(
                self.world.put(new if old is None else replace(new, settled_ms=old.settled_ms))
            )

    def lose(self, node_id) -> None:
        old = self.world.nodes.get(node_id)
        new = node(node_id, state=NodeState.DOWN)
        self.tell(self.world.put(replace(new, settled_ms=old.settled_ms)))

    def obey(self, rounds=6) -> None:
        for _ in range(rounds):
            for row in sorted(self.world.tasks.all(), key=lambda t: t.id):
                on = self.world.nodes.get(row.node_id)
                if on is None or on.status.state != NodeState.READY:
                    continue
                if TaskState.ASSIGNED <= row.status.state <= RUNNING:
                    goal = SHUTDOWN if row.desired > RUNNING else TaskState(row.desired)
                    if goal > row.status.state:
                        self.tell(self.world.report(row.id, goal))

    def pass_s(self, seconds, step_ms=2_000) -> None:
        for _ in range(int(seconds * 1_000 // step_ms)):
            self.leader.run_for(step_ms)
            self.obey(2)

    def on(self, name="web") -> dict[str, int]:
        wanted = [t for t in self.world.service_tasks(name) if t.desired <= RUNNING]
        return dict(Counter(t.node_id for t in wanted))

    def marked(self):
        return [t for t in self.world.tasks.all() if t.move_ms]

    def moves(self) -> list[Note]:
        notes = (c for _, d in self.leader.decided for c in d.changes if isinstance(c, Note))
        return [note for note in notes if note.action == "rebalance"]

    def plan(self):
        return answer_of(planned_moves(self.world, self.world.now_ms))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", Rebalance()),
        ("off", Rebalance(mode="off")),
        ("on-join", Rebalance(mode="on-join")),
        (" continuous ", Rebalance(mode="continuous")),
        ("continuous even-single", Rebalance(mode="continuous", even_single=True)),
    ],
)
def test_label_says_whether_tasks_are_moved(text, said):
    assert rebalance_said_by({LABEL: text}) == said


@pytest.mark.parametrize(
    "text", ["on", "always", "off even-single", "on-join twice", "even-single"]
)
def test_label_that_means_nothing_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="no way to rebalance"):
        rebalance_said_by({LABEL: text})


def test_nothing_moves_where_nobody_asked():
    cluster = Cluster()
    cluster.create()
    cluster.come("n3")
    cluster.pass_s(600, 30_000)
    assert cluster.on() == {"n1": 3, "n2": 3}
    assert not cluster.moves()


@pytest.mark.parametrize("mode", ["on-join", "continuous"])
def test_tasks_move_to_a_node_that_joins_and_none_stops_before_another_runs(mode):
    cluster = Cluster()
    cluster.create(mode=mode)
    cluster.come("n3")
    fewest = 6
    for _ in range(60):
        cluster.leader.run_for(1_000)
        cluster.obey(1)
        running = [t for t in cluster.world.service_tasks() if t.status.state == RUNNING]
        fewest = min(fewest, len(running))
    assert cluster.on() == {"n1": 2, "n2": 2, "n3": 2}
    assert fewest == 6
    assert len(cluster.moves()) == 2
    assert_at_rest(cluster.world, all_deciders)


def test_swarm_says_it_for_services_that_say_nothing():
    cluster = Cluster()
    cluster.create("web")
    cluster.create("db", mode="off")
    cluster.set_label("continuous")
    cluster.come("n3")
    cluster.pass_s(60)
    assert cluster.on("web") == {"n1": 2, "n2": 2, "n3": 2}
    assert cluster.on("db") == {"n1": 3, "n2": 3}


def test_on_join_leaves_alone_what_became_uneven_otherwise():
    cluster = Cluster(3)
    cluster.create(replicas=9, mode="on-join")
    cluster.pass_s(60)
    gone = [t for t in cluster.world.service_tasks() if t.node_id == "n1"][:2]
    cluster.tell(cluster.world.put(replace(cluster.world.nodes.get("n1"), settled_ms=1)))
    paused = replace(cluster.world.nodes.get("n1").spec, availability="pause")
    cluster.tell(cluster.world.put(replace(cluster.world.nodes.get("n1"), spec=paused)))
    for row in gone:
        cluster.tell(cluster.world.report(row.id, FAILED))
    cluster.pass_s(30)
    active = replace(paused, availability="active")
    cluster.tell(cluster.world.put(replace(cluster.world.nodes.get("n1"), spec=active)))
    cluster.pass_s(120)
    assert cluster.on() == {"n1": 1, "n2": 4, "n3": 4}
    assert not cluster.moves()


@pytest.mark.parametrize("how", ["down", "drain"])
def test_on_join_moves_tasks_back_to_a_node_that_was_gone(how):
    cluster = Cluster(3)
    cluster.create(replicas=9, mode="on-join")
    cluster.pass_s(30)
    assert all(row.settled_ms for row in cluster.world.nodes.all())
    if how == "down":
        cluster.lose("n1")
    else:
        row = cluster.world.nodes.get("n1")
        cluster.tell(cluster.world.put(replace(row, spec=replace(row.spec, availability="drain"))))
    cluster.pass_s(60)
    assert "n1" not in cluster.on()
    cluster.come("n1")
    cluster.pass_s(120)
    assert cluster.on() == {"n1": 3, "n2": 3, "n3": 3}
    assert all(row.settled_ms for row in cluster.world.nodes.all())
    assert_at_rest(cluster.world, all_deciders)


def test_services_of_one_task_are_spread_by_what_nodes_run():
    cluster = Cluster(1)
    for number in range(9):
        cluster.create(f"s{number}", 1, mode="continuous")
    cluster.come("n2", "n3")
    cluster.pass_s(120)
    hosts = Counter(t.node_id for t in cluster.world.tasks.all() if t.desired <= RUNNING)
    assert hosts == {"n1": 3, "n2": 3, "n3": 3}
    assert len(cluster.moves()) == 6  # none went twice
    assert_at_rest(cluster.world, all_deciders)


def test_no_more_than_so_many_move_a_minute_also_under_new_leaders():
    cluster = Cluster(1)
    cluster.create(replicas=60, mode="continuous")
    cluster.come("n2")
    seen: dict[str, int] = {}
    for second in range(240):
        cluster.leader.run_for(1_000)
        cluster.obey(2)
        seen |= {t.id: t.move_ms for t in cluster.marked()}
        if second % 7 == 0:
            cluster.lead()
        lately = [at for at in seen.values() if at > cluster.world.now_ms - MINUTE_MS]
        assert len(lately) <= MOVES_PER_MINUTE
    assert cluster.on() == {"n1": 30, "n2": 30}


def test_one_task_of_a_service_moves_at_a_time():
    cluster = Cluster(1)
    cluster.create(replicas=8, mode="continuous")
    cluster.come("n2")
    for _ in range(10):
        cluster.leader.run_for(2_000)
    assert len(cluster.marked()) == 1  # its replacement never ran
    assert cluster.on() == {"n1": 8, "n2": 1}


def test_task_stays_where_its_replacement_finds_no_place():
    cluster = Cluster(1)
    cluster.create(replicas=2, mode="continuous")
    cluster.come("n2")
    cluster.leader.run_for(CHECK_PERIOD_MS)
    (marked,) = cluster.marked()
    after = next(t for t in cluster.world.service_tasks() if t.moved_ms == marked.move_ms)
    cluster.tell(cluster.world.report(after.id, TaskState.PREPARING))
    cluster.leader.run_for(PATIENCE_MS + 1_000)
    stays = cluster.world.tasks.get(marked.id)
    assert (stays.desired, stays.move_ms) == (RUNNING, 0)
    assert cluster.world.tasks.get(after.id).desired == SHUTDOWN
    cluster.obey()
    assert cluster.on() == {"n1": 2}
    assert len(cluster.moves()) == 1


def test_replacement_whose_node_is_lost_comes_up_elsewhere():
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous")
    cluster.come("n2")
    cluster.leader.run_for(CHECK_PERIOD_MS)
    cluster.lose("n2")
    cluster.pass_s(20)
    cluster.come("n2")
    cluster.pass_s(2 * REST_MS // 1_000, 10_000)
    assert cluster.on() == {"n1": 2, "n2": 2}
    assert_at_rest(cluster.world, all_deciders)


def test_marked_task_that_ends_by_itself_leaves_its_slot_to_the_replacement():
    cluster = Cluster(1)
    cluster.create(replicas=2, mode="continuous")
    cluster.come("n2")
    cluster.leader.run_for(CHECK_PERIOD_MS)
    (marked,) = cluster.marked()
    cluster.tell(cluster.world.report(marked.id, FAILED))
    cluster.pass_s(20)
    assert cluster.on() == {"n1": 1, "n2": 1}
    assert len(cluster.world.service_tasks()) == 3


STOP_FIRST = UpdateConfig(order="stop-first", parallelism=1)


def test_stop_first_service_has_one_task_less_while_it_moves_and_never_two_less():
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous", update_config=STOP_FIRST)
    cluster.come("n2")
    counts = set()
    for _ in range(60):
        cluster.leader.run_for(1_000)
        cluster.obey(1)
        running = [t for t in cluster.world.service_tasks() if t.status.state == RUNNING]
        counts.add(len(running))
        assert len({t.slot for t in running}) == len(running)
    assert counts == {3, 4}
    assert cluster.on() == {"n1": 2, "n2": 2}
    assert_at_rest(cluster.world, all_deciders)


@pytest.mark.parametrize(
    ("mode", "goes"), [("continuous", False), ("continuous even-single", True)]
)
def test_only_task_is_stopped_first_only_where_its_service_says_so(mode, goes):
    cluster = Cluster(1)
    cluster.create("other", 4)
    cluster.create(replicas=1, mode=mode, update_config=STOP_FIRST)
    cluster.come("n2")
    cluster.pass_s(60)
    assert cluster.on() == {"n2" if goes else "n1": 1}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"labels": {ON_DISCONNECT: "never-replace"}}, "stay on their node"),
        ({"policy": RestartPolicy(condition="none")}, "restart policy"),
        ({"policy": RestartPolicy(max_attempts=3)}, "restart policy"),
    ],
)
def test_what_loses_by_a_move_is_not_moved_and_the_plan_says_why(fields, why):
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous", **fields)
    cluster.come("n2")
    cluster.pass_s(60)
    assert cluster.on() == {"n1": 4}
    (planned,) = cluster.plan()
    assert why in planned.hindrance


@pytest.mark.parametrize("state", ["updating", "paused", "rollback_started"])
def test_service_under_update_waits(state):
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous")
    service = cluster.world.services.get("web")
    decider = RebalanceDecider()
    leader = Leader(cluster.world, [decider])
    cluster.world.put(node("n2"))
    cluster.world.put(replace(service, update_status=UpdateStatus(state=state)))
    leader = Leader(cluster.world, [RebalanceDecider()])
    leader.run()
    assert not cluster.marked()
    leader.tell(cluster.world.put(replace(service, update_status=None)))
    leader.run_for(5_000)
    assert len(cluster.marked()) == 1


def test_node_that_has_just_come_gets_nothing_before_it_is_steady():
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous")
    new = node("n2")
    status = replace(new.status, since_ms=cluster.world.now_ms)
    cluster.tell(cluster.world.put(replace(new, status=status)))
    cluster.leader.run_for(STEADY_MS - 1_000)
    assert not cluster.marked()
    cluster.leader.run_for(4_000)
    assert len(cluster.marked()) == 1


def test_spread_preferences_come_before_nodes():
    def labelled(number, zone):
        return node(f"n{number}", labels={"zone": zone})

    cluster = Cluster(0)
    for row in (labelled(1, "a"), labelled(2, "a"), labelled(3, "a")):
        cluster.tell(cluster.world.put(row))
    spread = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone"))
    placement = Placement(preferences=[spread])
    cluster.create(replicas=6, mode="continuous", template={"placement": placement})
    cluster.tell(cluster.world.put(labelled(4, "b")))
    (first, *_) = cluster.plan()
    assert first.reason == "6 of its tasks have node.labels.zone a, 0 b"
    cluster.pass_s(60)
    assert cluster.on() == {"n1": 1, "n2": 1, "n3": 1, "n4": 3}
    assert_at_rest(cluster.world, all_deciders)


def test_constraints_hold_for_what_is_moved():
    cluster = Cluster(1)
    placement = Placement(constraints=["node.labels.disk==ssd"])
    cluster.come("n1", labels={"disk": "ssd"})
    cluster.create(replicas=4, mode="continuous", template={"placement": placement})
    cluster.come("n2")
    cluster.pass_s(30)
    assert cluster.on() == {"n1": 4}
    cluster.come("n3", labels={"disk": "ssd"})
    cluster.pass_s(30)
    assert cluster.on() == {"n1": 2, "n3": 2}


def test_user_may_ask_once_for_all_services_but_those_that_forbid_it():
    cluster = Cluster(1)
    cluster.create("web", 4)
    cluster.create("db", 4, mode="off")
    cluster.come("n2")
    cluster.pass_s(60)
    assert not cluster.moves()
    cluster.ask()
    cluster.pass_s(60)
    assert (cluster.on("web"), cluster.on("db")) == ({"n1": 2, "n2": 2}, {"n1": 4})
    assert cluster.world.clusters.get("cluster").rebalance_asked_ms == 0
    cluster.come("n3")
    cluster.pass_s(60)
    assert cluster.on("web") == {"n1": 2, "n2": 2}


def test_wish_ends_at_once_where_there_is_nothing_to_rebalance():
    cluster = Cluster(1)
    cluster.ask()
    cluster.leader.run_for(CHECK_PERIOD_MS)
    assert cluster.world.clusters.get("cluster").rebalance_asked_ms == 0


def test_plan_is_what_is_done():
    cluster = Cluster(2)
    cluster.create("web", 6, mode="continuous")
    cluster.create("db", 1, mode="continuous")
    cluster.come("n3", "n4")
    planned = [(p.service_name, p.source, p.target) for p in cluster.plan() if not p.hindrance]
    assert planned
    cluster.pass_s(120)
    done = [dict(note.attributes) for note in cluster.moves()]
    hosts = {row.description.hostname: row.id for row in cluster.world.nodes.all()}
    told = [(one["name"], hosts[one["from"]], hosts[one["to"]]) for one in done]
    assert sorted(told) == sorted(planned)
    assert cluster.plan() == ()


def test_event_says_what_moves_where_and_why():
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous")
    cluster.come("n2")
    cluster.leader.run_for(CHECK_PERIOD_MS)
    (note,) = cluster.moves()
    told = dict(note.attributes)
    assert (note.kind, note.id, told["from"], told["to"]) == (
        "service",
        "web",
        "host-n1",
        "host-n2",
    )
    assert told["reason"] == "4 of its tasks run on host-n1, 0 on host-n2"
    assert list(told) == sorted(told)


@pytest.mark.parametrize(
    ("order", "words"), [("", "until the other does"), ("stop-first", "first")]
)
def test_why_says_which_task_moves(order, words):
    cluster = Cluster(1)
    cluster.create(replicas=4, mode="continuous", update_config=UpdateConfig(order=order))
    cluster.come("n2")
    cluster.leader.run_for(CHECK_PERIOD_MS)
    web = cluster.world.services.get("web")
    answer = answer_of(explain_service(cluster.world, web, cluster.world.now_ms))
    (reason,) = (one for one in answer.reasons if one.code == "rebalancing")
    assert reason.sentence.startswith("web.")
    assert "moves away from host-n1 for balance" in reason.sentence
    assert reason.sentence.endswith(f"{words}.")
    cluster.pass_s(60)
    after = answer_of(explain_service(cluster.world, web, cluster.world.now_ms))
    assert "rebalancing" not in [one.code for one in after.reasons]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    orders=st.lists(st.sampled_from(["", "start-first", "stop-first"]), min_size=4, max_size=4),
    nodes=st.integers(1, 4),
    joining=st.integers(1, 3),
)
def test_any_swarm_becomes_even_and_rests_whatever_is_cut_off(seed, sizes, orders, nodes, joining):
    """Of each decision any first changes may be lost, and leaders change."""
    cluster = Cluster(nodes, seed)
    for number, replicas in enumerate(sizes):
        config = UpdateConfig(order=orders[number])
        cluster.create(f"s{number}", replicas, mode="continuous even-single", update_config=config)
    cluster.pass_s(30)
    cluster.come(*(f"m{number}" for number in range(joining)))
    for _ in range(8):
        cluster.pass_s(60, 5_000)
        cluster.lead()
    cluster.pass_s(REST_MS // 1_000 + 60, 30_000)
    hosts = nodes + joining
    for number, replicas in enumerate(sizes):
        on = [*cluster.on(f"s{number}").values()]
        assert sum(on) == replicas
        assert max(on) - (min(on) if len(on) == hosts else 0) <= 1
    totals = Counter(t.node_id for t in cluster.world.tasks.all() if t.desired <= RUNNING)
    counts = [totals[row.id] for row in cluster.world.nodes.all()]
    assert max(counts) - min(counts) <= 1
    assert_at_rest(cluster.world, all_deciders)
    assert cluster.plan() == ()
