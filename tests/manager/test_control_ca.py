"""The CA's settings through the API's verbs: what begins a rotation, changes it, ends it, is
refused."""

from datetime import timedelta
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from swarmlet.ca.csr import new_csr, public_key_of
from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.identity import verify_chain
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.keys import key_from_pem, key_to_pem, new_key, sign_certificate
from swarmlet.ca.root import Root, moment, new_root, signing_only
from swarmlet.ca.rotation import signer_of
from swarmlet.core.errors import InvalidArgumentError, StaleVersionError, UnavailableError
from swarmlet.core.limits import RENEWABLE_AFTER_EXPIRY_MS
from swarmlet.manager.control import accepted_swarm
from swarmlet.manager.control.nodes import REMOVED_KEPT_MS, REMOVED_MAX
from swarmlet.model.change import Create, Update
from swarmlet.model.cluster import CAConfig, ExternalCA, RemovedCertificate, RootCA, SwarmSpec
from swarmlet.model.node import IssuanceState, NodeCertificate
from swarmlet.model.view import cluster_of
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.outgoing import HttpsAnswer, HttpsRequest
from tests.manager.control_world import Swarm, new_swarm, worker
from tests.store.worlds import START_MS

HOUR_NS = 3_600 * 10**9
DAY_MS = 24 * 3_600 * 1_000
ENTROPY = Random(7).randbytes
FIRST, SECOND, THIRD = (new_root(START_MS, ENTROPY) for _ in range(3))
CFSSL = ExternalCA(protocol="cfssl", url="https://ca.example/api/v1/cfssl/sign")


def root_with(*, days: int = 3_650, key: ec.EllipticCurvePrivateKey | None = None) -> Root:
    """A root as a user makes one."""
    key = key or new_key(ENTROPY)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a user's own")])
    now = moment(START_MS)
    made = sign_certificate(
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(Random(3).getrandbits(100))
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(signing_only(), critical=True),
        key,
    )
    return Root(cert_pem=made.public_bytes(serialization.Encoding.PEM), key_pem=key_to_pem(key))


def by_hand(root: Root, *, with_key: bool = True, force: int = 0) -> CAConfig:
    """`swarm ca --rotate --ca-cert … --ca-key …`."""
    key = root.key_pem.decode() if with_key else ""
    return CAConfig(signing_ca_cert=root.cert_pem.decode(), signing_ca_key=key, force_rotate=force)


async def founded(root: Root = FIRST, answers: str = "") -> Swarm:
    """`answers`: the beginning of the addresses at which an external CA answers."""

    async def exchange(request: HttpsRequest) -> HttpsAnswer:
        if not answers or not request.url.startswith(answers):
            raise UnavailableError(f"{request.url} does not answer")
        return HttpsAnswer(status=405, body=b"")

    signer = ExternalSigner(exchange, lambda: Credentials(root_pem=b""))
    return await new_swarm(root=root, external=signer)


async def update(swarm: Swarm, config: CAConfig, *, worker: bool = False) -> None:
    await swarm.control.update_cluster(
        cluster_of(swarm.view).version,
        SwarmSpec(ca_config=config),
        rotate_worker_token=worker,
        rotate_manager_token=False,
        rotate_unlock_key=False,
    )


def root_ca(swarm: Swarm) -> RootCA:
    return cluster_of(swarm.view).root_ca


async def put_root(swarm: Swarm, wanted: RootCA) -> None:
    cluster = cluster_of(swarm.view)
    await swarm.put(Update(obj=replace(cluster, root_ca=wanted), seen=cluster.version))


# What begins, changes and ends a rotation ---------------------------------------------------------
async def test_update_without_a_word_on_the_root_changes_nothing_of_it():
    swarm = await founded()
    before = root_ca(swarm)
    await update(swarm, CAConfig(node_cert_expiry=48 * HOUR_NS))
    assert root_ca(swarm) == before
    assert cluster_of(swarm.view).spec.ca_config.node_cert_expiry == 48 * HOUR_NS


async def test_forced_rotation_begins_with_a_fresh_root_and_the_old_one_stays_trusted():
    swarm = await founded()
    before = root_ca(swarm)
    await update(swarm, CAConfig(force_rotate=1))
    now = root_ca(swarm)
    assert now.rotation is not None
    assert replace(now, rotation=None, last_forced_rotation=0) == before
    assert now.last_forced_rotation == 1
    key = new_key(ENTROPY)
    chain = issue(
        signer_of(now),
        public_key_of(new_csr(key)),
        Subject("n", "worker", "c"),
        now_ms=START_MS,
        expiry_ns=HOUR_NS,
        entropy=ENTROPY,
    )
    for trusted in (before.cert_pem, now.rotation.cert_pem):
        assert verify_chain(chain, trusted, START_MS).node_id == "n"
    await update(swarm, CAConfig(force_rotate=1))
    assert root_ca(swarm) == now


async def test_given_root_is_rotated_to_and_its_key_is_not_kept_in_the_spec():
    swarm = await founded()
    await update(swarm, by_hand(SECOND))
    now, config = root_ca(swarm), cluster_of(swarm.view).spec.ca_config
    assert now.rotation is not None
    assert (now.rotation.cert_pem, now.rotation.key_pem) == (SECOND.cert_pem, SECOND.key_pem)
    assert (config.signing_ca_cert, config.signing_ca_key) == ("", "")


async def test_what_a_client_read_and_sends_back_takes_no_key_away():
    swarm = await founded()
    await update(swarm, by_hand(SECOND))
    during = root_ca(swarm)
    await update(swarm, cluster_of(swarm.view).spec.ca_config)
    assert root_ca(swarm) == during


async def test_present_root_gives_a_running_rotation_up():
    swarm = await founded()
    before = root_ca(swarm)
    await update(swarm, by_hand(SECOND))
    await update(swarm, by_hand(FIRST))
    assert root_ca(swarm) == before


async def test_target_of_a_rotation_given_again_goes_on_with_it():
    swarm = await founded(answers="https://ca.example")
    await update(swarm, by_hand(SECOND))
    during = root_ca(swarm)
    await update(swarm, by_hand(SECOND, force=5))
    assert root_ca(swarm) == replace(during, last_forced_rotation=5)
    external = replace(CFSSL, ca_cert=SECOND.cert_pem.decode())
    await update(swarm, replace(by_hand(SECOND, with_key=False), external_cas=[external]))
    after = root_ca(swarm)
    assert after.rotation == replace(during.rotation, key_pem=b"")


async def test_another_rotation_replaces_the_running_one_and_begins_at_the_present_root():
    swarm = await founded()
    await update(swarm, by_hand(SECOND))
    await update(swarm, CAConfig(force_rotate=1))
    fresh = root_ca(swarm).rotation
    assert fresh is not None
    assert fresh.cert_pem not in (FIRST.cert_pem, SECOND.cert_pem)
    await update(swarm, by_hand(THIRD, force=1))
    last = root_ca(swarm).rotation
    assert last is not None
    assert last.cert_pem == THIRD.cert_pem
    crossed = x509.load_pem_x509_certificate(last.cross_signed_pem)
    crossed.verify_directly_issued_by(x509.load_pem_x509_certificate(FIRST.cert_pem))


async def test_tokens_rotated_during_a_rotation_still_name_the_old_root():
    swarm = await founded()
    await update(swarm, by_hand(SECOND))
    before = root_ca(swarm)
    await update(swarm, CAConfig(), worker=True)
    after = root_ca(swarm)
    assert after.tokens.worker != before.tokens.worker
    assert after.tokens.worker.startswith(f"SWMTKN-1-{before.cert_digest}-")
    assert after.rotation == before.rotation


SAME_KEY = root_with(key=key_from_pem(FIRST.key_pem))
BAD_ROOTS = [
    (CAConfig(signing_ca_key=SECOND.key_pem.decode()), "signing CA cert must also be provided"),
    (CAConfig(signing_ca_cert="garbage"), "could not parse"),
    (by_hand(Root(cert_pem=SECOND.cert_pem, key_pem=THIRD.key_pem)), "does not belong"),
    (by_hand(Root(cert_pem=SECOND.cert_pem + THIRD.cert_pem, key_pem=b"")), "multiple"),
    (by_hand(root_with(days=364)), "expires too soon"),
    (by_hand(SAME_KEY), "same key as the current"),
    (by_hand(SECOND, with_key=False), "reachable external CA corresponding to the desired"),
]


@pytest.mark.parametrize(("config", "words"), BAD_ROOTS, ids=[words for _, words in BAD_ROOTS])
async def test_root_that_the_swarm_could_not_live_under_is_refused(config, words):
    swarm = await founded()
    before = cluster_of(swarm.view)
    with pytest.raises(InvalidArgumentError, match=words) as refused:
        await update(swarm, config)
    assert "PRIVATE KEY" not in refused.value.message
    assert cluster_of(swarm.view) is before


async def test_write_in_between_wins_over_a_plan_that_took_long():
    swarm = await founded()
    version = cluster_of(swarm.view).version
    await update(swarm, CAConfig(node_cert_expiry=2 * HOUR_NS))
    with pytest.raises(StaleVersionError):
        await swarm.control.update_cluster(
            version,
            SwarmSpec(ca_config=by_hand(SECOND)),
            rotate_worker_token=False,
            rotate_manager_token=False,
            rotate_unlock_key=False,
        )
    assert root_ca(swarm).rotation is None


# External authorities -----------------------------------------------------------------------------
async def test_external_ca_beside_the_swarms_own_key_is_stored_whether_it_answers_or_not():
    swarm = await founded()
    before = root_ca(swarm)
    await update(swarm, CAConfig(external_cas=[CFSSL]))
    assert cluster_of(swarm.view).spec.ca_config.external_cas == [CFSSL]
    assert root_ca(swarm) == before


async def test_root_without_key_needs_an_external_ca_that_answers():
    config = replace(
        by_hand(SECOND, with_key=False),
        external_cas=[replace(CFSSL, ca_cert=SECOND.cert_pem.decode())],
    )
    deaf = await founded()
    with pytest.raises(InvalidArgumentError, match="desired CA certificate"):
        await update(deaf, config)
    swarm = await founded(answers="https://ca.example")
    await update(swarm, config)
    rotation = root_ca(swarm).rotation
    assert rotation is not None
    assert (rotation.cert_pem, rotation.key_pem) == (SECOND.cert_pem, b"")


async def test_external_ca_that_the_swarm_depends_on_cannot_be_taken_away():
    swarm = await founded(answers="https://ca.example")
    await put_root(swarm, replace(root_ca(swarm), key_pem=b""))
    await update(swarm, CAConfig(external_cas=[CFSSL]))
    with pytest.raises(InvalidArgumentError, match="current CA certificate"):
        await update(swarm, CAConfig())


async def test_key_of_the_present_root_ends_the_need_of_an_external_ca():
    swarm = await founded()
    await put_root(swarm, replace(root_ca(swarm), key_pem=b""))
    await update(swarm, by_hand(FIRST))
    assert root_ca(swarm).key_pem == FIRST.key_pem
    assert root_ca(swarm).rotation is None


async def test_external_ca_of_a_running_rotation_cannot_be_taken_away():
    swarm = await founded(answers="https://ca.example")
    external = replace(CFSSL, ca_cert=SECOND.cert_pem.decode())
    await update(swarm, replace(by_hand(SECOND, with_key=False), external_cas=[external]))
    with pytest.raises(InvalidArgumentError, match="next CA certificate"):
        await update(swarm, CAConfig())


async def test_one_external_ca_is_not_rotated_to_another():
    swarm = await founded(answers="https://ca.example")
    await put_root(swarm, replace(root_ca(swarm), key_pem=b""))
    config = replace(
        by_hand(SECOND, with_key=False),
        external_cas=[CFSSL, replace(CFSSL, ca_cert=SECOND.cert_pem.decode())],
    )
    with pytest.raises(InvalidArgumentError, match="different external CA is not supported"):
        await update(swarm, config)


BAD_AUTHORITIES = [
    (replace(CFSSL, protocol="acme"), 'invalid protocol: "acme"'),
    (replace(CFSSL, protocol=""), 'invalid protocol: ""'),
    (replace(CFSSL, url="http://ca.example"), "invalid address of an external CA"),
    (replace(CFSSL, url="https://"), "invalid address of an external CA"),
    (replace(CFSSL, url="https://[::1"), "invalid address of an external CA"),
    (replace(CFSSL, url="https://a..b/"), "invalid address of an external CA"),
    (replace(CFSSL, url=f"https://{'a' * 64}/"), "invalid address of an external CA"),
    (replace(CFSSL, url="https://a:99999"), "invalid address of an external CA"),
    (replace(CFSSL, ca_cert="garbage"), "cannot be read"),
]


@pytest.mark.parametrize(("authority", "words"), BAD_AUTHORITIES)
async def test_external_ca_of_a_wrong_form_is_refused_at_init_and_later(authority, words):
    spec = SwarmSpec(ca_config=CAConfig(external_cas=[authority]))
    with pytest.raises(InvalidArgumentError, match=words):
        accepted_swarm(spec)
    with pytest.raises(InvalidArgumentError, match=words):
        await update(await founded(), spec.ca_config)


def test_init_takes_an_external_ca_and_a_lifetime():
    config = CAConfig(
        external_cas=[replace(CFSSL, protocol="CFSSL", ca_cert=SECOND.cert_pem.decode())],
        node_cert_expiry=HOUR_NS,
        force_rotate=3,
    )
    assert accepted_swarm(SwarmSpec(ca_config=config)).ca_config == config


# Removed nodes ------------------------------------------------------------------------------------
def removed(name: str, expires_ms: int) -> RemovedCertificate:
    return RemovedCertificate(node_id=name, expires_ms=expires_ms)


async def put_removed(swarm: Swarm, *rows: RemovedCertificate) -> None:
    cluster = cluster_of(swarm.view)
    row = replace(cluster, removed_certificates=rows)
    await swarm.put(Update(obj=row, seen=cluster.version))


def removed_ids(swarm: Swarm) -> list[str]:
    return [each.node_id for each in cluster_of(swarm.view).removed_certificates]


async def test_removed_node_is_remembered_a_year_beyond_the_end_of_its_last_certificate():
    swarm = await founded()
    chain = issue(
        FIRST,
        new_key(ENTROPY).public_key(),
        Subject("w1", "worker", "c"),
        now_ms=START_MS - 30 * DAY_MS,
        expiry_ns=48 * HOUR_NS,
        entropy=ENTROPY,
    )
    certificate = NodeCertificate(state=int(IssuanceState.ISSUED), certificate=chain)
    row = worker("w1", state=1).obj
    await swarm.put(Create(obj=replace(row, certificate=certificate)))
    await swarm.control.remove_node("w1", force=False)
    (entry,) = cluster_of(swarm.view).removed_certificates
    assert entry == removed("w1", START_MS - 28 * DAY_MS + RENEWABLE_AFTER_EXPIRY_MS)


@pytest.mark.parametrize("how", ["update", "removal"])
async def test_removed_nodes_are_forgotten_a_week_after_their_end(how):
    swarm = await founded()
    await put_removed(
        swarm,
        removed("over", START_MS - REMOVED_KEPT_MS - 1),
        removed("late", START_MS - REMOVED_KEPT_MS),
        removed("endless", 0),
        removed("fresh", START_MS),
    )
    if how == "update":
        await update(swarm, CAConfig())
        assert removed_ids(swarm) == ["late", "endless", "fresh"]
    else:
        await swarm.put(worker("w1", state=1))
        await swarm.control.remove_node("w1", force=False)
        assert removed_ids(swarm) == ["late", "endless", "fresh", "w1"]


async def test_oldest_removals_are_forgotten_where_there_are_too_many():
    swarm = await founded()
    await put_removed(swarm, *(removed(f"n{n:05}", START_MS) for n in range(REMOVED_MAX)))
    await swarm.put(worker("w1", state=1))
    await swarm.control.remove_node("w1", force=False)
    names = removed_ids(swarm)
    assert (len(names), names[0], names[-1]) == (REMOVED_MAX, "n00001", "w1")
