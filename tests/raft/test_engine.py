"""One member: writes, restarts, snapshots, refusals, ends."""

import asyncio

import pytest

from swarmlet.core.errors import (
    DamagedError,
    DiskFullError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotLeaderError,
    OutcomeUnknownError,
    UnavailableError,
)
from swarmlet.core.ids import RaftID
from swarmlet.raft.engine import Origin, RaftLimits
from swarmlet.raft.messages import COMMAND_SIZE_MAX_B
from swarmlet.store.proposer import Leadership, Member, MemberChange
from tests.raft.member import (
    JOURNAL,
    KEY,
    ME,
    OFTEN,
    SNAPSHOT,
    Node,
    nothing,
    outcome,
    propose_all,
    settle,
)
from tests.sim.disk import SimDisk
from tests.sim.loop import run_sim

ENTRIES = [b"entry %d" % n for n in range(12)]


def restarted(disk, **kwargs):
    node = Node(disk, seed=99, **kwargs)
    node.run(nothing, must_exist=True)
    return node


def test_proposal_is_applied_before_it_is_acknowledged_and_again_after_a_restart():
    disk = SimDisk()
    node = Node(disk)
    indexes = node.run(propose_all(*ENTRIES))
    assert node.memory.seen == list(zip(indexes, ENTRIES, strict=True))
    assert restarted(disk).memory.seen == node.memory.seen


def test_member_writes_on_after_each_restart():
    disk = SimDisk()
    for number, entry in enumerate(ENTRIES):
        node = Node(disk, seed=number, limits=OFTEN)
        node.run(propose_all(entry))
        assert node.memory.entries == ENTRIES[: number + 1]


def test_many_proposals_share_few_syncs_and_keep_their_order():
    disk = SimDisk()
    node = Node(disk)

    async def work(engine):
        before = disk.operations
        async with asyncio.TaskGroup() as group:
            for number in range(500):
                group.create_task(engine.propose(b"%d" % number, number))
        return disk.operations - before

    assert node.run(work) <= 8
    assert node.memory.entries == [b"%d" % number for number in range(500)]


def test_write_takes_no_virtual_time():
    node = Node(SimDisk())
    node.run(propose_all(*ENTRIES))
    assert node.clock.now_s == 0.0


def test_start_leads_at_once_and_the_stream_says_so_to_its_end():
    node = Node(SimDisk())
    seen = []

    async def work(engine):
        async def watch():
            seen.extend([leadership async for leadership in engine.leadership()])

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            await settle()
            await engine.stop()

    node.run(work)
    assert seen == [
        Leadership(term=1, leader=ME.raft_id, is_ready=True),
        Leadership(term=1, leader=None, is_ready=False),
    ]


def test_each_restart_begins_a_new_term():
    disk, terms = SimDisk(), []

    async def work(engine):
        async for leadership in engine.leadership():
            terms.append(leadership.term)
            break

    for seed in range(3):
        Node(disk, seed=seed).run(work)
    assert terms == [1, 2, 3]


def test_compaction_keeps_the_journal_short_and_the_state_whole():
    disk = SimDisk()
    node = Node(disk, limits=OFTEN)

    async def work(engine):
        for number in range(100):
            await engine.propose(b"%d" % number, number)
            await settle(60)
        return len(engine._driver.journal.entries)

    assert node.run(work) <= 12
    assert sum(line == f"rename {SNAPSHOT}" for line in disk.log) >= 15
    again = restarted(disk)
    assert again.memory.seen == node.memory.seen
    assert len(again.engine._driver.journal.entries) <= 10


def test_compaction_by_bytes_frees_memory():
    disk = SimDisk()
    node = Node(disk, limits=RaftLimits(snapshot_log_size_b=100_000))

    async def work(engine):
        sizes = []
        for number in range(40):
            await engine.propose(bytes(10_000), number)
            await settle(60)
            sizes.append(engine._driver.journal.size_b)
        return max(sizes)

    assert node.run(work) < 140_000
    assert restarted(disk).memory.seen == node.memory.seen


def test_snapshot_holds_the_state_of_its_beginning_while_writes_go_on():
    disk = SimDisk()
    node = Node(disk, limits=OFTEN)

    async def work(engine):
        for number in range(200):
            await engine.propose(b"%d" % number, number)

    node.run(work)
    assert restarted(disk).memory.entries == [b"%d" % number for number in range(200)]


def test_nothing_proposed_can_be_read_from_the_disk():
    disk = SimDisk()
    node = Node(disk, limits=OFTEN)
    node.run(propose_all(*(b"swordfish %d" % n for n in range(20))))
    assert disk.exists(SNAPSHOT)
    assert disk.plaintext_contains(b"swordfish") == []
    assert disk.plaintext_contains(KEY.secret) == []


def test_full_disk_refuses_before_proposing_and_goes_on_by_itself():
    disk = SimDisk()
    node = Node(disk)

    async def work(engine):
        await engine.propose(b"before", 0)
        disk.capacity_b = sum(i.size_b for i in disk._names.values())
        refused, number = None, 0
        while not isinstance(refused, DiskFullError):
            number += 1
            refused = await outcome(engine.propose(bytes(500_000), number))
        count = len(node.memory.seen)
        assert count == number  # all but the last, and the one before them
        assert isinstance(await outcome(engine.propose(bytes(500_000), 0)), DiskFullError)
        disk.capacity_b *= 10
        await engine.propose(b"after", 0)
        assert len(node.memory.seen) == count + 1

    node.run(work)
    assert restarted(disk).memory.seen == node.memory.seen


def test_full_disk_at_start_waits_for_room():
    disk = SimDisk(capacity_b=1000)
    with pytest.raises(DiskFullError):
        Node(disk).run(nothing)
    disk.capacity_b = 1 << 30
    Node(disk).run(propose_all(b"one"))
    disk.capacity_b = 1000
    node = Node(disk, seed=1)

    async def work(engine):
        with pytest.raises(NotLeaderError):
            await engine.propose(b"two", 2)
        disk.capacity_b = 1 << 30
        await asyncio.sleep(1)
        await engine.propose(b"two", 2)

    node.run(work)
    assert node.memory.entries == [b"one", b"two"]


def test_full_disk_during_a_snapshot_leaves_the_old_state_and_writes_go_on():
    disk = SimDisk()
    node = Node(disk, limits=OFTEN)

    async def work(engine):
        disk.capacity_b = sum(i.size_b for i in disk._names.values())
        for number in range(30):
            await engine.propose(b"%d" % number, number)
            await settle(20)
        assert not disk.exists(SNAPSHOT)
        disk.capacity_b *= 10
        await asyncio.sleep(11)
        assert disk.exists(SNAPSHOT)

    node.run(work)
    assert restarted(disk).memory.seen == node.memory.seen


@pytest.mark.parametrize("operation", range(2))
def test_failing_write_or_sync_stops_the_member_and_leaves_the_outcome_unknown(operation):
    disk = SimDisk()
    node = Node(disk)
    outcomes = []

    async def work(engine):
        await engine.propose(b"kept", 0)
        disk.error_at(operation)
        outcomes.append(await outcome(engine.propose(b"lost?", 1)))
        outcomes.append(await outcome(engine.propose(b"refused", 2)))
        await asyncio.sleep(10)

    with pytest.raises(DamagedError, match=r"journal cannot be written: .*Input/output error"):
        node.run(work)
    assert [type(o) for o in outcomes] == [OutcomeUnknownError, NotLeaderError]
    found = restarted(disk).memory.entries
    assert found in ([b"kept"], [b"kept", b"lost?"])


def test_failing_snapshot_sync_stops_the_member():
    disk = SimDisk()
    node = Node(disk, limits=OFTEN)

    async def work(engine):
        for number in range(5):
            await engine.propose(b"%d" % number, number)
        for _ in range(100):
            if f"create {SNAPSHOT}.new" in disk.log:
                disk.error_at(0)
                break
            await asyncio.sleep(0)
        await asyncio.sleep(10)

    with pytest.raises(DamagedError, match="snapshot cannot be written"):
        node.run(work)
    assert restarted(disk).memory.seen == node.memory.seen


def test_state_machine_that_raises_stops_the_member():
    node = Node(SimDisk())

    def refuse(index, entry):
        raise ZeroDivisionError("a bug in apply")

    async def work(engine):
        node.memory.on_apply = refuse
        result = await outcome(engine.propose(b"poison", 1))
        assert isinstance(result, OutcomeUnknownError)
        await asyncio.sleep(10)

    with pytest.raises(ZeroDivisionError):
        node.run(work)


def test_stop_answers_what_was_proposed_and_refuses_what_comes_later():
    disk = SimDisk()
    node = Node(disk)

    async def main():
        await node._main(work, False)

    async def work(engine):
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(engine.propose(b"%d" % n, n)) for n in range(5)]
            await asyncio.sleep(0)
            await engine.stop()
        assert [a.result() for a in answers] == [3, 4, 5, 6, 7]
        with pytest.raises(NotLeaderError):
            await engine.propose(b"late", 9)

    run_sim(node.clock, main())
    assert restarted(disk).memory.entries == [b"%d" % n for n in range(5)]


def test_cancelled_engine_leaves_outcomes_unknown_and_nothing_hanging():
    disk = SimDisk()
    node = Node(disk)

    async def main():
        node.engine = engine = node_engine(node)
        await engine.start(Origin.FOUND)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(engine.run())
            await asyncio.sleep(0)
            waiting = group.create_task(outcome(engine.propose(b"one", 1)))
            await asyncio.sleep(0)
            running.cancel()
        assert isinstance(waiting.result(), OutcomeUnknownError)

    run_sim(node.clock, main())
    assert restarted(disk).memory.entries in ([], [b"one"])


def node_engine(node):
    from swarmlet.raft.engine import RaftEngine

    return RaftEngine(node.env, *node._args)


def test_caller_that_gives_up_is_not_missed():
    node = Node(SimDisk())

    async def work(engine):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(engine.propose(b"one", 1))
            await asyncio.sleep(0)
            task.cancel()
        assert await engine.propose(b"two", 2) == 4

    node.run(work)
    assert node.memory.entries == [b"one", b"two"]


def test_too_much_waiting_is_refused_and_soon_taken_again():
    node = Node(SimDisk(), limits=RaftLimits(proposals_max=10, proposals_size_max_b=5_000))

    async def work(engine):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(engine.propose(b"x", n))) for n in range(14)]
        refused = [t.result() for t in tasks if isinstance(t.result(), Exception)]
        assert [type(r) for r in refused] == [UnavailableError] * 4
        assert refused[0].remedy
        with pytest.raises(UnavailableError):
            await engine.propose(bytes(5_000), 1)
        await engine.propose(b"y", 1)

    node.run(work)


def test_entry_that_is_too_large_is_refused():
    node = Node(SimDisk())

    async def work(engine):
        await engine.propose(bytes(COMMAND_SIZE_MAX_B), 1)
        with pytest.raises(InvalidArgumentError, match="fit into one entry"):
            await engine.propose(bytes(COMMAND_SIZE_MAX_B + 1), 2)

    node.run(work)


def test_read_barrier_covers_every_acknowledged_write():
    node = Node(SimDisk())

    async def work(engine):
        index = await engine.propose(b"one", 1)
        assert await engine.read_barrier() >= index

    node.run(work)
    with pytest.raises(NotLeaderError):
        run_sim(node.clock, node.engine.read_barrier())


def test_group_of_one_says_why_nobody_can_take_its_place():
    disk = SimDisk()

    async def work(engine):
        assert engine.members() == (ME,)
        other = Member(raft_id=RaftID(8), node_id="n2", address="10.0.0.2:2377")
        with pytest.raises(FailedPreconditionError, match="no manager of this swarm"):
            await engine.change_members(MemberChange(verb="promote", member=other))
        with pytest.raises(FailedPreconditionError, match="another one must lead first"):
            await engine.change_members(MemberChange(verb="remove", member=ME))
        with pytest.raises(UnavailableError, match="no other manager"):
            await engine.transfer()
        assert engine.health().answering() == engine.health().quorum == 1

    Node(disk, limits=OFTEN).run(work)
    Node(disk, seed=1).run(work)


def prepared(limits=OFTEN):
    disk = SimDisk()
    Node(disk, limits=limits).run(slowly(*ENTRIES))
    return disk


def slowly(*entries):
    async def work(engine):
        for entry in entries:
            await engine.propose(entry, 0)
            await settle(60)

    return work


@pytest.mark.parametrize(
    ("remove", "problem"),
    [
        ([JOURNAL], "the journal is missing"),
        ([SNAPSHOT], "begins at entry .* and the snapshot is missing"),
        ([JOURNAL, SNAPSHOT], "the journal is missing"),
    ],
)
def test_missing_file_is_refused_in_a_sentence(remove, problem):
    disk = prepared()
    for path in remove:
        disk.remove(path)
    with pytest.raises(DamagedError, match=problem) as caught:
        restarted(disk)
    assert "backup" in caught.value.remedy


def test_journal_older_than_the_snapshot_is_refused():
    old, new = prepared(RaftLimits()), prepared(OFTEN)
    Node(new, seed=5, limits=OFTEN).run(slowly(*ENTRIES, *ENTRIES))
    new._names[JOURNAL] = old._names[JOURNAL]
    with pytest.raises(DamagedError, match=r"the journal ends at \d+, before the snapshot's"):
        restarted(new)


def test_snapshot_older_than_the_journal_is_refused():
    disk = prepared(RaftLimits(snapshot_entries=8))
    old = disk._names[SNAPSHOT]
    Node(disk, seed=5, limits=OFTEN).run(slowly(*ENTRIES, *ENTRIES))
    disk._names[SNAPSHOT] = old
    with pytest.raises(DamagedError, match=r"snapshot ends at \d+, the journal begins at \d+"):
        restarted(disk)


def test_data_of_another_member_or_key_is_refused():
    disk = prepared(RaftLimits())
    with pytest.raises(DamagedError, match="is of member 7, and this is 8"):
        restarted(disk, me=Member(raft_id=RaftID(8), node_id="n1", address="a:1"))
    from swarmlet.env.sealed import seal_key

    with pytest.raises(DamagedError, match="is sealed with key"):
        restarted(disk, key=seal_key(b"j" * 32))


@pytest.mark.parametrize("path", [JOURNAL, SNAPSHOT])
def test_damage_in_the_middle_is_refused_with_path_and_place(path):
    disk = prepared()
    size_b = len(disk._names[path].seen)
    disk.damage(path, size_b // 2, bytes([disk.read(path)[size_b // 2] ^ 0x10]))
    with pytest.raises(DamagedError, match=rf"{path} is damaged at byte \d+"):
        restarted(disk)
