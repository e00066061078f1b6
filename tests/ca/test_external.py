"""External CAs: what is asked, what of the answers is believed, and over which connections."""

import json
import time

import msgspec
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from swarmlet.ca.csr import new_csr
from swarmlet.ca.external import (
    CA_PROFILE,
    Authorities,
    ExternalSigner,
    authorities_of,
    signing_authorities,
)
from swarmlet.ca.identity import belongs_to, verify_chain
from swarmlet.ca.issuer import Subject
from swarmlet.ca.keys import new_key
from swarmlet.ca.root import issuer_facts, new_root
from swarmlet.ca.signing import SwarmAuthority
from swarmlet.core.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from swarmlet.model.cluster import CAConfig, Cluster, ExternalCA, RootCA, RootRotation, SwarmSpec
from swarmlet.wire.answers import ANSWER_SIZE_MAX_B
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.outgoing import HttpsAnswer, HttpsRequest, exchange
from tests.ca.external_signer import PATH, Authority, external_ca
from tests.ca.fixtures import (
    CLUSTER_ID,
    DAY_MS,
    NOW_MS,
    key_of_kind,
    name_of,
    node,
    rotated,
    seeded,
    server,
    users_root,
)
from tests.ca.memory_ca import Switchboard

entropy = seeded()
ROOT, OTHER = (new_root(NOW_MS, entropy) for _ in range(2))
KEY = new_key(entropy)
CSR = new_csr(KEY)
SUBJECT = Subject("node1", "manager", CLUSTER_ID)
URL = "https://ca.example" + PATH
REFUSED = (
    b'{"success": false, "result": null, "errors": [{"code": 1, "message": "we do not like it"}]}'
)


def authorities(*urls, root=ROOT, **options):
    members = tuple(ExternalCA(protocol="cfssl", url=url, options=options) for url in urls)
    return Authorities(ca_pem=root.cert_pem, members=members)


def signer(board):
    return ExternalSigner(board.exchange, lambda: Credentials(root_pem=b"", chain_pem=b"c"))


async def signed(board, *urls, **options):
    return await signer(board).sign(authorities(*(urls or [URL]), **options), CSR, SUBJECT, NOW_MS)


async def test_a_node_gets_just_the_certificate_that_was_asked_for():
    authority = Authority(ROOT)
    chain = await signed(Switchboard({URL: authority}))
    identity = verify_chain(chain, ROOT.cert_pem, NOW_MS)
    assert (identity.node_id, identity.role, identity.cluster_id) == (
        "node1",
        "manager",
        CLUSTER_ID,
    )
    assert belongs_to(chain, KEY)
    assert authority.requests == [
        {
            "certificate_request": CSR.decode(),
            "subject": {"CN": "node1", "names": [{"O": CLUSTER_ID, "OU": "swarm-manager"}]},
            "hosts": ["swarm-manager", "node1", "swarm-ca"],
        }
    ]


async def test_the_managers_certificate_is_shown_and_only_the_cas_root_is_trusted():
    board = Switchboard({URL: Authority(ROOT)})
    await signed(board)
    (request,) = board.asked
    assert (request.credentials.chain_pem, request.credentials.root_pem) == (b"c", ROOT.cert_pem)
    assert (request.method, request.url) == ("POST", URL)


async def test_a_profile_of_the_users_own_is_asked_for():
    board = Switchboard({URL: Authority(ROOT)})
    with pytest.raises(FailedPreconditionError, match="unknown profile node"):
        await signed(board, profile="node")
    assert msgspec.json.decode(board.asked[0].body)["profile"] == "node"


def other_key(request, csr):
    return request, x509.load_pem_x509_csr(new_csr(new_key(entropy)))


def other_subject(request, csr):
    subject = {"CN": "node2", "names": request["subject"]["names"]}
    return {**request, "subject": subject}, csr


def other_role(request, csr):
    names = [{"O": CLUSTER_ID, "OU": "swarm-worker"}]
    return {**request, "subject": {"CN": "node1", "names": names}}, csr


def more_hosts(request, csr):
    return {**request, "hosts": [*request["hosts"], "example.com"]}, csr


def no_hosts(request, csr):
    return {**request, "hosts": []}, csr


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (other_key, "for another key"),
        (other_subject, "subject is not the one asked for"),
        (other_role, "subject is not the one asked for"),
        (more_hosts, "alternative names"),
        (no_hosts, "alternative names"),
    ],
)
async def test_a_certificate_that_was_not_asked_for_is_refused(tamper, says):
    with pytest.raises(FailedPreconditionError, match=says):
        await signed(Switchboard({URL: Authority(ROOT, tamper=tamper)}))


@pytest.mark.parametrize(
    ("authority", "says"),
    [
        (Authority(ROOT, now_ms=NOW_MS - 200 * DAY_MS), "expired at"),
        (Authority(ROOT, now_ms=NOW_MS + DAY_MS), "only valid from"),
    ],
)
async def test_a_certificate_of_another_time_is_refused(authority, says):
    with pytest.raises(FailedPreconditionError, match=says):
        await signed(Switchboard({URL: authority}))


async def test_a_certificate_of_an_intermediate_of_the_cas_own_is_refused():
    below = rotated(ROOT, OTHER, entropy)
    chain = node(below, entropy, name="node1", role="manager")[0].decode()
    board = Switchboard({URL: answer(200, success=True, result={"certificate": chain})})
    with pytest.raises(FailedPreconditionError, match="an intermediate of the CA's own"):
        await signed(board)


def answer(status, **said):
    return HttpsAnswer(status=status, body=json.dumps(said).encode())


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [
        (HttpsAnswer(status=400, body=REFUSED), FailedPreconditionError, "we do not like it"),
        (HttpsAnswer(status=200, body=REFUSED), FailedPreconditionError, "we do not like it"),
        (answer(200, success=True), FailedPreconditionError, "no cause given"),
        (answer(200, success=True, result={}), FailedPreconditionError, "no cause given"),
        (
            answer(200, success=True, result={"certificate": "junk"}),
            FailedPreconditionError,
            "cannot be read",
        ),
        (
            answer(200, success=True, result={"certificate": node(OTHER, entropy)[0].decode()}),
            FailedPreconditionError,
            "not signed by",
        ),
        (HttpsAnswer(status=200, body=b"<html>"), UnavailableError, "not answer as cfssl"),
        (HttpsAnswer(status=200, body=b"[1]"), UnavailableError, "not answer as cfssl"),
        (HttpsAnswer(status=500, body=REFUSED), UnavailableError, "HTTP status 500"),
        (HttpsAnswer(status=401, body=b""), UnavailableError, "HTTP status 401"),
    ],
)
async def test_a_refusal_is_final_and_an_absence_is_not(said, error, says):
    with pytest.raises(error, match=says):
        await signed(Switchboard({URL: said}))


async def test_the_next_authority_is_asked_where_one_fails():
    board = Switchboard(
        {
            "https://refuses": HttpsAnswer(status=400, body=REFUSED),
            URL: Authority(ROOT),
        }
    )
    assert await signed(board, "https://away", "https://refuses", URL)
    assert [request.url for request in board.asked] == ["https://away", "https://refuses", URL]
    with pytest.raises(UnavailableError, match="https://away cannot be reached"):
        await signed(board, "https://away", "https://refuses")
    with pytest.raises(FailedPreconditionError):
        await signed(board, "https://refuses", "https://refuses")


async def test_a_request_that_cannot_be_read_is_sent_to_nobody():
    board = Switchboard({URL: Authority(ROOT)})
    with pytest.raises(InvalidArgumentError, match="certificate request"):
        await signer(board).sign(authorities(URL), b"junk", SUBJECT, NOW_MS)
    assert board.asked == []


@pytest.mark.parametrize("kind", ["rsa", "P-256", "P-384", "P-521"])
async def test_a_new_root_is_signed_across_under_the_ca_profile(kind):
    target = users_root(key_of_kind(kind, entropy), entropy)
    authority = Authority(ROOT)
    board = Switchboard({URL: authority})
    crossed = await signer(board).cross_sign(authorities(URL), target)
    assert issuer_facts(crossed) == issuer_facts(target.cert_pem)
    (request,) = authority.requests
    assert (request["profile"], request["subject"]["CN"]) == (CA_PROFILE, "Our CA")
    assert request["extensions"] == [{"id": "2.5.29.19", "critical": True, "value": "30030101ff"}]


async def test_an_intermediate_for_another_key_is_refused():
    board = Switchboard({URL: Authority(ROOT, tamper=other_key)})
    with pytest.raises(FailedPreconditionError, match="another subject or key"):
        await signer(board).cross_sign(authorities(URL), OTHER)


async def test_an_intermediate_that_may_not_sign_is_refused():
    def as_a_leaf(request, csr):
        return {**request, "extensions": []}, csr

    leaf = Authority(ROOT, tamper=as_a_leaf)
    leaf.profile = lambda _name: Authority.profile("")
    board = Switchboard({URL: leaf})
    with pytest.raises(FailedPreconditionError, match="no CA certificate"):
        await signer(board).cross_sign(authorities(URL), OTHER)


def test_a_ca_that_names_no_certificate_is_for_the_present_root():
    plain = ExternalCA(protocol="cfssl", url="https://a")
    named = ExternalCA(protocol="CFSSL", url="https://b", ca_cert=OTHER.cert_pem.decode() + "\n")
    config = CAConfig(external_cas=[plain, named])
    present = RootCA(cert_pem=ROOT.cert_pem)
    assert authorities_of(present, config, ROOT.cert_pem).members == (plain,)
    assert authorities_of(present, config, OTHER.cert_pem).members == (named,)
    rotation = RootRotation(cert_pem=OTHER.cert_pem, cross_signed_pem=b"crossed")
    turning = RootCA(cert_pem=ROOT.cert_pem, rotation=rotation)
    assert signing_authorities(present, config) == Authorities(
        ca_pem=ROOT.cert_pem, members=(plain,)
    )
    assert signing_authorities(turning, config) == Authorities(
        ca_pem=OTHER.cert_pem, members=(named,), intermediates_pem=b"crossed"
    )
    junk = CAConfig(external_cas=[ExternalCA(url="https://c", ca_cert="junk")])
    with pytest.raises(InvalidArgumentError, match="https://c cannot be read"):
        signing_authorities(present, junk)


class World:
    """What of an Env a signature needs."""

    class Clock:
        @staticmethod
        def wall_ms():
            return NOW_MS

    clock, entropy = Clock(), staticmethod(entropy)


def cluster(root_ca, *external):
    config = CAConfig(external_cas=list(external), node_cert_expiry=2 * DAY_MS * 1_000_000)
    return Cluster(id=CLUSTER_ID, spec=SwarmSpec(ca_config=config), root_ca=root_ca)


async def test_the_swarm_signs_itself_where_no_external_ca_is_named():
    board = Switchboard({URL: Authority(ROOT)})
    authority = SwarmAuthority(World(), signer(board))
    own = RootCA(cert_pem=ROOT.cert_pem, key_pem=ROOT.key_pem)
    chain = await authority.sign(cluster(own), CSR, "node1", "worker")
    identity = verify_chain(chain, ROOT.cert_pem, NOW_MS)
    assert (identity.role, identity.ends_ms) == ("worker", NOW_MS + 2 * DAY_MS)
    assert board.asked == []
    named = cluster(own, ExternalCA(protocol="cfssl", url=URL))
    verify_chain(await authority.sign(named, CSR, "node1", "worker"), ROOT.cert_pem, NOW_MS)
    assert len(board.asked) == 1


async def test_in_a_rotation_to_an_external_ca_its_leafs_lead_to_the_present_root():
    board = Switchboard({URL: Authority(OTHER)})
    rotation = RootRotation(
        cert_pem=OTHER.cert_pem, cross_signed_pem=rotated(ROOT, OTHER, entropy).intermediates_pem
    )
    turning = RootCA(cert_pem=ROOT.cert_pem, key_pem=ROOT.key_pem, rotation=rotation)
    external = ExternalCA(protocol="cfssl", url=URL, ca_cert=OTHER.cert_pem.decode())
    authority = SwarmAuthority(World(), signer(board))
    chain = await authority.sign(cluster(turning, external), CSR, "node1", "worker")
    for root in (ROOT, OTHER):
        assert verify_chain(chain, root.cert_pem, NOW_MS).node_id == "node1"
    with pytest.raises(UnavailableError, match="no key for its root CA"):
        await authority.sign(cluster(turning), CSR, "node1", "worker")


# Over real TLS: certificates of today, for TLS judges dates by the wall clock.

TODAY_MS = int(time.time() * 1000)
TODAYS = new_root(TODAY_MS, entropy)


def own_credentials(root=TODAYS):
    chain, key = node(root, entropy, name="manager1", role="manager", now_ms=TODAY_MS)
    return Credentials(root_pem=root.cert_pem, chain_pem=chain, key_pem=key)


async def ask_over_tls(url, credentials=None):
    external = ExternalSigner(exchange, lambda: credentials or own_credentials())
    asked = authorities(url, root=TODAYS)
    return await external.sign(asked, CSR, SUBJECT, TODAY_MS), external


async def test_an_external_ca_signs_over_https_for_managers_alone(tmp_path):
    authority = Authority(TODAYS, now_ms=TODAY_MS)
    with external_ca(authority, tmp_path, clients_of=TODAYS.cert_pem) as url:
        chain, external = await ask_over_tls(url)
        assert verify_chain(chain, TODAYS.cert_pem, TODAY_MS).node_id == "node1"
        crossed = await external.cross_sign(authorities(url, root=TODAYS), OTHER)
        assert issuer_facts(crossed) == issuer_facts(OTHER.cert_pem)
        assert await external.is_one_reachable(
            authorities("https://127.0.0.1:1/", url, root=TODAYS)
        )
        with pytest.raises(UnavailableError):
            await ask_over_tls(url, Credentials(root_pem=TODAYS.cert_pem))
        with pytest.raises(UnavailableError):
            await ask_over_tls(url, own_credentials(new_root(TODAY_MS, entropy)))


@pytest.mark.parametrize("whose", ["another root", "another name", "plain http"])
async def test_an_external_ca_that_is_not_trusted_is_not_asked(tmp_path, whose):
    authority = Authority(TODAYS, now_ms=TODAY_MS)
    tls = {
        "another root": server(new_root(TODAY_MS, entropy), entropy, TODAY_MS),
        "another name": node(TODAYS, entropy, now_ms=TODAY_MS),
        "plain http": None,
    }[whose]
    with external_ca(authority, tmp_path, tls=tls) as url:
        url = url.replace("https:", "http:") if whose == "plain http" else url
        with pytest.raises(
            (UnavailableError, InvalidArgumentError), match=r"cannot be reached|https"
        ):
            await ask_over_tls(url)
        external = ExternalSigner(exchange, own_credentials)
        assert not await external.is_one_reachable(authorities(url, root=TODAYS))
    assert authority.requests == []


@pytest.mark.parametrize(
    ("canned", "says"),
    [
        ((200, b" " * (ANSWER_SIZE_MAX_B + 1)), "larger than 256 KiB"),
        ((302, b""), "HTTP status 302"),
    ],
)
async def test_answers_are_bounded_and_lead_nowhere_else(tmp_path, canned, says):
    with (
        external_ca(Authority(TODAYS, now_ms=TODAY_MS), tmp_path, canned=canned) as url,
        pytest.raises(UnavailableError, match=says),
    ):
        await ask_over_tls(url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://127.0.0.1:1/sign", UnavailableError),
        ("https://", InvalidArgumentError),
        ("https://a b/", (InvalidArgumentError, UnavailableError)),
        ("https://a..b/", InvalidArgumentError),
        (f"https://{'a' * 64}/", InvalidArgumentError),
        ("ftp://127.0.0.1/", InvalidArgumentError),
    ],
)
async def test_an_address_that_leads_to_nobody_is_said(url, error):
    request = HttpsRequest(method="GET", url=url, credentials=own_credentials())
    with pytest.raises(error):
        await exchange(request)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://127.0.0.1:1/", "connection refused"),
        ("https://nobody.invalid/", "its host name cannot be resolved"),
    ],
)
async def test_a_cause_is_said_in_the_same_words_each_time(url, says):
    """For each new one is logged."""
    request = HttpsRequest(method="GET", url=url, credentials=own_credentials())
    with pytest.raises(UnavailableError) as refusal:
        await exchange(request)
    assert refusal.value.message == f"{url} cannot be reached: {says}"


async def test_roots_that_are_none_are_the_callers_mistake():
    request = HttpsRequest(
        method="GET", url="https://127.0.0.1:1/", credentials=Credentials(root_pem=b"junk")
    )
    with pytest.raises(InvalidArgumentError):
        await exchange(request)


async def test_names_that_cfssl_cannot_be_asked_for_are_noticed():
    serial = x509.NameAttribute(NameOID.SERIAL_NUMBER, "7")
    subject = x509.Name([*name_of("Our CA"), serial])
    target = users_root(key_of_kind("P-256", entropy), entropy, subject=subject)
    with pytest.raises(FailedPreconditionError, match="another subject or key"):
        await signer(Switchboard({URL: Authority(ROOT)})).cross_sign(authorities(URL), target)
