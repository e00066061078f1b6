"""Renewals on virtual time: when, how often after a failure, and what a node comes to trust."""

import asyncio
import logging
from itertools import pairwise

import pytest

from swarmlet.core.errors import (
    NotFoundError,
)
from swarmlet.core.limits import NS_PER_S
from swarmlet.model.node import IssuanceState
from swarmlet.wire.credentials import Credentials
from tests.ca.worker import DAY_MS, DAY_S, HOUR_S, World


def share_of_life(world, identity):
    return (world.clock.wall_ms() - identity.begins_ms) / (identity.ends_ms - identity.begins_ms)


@pytest.mark.parametrize("seed", range(12))
def test_certificate_is_renewed_between_half_and_four_fifths_of_its_life(seed):
    world = World(seed)

    async def story():
        first, identity = world.own.credentials, world.own.identity
        await world.own.changed(first)
        assert 0.5 <= share_of_life(world, identity) <= 0.8 + 0.001
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


def test_wish_that_comes_during_a_renewal_is_served_after_it():
    world = World()
    world.swarm.is_signing = False

    async def story():
        world.renewer.force("a first rotation")
        await asyncio.sleep(2)
        assert world.swarm.calls.count("request") == 1
        world.renewer.force("a second one, before the first was answered")
        world.swarm.is_signing = True
        await asyncio.sleep(60)
        assert world.swarm.calls.count("request") == 2

    world.run(story)


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


def test_node_that_was_removed_says_so():
    world = World()
    del world.swarm.rows["node1"]
    world.swarm.fails["request"] = [NotFoundError("node", "node1")]

    async def story():
        world.renewer.force("test")
        await asyncio.sleep(1)
        assert world.renewer.problem == "node node1 not found"

    world.run(story)


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
