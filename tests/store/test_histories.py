"""Random histories: the store does as the reference says, views stay, indexes agree."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.model.change import TABLES
from swarmlet.model.config import Config
from swarmlet.model.join_token import JoinToken
from swarmlet.model.network import Network
from swarmlet.model.node import Node
from swarmlet.model.service import Service, SpecVersion
from swarmlet.model.task import Task
from swarmlet.model.view import View
from tests.store.reference import Reference
from tests.store.worlds import START_MS, Direct, History

SEEDS = st.integers(0, 2**32)
FIELD = {
    Service: "services",
    SpecVersion: "specs",
    Task: "tasks",
    Node: "nodes",
    JoinToken: "join_tokens",
}


def table_of(view: View, table: type) -> Any:
    return getattr(view, FIELD.get(table, f"{table.__name__.lower()}s"))


def container_of(row: SpecVersion) -> Any:
    return row.spec.task_template.container_spec


# Index by index, which rows belong under which keys: said again, row by row.
KEYS: dict[tuple[type, str], Callable[[Any], list[Any]]] = {
    (Config, "name"): lambda row: [row.spec.name.lower()],
    (Service, "name"): lambda row: [row.name.lower()],
    (Node, "hostname"): lambda row: [row.description.hostname.lower()],
    (Node, "role"): lambda row: [row.role],
    (Node, "csr"): lambda row: [row.certificate.csr] if row.certificate.csr else [],
    (JoinToken, "secret"): lambda row: [row.secret_hash],
    (SpecVersion, "service"): lambda row: [row.service_id],
    (SpecVersion, "secret"): lambda row: [one.secret_id for one in container_of(row).secrets],
    (SpecVersion, "config"): lambda row: [one.config_id for one in container_of(row).configs],
    (Task, "service"): lambda row: [row.service_id],
    (Task, "node"): lambda row: [row.node_id],
    (Task, "slot"): lambda row: [(row.service_id, row.slot)],
    (Task, "desired"): lambda row: [row.desired],
    (Task, "state"): lambda row: [row.status.state],
    (Task, "spec"): lambda row: [f"{row.service_id}@{row.spec_version}"],
    (Task, "unassigned"): lambda row: (
        [True] if row.status.state < 192 and row.desired <= 576 else []
    ),
}


def assert_view_is(view: View, rows: dict[tuple[type, str], Any]) -> None:
    """Every way to look at the view shows exactly these rows."""
    for table in TABLES:
        mine = {row_id: row for (kind, row_id), row in rows.items() if kind is table}
        seen = table_of(view, table)
        assert len(seen) == len(mine)
        listed = list(seen.all())
        assert len(listed) == len(mine)
        assert {row.id: row for row in listed} == mine
        assert all(seen.get(row_id) == row for row_id, row in mine.items())
    for (table, index), keys_of in KEYS.items():
        by_key: dict[Any, set[str]] = {}
        for (kind, row_id), row in rows.items():
            for key in keys_of(row) if kind is table else ():
                by_key.setdefault(key, set()).add(row_id)
        for key in {*by_key, "nothing"}:
            found = [row.id for row in table_of(view, table).scan(index, key)]
            assert len(found) == len(set(found)) == table_of(view, table).count(index, key)
            assert set(found) == by_key.get(key, set()), (table, index, key)


def histories(rng: Random, steps: int) -> Iterator[tuple[Direct, Reference, str]]:
    """A store and the reference beside it, after each of so many random transactions."""
    direct, reference, history = Direct(), Reference(), History(rng)
    for index in range(1, steps + 1):
        changes = history.changes(lambda table, row_id: reference.rows.get((table, row_id)))
        guards = history.guards()
        expected = reference.apply(index, START_MS + index, changes, guards)
        assert direct.apply(*changes, guards=guards) == expected
        yield direct, reference, expected


@settings(max_examples=1000, deadline=None)
@given(SEEDS)
def test_store_does_what_the_reference_says_whatever_comes(seed):
    rng = Random(seed)
    for direct, reference, _ in histories(rng, 25):
        rows = {(t, r.id): r for t in TABLES for r in table_of(direct.store.view(), t).all()}
        assert rows == reference.rows
    assert_view_is(direct.store.view(), reference.rows)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_held_view_stays_as_it_was_whatever_is_applied(seed):
    rng = Random(seed)
    held: list[tuple[View, int, dict[Any, Any]]] = []
    for direct, reference, _ in histories(rng, 25):
        if rng.random() < 0.3:
            held = [*held[-2:], (direct.store.hold(), direct.store.index, dict(reference.rows))]
        for view, index, rows in held:
            assert view.index == index
            assert_view_is(view, rows)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_scan_of_a_held_view_gives_its_rows_whatever_is_applied_between_them(seed):
    rng = Random(seed)
    walks: list[tuple[Iterator[Any], dict[str, Any], set[str]]] = []
    for direct, reference, _ in histories(rng, 40):
        tasks = dict(reference.of(Task))
        if rng.random() < 0.3:
            walks.append((direct.store.hold().tasks.all(), tasks, set()))
            pending = {row_id: row for row_id, row in tasks.items() if row.status.state == 64}
            walks.append((direct.store.hold().tasks.scan("state", 64), pending, set()))
        for walk, rows, done in walks[-6:]:
            row = next(walk, None)
            if row is not None:
                assert row == rows[row.id]
                assert row.id not in done
                done.add(row.id)
    for walk, rows, done in walks:
        assert done | {row.id for row in walk} == set(rows)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_events_tell_every_change_and_nothing_else(seed):
    rng = Random(seed)
    told: dict[tuple[type, str], Any] = {}
    steps = histories(rng, 30)
    direct, reference, _ = next(steps)
    told.update(reference.rows)

    def follow(events):
        for event in events:
            assert told.get((event.table, event.id)) == event.old
            assert event.old != event.new
            if event.new is None:
                del told[event.table, event.id]
            else:
                told[event.table, event.id] = event.new

    direct.store.subscribe(follow)
    for _, reference, _ in steps:
        assert told == reference.rows


def test_reference_knows_every_named_table():
    assert_view_is(Direct().store.view(), {})
    assert (Network, "x") not in Reference().rows
