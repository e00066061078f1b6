"""Joining and renewing: what a request changes, and what it is answered."""

import asyncio
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from swarmlet.ca.join_token import new_join_token
from swarmlet.ca.keys import new_key
from swarmlet.core.errors import (
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.model.change import Remove, Update
from swarmlet.model.cluster import JoinTokens
from swarmlet.model.join_token import JoinToken
from swarmlet.model.node import IssuanceState, Node
from tests.manager.authority_world import (
    DAY_MS,
    SOURCE,
    Fleet,
    entropy,
    extra_token,
    play,
    request,
)

NODE_DAYS = 90


def joined_nodes(fleet: Fleet) -> list[Node]:
    return [node for node in fleet.store.view().nodes.all() if node.id != "manager"]


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_token_says_the_role_and_the_certificate_says_who(role):
    async def story(fleet: Fleet) -> None:
        node_id = await fleet.ask(request(), getattr(fleet.tokens, role), availability="drain")
        identity = fleet.identity(await fleet.signed(node_id))
        assert (identity.node_id, identity.role, identity.cluster_id) == (node_id, role, "cluster")
        assert identity.ends_ms - fleet.now_ms() == pytest.approx(NODE_DAYS * DAY_MS, abs=10_000)
        node = fleet.node(node_id)
        assert (node.role, node.spec.role, node.spec.availability) == (role, role, "drain")
        assert node.certificate.role == role

    play(story)


def test_node_is_active_and_has_no_labels_unless_its_token_says_so():
    async def story(fleet: Fleet) -> None:
        plain = fleet.node(await fleet.ask(request(), fleet.tokens.worker))
        labelled = fleet.node(await fleet.ask(request(), await extra_token(fleet)))
        assert (plain.spec.availability, plain.spec.labels) == ("active", {})
        assert labelled.spec.labels == {"zone": "a"}

    play(story)


def test_nothing_of_a_request_is_believed_but_its_key():
    key = new_key(entropy)
    names = [(NameOID.COMMON_NAME, "manager"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager")]
    claims = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in names]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("swarm-ca")]), critical=False)
        .sign(key, hashes.SHA256())
    )

    async def story(fleet: Fleet) -> None:
        csr = claims.public_bytes(serialization.Encoding.PEM).decode()
        node_id = await fleet.ask(csr, fleet.tokens.worker)
        leaf = x509.load_pem_x509_certificate((await fleet.signed(node_id)).chain.encode())
        assert leaf.public_key() == key.public_key()
        named = {part.rfc4514_attribute_name: part.value for part in leaf.subject}
        assert named == {"O": "cluster", "OU": "swarm-worker", "CN": node_id}
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["swarm-worker", node_id]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    play(story)


def test_two_hundred_nodes_join_at_once_from_one_address():
    async def story(fleet: Fleet) -> None:
        async def join() -> str:
            node_id = await fleet.ask(request(), fleet.tokens.worker)
            return fleet.identity(await fleet.signed(node_id)).node_id

        began_s = fleet.env.clock.mono_s()
        async with asyncio.TaskGroup() as group:
            joins = [group.create_task(join()) for _ in range(200)]
        assert len({one.result() for one in joins}) == 200
        assert fleet.env.clock.mono_s() - began_s < 1.0
        assert fleet.log.proposals < 220  # a row each; certificates many at a time

    play(story)


# The same request again ---------------------------------------------------------------------------
def test_same_request_is_one_node_however_often_it_is_sent():
    async def story(fleet: Fleet) -> None:
        csr = request()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(fleet.ask(csr, fleet.tokens.worker)) for _ in range(5)]
        first = asked[0].result()
        await fleet.signed(first)
        tickets = {one.result() for one in asked} | {await fleet.ask(csr, fleet.tokens.worker)}
        assert tickets == {first}
        assert len(joined_nodes(fleet)) == 1

    play(story)


def test_answer_waits_until_the_node_is_durable_whoever_else_asked():
    async def story(fleet: Fleet) -> None:
        csr, token = request(), fleet.tokens.worker
        fleet.log.hold()
        asking = [asyncio.create_task(fleet.ask(csr, token)) for _ in range(2)]
        await asyncio.sleep(1)
        assert not any(one.done() for one in asking)
        fleet.log.release()
        first, second = [await one for one in asking]
        assert first == second == fleet.node(first).id

    play(story)


def test_request_that_was_taken_down_outlives_its_token():
    async def story(fleet: Fleet) -> None:
        csr, other = request(), request()
        old, once = fleet.tokens.worker, await extra_token(fleet)
        first, second = await fleet.ask(csr, old), await fleet.ask(other, once)
        await rotate(fleet, JoinTokens(worker="SWMTKN-w", manager="SWMTKN-m"))
        assert await fleet.ask(csr, old) == first
        assert await fleet.ask(other, once) == second
        with pytest.raises(UnauthorizedError):
            await fleet.ask(request(), old)
        with pytest.raises(ForbiddenError, match="used up"):
            await fleet.ask(request(), once)

    play(story)


def test_request_of_a_worker_is_not_made_a_managers_by_another_token():
    async def story(fleet: Fleet) -> None:
        csr = request()
        await fleet.ask(csr, fleet.tokens.worker)
        with pytest.raises(ForbiddenError, match=r"with a worker's join token; .* a manager's"):
            await fleet.ask(csr, fleet.tokens.manager)

    play(story)


# Refusals -----------------------------------------------------------------------------------------
async def rotate(fleet: Fleet, tokens: JoinTokens) -> None:
    cluster = fleet.cluster
    row = replace(cluster, root_ca=replace(cluster.root_ca, tokens=tokens))
    await fleet.put(Update(obj=row, seen=cluster.version))


async def wrong(fleet: Fleet) -> str:
    return new_join_token(fleet.cluster.root_ca.cert_digest, entropy)


async def rotated(fleet: Fleet) -> str:
    old = fleet.tokens
    await rotate(fleet, replace(old, worker=await wrong(fleet)))
    return old.worker


async def revoked(fleet: Fleet) -> str:
    token = await extra_token(fleet)
    await fleet.put(Remove(table=JoinToken, id="extra"))
    return token


async def of_another_swarm(_: Fleet) -> str:
    return new_join_token("0" * 50, entropy)


async def cut_off(fleet: Fleet) -> str:
    return fleet.tokens.worker[:-1]


async def expired(fleet: Fleet) -> str:
    return await extra_token(fleet, expires_ms=fleet.now_ms() - 61_000)


async def used_up(fleet: Fleet) -> str:
    return await extra_token(fleet, uses_max=3, uses=3)


@pytest.mark.parametrize(
    ("token", "error", "sentence"),
    [
        (wrong, UnauthorizedError, r"is not \(or no longer\) valid"),
        (rotated, UnauthorizedError, r"is not \(or no longer\) valid.* rotated"),
        (revoked, UnauthorizedError, r"is not \(or no longer\) valid.* revoked"),
        (of_another_swarm, UnauthorizedError, "another swarm"),
        (cut_off, InvalidArgumentError, "cut off"),
        (expired, ForbiddenError, "join token extra expired 61 s ago"),
        (used_up, ForbiddenError, "join token extra is used up: it was good for joining 3 times"),
    ],
)
def test_bad_token_is_refused_with_its_cause_and_never_repeated(token, error, sentence):
    async def story(fleet: Fleet) -> None:
        text = await token(fleet)
        with pytest.raises(error, match=sentence) as refused:
            await fleet.ask(request(), text)
        said = refused.value.message + refused.value.remedy
        assert text.rpartition("-")[2] not in said
        assert refused.value.remedy
        assert joined_nodes(fleet) == []

    play(story)


@pytest.mark.parametrize(
    ("csr", "availability", "sentence"),
    [
        ("", "", "empty"),
        ("x" * 10_000, "", "too long"),
        ("garbage", "", "cannot be read"),
        ("\ud800", "", "cannot be read"),
        (None, "Drain", "invalid availability"),
    ],
)
def test_bad_request_is_refused_though_its_token_is_good(csr, availability, sentence):
    async def story(fleet: Fleet) -> None:
        text = request() if csr is None else csr
        with pytest.raises(InvalidArgumentError, match=sentence):
            await fleet.ask(text, fleet.tokens.worker, availability=availability)
        assert joined_nodes(fleet) == []

    play(story)


def test_caller_without_token_and_certificate_is_told_what_it_needs():
    async def story(fleet: Fleet) -> None:
        with pytest.raises(UnauthorizedError, match="join token"):
            await fleet.ask(request())

    play(story)


def test_whoever_guesses_waits_while_others_join():
    async def story(fleet: Fleet) -> None:
        for _ in range(20):
            with pytest.raises(UnauthorizedError):
                await fleet.ask(request(), await wrong(fleet))
        with pytest.raises(UnavailableError, match=r"Try again in \d+ s"):
            await fleet.ask(request(), fleet.tokens.worker)
        await fleet.ask(request(), fleet.tokens.worker, source="192.0.2.8:1")
        await asyncio.sleep(60)
        await fleet.ask(request(), fleet.tokens.worker)

    play(story)


def test_extra_token_lets_in_as_many_as_it_says_however_many_come_at_once():
    async def story(fleet: Fleet) -> None:
        token = await extra_token(fleet, uses_max=3)

        async def join() -> bool:
            try:
                await fleet.ask(request(), token)
            except ForbiddenError:
                return False
            return True

        async with asyncio.TaskGroup() as group:
            joins = [group.create_task(join()) for _ in range(10)]
        assert sum(one.result() for one in joins) == 3
        assert len(joined_nodes(fleet)) == 3
        row = fleet.store.view().join_tokens.get("extra")
        assert row is not None
        assert row.uses == 3

    play(story)


@pytest.mark.parametrize("fault", ["lost", "unknown", "late"])
def test_join_of_unknown_outcome_is_one_node_and_one_use_when_it_is_repeated(fault):
    async def story(fleet: Fleet) -> None:
        extra, plain = await extra_token(fleet, uses_max=2), fleet.tokens.worker
        for token, csr in ((extra, request()), (plain, request())):
            fleet.log.fail_next(fault)
            with suppress(UnavailableError):
                await fleet.ask(csr, token)
            again = await fleet.ask(csr, token)
            assert fleet.identity(await fleet.signed(again)).node_id == again
        row = fleet.store.view().join_tokens.get("extra")
        assert row is not None
        assert (row.uses, len(joined_nodes(fleet))) == (1, 2)

    play(story)


# Renewing -----------------------------------------------------------------------------------------
def test_renewal_keeps_the_node_and_its_certificate_until_the_next_is_signed():
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        before = fleet.node(identity.node_id).certificate
        csr = request()
        assert await fleet.ask(csr, peer=identity) == identity.node_id
        asked = fleet.node(identity.node_id).certificate
        assert asked.state in (IssuanceState.RENEW, IssuanceState.ISSUED)
        if asked.state == IssuanceState.RENEW:
            assert asked.certificate == before.certificate
        status = await fleet.signed(identity.node_id)
        assert status.csr == csr
        assert fleet.identity(status).fingerprint != identity.fingerprint
        assert len(joined_nodes(fleet)) == 1

    play(story)


@pytest.mark.parametrize(("held", "now"), [("worker", "manager"), ("manager", "worker")])
def test_renewed_certificate_has_the_role_of_the_row(held, now):
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined(getattr(fleet.tokens, held))
        await fleet.change_node(identity.node_id, role=now)
        await fleet.ask(request(), peer=identity)
        assert fleet.identity(await fleet.signed(identity.node_id)).role == now

    play(story)


def test_replayed_renewal_is_answered_and_signs_nothing():
    async def story(fleet: Fleet) -> None:
        identity, csr = await fleet.joined(), request()
        await fleet.ask(csr, peer=identity)
        chain = (await fleet.signed(identity.node_id)).chain
        issued = fleet.server.gauges()["swarmlet_ca_issued_total"]
        for _ in range(100):
            assert await fleet.ask(csr, peer=identity) == identity.node_id
        assert (await fleet.signed(identity.node_id)).chain == chain
        assert fleet.server.gauges()["swarmlet_ca_issued_total"] == issued

    play(story)


def test_node_that_asks_with_its_newest_certificate_gets_another():
    async def story(fleet: Fleet) -> None:
        csr = request()
        first = fleet.identity(await fleet.signed(await fleet.ask(csr, fleet.tokens.worker)))
        await fleet.ask(csr, peer=first)
        second = fleet.identity(await fleet.signed(first.node_id))
        assert second.fingerprint != first.fingerprint

    play(story)


def test_node_that_was_asked_to_rotate_is_issued_anew():
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        certificate = fleet.node(identity.node_id).certificate
        rotating = replace(certificate, state=int(IssuanceState.ROTATE))
        await fleet.change_node(identity.node_id, certificate=rotating)
        assert (await fleet.server.status(identity.node_id)).chain
        await fleet.ask(request(), peer=identity)
        assert fleet.identity(await fleet.signed(identity.node_id)) != identity

    play(story)


def test_request_of_another_node_is_no_renewal():
    async def story(fleet: Fleet) -> None:
        csr = request()
        await fleet.ask(csr, fleet.tokens.worker)
        thief = await fleet.joined()
        with pytest.raises(InvalidArgumentError, match="another node's"):
            await fleet.ask(csr, peer=thief)

    play(story)


def test_removed_node_cannot_renew():
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        await fleet.put(Remove(table=Node, id=identity.node_id))
        with pytest.raises(ForbiddenError, match="was removed"):
            await fleet.ask(request(), peer=identity)
        with pytest.raises(NotFoundError):
            await fleet.server.status(identity.node_id)

    play(story)


def test_node_that_renews_all_the_time_waits():
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        for _ in range(20):
            await fleet.ask(request(), peer=identity)
        with pytest.raises(UnavailableError, match="too often"):
            await fleet.ask(request(), peer=identity)
        await fleet.joined()

    play(story)


@pytest.mark.parametrize("days", [NODE_DAYS + 1, NODE_DAYS + 364])
def test_expired_node_renews_within_a_year(days):
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        fleet.sleep_days(days)
        await fleet.ask(request(), peer=identity)
        renewed = fleet.identity(await fleet.signed(identity.node_id))
        assert renewed.ends_ms > fleet.now_ms()

    play(story)


def test_node_that_expired_a_year_ago_has_to_join_again():
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        fleet.sleep_days(NODE_DAYS + 366)
        with pytest.raises(ForbiddenError, match="more than a year ago") as refused:
            await fleet.ask(request(), peer=identity)
        assert "join again" in refused.value.remedy

    play(story)


def test_only_the_last_certificate_renews_once_it_has_expired():
    async def story(fleet: Fleet) -> None:
        first = await fleet.joined()
        await fleet.ask(request(), peer=first)
        second = fleet.identity(await fleet.signed(first.node_id))
        fleet.sleep_days(NODE_DAYS + 1)
        with pytest.raises(ForbiddenError, match="not the last one"):
            await fleet.ask(request(), peer=first)
        await fleet.ask(request(), peer=second)
        third = fleet.identity(await fleet.signed(first.node_id))
        assert third.fingerprint not in (first.fingerprint, second.fingerprint)

    play(story)


def test_expired_renewals_are_limited(caplog):
    async def story(fleet: Fleet) -> None:
        identity = await fleet.joined()
        fleet.sleep_days(NODE_DAYS + 1)
        stale = replace(identity, fingerprint=b"older")
        for _ in range(5):
            with pytest.raises(ForbiddenError):
                await fleet.ask(request(), peer=stale)
        with pytest.raises(UnavailableError, match=r"Try again in 60 s"):
            await fleet.ask(request(), peer=stale)

    play(story)
    told = [record for record in caplog.records if record.message == "ca.expired_renewal"]
    assert len(told) == 5
    assert told[0].expired_s > 0


def test_leaders_own_node_renews_in_the_process():
    async def story(fleet: Fleet) -> None:
        own = fleet.server.source_of(fleet.node("manager").id)
        csr = request()
        assert await own.request(csr.encode()) == "manager"
        status = await own.status("manager")
        assert (status.state, status.csr, status.role) == (IssuanceState.ISSUED, csr, "manager")
        assert fleet.identity(status).role == "manager"
        assert await own.root() == fleet.cluster.root_ca.cert_pem

    play(story)


# Status -------------------------------------------------------------------------------------------
def test_status_of_a_node_nobody_knows_is_not_found():
    async def story(fleet: Fleet) -> None:
        with pytest.raises(NotFoundError, match="node nobody not found"):
            await fleet.server.status("nobody")

    play(story)


def test_ca_that_does_not_lead_says_so():
    async def story(fleet: Fleet) -> None:
        idle = Fleet()
        for verb in (
            idle.ask(request(), fleet.tokens.worker),
            idle.server.status("manager"),
            idle.server.source_of(fleet.node("manager").id).request(b"csr"),
        ):
            with pytest.raises(NotLeaderError, match="does not lead"):
                await verb

    play(story)


def test_refusals_are_told_without_the_token(caplog):
    texts = []

    async def story(fleet: Fleet) -> None:
        texts.append(await wrong(fleet))
        with pytest.raises(SwarmError):
            await fleet.ask(request(), texts[0])

    play(story)
    (told,) = [record for record in caplog.records if record.message == "ca.join_refused"]
    assert (told.source, told.levelname) == (SOURCE, "WARNING")
    assert texts[0].rpartition("-")[2] not in str(vars(told))
