"""Several managers, each with its copy of the swarm's state, on virtual time."""

import asyncio
import copy
from random import Random

import pytest
from msgspec.structs import replace

from swarmlet.api.engine import JoinRequest
from swarmlet.core.errors import (
    FailedPreconditionError,
    NotManagerError,
    QuorumLostError,
    SwarmError,
    SwarmStateError,
)
from swarmlet.model.node import NodeState
from tests.daemon.sim_nodes import run_managers
from tests.sim.loop import HostClock
from tests.sim.world import DATA


async def rows(node):
    """Role by id, as this manager reads it."""
    view = await node.engine.control().read()
    return {one.id: one.role for one in view.nodes.all()}


async def write(node):
    """A change that only a leader can make: a label of its own row. The row's version then."""
    control = node.engine.control()
    view = await control.read()
    mine = view.nodes.get(node.state.node_id)
    spec = replace(mine.spec, labels={"n": str(mine.version)})
    await control.update_node(mine.id, mine.version, spec)
    return spec.labels["n"]


async def label_of(node, of):
    view = await node.engine.control().read()
    return view.nodes.get(of.state.node_id).spec.labels.get("n")


async def set_role(leader, node, role):
    control = leader.engine.control()
    row = (await control.read()).nodes.get(node.state.node_id)
    await control.update_node(row.id, row.version, replace(row.spec, role=role))


async def until(condition, limit_s=60.0):
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - a state is no event
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_managers_that_join_keep_the_whole_state_and_all_answer(count):
    async def story(clock, swarm):
        ids = {node.state.node_id for node in swarm.nodes}
        for node in swarm.nodes:
            assert node.state.state == "active"
            assert await rows(node) == dict.fromkeys(ids, "manager")
            assert {one for one, _ in node.state.managers} == ids
            assert all(one.is_voter for one in node.member.log.members())
        assert sum(node.engine.forwarder() is None for node in swarm.nodes) == 1

    run_managers(count, story, limit_s=300)


def test_swarm_goes_on_without_the_leader_that_was_killed():
    async def story(clock, swarm):
        for _ in range(3):
            old = await swarm.until_led()
            said = await write(old)
            await old.lose()
            began_s = clock.now_s
            new = await swarm.until_led(but=old)
            assert clock.now_s - began_s < 2.0
            assert await label_of(new, old) == said
            await old.start()
            await until(lambda old=old: old.state.state == "active")
            assert await label_of(old, old) == said

    run_managers(3, story, limit_s=600)


def test_all_managers_that_restart_at_once_go_on():
    async def story(clock, swarm):
        said = await write(await swarm.until_led())
        last = await swarm.until_led()
        for node in swarm.nodes:
            await node.lose_power(Random(node.host))
        await swarm.start()
        leader = await swarm.until_led()
        assert await label_of(leader, last) == said
        for node in swarm.nodes:
            await node.until("active")

    run_managers(3, story, limit_s=600)


def test_stopped_leader_hands_over_and_says_goodbye_to_the_next_one():
    async def story(clock, swarm):
        old = await swarm.until_led()
        began_s, gone = clock.now_s, old.state.node_id
        await old.stop()
        assert clock.now_s - began_s < 5
        new = await swarm.until_led()
        await asyncio.sleep(0.5)  # what nodes say is written together
        row = (await new.engine.control().read()).nodes.get(gone)
        assert row.status.state == NodeState.DISCONNECTED
        assert "stopped in order" in row.status.message
        await asyncio.sleep(30)  # it promised to be back within 60
        row = (await new.engine.control().read()).nodes.get(gone)
        assert row.status.state == NodeState.DISCONNECTED
        await old.start()
        await old.until("active")

    run_managers(3, story, limit_s=600)


def test_majority_that_is_lost_is_said_and_the_swarm_goes_on_when_it_is_back():
    async def story(clock, swarm):
        alone = swarm[0]
        for node in swarm.nodes[1:]:
            await node.lose()
        await asyncio.sleep(3)
        with pytest.raises(QuorumLostError, match=r"1 of 3 managers .* needed: sim-1 \(m"):
            await alone.engine.control().read()
        with pytest.raises(SwarmStateError) as refusal:
            await alone.engine.leave_swarm(force=False)
        assert refusal.value.remedy.startswith("Bring the silent managers back first")
        await swarm.start(*swarm.nodes[1:])
        await swarm.until_led()
        await write(swarm.leader)

    run_managers(3, story, limit_s=600)


# In and out ---------------------------------------------------------------------------------------


LEAVING = "You are attempting to leave the swarm on a node that is participating as a manager. "
SAYS = {
    1: "Removing the last manager erases all current state of the swarm.",
    2: "Removing this node leaves 1 managers out of 2. Without a Raft quorum your swarm will be "
    "inaccessible. The only way to restore a swarm that has lost consensus is to reinitialize it "
    "with `--force-new-cluster`. Use `--force` to suppress this message.",
    3: "The only way to restore a swarm that has lost consensus is to reinitialize it with "
    "`--force-new-cluster`. Use `--force` to suppress this message.",
}


@pytest.mark.parametrize("count", SAYS)
def test_manager_that_leaves_must_be_forced_in_dockers_words(count):
    async def story(clock, swarm):
        await swarm.until_led()
        for node in swarm.nodes:
            with pytest.raises(SwarmStateError) as refusal:
                await node.engine.leave_swarm(force=False)
            assert refusal.value.message.startswith(LEAVING + SAYS[count])
            assert ("`swarmlet node demote self`" in refusal.value.remedy) is (count > 1)

    run_managers(count, story, limit_s=300)


@pytest.mark.parametrize("leads", [True, False])
def test_manager_that_is_forced_to_leave_takes_itself_out_of_the_group(leads):
    async def story(clock, swarm):
        leader = await swarm.until_led()
        goes = leader if leads else next(one for one in swarm.nodes if one is not leader)
        gone = goes.state.node_id
        await goes.engine.leave_swarm(force=True)
        assert goes.state.state == "inactive"
        assert not goes.disk.list_dir(f"{DATA}/raft")
        stays = await swarm.until_led()
        assert len(stays.member.log.members()) == 2
        await until(lambda: stays.member.store.view().nodes.get(gone).role == "worker")
        await write(stays)
        await goes.join(stays, "manager")
        assert len(goes.member.log.members()) == 3

    run_managers(3, story, limit_s=600)


def test_leaders_that_leave_one_after_the_other_all_say_goodbye():
    async def story(clock, swarm):
        for left in range(7, 1, -1):
            goes = await swarm.until_led()
            gone = goes.state.node_id
            await goes.engine.leave_swarm(force=True)
            stays = await swarm.until_led()
            assert len(stays.member.log.members()) == left - 1
            row = stays.member.store.view().nodes.get
            await until(lambda row=row, gone=gone: row(gone).status.state == NodeState.DOWN, 1)

    run_managers(7, story, limit_s=600)


def test_manager_that_leaves_as_soon_as_it_is_back_is_no_member_any_more():
    async def story(clock, swarm):
        leader = await swarm.until_led()
        goes = next(one for one in swarm.nodes if one is not leader)
        await goes.lose()
        await goes.start()
        await until(lambda: goes.member is not None and goes.member.is_ready)
        await goes.engine.leave_swarm(force=True)
        assert len(swarm.leader.member.log.members()) == 2

    run_managers(3, story, limit_s=600)


def test_manager_that_leaves_on_its_way_into_the_group_is_no_member_either():
    async def story(clock, swarm):
        comes = swarm[1]
        joining = asyncio.get_running_loop().create_task(comes.join(swarm[0], "manager"))
        members = swarm[0].member.log.members
        await until(lambda: comes.engine._stay is not None and comes.engine._stay.file.raft_id)
        await comes.lose()
        with pytest.raises(SwarmError):
            await joining
        assert len(members()) == 2
        await comes.start()
        assert not comes.member.group.others()
        await comes.engine.leave_swarm(force=True)
        assert len(members()) == 1

    run_managers(1, story, limit_s=600, others=1)


@pytest.mark.parametrize("leads", [True, False])
def test_demoted_manager_goes_on_as_a_worker_and_may_come_back(leads):
    async def story(clock, swarm):
        leader = await swarm.until_led()
        goes = leader if leads else next(one for one in swarm.nodes if one is not leader)
        lives = goes.lives
        await set_role(leader, goes, "worker")
        await until(lambda: goes.state.certificate.role == "worker")
        await goes.until("active")
        assert goes.member is None
        await until(lambda: not goes.disk.list_dir(f"{DATA}/raft"))
        assert goes.engine._stay.file.raft_id == 0
        stays = await swarm.until_led()
        assert len(stays.member.log.members()) == 2
        await set_role(stays, goes, "manager")
        await until(lambda: goes.member is not None and goes.member.is_ready)
        assert len(goes.member.log.members()) == 3
        assert goes.lives == lives

    run_managers(3, story, limit_s=900)


def test_promoted_worker_becomes_a_manager_without_a_new_agent():
    async def story(clock, swarm):
        worker = swarm[1]
        await worker.join(swarm[0])
        agent = worker.engine._stay.life.agent
        await set_role(swarm[0], worker, "manager")
        await until(lambda: worker.member is not None and worker.member.is_ready)
        assert worker.engine._stay.life.agent is agent
        assert worker.engine.forwarder() is not None
        await swarm[0].lose()
        await worker.stop()
        await worker.start()
        assert worker.engine._stay.file.raft_id
        await swarm[0].start()
        await swarm.until_led()

    run_managers(1, story, limit_s=600, others=1)


def test_promoted_worker_whose_program_was_replaced_goes_on_with_its_tasks_until_it_is_restarted():
    def replaced():
        raise FailedPreconditionError("the program is another one")

    async def story(clock, swarm):
        worker = swarm[1]
        worker.options = {"load_parts": replaced}
        await worker.stop()
        await worker.start()
        await worker.join(swarm[0])
        lives, agent = worker.lives, worker.engine._stay.life.agent
        await set_role(swarm[0], worker, "manager")
        await until(lambda: worker.state.certificate.role == "manager")
        await until(lambda: "another one" in worker.state.error)
        await asyncio.sleep(20)
        assert worker.is_running
        assert agent.is_registered()
        assert worker.engine._stay.file.raft_id == 0  # it asked for no place in the group
        await worker.stop()
        worker.options = {}
        await worker.start()
        await until(lambda: worker.member is not None and worker.member.is_ready)
        assert worker.lives == lives + 1
        assert worker.state.error == ""

    run_managers(1, story, limit_s=600, others=1)


def test_promoted_worker_without_room_for_a_log_goes_on_with_its_tasks_until_there_is_some():
    async def story(clock, swarm):
        worker = swarm[1]
        whole_b = worker.disk.capacity_b

        def fill():
            worker.disk.capacity_b = worker.disk.used_b + 2000  # for the swarm's file

        worker.options = {"load_parts": fill}  # called just before it asks for its place
        await worker.stop()
        await worker.start()
        await worker.join(swarm[0])
        agent = worker.engine._stay.life.agent
        await set_role(swarm[0], worker, "manager")
        await until(lambda: "no room left" in worker.state.error)
        await asyncio.sleep(20)
        assert worker.is_running
        assert agent.is_registered()
        await worker.stop()
        await worker.start()  # as it is: nothing of that keeps the agent from its tasks
        await worker.engine._stay.life.agent.registered(20)
        assert worker.member is None
        worker.disk.capacity_b = whole_b
        await until(lambda: worker.member is not None and worker.member.is_ready)
        assert worker.state.error == ""

    run_managers(1, story, limit_s=600, others=1)


def test_init_is_refused_where_the_program_was_replaced_since_the_daemon_began():
    def replaced():
        raise FailedPreconditionError("the program is another one")

    async def story(clock, swarm):
        node = swarm[1]
        node.options = {"load_parts": replaced}
        await node.stop()
        await node.start()
        for enter in (node.init, lambda: node.join(swarm[0], "manager")):
            with pytest.raises(FailedPreconditionError, match="another one"):
                await enter()
            assert node.state.state == "inactive"

    run_managers(1, story, limit_s=600, others=1)


# Disks and clones ---------------------------------------------------------------------------------


def test_rolled_back_manager_comes_back_as_another_member_and_says_so():
    async def story(clock, swarm):
        leader = await swarm.until_led()
        back = next(one for one in swarm.nodes if one is not leader)
        await back.stop()
        old, raft_id = copy.deepcopy(back.disk), back.engine._stay
        await back.start()
        await back.until("active")
        raft_id = back.engine._stay.file.raft_id
        for _ in range(10):
            await write(await swarm.until_led())
        await asyncio.sleep(2)
        await back.lose()
        back.disk = old
        await back.start()
        await until(lambda: back.engine._stay.file.raft_id not in (0, raft_id))
        await until(lambda: back.member is not None and back.member.is_ready)
        assert back.state.warnings
        assert raft_id not in [one.raft_id for one in back.member.log.members()]
        assert len(back.member.log.members()) == 3

    run_managers(3, story, limit_s=900)


def test_manager_that_was_removed_while_it_was_off_says_so_and_not_that_others_are_silent():
    async def story(clock, swarm):
        leader = await swarm.until_led()
        goes = next(one for one in swarm.nodes if one is not leader)
        gone_id = goes.state.node_id
        await goes.lose()
        await set_role(leader, goes, "worker")
        await until(lambda: len(leader.member.log.members()) == 2)
        await leader.engine.control().remove_node(gone_id, force=True)
        await goes.start()
        await goes.until("error")
        assert goes.state.error.endswith("is not part of this swarm: it was removed.")
        with pytest.raises(NotManagerError, match="it was removed") as found:
            goes.engine.control()
        assert "swarmlet leave --force" in found.value.remedy
        await goes.engine.leave_swarm(force=False)
        await goes.join(leader, "manager")
        assert goes.state.error == ""
        assert len(leader.member.log.members()) == 3

    run_managers(3, story, limit_s=600)


def test_copy_of_a_manager_takes_no_part_beside_the_one_that_runs():
    async def story(clock, swarm):
        leader = await swarm.until_led()
        node = next(one for one in swarm.nodes if one is not leader)
        swarm.add(["copy.x"])
        clone = swarm[3]
        clone.disk = copy.deepcopy(node.disk)
        clone.disk.reopen()
        await clone.start()
        async with asyncio.timeout(60):
            while "same identity" not in clone.state.error:  # noqa: ASYNC110 - a state is no event
                await asyncio.sleep(0.1)
        assert clone.state.state == "error"
        assert clone.member is None
        with pytest.raises(NotManagerError, match=r"not a swarm manager\. .* same identity"):
            clone.engine.control()
        await asyncio.sleep(60)
        assert node.state.state == "active"
        assert node.engine._stay.life.agent.is_registered()
        row = (await leader.engine.control().read()).nodes.get(node.state.node_id)
        assert row.status.state == NodeState.READY
        assert len(leader.member.log.members()) == 3

    run_managers(3, story, limit_s=600)


def test_last_manager_goes_on_alone_where_a_new_cluster_is_forced():
    async def story(clock, swarm):
        said = await write(await swarm.until_led())
        last, ids = swarm.leader, await rows(swarm.leader)
        for node in swarm.nodes:
            if node is not last:
                await node.lose()
        await asyncio.sleep(5)
        before = last.state.node_id
        await last.init(force_new_cluster=True)
        assert last.state.node_id == before
        assert len(last.member.log.members()) == 1
        assert await label_of(last, last) == said
        assert set(await rows(last)) == set(ids)
        await write(last)
        await last.lose()
        await last.start()
        assert await label_of(last, last) is not None
        for node in swarm.nodes:
            if node is not last:
                await node.start()

    run_managers(3, story, limit_s=900)


def test_new_cluster_is_not_forced_on_a_worker():
    async def story(clock, swarm):
        await swarm[1].join(swarm[0])
        with pytest.raises(SwarmError, match="keeps no copy"):
            await swarm[1].init(force_new_cluster=True)
        assert swarm[1].state.state == "active"

    run_managers(1, story, limit_s=300, others=1)


def test_managers_that_slept_past_their_certificates_wake_together():
    async def story(clock, swarm):
        for node in reversed(swarm.nodes):
            await node.stop()
        clock.now_s += 100 * 86_400
        await swarm.start()
        await swarm.until_led()
        for node in swarm.nodes:
            await node.until("active")
            await until(lambda node=node: node.state.certificate.ends_ms > clock.wall_ms(), 120)

    run_managers(3, story)


@pytest.mark.parametrize("days", [365, -365])
def test_manager_whose_clock_is_wrong_votes_on_and_says_why_its_node_has_no_session(days):
    async def story(clock, swarm):
        leader = await swarm.until_led()
        wrong = next(one for one in swarm.nodes if one is not leader)
        await wrong.stop()
        wrong.clock = HostClock(clock, days * 86_400_000)
        await wrong.start()
        await wrong.until("active")
        await asyncio.sleep(60)
        assert (await wrong.member.log.read_barrier()) > 0
        assert wrong.state.error.startswith("This node has had no session with a manager for ")
        await wrong.stop()
        wrong.clock = clock
        await wrong.start()
        await asyncio.sleep(60)
        assert (wrong.state.state, wrong.state.error) == ("active", "")

    run_managers(3, story)


def test_manager_at_another_address_tells_the_group():
    async def story(clock, swarm):
        leader = await swarm.until_led()
        moves = next(one for one in swarm.nodes if one is not leader)
        await moves.stop()
        new = f"{moves.host}:7777"
        moves.options = {"listen_addr": new, "advertise_addr": new}
        await moves.start()
        await until(lambda: new in [addr for _, addr in swarm.leader.state.managers])
        await moves.until("active")
        assert len(swarm.leader.member.log.members()) == 3

    run_managers(3, story, limit_s=600)


def test_two_managers_that_move_at_once_find_each_other_through_the_third():
    async def story(clock, swarm):
        moved = [f"{node.host}:7777" for node in swarm.nodes[1:]]
        for node in swarm.nodes:
            await node.stop()
        for node, new in zip(swarm.nodes[1:], moved, strict=True):
            node.options = {"listen_addr": new, "advertise_addr": new}
        for node in swarm.nodes:
            await node.start()

        def known(node):
            return {addr for _, addr in node.state.managers}

        await until(lambda: all({*moved} < known(node) for node in swarm.nodes), 25)
        await until(lambda: all(not one.member.log.health().lost_since_ms for one in swarm.nodes))

    run_managers(3, story, limit_s=600)


def test_only_manager_at_another_address_is_found_there():
    async def story(clock, swarm):
        alone, worker = swarm.nodes
        await worker.join(alone)
        await alone.stop()
        new = f"{alone.host}:7777"
        alone.options = {"listen_addr": new, "advertise_addr": new}
        await alone.start()
        await until(lambda: [addr for _, addr in alone.state.managers] == [new])
        assert (await rows(alone))[alone.state.node_id] == "manager"
        await alone.stop()
        alone.options = {}
        await alone.start()
        assert alone.engine._stay.file.advertise_addr == new

    run_managers(1, story, limit_s=600, others=1)


def test_manager_that_nobody_lets_in_says_why_and_may_be_given_up():
    async def story(clock, swarm):
        late = swarm[1]
        token = next(iter((await swarm[0].engine.control().read()).clusters.all())).root_ca.tokens
        request = JoinRequest(
            token=token.manager,
            remote_addrs=("m1.x:2377",),
            listen_addr="w1.x:2377",
            advertise_addr="elsewhere.x:2377",  # where nobody listens
        )
        with pytest.raises(SwarmStateError, match="Timeout was reached before node joined"):
            await late.engine.join_swarm(request)
        assert late.state.state == "pending"
        assert "elsewhere.x" in late.state.error
        with pytest.raises(SwarmError, match="being prepared"):
            late.engine.control()
        assert len(swarm[0].member.log.members()) == 1
        await late.engine.leave_swarm(force=False)
        await late.join(swarm[0], "manager")
        assert len(swarm[0].member.log.members()) == 2

    run_managers(1, story, limit_s=600, others=1)
