"""Commits: many in flight, answered with what became of them, whatever the log does."""

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.core.errors import (
    ConflictError,
    DiskFullError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    OutcomeUnknownError,
    StaleVersionError,
    SwarmError,
    UnavailableError,
)
from swarmlet.core.limits import (
    ENTRY_CHANGES_MAX,
    ENTRY_SIZE_MAX_B,
    OUTCOMES_MAX,
    PROPOSAL_TIMEOUT_S,
)
from swarmlet.model.change import (
    ANY_VERSION,
    TABLES,
    Change,
    Create,
    Exists,
    NotInUse,
    Remove,
    SetDesired,
    SetStatus,
    Update,
)
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.secret import Secret
from swarmlet.model.service import ReplicatedMode, ServiceMode
from swarmlet.model.task import Task, TaskStatus
from swarmlet.store import store as store_module
from swarmlet.store.codec import encode_change, encode_entry, new_proposal_id
from swarmlet.store.store import Store
from tests.store.memory_log import MemoryLog
from tests.store.test_histories import table_of
from tests.store.worlds import (
    START_MS,
    History,
    config,
    new_store,
    run_skipping,
    secret,
    seeded_env,
    service,
    spec,
    task,
)


async def outcome(work) -> str:
    """What became of a commit: "done", or the code of its error."""
    try:
        await work
    except SwarmError as error:
        return error.code
    return "done"


async def together(*works) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(work)) for work in works]
    return [one.result() for one in tasks]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_commit_answers_with_the_index_and_stamps_the_row():
    store, log = new_store()
    assert await store.commit([Create(obj=config("c0"))]) == 1
    assert await store.commit([Create(obj=config("c1"))]) == 2
    row = store.view().configs.get("c1")
    assert (row.version, row.created_ms, row.updated_ms) == (2, START_MS, START_MS)
    assert (store.index, store.view().index, len(log.entries)) == (2, 2, 2)


async def test_update_keeps_the_time_of_creation():
    store, _ = new_store()
    await store.commit([Create(obj=config("c0"))])
    store._env.clock.now_ms += 5
    await store.commit([Update(obj=config("c0", "other"), seen=1)])
    row = store.view().configs.get("c0")
    assert (row.version, row.created_ms, row.updated_ms) == (2, START_MS, START_MS + 5)
    assert [one.id for one in store.view().configs.scan("name", "other")] == ["c0"]


async def test_commit_of_nothing_returns_at_once_without_an_entry():
    store, log = new_store()
    assert await store.commit([]) == 0
    assert log.proposals == 0


async def test_refused_commit_costs_no_entry_when_nothing_is_in_flight():
    store, log = new_store()
    await store.commit([Create(obj=config("c0", "a"))])
    with pytest.raises(ConflictError):
        await store.commit([Create(obj=config("c1", "A"))])
    with pytest.raises(StaleVersionError):
        await store.commit([Update(obj=config("c0", "b"), seen=7)])
    with pytest.raises(NotFoundError):
        await store.commit([Remove(table=Config, id="c9")])
    assert log.proposals == 1


async def test_too_large_a_transaction_is_refused_before_it_is_proposed():
    store, log = new_store()
    big = Config(id="c0", spec=ConfigSpec(name="a", data=b"x" * ENTRY_SIZE_MAX_B))
    with pytest.raises(InvalidArgumentError, match="too large"):
        await store.commit([Create(obj=big)])
    many = [Create(obj=config(f"c{i}")) for i in range(ENTRY_CHANGES_MAX + 1)]
    with pytest.raises(InvalidArgumentError, match="too large"):
        await store.commit(many)
    assert log.proposals == 0


@pytest.mark.parametrize(
    "obj",
    [
        config("c0", "\ud800"),
        replace(
            spec(),
            spec=replace(spec().spec, mode=ServiceMode(replicated=ReplicatedMode(replicas=2**64))),
        ),
    ],
    ids=["broken text", "number beyond 64 bits"],
)
async def test_what_cannot_be_stored_is_refused_before_it_is_proposed(obj):
    store, log = new_store()
    with pytest.raises(InvalidArgumentError, match="cannot be stored"):
        await store.commit([Create(obj=obj)])
    assert log.proposals == 0


async def test_row_of_a_wrong_type_never_reaches_the_log():
    store, log = new_store()
    with pytest.raises(SwarmError, match="cannot be read"):
        await store.commit([Create(obj=Config(id="c0", spec=ConfigSpec(name=7)))])  # type: ignore[arg-type]
    assert log.proposals == 0


async def test_many_commits_travel_in_one_group():
    store, log = new_store()
    log.hold()
    works = [store.commit([Create(obj=config(f"c{i}"))]) for i in range(100)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await settle()
        assert log.proposals == 100
        log.release()
    assert [one.result() for one in tasks] == list(range(1, 101))


async def test_conflict_with_a_write_in_flight_is_told_when_that_is_durable_and_costs_no_entry():
    store, log = new_store()
    log.hold()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(outcome(store.commit([Create(obj=config("c0", "a"))])))
        second = group.create_task(outcome(store.commit([Create(obj=config("c1", "A"))])))
        await settle()
        assert not second.done()
        log.release()
    assert (first.result(), second.result(), log.proposals) == ("done", "conflict", 1)


async def test_refusal_on_what_is_applied_waits_for_nobody():
    store, log = new_store()
    await store.commit([Create(obj=config("c0", "a"))])
    log.hold()
    async with asyncio.TaskGroup() as group:
        other = group.create_task(store.commit([Create(obj=config("c1", "b"))]))
        await settle()
        assert await outcome(store.commit([Create(obj=config("c2", "a"))])) == "conflict"
        assert not other.done()
        log.release()


async def test_name_is_free_again_when_the_write_in_flight_got_lost():
    store, log = new_store()
    log.hold()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(outcome(store.commit([Create(obj=config("c0", "a"))])))
        second = group.create_task(outcome(store.commit([Create(obj=config("c1", "a"))])))
        await settle()
        log.lose()
        log.lead()
        log.release()
    assert (first.result(), second.result()) == ("outcome-unknown", "done")


async def test_one_of_two_racing_creates_wins_a_thousand_times():
    store, log = new_store()
    rng = Random(1)
    for number in range(1000):
        log.delay_s = rng.choice([0.0, 0.0, 0.0002])
        name = f"n{number}"
        results = await together(
            store.commit([Create(obj=config(f"a{number}", name))]),
            store.commit([Create(obj=config(f"b{number}", name))]),
        )
        assert sorted(results) == ["conflict", "done"]
    assert len(store.view().configs) == 1000


async def test_secret_is_removed_or_used_but_never_both_a_thousand_times():
    store, log = new_store()
    rng, won = Random(2), []
    for number in range(1000):
        log.delay_s = rng.choice([0.0, 0.0, 0.0002])
        secret_id, service_id = f"x{number}", f"s{number}"
        await store.commit([Create(obj=secret(secret_id, secret_id))])
        remove = store.commit(
            [Remove(table=Secret, id=secret_id)], [NotInUse(table=Secret, id=secret_id)]
        )
        use = store.commit(
            [
                Create(obj=service(service_id, service_id)),
                Create(obj=spec(service_id, secrets=(secret_id,))),
            ],
            [Exists(table=Secret, id=secret_id)],
        )
        if rng.random() < 0.5:
            removed, used = await together(remove, use)
        else:
            used, removed = await together(use, remove)
        assert {removed, used} in ({"done", "not-found"}, {"done", "failed-precondition"})
        assert (store.view().secrets.get(secret_id) is None) == (removed == "done")
        assert (store.view().services.get(service_id) is None) == (used != "done")
        won.append(removed)
    assert set(won) == {"done", "failed-precondition"}


async def test_racing_writers_of_one_row_lose_all_but_one():
    store, _ = new_store()
    await store.commit([Create(obj=config("c0", "a"))])
    works = [store.commit([Update(obj=config("c0", f"n{i}"), seen=1)]) for i in range(50)]
    results = await together(*works)
    assert results == ["done"] + ["out-of-sequence"] * 49


# Updates ------------------------------------------------------------------------------------------
def counted(view):
    """Write a row anew whose data counts the writes."""
    row = view.configs.get("c0")
    number = int(row.spec.data) + 1
    new = replace(row, spec=replace(row.spec, data=str(number).encode()))
    return [Update(obj=new, seen=row.version)], ()


async def counter_store() -> tuple[Store, MemoryLog]:
    store, log = new_store()
    await store.commit([Create(obj=Config(id="c0", spec=ConfigSpec(name="n", data=b"0")))])
    return store, log


async def test_updates_build_on_each_other_while_all_are_in_flight():
    store, log = await counter_store()
    log.hold()
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(store.update(counted))
        await settle()
        assert log.proposals == 51
        log.release()
    assert store.view().configs.get("c0").spec.data == b"50"


async def test_update_that_builds_on_one_flight_and_collides_with_another_waits_for_them():
    store, log = await counter_store()
    log.hold()

    def colliding(view):
        changes, _ = counted(view)
        return [*changes, Create(obj=config("c2", "taken"))], ()

    async with asyncio.TaskGroup() as group:
        group.create_task(store.update(counted))
        group.create_task(store.commit([Create(obj=config("c1", "taken"))]))
        await settle()
        third = group.create_task(outcome(store.update(colliding)))
        await settle()
        assert not third.done()
        log.release()
    assert (third.result(), log.proposals) == ("conflict", 3)
    assert store.view().configs.get("c0").spec.data == b"1"


async def test_update_sees_the_index_that_is_applied():
    store, _ = await counter_store()
    await store.update(counted)
    seen = []
    await store.update(lambda view: (seen.append(view.index) or (), ()))
    assert seen == [store.index] == [2]


async def test_update_is_built_again_when_what_it_built_on_got_lost():
    store, log = await counter_store()
    log.fail_next("lost", "", "lost")
    results = await together(*(store.update(counted) for _ in range(4)))
    assert results.count("outcome-unknown") == 2
    assert store.view().configs.get("c0").spec.data == b"2"


async def test_update_that_builds_nothing_returns_at_once():
    store, log = await counter_store()
    assert await store.update(lambda view: ((), ())) == 1
    assert log.proposals == 1


async def test_update_raises_what_its_build_raises_and_what_refuses_it():
    store, _ = await counter_store()

    def fails(view):
        raise FailedPreconditionError("not now")

    with pytest.raises(FailedPreconditionError):
        await store.update(fails)
    with pytest.raises(StaleVersionError):
        await store.update(lambda view: ([Update(obj=config("c0"), seen=9)], ()))
    with pytest.raises(NotFoundError):
        await store.update(
            lambda view: ([Create(obj=config("c1"))], [Exists(table=Secret, id="x")])
        )


async def test_update_that_is_refused_on_what_is_applied_is_built_once():
    store, _ = await counter_store()
    builds = []

    def stale(view):
        builds.append(view)
        return [Update(obj=config("c0"), seen=9)], ()

    with pytest.raises(StaleVersionError):
        await store.update(stale)
    assert len(builds) == 1


async def test_update_gives_up_when_others_always_come_first():
    class OvertakingLog(MemoryLog):
        async def propose(self, entry: bytes, proposal_id: int) -> int:
            other = encode_change(Update(obj=config("c0"), seen=ANY_VERSION))
            self.append(encode_entry(new_proposal_id(store._env.entropy), START_MS, [other]))
            return await super().propose(entry, proposal_id)

    store = Store(seeded_env())
    log = OvertakingLog(store)
    store.attach(log)
    store.apply(1, encode_entry(7, START_MS, [encode_change(Create(obj=config("c0", "x")))]))
    log.entries.append(b"")
    builds = []

    def overtaken(view):
        builds.append(view)
        row = view.configs.get("c0")
        return [Update(obj=row, seen=row.version)], ()

    with pytest.raises(StaleVersionError):
        await store.update(overtaken)
    assert len(builds) == store_module.UPDATE_TRIES_MAX


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_view_ahead_shows_what_apply_will_do(seed):
    """Rows as they look in flight are the rows as they are once applied, but for their versions."""

    async def run() -> None:
        rng = Random(seed)
        history, (store, log) = History(rng), new_store(seed)

        def build(view):
            changes = history.changes(lambda table, row_id: table_of(view, table).get(row_id))
            return changes, history.guards()

        for _ in range(8):
            log.hold()
            ahead = store._ahead.view
            async with asyncio.TaskGroup() as group:
                for _ in range(rng.randint(1, 5)):
                    group.create_task(outcome(store.update(build)))
                await settle()
                shown = {t: normal(table_of(ahead, t).all()) for t in TABLES}
                names = [row.id for row in ahead.configs.scan("name", "a")]
                assert len(names) == ahead.configs.count("name", "a") <= 1
                log.release(len(log._queue))
                applied = {t: normal(table_of(store.view(), t).all()) for t in TABLES}
                assert applied == shown
                log.release()

    def normal(rows):
        return {row.id: replace(row, version=0) for row in rows}

    asyncio.run(run())


# A log that fails ---------------------------------------------------------------------------------
async def test_unknown_outcome_is_told_when_the_proposal_got_lost():
    store, log = new_store()
    log.fail_next("lost")
    with pytest.raises(OutcomeUnknownError):
        await store.commit([Create(obj=config())])
    assert len(store.view().configs) == 0


async def test_outcome_is_known_when_the_entry_was_applied_here_all_the_same():
    store, log = new_store()
    log.fail_next("unknown")
    assert await store.commit([Create(obj=config())]) == 1


async def test_late_entry_is_applied_though_nobody_waits():
    store, log = new_store()
    log.fail_next("late")
    assert await outcome(store.commit([Create(obj=config())])) == "outcome-unknown"
    await asyncio.sleep(0.001)
    assert len(store.view().configs) == 1


async def test_repeated_proposal_is_applied_once_and_answered_the_same():
    store, log = new_store()
    proposal_id = new_proposal_id(store._env.entropy)
    log.fail_next("late")
    create = [Create(obj=config())]
    assert await outcome(store.commit(create, proposal_id=proposal_id)) == "outcome-unknown"
    for _ in range(2):
        assert await store.commit(create, proposal_id=proposal_id) == 1
    assert (len(log.entries), store.index, len(store.view().configs)) == (3, 3, 1)


@pytest.mark.parametrize("via_snapshot", [False, True])
async def test_repeat_is_refused_where_the_first_outcome_may_be_forgotten(via_snapshot):
    store, log = new_store()
    await store.commit([Create(obj=config("c0"))])
    proposal_id, since_index = new_proposal_id(store._env.entropy), store.index
    create = [Create(obj=config("c1"))]

    def again():
        return store.commit(create, proposal_id=proposal_id, since_index=since_index)

    assert await again() == await again() == 2
    await store.commit([Remove(table=Config, id="c1")])
    for _ in range(OUTCOMES_MAX):
        log.append(encode_entry(new_proposal_id(store._env.entropy), 0, [], []))
    if via_snapshot:
        store.restore(list(store.snapshot()))
    assert await outcome(again()) == "outcome-unknown"
    assert [row.id for row in store.view().configs.all()] == ["c0"]
    late = new_proposal_id(store._env.entropy)
    assert await outcome(store.commit(create, proposal_id=late, since_index=store.index)) == "done"


async def test_repeated_refusal_stays_refused_though_it_would_fit_now():
    store, _ = new_store()
    await store.commit([Create(obj=config("c0", "a"))])
    proposal_id = new_proposal_id(store._env.entropy)
    create = [Create(obj=config("c1", "a"))]
    assert await outcome(store.commit(create, proposal_id=proposal_id)) == "conflict"
    await store.commit([Remove(table=Config, id="c0")])
    assert await outcome(store.commit(create, proposal_id=proposal_id)) == "conflict"
    assert await outcome(store.commit(create)) == "done"


async def test_what_is_applied_is_what_the_log_says_when_a_proposal_id_is_misused():
    store, log = new_store()
    proposal_id = new_proposal_id(store._env.entropy)
    log.fail_next("late")
    first, second = [Create(obj=config("c0", "a"))], [Create(obj=config("c1", "b"))]
    assert await outcome(store.commit(first, proposal_id=proposal_id)) == "outcome-unknown"
    assert await store.commit(second, proposal_id=proposal_id) == 1
    assert [row.id for row in store.view().configs.all()] == ["c0"]


async def test_duplicated_entry_is_applied_once():
    store, log = new_store()
    told = []
    store.subscribe(lambda events: told.append(store.index))
    log.fail_next("duplicate")
    assert await store.commit([Create(obj=config())]) == 1
    assert (store.index, told) == (2, [1])


@pytest.mark.parametrize(
    ("break_log", "error"),
    [
        (lambda log: log.lose(), NotLeaderError),
        (lambda log: log.fail_next("full"), DiskFullError),
    ],
    ids=["not leader", "disk full"],
)
async def test_what_the_log_refuses_leaves_nothing_in_flight(break_log, error):
    store, log = new_store()
    break_log(log)
    with pytest.raises(error):
        await store.commit([Create(obj=config("c0", "a"))])
    log.lead()
    assert await store.commit([Create(obj=config("c1", "a"))]) == 1


def test_commit_nobody_answers_is_unknown_after_the_time_for_a_call():
    async def run() -> float:
        store, log = new_store()
        log.fail_next("silent")
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(OutcomeUnknownError):
            await store.commit([Create(obj=config("c0", "a"))])
        assert await store.commit([Create(obj=config("c1", "a"))]) == 1
        return loop.time() - start

    assert PROPOSAL_TIMEOUT_S <= run_skipping(run()) < PROPOSAL_TIMEOUT_S + 1


async def test_cancelled_commit_leaves_nothing_in_flight():
    store, log = new_store()
    log.hold()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(store.commit([Create(obj=config("c0", "a"))]))
        await settle()
        waiting.cancel()
    assert store.gauges().in_flight == 0
    assert store._ahead.view.configs.get("c0") is None


async def test_gauges_count_what_could_pile_up():
    store, log = new_store()
    await store.commit([Create(obj=config("c0"))])
    log.hold()
    held = [store.hold(), store.hold().configs]
    async with asyncio.TaskGroup() as group:
        group.create_task(store.commit([Create(obj=config("c1"))]))
        await settle()
        gauges = store.gauges()
        log.release()
    assert (gauges.index, gauges.in_flight, gauges.views_held, gauges.outcomes) == (1, 1, 2, 1)
    assert gauges.rows["config"] == 1
    assert sum(gauges.rows.values()) == 1
    del held
    assert store.gauges().views_held == 0


async def test_too_many_in_flight_are_refused(monkeypatch):
    store, log = new_store()
    monkeypatch.setattr(store_module, "FLIGHTS_MAX", 3)
    log.hold()
    async with asyncio.TaskGroup() as group:
        works = [outcome(store.commit([Create(obj=config(f"c{i}"))])) for i in range(4)]
        tasks = [group.create_task(work) for work in works]
        await settle()
        log.release()
    assert [one.result() for one in tasks] == ["done"] * 3 + [UnavailableError.code]


async def test_status_keeps_its_container_and_states_never_fall():
    store, _ = new_store()
    await store.commit([Create(obj=task(state=0))])
    status = TaskStatus(state=512, container_id="abc", pid=7)
    await store.commit([SetStatus(id="t0", status=status)])
    changes: list[Change] = [
        SetStatus(id="t0", status=TaskStatus(state=704, err="lost")),
        SetDesired(id="t0", desired=640),
    ]
    await store.commit(changes)
    await store.commit([SetStatus(id="t0", status=status), SetDesired(id="t0", desired=512)])
    row = store.view().tasks.get("t0")
    assert (row.status.state, row.status.container_id, row.status.err) == (704, "abc", "lost")
    assert (row.desired, row.version) == (640, 3)


async def test_two_stores_that_apply_the_same_log_are_the_same():
    store, log = new_store()
    rng = Random(3)
    history = History(rng)
    for _ in range(200):
        changes = history.changes(lambda t, i: table_of(store.view(), t).get(i))
        await outcome(store.commit(changes, proposal_id=rng.getrandbits(62)))
    other = Store(seeded_env(9))
    log.replay(other)
    assert list(other.snapshot()) == list(store.snapshot())
    assert other.view().tasks.count("state", 64) == store.view().tasks.count("state", 64)
    assert isinstance(next(store.view().tasks.all()), Task)
