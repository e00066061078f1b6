"""What the swarm's trust becomes under new CA settings: SwarmKit's table, row by row."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ca.external import ExternalSigner
from swarmlet.ca.identity import verify_chain
from swarmlet.ca.join_token import cert_digest
from swarmlet.ca.keys import new_key
from swarmlet.ca.root import issuer_facts, new_root, normal_pem
from swarmlet.ca.rotation import accepted_root, plan_rotation, signer_of
from swarmlet.core.errors import InvalidArgumentError, UnavailableError
from swarmlet.model.cluster import CAConfig, ExternalCA, JoinTokens, RootCA, RootRotation
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.outgoing import HttpsAnswer
from tests.ca.external_signer import Authority
from tests.ca.fixtures import (
    NOW_MS,
    YEAR,
    key_of_kind,
    name_of,
    node,
    rotated,
    seeded,
    users_root,
)
from tests.ca.memory_ca import Switchboard

entropy = seeded()
ROOT, NEXT, OTHER = (new_root(NOW_MS, entropy) for _ in range(3))
USERS = users_root(key_of_kind("P-384", entropy), entropy)
PRESENT = RootCA(
    cert_pem=ROOT.cert_pem,
    key_pem=ROOT.key_pem,
    cert_digest=cert_digest(ROOT.cert_pem),
    tokens=JoinTokens(worker="w", manager="m"),
    last_forced_rotation=3,
)
TURNING = replace(
    PRESENT,
    rotation=RootRotation(
        cert_pem=NEXT.cert_pem,
        key_pem=NEXT.key_pem,
        cross_signed_pem=rotated(ROOT, NEXT, entropy).intermediates_pem,
    ),
)
KEYLESS = replace(PRESENT, key_pem=b"")


def given_root(root, *, key=True, forced=3, external=()):
    return CAConfig(
        signing_ca_cert=root.cert_pem.decode(),
        signing_ca_key=root.key_pem.decode() if key else "",
        force_rotate=forced,
        external_cas=list(external),
    )


def at(url, root=None):
    return ExternalCA(
        protocol="cfssl", url=url, ca_cert=root.cert_pem.decode() if root is not None else ""
    )


async def plan(root_ca, config, board=None):
    external = ExternalSigner((board or Switchboard()).exchange, lambda: Credentials(root_pem=b""))
    return await plan_rotation(root_ca, config, now_ms=NOW_MS, entropy=entropy, external=external)


def assert_leads(root_ca, target):
    """Leafs of now are good under the present root, and under the one to come."""
    assert root_ca.rotation is not None
    assert root_ca.rotation.cert_pem == target.cert_pem
    signer = signer_of(root_ca)
    chain, _ = node(
        signer or replace(target, intermediates_pem=root_ca.rotation.cross_signed_pem), entropy
    )
    for root_pem in (root_ca.cert_pem, target.cert_pem):
        assert verify_chain(chain, root_pem, NOW_MS).node_id == "node1"


@pytest.mark.parametrize("root_ca", [PRESENT, TURNING])
async def test_nothing_changes_without_a_certificate_or_a_forced_rotation(root_ca):
    assert await plan(root_ca, CAConfig(force_rotate=3)) is root_ca


async def test_other_lifetimes_and_external_cas_leave_the_trust_alone():
    config = CAConfig(force_rotate=3, node_cert_expiry=1, external_cas=[at("https://ca/sign")])
    assert await plan(PRESENT, config) is PRESENT


@pytest.mark.parametrize("root_ca", [PRESENT, TURNING])
async def test_a_forced_rotation_begins_with_a_fresh_root(root_ca):
    after = await plan(root_ca, CAConfig(force_rotate=4))
    target = after.rotation
    assert target.cert_pem not in (ROOT.cert_pem, NEXT.cert_pem)
    assert_leads(after, signer_of(after))
    assert after == replace(root_ca, rotation=target, last_forced_rotation=4)
    assert after.tokens == PRESENT.tokens
    assert after.cert_digest == cert_digest(ROOT.cert_pem)


@pytest.mark.parametrize("root_ca", [PRESENT, TURNING])
@pytest.mark.parametrize("kind", ["rsa", "P-256", "P-384", "P-521"])
async def test_a_given_root_becomes_the_target_in_place_of_another(root_ca, kind):
    target = users_root(key_of_kind(kind, entropy), entropy)
    after = await plan(root_ca, given_root(target, forced=9))
    assert_leads(after, target)
    assert after.last_forced_rotation == 9
    assert issuer_facts(signer_of(after).intermediates_pem) == issuer_facts(target.cert_pem)


async def test_the_present_root_given_again_ends_a_rotation_and_may_bring_its_key():
    assert await plan(TURNING, given_root(ROOT, forced=4)) == replace(
        PRESENT, last_forced_rotation=4
    )
    board = Switchboard({"https://ca/sign": Authority(ROOT)})
    config = given_root(ROOT, external=[at("https://ca/sign")])
    assert await plan(KEYLESS, config, board) == PRESENT
    handed_over = given_root(ROOT, key=False, external=[at("https://ca/sign")])
    assert await plan(TURNING, handed_over, board) == KEYLESS


async def test_the_target_given_again_changes_its_key_alone():
    assert await plan(TURNING, given_root(NEXT)) == TURNING
    board = Switchboard({"https://next/sign": Authority(NEXT)})
    external = [at("https://next/sign", NEXT)]
    after = await plan(TURNING, given_root(NEXT, key=False, external=external), board)
    assert after == replace(TURNING, rotation=replace(TURNING.rotation, key_pem=b""))
    assert await plan(after, given_root(NEXT)) == TURNING
    assert signer_of(after) is None


async def test_text_around_a_certificate_does_not_make_it_another():
    wordy = replace(ROOT, cert_pem=b"our root\n\n" + ROOT.cert_pem.replace(b"\n", b"\r\n") + b"\n")
    assert await plan(TURNING, given_root(wordy)) == PRESENT
    assert normal_pem(wordy.cert_pem) == ROOT.cert_pem


async def test_the_present_key_in_another_certificate_is_refused():
    key = key_of_kind("P-256", seeded(1))
    now, later = (users_root(key, entropy, subject=name_of(name)) for name in ("a", "b"))
    root_ca = replace(PRESENT, cert_pem=now.cert_pem, key_pem=now.key_pem)
    with pytest.raises(InvalidArgumentError, match="same key as the current one"):
        await plan(root_ca, given_root(later))


async def test_a_key_without_its_certificate_is_refused():
    config = CAConfig(signing_ca_key=ROOT.key_pem.decode(), force_rotate=3)
    with pytest.raises(InvalidArgumentError, match="signing CA cert must also be provided"):
        await plan(PRESENT, config)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (replace(USERS, cert_pem=b"junk"), "could not parse"),
        (replace(USERS, cert_pem=USERS.cert_pem + ROOT.cert_pem), "multiple certificates"),
        (replace(USERS, key_pem=ROOT.key_pem), "certificate key mismatch"),
        (replace(USERS, key_pem=b"junk"), "signing CA key: the key cannot be read"),
        (replace(ROOT, cert_pem=node(ROOT, entropy)[0], key_pem=b""), "not self-signed"),
        (users_root(new_key(entropy), entropy, constraints=None), "no CA certificate"),
        (
            users_root(new_key(entropy), entropy, validity=YEAR - timedelta(days=1)),
            "expires too soon",
        ),
        (users_root(new_key(entropy), entropy, begins_ms=NOW_MS + 1000), "only valid from"),
        (users_root(ec.derive_private_key(9, ec.SECP256R1()), entropy,
                    constraints=x509.BasicConstraints(ca=True, path_length=0)),
         "allows no intermediate"),
        (users_root(new_key(entropy), entropy, extra=[
            (x509.NameConstraints([x509.DNSName("example.com")], None), True)]),
         r"2\.5\.29\.30 is not understood"),
    ],
)  # fmt: skip
async def test_a_root_that_no_swarm_can_live_under_is_refused(given, says):
    with pytest.raises(InvalidArgumentError, match=says):
        await plan(PRESENT, given_root(given))


def test_a_root_with_a_wrong_signature_is_refused():
    certificate = bytearray(
        x509.load_pem_x509_certificate(USERS.cert_pem).public_bytes(serialization.Encoding.DER)
    )
    certificate[-1] ^= 1
    wrong = x509.load_der_x509_certificate(bytes(certificate))
    with pytest.raises(InvalidArgumentError, match="not self-signed"):
        accepted_root(wrong.public_bytes(serialization.Encoding.PEM), b"", NOW_MS)


def test_keys_are_read_in_every_common_form_and_never_encrypted_ones():
    key = key_of_kind("rsa", entropy)
    root = users_root(key, entropy)
    for form in (serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8):
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        assert accepted_root(root.cert_pem, pem, NOW_MS).key_pem == root.key_pem
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    with pytest.raises(InvalidArgumentError, match="the key is encrypted"):
        accepted_root(root.cert_pem, locked, NOW_MS)


@pytest.mark.parametrize("which", ["none", "wrong root", "unreachable"])
async def test_a_root_without_key_needs_an_external_ca_that_answers(which):
    external = {
        "none": [],
        "wrong root": [at("https://ca/sign", ROOT)],
        "unreachable": [at("https://nowhere/sign", USERS)],
    }[which]
    board = Switchboard({"https://ca/sign": Authority(USERS)})
    with pytest.raises(InvalidArgumentError, match="corresponding to the desired CA certificate"):
        await plan(PRESENT, given_root(USERS, key=False, external=external), board)


async def test_a_root_of_an_external_ca_becomes_the_target_where_the_old_key_is_known():
    board = Switchboard({"https://ca/sign": Authority(USERS)})
    external = [at("https://ca/sign", USERS)]
    after = await plan(PRESENT, given_root(USERS, key=False, external=external), board)
    assert_leads(after, USERS)
    assert signer_of(after) is None
    assert await plan(after, CAConfig(force_rotate=3, external_cas=external), board) is after
    with pytest.raises(InvalidArgumentError, match="corresponding to the next CA certificate"):
        await plan(after, CAConfig(force_rotate=3))


@pytest.mark.parametrize("forced", [3, 4])
async def test_the_external_ca_of_the_present_root_cannot_be_taken_away(forced):
    with pytest.raises(InvalidArgumentError, match="corresponding to the current CA certificate"):
        await plan(KEYLESS, CAConfig(force_rotate=forced))


@pytest.mark.parametrize("given", [None, USERS], ids=["fresh", "given"])
async def test_the_external_ca_of_the_present_root_signs_the_next_one_across(given):
    board = Switchboard({"https://ca/sign": Authority(ROOT)})
    external = [at("https://ca/sign")]
    config = (
        CAConfig(force_rotate=4, external_cas=external)
        if given is None
        else given_root(given, external=external)
    )
    after = await plan(KEYLESS, config, board)
    assert_leads(after, given or signer_of(after))
    assert after.key_pem == b""


async def test_an_external_ca_never_gives_way_to_another_external_one():
    board = Switchboard({"https://a/sign": Authority(ROOT), "https://b/sign": Authority(USERS)})
    external = [at("https://a/sign"), at("https://b/sign", USERS)]
    with pytest.raises(InvalidArgumentError, match="different external CA is not supported"):
        await plan(KEYLESS, given_root(USERS, key=False, external=external), board)


async def test_a_rotation_waits_for_nobody_where_the_external_ca_fails_to_sign_across():
    board = Switchboard({"https://ca/sign": HttpsAnswer(status=500, body=b"")})
    with pytest.raises(UnavailableError, match="HTTP status 500"):
        await plan(KEYLESS, CAConfig(force_rotate=4, external_cas=[at("https://ca/sign")]), board)


@pytest.mark.parametrize(
    ("external", "says"),
    [
        (ExternalCA(protocol="acme", url="https://ca"), 'invalid protocol: "acme"'),
        (ExternalCA(protocol="cfssl", url="http://ca"), "invalid address"),
        (ExternalCA(protocol="cfssl", url="https://ca", ca_cert="junk"), "cannot be read"),
    ],
)
@pytest.mark.parametrize("root_ca", [PRESENT, KEYLESS])
async def test_an_external_ca_that_can_never_be_asked_is_refused_at_once(root_ca, external, says):
    with pytest.raises(InvalidArgumentError, match=says):
        await plan(root_ca, CAConfig(force_rotate=3, external_cas=[external]))


STEPS = {
    "nothing": lambda forced: CAConfig(force_rotate=forced),
    "forced": lambda forced: CAConfig(force_rotate=forced + 1),
    "users": lambda forced: given_root(USERS, forced=forced),
    "other": lambda forced: given_root(OTHER, forced=forced),
    "back": lambda forced: given_root(ROOT, forced=forced),
}


@settings(max_examples=25)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6))
async def test_whatever_is_asked_for_leafs_of_every_moment_are_good_under_the_present_root(steps):
    root_ca = PRESENT
    for step in steps:
        root_ca = await plan(root_ca, STEPS[step](root_ca.last_forced_rotation))
        chain, _ = node(signer_of(root_ca), entropy)
        verify_chain(chain, ROOT.cert_pem, NOW_MS)
        assert (root_ca.cert_pem, root_ca.tokens) == (PRESENT.cert_pem, PRESENT.tokens)
        assert step != "back" or root_ca.rotation is None
