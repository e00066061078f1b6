"""Joining, as the node sees it: what goes wrong, what is said, and what a restart finds."""

import asyncio
from contextlib import suppress
from random import Random

import pytest

from swarmlet.ca.enrolment import Enrolment, is_final
from swarmlet.ca.join_record import JoinRecord, JoinRecordFile
from swarmlet.ca.keys import key_from_pem
from swarmlet.ca.node_files import NodeFiles
from swarmlet.core.errors import (
    DiskFullError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.model.node import IssuanceState
from tests.agent.virtual_time import START_MS, run_virtual, virtual_env
from tests.ca.swarm import Link, Swarm
from tests.sim.disk import WHERES, SimCrash, SimDisk

HOUR_MS = 3_600_000
A, B = "10.0.0.1:2377", "10.0.0.2:2377"


class World:
    """A node that joins, and the swarms it can dial."""

    def __init__(self, swarms=None, skew_ms=0):
        self.swarm = Swarm(lambda: START_MS + skew_ms)
        self.link = Link({A: self.swarm} if swarms is None else swarms)
        self.disk, self.found = SimDisk(), []

    def enrolment(self, seed=1):
        env = virtual_env(self.disk, seed)
        files = NodeFiles(self.disk, "/data/certificates")
        record = JoinRecordFile(self.disk, "/data/swarm/joining", files, env.entropy)

        async def find():
            if isinstance(self.found, SwarmError):
                raise self.found
            return self.found

        return Enrolment(env, self.link, files, record, find)

    def joining(self, **fields):
        return JoinRecord(**{"token": self.swarm.token, "remote_addrs": (A,), **fields})

    def join(self, **fields):
        async def main():
            enrolment = self.enrolment()
            await enrolment.begin(self.joining(**fields))
            return await enrolment.run()

        return run_virtual(main())

    def refused(self, **fields):
        with pytest.raises(SwarmError) as caught:
            self.join(**fields)
        return caught.value


def test_join_ends_with_a_certificate_on_disk_that_the_key_belongs_to():
    world = World()
    enrolled = world.join()
    files = NodeFiles(world.disk, "/data/certificates")
    root_pem, chain_pem, keys = files.read()
    assert root_pem == world.swarm.root.cert_pem
    assert files.identity() == enrolled.own.identity
    assert enrolled.own.credentials.chain_pem == chain_pem
    assert key_from_pem(keys.tls_key_pem)
    assert enrolled.own.identity.role == "worker"
    assert enrolled.own.identity.cluster_id == world.swarm.cluster_id
    assert enrolled.manager_addr == A
    assert files.pending() is None


def test_join_takes_four_calls():
    world = World()
    world.join()
    assert world.swarm.calls == ["hello", "root", "request", "status"]


def test_join_waits_for_a_signature_as_long_as_it_takes():
    world = World()
    world.swarm.is_signing = False

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        async with asyncio.TaskGroup() as group:
            join = group.create_task(enrolment.run())
            await asyncio.sleep(3_000)
            assert not join.done()
            assert enrolment.problem.startswith("The swarm's CA has not signed")
            world.swarm.is_away = True
            await asyncio.sleep(3_000)
            assert enrolment.problem == "Nobody answers."
            world.swarm.is_away, world.swarm.is_signing = False, True
            await asyncio.sleep(31)
            assert join.done()
            assert enrolment.problem == ""

    run_virtual(main())
    assert 100 < world.swarm.calls.count("status") < 220  # twice a minute


def test_certificate_for_another_request_is_not_taken():
    world = World()
    world.swarm.is_signing = False

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        async with asyncio.TaskGroup() as group:
            join = group.create_task(enrolment.run())
            await asyncio.sleep(1)
            row = next(row for name, row in world.swarm.rows.items() if name != "manager1")
            ours, row.csr, row.state = row.csr, "other", IssuanceState.ISSUED
            await asyncio.sleep(100)
            assert not join.done()
            row.csr, row.state, world.swarm.is_signing = ours, IssuanceState.PENDING, True
            await join

    run_virtual(main())


def test_addresses_are_tried_in_order_until_one_takes_the_node_in():
    swarm = Swarm(lambda: START_MS)
    other = Swarm(lambda: START_MS, seed=2)
    world = World({A: other, B: swarm})
    world.swarm = swarm
    assert world.join(remote_addrs=("10.0.0.9:2377", A, B)).manager_addr == B
    assert "request" not in other.calls


def test_address_that_refused_is_not_asked_again():
    swarm = Swarm(lambda: START_MS)
    world = World({A: swarm})
    error = world.refused(
        token=swarm.token[:-1] + ("0" if swarm.token[-1] != "0" else "1"),
        remote_addrs=(A, "10.0.0.9:2377"),
    )
    assert swarm.calls.count("request") == 1
    assert "not (or no longer) valid" in error.message
    assert "10.0.0.9:2377" in error.message
    assert not is_final(error)


def test_unreachable_manager_is_tried_five_times_two_seconds_apart():
    world = World()
    world.swarm.is_away = True

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(UnavailableError):
            await enrolment.run()
        return asyncio.get_running_loop().time() - began_s

    assert run_virtual(main()) == pytest.approx(8.0)
    assert world.swarm.calls == ["hello"] * 5


def test_manager_without_a_leader_is_asked_again():
    world = World()
    world.swarm.fails["request"] = [UnavailableError("No leader.")] * 3
    assert world.join().manager_addr == A


@pytest.mark.parametrize(
    ("arrange", "sentence", "final"),
    [
        (lambda w: w.swarm.fails.update(request=[ForbiddenError("used up")]), "used up", True),
        (
            lambda w: w.swarm.fails.update(request=[InvalidArgumentError("bad availability")]),
            "bad availability",
            True,
        ),
        (lambda w: setattr(w.swarm, "protocol", 3), "version 3 of the protocol", True),
        (lambda w: setattr(w.swarm, "is_away", True), "Nobody answers", False),
        (lambda w: w.disk.error_at(6, DiskFullError("no room left")), "no room left", False),
        (lambda w: w.link.swarms.clear(), "Nobody listens at 10.0.0.1:2377", False),
        (
            lambda w: w.link.swarms.update({A: Swarm(lambda: START_MS, seed=9)}),
            "belongs to another swarm than the manager at 10.0.0.1:2377",
            True,
        ),
        (
            lambda w: w.swarm.fails.update(request=[UnauthorizedError("no manager of it")]),
            "no manager of it",
            True,
        ),
        (
            lambda w: w.swarm.fails.update(status=[NotFoundError("node", "x")]),
            "node x not found",
            True,
        ),
    ],
)
def test_join_that_fails_says_why_and_whether_for_good(arrange, sentence, final):
    world = World()
    arrange(world)
    error = world.refused()
    assert sentence in error.message
    assert is_final(error) is final


def test_certificate_that_the_ca_refuses_ends_the_join():
    world = World()
    world.swarm.is_signing = False
    joined = world.swarm.joined

    def fails(csr, token):
        node_id = joined(csr, token)
        world.swarm.rows[node_id].state = IssuanceState.FAILED
        world.swarm.rows[node_id].err = "the external CA says no"
        return node_id

    world.swarm.joined = fails
    error = world.refused()
    assert "the external CA says no" in error.message
    assert is_final(error)


def test_certificate_of_another_role_or_key_is_not_written():
    world = World()
    signed = world.swarm.signed
    world.swarm.signed = lambda key, node_id, role: signed(key, node_id, "manager")
    assert "does not say worker" in world.refused().message
    assert not NodeFiles(world.disk, "/data/certificates").has_certificate()


@pytest.mark.parametrize(
    ("skew_ms", "words"),
    [
        (-(3 * HOUR_MS + 12 * 60_000), "3 h 12 min ahead of the clock of the manager at"),
        (50 * HOUR_MS, "2 d 2 h behind the clock of the manager at"),
        (HOUR_MS + 60_000, "1 h 1 min behind"),
    ],
)
def test_clocks_far_apart_are_named_with_who_is_ahead_and_how_to_set_them(skew_ms, words):
    error = World(skew_ms=skew_ms).refused()
    assert words in error.message
    assert f"date -u -s @{(START_MS + skew_ms) // 1000}" in error.remedy
    assert not is_final(error)


@pytest.mark.parametrize("skew_ms", [HOUR_MS, -HOUR_MS + 1_000, 0])
def test_clocks_within_an_hour_do(skew_ms):
    assert World(skew_ms=skew_ms).join()


def test_malformed_token_is_refused_before_anything_is_written():
    world = World()
    with pytest.raises(InvalidArgumentError, match="invalid join token"):
        world.join(token="SWMTKN-1-short")
    assert world.disk.operations == 0
    assert world.swarm.calls == []


def test_discovered_managers_of_other_swarms_are_passed_over():
    other = Swarm(lambda: START_MS, seed=3)
    world = World()
    world.link.swarms = {A: other, B: world.swarm}
    world.found = [A, B]
    assert world.join(remote_addrs=()).manager_addr == B


def test_network_without_multicast_is_said_in_its_own_words():
    world = World()
    world.found = UnavailableError("Multicast DNS cannot be spoken here.")
    error = world.refused(remote_addrs=())
    assert error.message == "Multicast DNS cannot be spoken here."


def test_certificate_of_another_node_is_not_written():
    world = World()
    signed = world.swarm.signed
    world.swarm.signed = lambda key, node_id, role: signed(key, "node2", role)
    assert "for another node" in world.refused().message
    assert not NodeFiles(world.disk, "/data/certificates").has_certificate()


@pytest.mark.parametrize("found", [[], [A]])
def test_nobody_of_the_swarm_on_the_local_network_is_said_after_five_looks(found):
    world = World()
    world.link.swarms = {A: Swarm(lambda: START_MS, seed=3)}
    world.found = found
    error = world.refused(remote_addrs=())
    assert "No manager of this token's swarm answers on the local network" in error.message
    assert "swarmlet join TOKEN ADDR" in error.remedy
    assert not is_final(error)


def test_record_holds_the_token_sealed_and_hides_it():
    world = World()
    joining = world.joining(availability="drain", listen_addr="0.0.0.0:2377")

    async def main():
        await world.enrolment().begin(joining)
        return await world.enrolment(seed=2).resume()

    assert run_virtual(main()) == joining
    assert world.disk.plaintext_contains(world.swarm.token.encode()) == []
    assert world.swarm.token not in repr(joining)


def test_forgotten_join_leaves_neither_record_nor_key():
    world = World()

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        await enrolment.forget()
        return await world.enrolment().resume()

    assert run_virtual(main()) is None
    assert world.disk.list_dir("/data/certificates") == []


def test_join_that_is_done_is_forgotten_without_its_certificate():
    world = World()

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        await enrolment.run()
        await enrolment.forget()

    run_virtual(main())
    assert NodeFiles(world.disk, "/data/certificates").identity()


def test_lost_answer_makes_no_second_node():
    world = World()
    world.swarm.loses_answers = True

    async def main():
        enrolment = world.enrolment()
        await enrolment.begin(world.joining())
        with pytest.raises(UnavailableError, match="got lost"):
            await enrolment.run()
        world.swarm.loses_answers = False
        return await world.enrolment(seed=2).run()

    enrolled = run_virtual(main())
    assert sorted(world.swarm.rows) == sorted(["manager1", enrolled.own.identity.node_id])


async def started_or_resumed(world, seed):
    """What a daemon does: go on with the join there is, else begin it."""
    enrolment = world.enrolment(seed)
    if await enrolment.resume() is None:
        await enrolment.begin(world.joining())
    return await enrolment.run()


def operations():
    world = World()
    world.join()
    return world.disk.operations


@pytest.mark.parametrize("where", WHERES)
def test_power_cut_at_any_disk_operation_is_survived_by_one_join(where):
    count = operations()
    assert count > 15
    for operation in range(count):
        for seed in range(3):
            world = World()
            world.disk.fail_at(operation, where)
            with pytest.raises(SimCrash):
                world.join()
            world.disk.crash(Random(f"{operation}/{seed}"))
            enrolled = run_virtual(started_or_resumed(world, seed))
            nodes = sorted(set(world.swarm.rows) - {"manager1"})
            assert nodes == [enrolled.own.identity.node_id], operation
            assert NodeFiles(world.disk, "/data/certificates").identity()


def test_full_disk_is_said_and_the_join_goes_on_later():
    for operation in range(operations()):
        world = World()
        world.disk.error_at(operation, DiskFullError("There is no room left."))
        with suppress(DiskFullError):
            world.join()
        enrolled = run_virtual(started_or_resumed(world, 5))
        assert sorted(set(world.swarm.rows) - {"manager1"}) == [enrolled.own.identity.node_id]
