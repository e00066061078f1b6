"""How a node comes to trust another root, and which it never trusts."""

import asyncio
import logging
from datetime import UTC, datetime
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from msgspec.structs import replace

from swarmlet.ca.identity import verify_chain
from swarmlet.ca.keys import new_key
from swarmlet.ca.root import new_root
from swarmlet.ca.successor import check_successor
from swarmlet.core.errors import (
    DiskFullError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.model.node import IssuanceState
from tests.agent.virtual_time import START_MS
from tests.ca.swarm import Swarm
from tests.ca.worker import DAY_S, HOUR_S, YEAR_S, World


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


def test_successor_under_which_the_node_would_be_nobody_is_refused():
    swarm, other = Swarm(lambda: START_MS), new_root(START_MS, Random(9).randbytes).cert_pem
    both = replace(swarm.credentials(), root_pem=swarm.root.cert_pem + other)
    check_successor(swarm.root.cert_pem, both)
    with pytest.raises(UnauthorizedError, match="not signed by this swarm's root"):
        check_successor(other, both)


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


@pytest.mark.parametrize("issuer", ["itself", "somebody else"])
def test_successor_with_a_known_key_must_be_signed_with_that_key(issuer):
    """Anybody can read a root's key off the port, and write another certificate around it."""
    swarm = Swarm(lambda: START_MS)
    root = x509.load_pem_x509_certificate(swarm.root.cert_pem)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody else")])
    forged = (
        x509.CertificateBuilder(
            subject_name=root.subject,
            issuer_name=root.subject if issuer == "itself" else name,
            public_key=root.public_key(),
            serial_number=1,
            not_valid_before=datetime(2001, 1, 1, tzinfo=UTC),
            not_valid_after=datetime(2002, 1, 1, tzinfo=UTC),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(new_key(Random(9).randbytes), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(UnauthorizedError, match="not signed by itself"):
        check_successor(forged, swarm.credentials())
