"""Tables: what an index lists, and that it keeps nothing of what is gone."""

from random import Random

import pytest

from swarmlet.model.change import TABLE_NUMBERS
from swarmlet.model.service import SpecVersion
from swarmlet.model.task import Task
from swarmlet.store.memory import Overlay
from swarmlet.store.schema import INDEXES, new_table
from tests.store.worlds import port, spec, task


@pytest.mark.parametrize("is_lazy", [False, True])
def test_emptied_table_keeps_no_postings(is_lazy):
    rng = Random(5)
    for table, rows in (
        (Task, [task(f"t{i}", slot=i % 3) for i in range(20)]),
        (SpecVersion, [spec(f"s{i}", secrets=("a", "b"), ports=(port(80),)) for i in range(20)]),
    ):
        made = new_table(TABLE_NUMBERS[table], is_lazy=is_lazy)
        for row in rows[:10]:
            made.put(row)
        for index in INDEXES[table]:
            assert made.count(index, "nothing") == 0
        for row in rows:
            made.put(row)
        rng.shuffle(rows)
        for row in rows:
            made.remove(row.id)
        assert list(made.all()) == []
        assert [postings for postings in made._postings.values() if postings] == []


def test_row_that_keeps_its_keys_keeps_its_place():
    made = new_table(TABLE_NUMBERS[SpecVersion])
    for number in (1, 2, 3):
        made.put(spec("sa", number, secrets=("x0",)))
    made.put(spec("sa", 1, secrets=("x0",), networks=("o",)))
    assert [row.number for row in made.scan("secret", "x0")] == [1, 2, 3]
    assert [row.number for row in made.scan("service", "sa")] == [1, 2, 3]


def test_one_reference_twice_is_listed_once():
    made = new_table(TABLE_NUMBERS[SpecVersion])
    made.put(spec("sa", 1, secrets=("x0", "x0"), ports=(port(80), port(80, "host"))))
    assert made.count("secret", "x0") == made.count("port", ("tcp", 80)) == 1


def test_scan_goes_on_when_rows_leave_between_two_steps():
    made = new_table(TABLE_NUMBERS[Task])
    for number in range(4):
        made.put(task(f"t{number}"))
    walk = made.scan("state", 64)
    assert next(walk).id == "t0"
    made.remove("t1")
    assert [row.id for row in walk] == ["t2", "t3"]


def test_overlay_counts_what_it_hides_and_what_it_adds():
    live, over = new_table(TABLE_NUMBERS[Task]), new_table(TABLE_NUMBERS[Task], is_lazy=True)
    for number in range(3):
        live.put(task(f"t{number}"))
    view = Overlay(live, over)
    view.write("t0", None)
    view.write("t1", task("t1", state=512))
    view.write("t9", task("t9"))
    assert (len(view), view.count("state", 64), view.count("state", 512)) == (3, 2, 1)
    assert [row.id for row in view.scan("state", 64)] == ["t2", "t9"]
    assert sorted(row.id for row in view.all()) == ["t1", "t2", "t9"]
    for row_id in ("t0", "t1", "t9"):
        view.unmask(row_id)
    assert [row.id for row in view.all()] == ["t0", "t1", "t2"]
