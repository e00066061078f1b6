"""Renewals on virtual time: when, how often after a failure, and what a node comes to trust."""

import asyncio
import logging
from itertools import pairwise
from random import Random

import pytest

from swarmlet.ca.identity import verify_chain
from swarmlet.ca.keys import key_from_pem
from swarmlet.ca.node_files import NodeFiles, new_node_keys
from swarmlet.ca.renewer import Renewer, check_successor
from swarmlet.ca.root import new_root
from swarmlet.core.errors import (
    DiskFullError,
    NotFoundError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.core.limits import NS_PER_S
from swarmlet.env.base import Env
from swarmlet.model.node import IssuanceState
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.messages import SwarmInfo
from tests.agent.virtual_time import START_MS, run_virtual
from tests.ca.swarm import Swarm
from tests.sim.disk import WHERES, SimCrash, SimDisk
from tests.sim.loop import inline

HOUR_S, DAY_S = 3_600, 86_400
DAY_MS = DAY_S * 1000
YEAR_S = 365 * DAY_S


class Clock:
    """The loop's time; `skew_ms` is what the wall clock is wrong by."""

    skew_ms = 0

    def mono_s(self):
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return 0.0

    def wall_ms(self):
        return START_MS + self.skew_ms + round(self.mono_s() * 1000)


class World:
    """A worker with a fresh certificate in a swarm."""

    def __init__(self, seed=1, **fields):
        self.clock, self.true, self.disk = Clock(), Clock(), SimDisk()
        self.swarm = Swarm(self.true.wall_ms, seed=seed, **fields)
        credentials = self.swarm.credentials("worker", "node1")
        self.files = NodeFiles(self.disk, "/data/certificates")
        key = key_from_pem(credentials.key_pem)
        self.files.write(
            credentials.root_pem,
            credentials.chain_pem,
            new_node_keys(key, bytes(32), bytes(32)),
        )
        self.start(seed)

    def start(self, seed=1):
        """A daemon's start, with what is on disk."""
        rng = Random(seed)
        env = Env(clock=self.clock, rng=rng, entropy=rng.randbytes, disk=self.disk, blocking=inline)
        self.own = self.files.own_identity()
        self.renewer = Renewer(env, self.files, self.own, self.swarm.source(self.own))

    def run(self, story, limit_s=40 * YEAR_S):
        """Play `story` while the renewer runs."""

        async def main():
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self.renewer.run())
                await story()
                running.cancel()

        run_virtual(main(), limit_s=limit_s)

    def on_disk(self):
        return self.files.identity()

    def info(self, **fields):
        return SwarmInfo(
            **{
                "managers": (),
                "root_pem": self.swarm.root.cert_pem,
                "certificate_state": int(IssuanceState.ISSUED),
                "role": "worker",
                **fields,
            }
        )


def share_of_life(world):
    identity = world.own.identity
    return (world.clock.wall_ms() - identity.begins_ms) / (identity.ends_ms - identity.begins_ms)


@pytest.mark.parametrize("seed", range(12))
def test_certificate_is_renewed_between_half_and_four_fifths_of_its_life(seed):
    world = World(seed)

    async def story():
        first, share = world.own.credentials, 0.0
        while world.own.credentials is first:
            share = share_of_life(world)
            await asyncio.sleep(60)
        assert 0.5 - 0.001 <= share <= 0.8 + 0.001
        assert world.on_disk() == world.own.identity
        assert world.own.credentials.key_pem != first.key_pem

    world.run(story)
    assert world.swarm.calls == ["request", "status"]


def test_moment_of_renewal_is_spread_over_the_whole_window():
    shares = []
    for seed in range(60):
        renewer = World(seed).renewer
        identity = renewer._own.identity
        lifetime_ms = identity.ends_ms - identity.begins_ms
        shares.append((renewer.due_ms() - identity.begins_ms) / lifetime_ms)
    assert 0.5 <= min(shares) < 0.54
    assert 0.76 < max(shares) <= 0.8


def test_twenty_years_of_renewals_leave_no_day_without_a_certificate():
    world = World()

    async def story():
        for _ in range(20 * 365):
            await asyncio.sleep(DAY_S)
            identity = world.own.identity
            assert identity.begins_ms <= world.clock.wall_ms() < identity.ends_ms - 17 * DAY_MS

    world.run(story)
    renewals = world.swarm.calls.count("request")
    assert 20 * 365 / 72 <= renewals <= 20 * 365 / 45
    assert world.on_disk() == world.own.identity


def test_certificates_of_an_hour_are_renewed_for_days_without_a_gap():
    world = World(expiry_ns=HOUR_S * NS_PER_S)

    async def story():
        for _ in range(7 * 24 * 12):
            await asyncio.sleep(300)
            assert world.clock.wall_ms() < world.own.identity.ends_ms

    world.run(story)
    assert world.swarm.calls.count("request") < 7 * 24 * 12


def test_managers_away_for_months_are_asked_at_least_hourly_and_an_expired_node_comes_back(caplog):
    caplog.set_level(logging.INFO, "swarmlet.ca")
    world = World()
    world.swarm.is_away = True

    async def story():
        await asyncio.sleep(200 * DAY_S)
        assert world.clock.wall_ms() > world.own.identity.ends_ms
        assert world.renewer.problem == "Nobody answers."
        world.swarm.calls.clear()
        await asyncio.sleep(10 * DAY_S)
        assert 240 <= len(world.swarm.calls) <= 600
        world.swarm.is_away = False
        await asyncio.sleep(HOUR_S)
        assert world.renewer.problem == ""
        assert world.clock.wall_ms() < world.own.identity.ends_ms

    world.run(story)
    assert {r.message for r in caplog.records} == {
        "certificate.not_renewed",
        "certificate.renewed",
    }


def test_retries_begin_after_seconds_and_double_to_an_hour():
    world = World()
    world.swarm.is_away = True
    times = []
    called = world.swarm.called
    world.swarm.called = lambda name: (times.append(world.clock.mono_s()), called(name))

    async def story():
        world.renewer.force("test")
        await asyncio.sleep(DAY_S)

    world.run(story)
    assert times[0] == pytest.approx(0.5)
    gaps = [after - before for before, after in pairwise(times)]
    for at, gap in enumerate(gaps):
        bound_s = min(3_600, 5 * 2**at)
        assert bound_s / 2 - 0.01 <= gap <= bound_s + 0.01
    assert len(gaps) > 20


@pytest.mark.parametrize("jump_ms", [80 * DAY_MS, -80 * DAY_MS, 400 * DAY_MS, -20_000 * DAY_MS])
def test_wall_clock_that_jumps_and_comes_back_costs_few_renewals(jump_ms):
    world = World()

    async def story():
        await asyncio.sleep(DAY_S)
        world.clock.skew_ms = jump_ms
        await asyncio.sleep(DAY_S)
        world.clock.skew_ms = 0
        for _ in range(365):
            await asyncio.sleep(DAY_S)
            assert world.true.wall_ms() < world.own.identity.ends_ms

    world.run(story)
    assert world.swarm.calls.count("request") < 60


def test_clock_that_jumps_forward_is_noticed_within_the_hour():
    world = World()

    async def story():
        await asyncio.sleep(DAY_S)
        world.clock.skew_ms = world.true.skew_ms = 75 * DAY_MS
        await asyncio.sleep(HOUR_S + 1)

    world.run(story)
    assert world.swarm.calls.count("request") == 1


def test_clock_far_ahead_for_good_renews_no_more_than_hourly_and_says_so(caplog):
    world = World()
    world.clock.skew_ms = 1_000 * DAY_MS

    async def story():
        await asyncio.sleep(10 * DAY_S)

    world.run(story)
    assert world.swarm.calls.count("request") < 600
    assert "certificate.clock_differs" in {record.message for record in caplog.records}


def test_forced_renewal_waits_half_a_second_and_comes_once():
    world = World()

    async def story():
        world.renewer.force("test")
        await asyncio.sleep(0.4)
        assert world.swarm.calls == []
        await asyncio.sleep(0.3)
        assert world.swarm.calls == ["request", "status"]
        await asyncio.sleep(DAY_S)
        assert world.swarm.calls == ["request", "status"]

    world.run(story)


def test_role_is_asked_for_until_the_certificate_says_it():
    world = World()

    async def story():
        world.renewer.heed(world.info(role="manager"))
        await asyncio.sleep(60)
        assert world.own.identity.role == "worker"
        assert world.swarm.calls.count("request") > 2
        world.swarm.rows["node1"].role = "manager"
        await asyncio.sleep(120)
        assert world.own.identity.role == world.on_disk().role == "manager"
        requests = world.swarm.calls.count("request")
        world.renewer.heed(world.info(role="manager"))
        await asyncio.sleep(HOUR_S)
        assert world.swarm.calls.count("request") == requests

    world.run(story)


def test_role_that_is_taken_back_is_no_longer_asked_for():
    world = World()

    async def story():
        world.renewer.heed(world.info(role="manager"))
        await asyncio.sleep(0.1)
        world.renewer.heed(world.info(role="worker"))
        await asyncio.sleep(DAY_S)

    world.run(story)
    assert world.swarm.calls.count("request") == 1  # it was on its way


def test_same_wish_again_does_not_shorten_the_wait_after_a_failure():
    world = World()
    world.swarm.is_away = True

    async def story():
        for _ in range(1_000):
            world.renewer.heed(world.info(certificate_state=int(IssuanceState.ROTATE)))
            world.renewer.heed(world.info(role="manager"))
            await asyncio.sleep(1)

    world.run(story)
    assert len(world.swarm.calls) < 20


def test_rotation_is_followed_to_the_new_root():
    world = World()

    async def story():
        old = world.swarm.root.cert_pem
        world.swarm.begin_rotation()
        world.renewer.heed(world.info(certificate_state=int(IssuanceState.ROTATE)))
        await asyncio.sleep(1)
        assert world.own.credentials.chain_pem.count(b"BEGIN CERTIFICATE") == 2
        assert world.own.credentials.root_pem == old
        world.swarm.end_rotation()
        world.renewer.heed(world.info())
        await asyncio.sleep(1)
        new = world.swarm.root.cert_pem
        assert world.own.credentials.root_pem == world.files.read()[0] == new != old
        assert verify_chain(world.own.credentials.chain_pem, new, None).node_id == "node1"
        await asyncio.sleep(YEAR_S)
        assert world.own.credentials.chain_pem.count(b"BEGIN CERTIFICATE") == 1

    world.run(story)


def test_node_that_was_away_at_the_end_of_a_rotation_fetches_the_root_by_itself():
    world = World()

    async def story():
        world.swarm.begin_rotation()
        world.renewer.heed(world.info(certificate_state=int(IssuanceState.ROTATE)))
        await asyncio.sleep(1)
        world.swarm.is_away = True
        await asyncio.sleep(100 * DAY_S)
        world.swarm.end_rotation()
        world.swarm.renew_manager()
        world.swarm.is_away = False
        await asyncio.sleep(HOUR_S)
        assert world.own.credentials.root_pem == world.swarm.root.cert_pem
        assert world.clock.wall_ms() < world.own.identity.ends_ms

    world.run(story)


def test_doubted_root_is_looked_at_at_once():
    world = World()

    async def story():
        world.swarm.begin_rotation()
        world.renewer.force("test")
        await asyncio.sleep(1)
        world.swarm.end_rotation()
        world.swarm.renew_manager()
        world.renewer.doubt_root()
        await asyncio.sleep(1)
        assert world.own.credentials.root_pem == world.swarm.root.cert_pem

    world.run(story)


def test_root_that_cannot_be_asked_for_is_not_the_end(caplog):
    caplog.set_level(logging.INFO, "swarmlet.ca")
    world = World()
    world.swarm.fails["root"] = [UnavailableError("away"), UnauthorizedError("no")]

    async def story():
        for _ in range(3):
            world.renewer.doubt_root()
            await asyncio.sleep(1)

    world.run(story)
    assert [r.message for r in caplog.records] == ["certificate.root_not_fetched"] * 2


def test_pushed_root_of_strangers_is_refused_and_said_once(caplog):
    world = World()
    stranger = new_root(START_MS, Random(9).randbytes).cert_pem
    own_root = world.own.credentials.root_pem

    async def story():
        for offered in (stranger, own_root + stranger, b"junk"):
            for _ in range(3):
                world.renewer.take_root(offered)
                await asyncio.sleep(1)
            assert world.own.credentials.root_pem == own_root

    world.run(story)
    assert [r.message for r in caplog.records] == ["certificate.root_refused"] * 3
    assert world.files.read()[0] == own_root


def test_root_that_found_no_room_is_written_later():
    world = World()
    world.swarm.begin_rotation()

    async def story():
        world.renewer.force("test")
        await asyncio.sleep(1)
        world.swarm.end_rotation()
        world.disk.error_at(0, DiskFullError("no room"))
        world.renewer.heed(world.info())
        await asyncio.sleep(1)
        assert world.own.credentials.root_pem != world.swarm.root.cert_pem
        await asyncio.sleep(HOUR_S + 1)
        assert world.own.credentials.root_pem == world.swarm.root.cert_pem

    world.run(story)


def test_successor_must_have_only_keys_that_the_node_has_verified():
    swarm = Swarm(lambda: START_MS)
    before = swarm.credentials()
    old, stranger = swarm.root.cert_pem, new_root(START_MS, Random(9).randbytes).cert_pem
    swarm.begin_rotation()
    between, new = swarm.credentials(), swarm.target.cert_pem
    for accepted, node in [(old, before), (new, between), (old + new, between), (old, between)]:
        check_successor(accepted, node)
    for refused, node in [
        (new, before),
        (old + new, before),
        (stranger, before),
        (new + stranger, between),
        (b"", before),
        (b"junk", before),
    ]:
        with pytest.raises(UnauthorizedError):
            check_successor(refused, node)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w, row: setattr(row, "chain", other_node(w)), "for another node"),
        (lambda w, row: setattr(row, "chain", other_swarm(w)), "not signed by this swarm's root"),
        (lambda w, row: setattr(row, "chain", other_key(w)), "for another key"),
        (lambda w, row: setattr(row, "chain", other_role(w)), "does not say worker"),
        (lambda w, row: setattr(row, "chain", "junk"), "cannot be read"),
    ],
)
def test_certificate_that_is_not_this_nodes_is_not_taken(spoil, words):
    world = World()
    before, status = world.own.credentials, world.swarm.status

    def spoilt(node_id):
        status(node_id)
        spoil(world, world.swarm.rows[node_id])
        return status(node_id)

    world.swarm.status = spoilt
    with pytest.raises(SwarmError, match=words):
        run_virtual(world.renewer.renew())
    assert world.own.credentials is before
    assert world.files.read()[1] == before.chain_pem
    assert world.files.pending() is None
    world.swarm.status = status
    run_virtual(world.renewer.renew())
    assert world.files.read()[1] == world.own.credentials.chain_pem != before.chain_pem


def key_asked_for(world):
    return key_from_pem(world.files.pending().tls_key_pem).public_key()


def other_node(world):
    return world.swarm.signed(key_asked_for(world), "node2", "worker").decode()


def other_swarm(world):
    other = Swarm(world.true.wall_ms, seed=5)
    return other.signed(key_asked_for(world), "node1", "worker").decode()


def other_key(world):
    return world.own.credentials.chain_pem.decode()


def other_role(world):
    return world.swarm.signed(key_asked_for(world), "node1", "manager").decode()


def test_refused_signature_is_asked_for_with_a_new_key():
    world = World()
    world.swarm.is_signing = False
    taken_down = world.swarm.taken_down

    def fails(csr, node_id):
        taken_down(csr, node_id)
        world.swarm.rows[node_id].state = IssuanceState.FAILED
        world.swarm.rows[node_id].err = "no"
        return node_id

    world.swarm.taken_down = fails
    with pytest.raises(SwarmError, match="signed no certificate: no"):
        run_virtual(world.renewer.renew())
    refused = world.swarm.rows["node1"].csr
    world.swarm.taken_down, world.swarm.is_signing = taken_down, True
    run_virtual(world.renewer.renew())
    assert world.swarm.rows["node1"].csr != refused


def test_signature_that_does_not_come_is_picked_up_later():
    world = World()
    world.swarm.is_signing = False
    with pytest.raises(UnavailableError, match="has not signed"):
        run_virtual(world.renewer.renew())
    world.swarm.is_signing = True
    run_virtual(world.renewer.renew())
    assert world.swarm.calls.count("request") == 1
    assert world.files.pending() is None


def test_lost_answer_is_picked_up_so_that_the_last_issued_certificate_is_the_nodes():
    world = World()
    world.swarm.loses_answers = True
    with pytest.raises(UnavailableError, match="got lost"):
        run_virtual(world.renewer.renew())
    world.swarm.loses_answers = False
    world.start(seed=7)
    run_virtual(world.renewer.renew())
    row = world.swarm.rows["node1"]
    assert world.own.credentials.chain_pem.decode() == row.chain
    assert world.swarm.calls.count("request") == 1


def test_certificate_picked_up_long_after_is_replaced_at_once():
    world = World()
    world.swarm.loses_answers = True
    with pytest.raises(UnavailableError, match="got lost"):
        run_virtual(world.renewer.renew())
    world.swarm.loses_answers = False
    world.clock.skew_ms = world.true.skew_ms = 120 * DAY_MS
    run_virtual(world.renewer.renew())
    assert world.clock.wall_ms() < world.own.identity.ends_ms
    assert world.on_disk() == world.own.identity


def test_node_that_was_removed_says_so():
    world = World()
    del world.swarm.rows["node1"]
    world.swarm.fails["request"] = [NotFoundError("node", "node1")]

    async def story():
        world.renewer.force("test")
        await asyncio.sleep(1)
        assert world.renewer.problem == "node node1 not found"

    world.run(story)


def test_damaged_pending_key_is_replaced():
    world = World()
    world.files.write_pending(world.files.read()[2])
    world.disk.damage("/data/certificates/swarm-node.key.pending", 0, b"####")
    run_virtual(world.renewer.renew())
    assert world.on_disk() == world.own.identity


def renewal_operations():
    world = World()
    before = world.disk.operations
    run_virtual(world.renewer.renew())
    return world.disk.operations - before


@pytest.mark.parametrize("where", WHERES)
def test_power_cut_at_any_operation_of_a_renewal_leaves_the_last_issued_certificate(where):
    for operation in range(renewal_operations()):
        for seed in range(3):
            world = World()
            world.disk.fail_at(operation, where)
            with pytest.raises(SimCrash):
                run_virtual(world.renewer.renew())
            world.disk.crash(Random(f"{operation}/{seed}"))
            world.start(seed=9)
            issued = world.swarm.rows["node1"].chain
            before_key = world.own.credentials.key_pem
            if world.own.credentials.chain_pem.decode() != issued:
                run_virtual(world.renewer.renew())
                assert world.own.credentials.key_pem != before_key
            assert world.own.credentials.chain_pem.decode() == world.swarm.rows["node1"].chain
            assert world.on_disk() == world.own.identity


def test_full_disk_or_broken_one_only_delays_a_renewal():
    for operation in range(renewal_operations()):
        for error in (DiskFullError("no room"), None):
            world = World()
            world.disk.error_at(operation, error)

            async def story(world=world):
                world.renewer.force("test")
                await asyncio.sleep(60)

            world.run(story)
            assert world.on_disk() == world.own.identity
            assert world.own.credentials.chain_pem.decode() == world.swarm.rows["node1"].chain


def test_everything_that_waits_for_new_credentials_gets_them():
    world = World()

    async def story():
        seen = world.own.credentials
        async with asyncio.timeout(5):
            world.renewer.force("test")
            assert await world.own.changed(seen) is world.own.credentials is not seen

    world.run(story)


def test_nothing_secret_is_logged(caplog):
    caplog.set_level(logging.DEBUG, "swarmlet.ca")
    world = World()

    async def story():
        world.renewer.force("test")
        await asyncio.sleep(1)

    world.run(story)
    logged = "\n".join(str(vars(record)) for record in caplog.records)
    assert "certificate.renewed" in logged
    assert "PRIVATE" not in logged
    assert "PRIVATE" not in repr(Credentials(root_pem=b"", key_pem=b"-----BEGIN PRIVATE KEY"))
