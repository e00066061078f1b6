"""Chains: who they say they are, and which of them lead to a trusted root."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.ca.identity import CHAIN_MAX, identify, leaf_issuer, verify_chain
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.keys import new_key, new_serial, sign_certificate, signing_key_from_pem
from swarmlet.ca.root import issuer_facts, moment, new_root
from swarmlet.core.errors import UnauthorizedError
from tests.ca.fixtures import (
    DAY_MS,
    MAY_SIGN,
    NOW_MS,
    SIGNING,
    key_of_kind,
    name_of,
    node,
    rotated,
    seeded,
    users_root,
)

entropy = seeded()
ROOT, NEW, OTHER = (new_root(NOW_MS, entropy) for _ in range(3))
MIDDLE = rotated(ROOT, NEW, entropy)
PLAIN, _ = node(ROOT, entropy)
TURNED, _ = node(MIDDLE, entropy)
LEAF, STEP = (each.public_bytes(serialization.Encoding.PEM)
              for each in x509.load_pem_x509_certificates(TURNED))  # fmt: skip


def der(*pems):
    return [
        each.public_bytes(serialization.Encoding.DER)
        for pem in pems
        for each in x509.load_pem_x509_certificates(pem)
    ]


def strange(**given):
    """A node's certificate in which something is not as a swarm makes it."""
    key = given.pop("key", None) or new_key(entropy)
    subject = given.pop("subject", Subject("node1", "worker", "cluster1").name())
    digest = given.pop("digest", hashes.SHA256())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    extensions = {
        "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
        "uses": (x509.ExtendedKeyUsage(uses), False),
    } | given
    issuer = x509.load_pem_x509_certificate(ROOT.cert_pem)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(moment(NOW_MS))
        .not_valid_after(moment(NOW_MS) + timedelta(days=90))
    )
    for extension in extensions.values():
        if extension is not None:
            builder = builder.add_extension(*extension)
    made = builder.sign(signing_key_from_pem(ROOT.key_pem), digest)
    return made.public_bytes(serialization.Encoding.PEM)


def subject(*pairs):
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


CN, OU, O = (  # noqa: E741 - the field's own name
    (NameOID.COMMON_NAME, "node1"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-worker"),
    (NameOID.ORGANIZATION_NAME, "cluster1"),
)


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_identity_is_what_the_leaf_says(role):
    leaf, _ = node(ROOT, entropy, name="n7", role=role)
    found = identify(der(leaf, ROOT.cert_pem), NOW_MS)
    assert (found.node_id, found.role, found.cluster_id) == ("n7", role, "cluster1")
    assert (found.begins_ms, found.ends_ms) == (NOW_MS - 3_600_000, NOW_MS + 90 * DAY_MS)
    certificate = x509.load_pem_x509_certificate(leaf)
    assert found.fingerprint == certificate.fingerprint(hashes.SHA256())
    assert found == verify_chain(leaf, ROOT.cert_pem, NOW_MS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"subject": subject(OU, O)}, "exactly one"),
        ({"subject": subject(CN, CN, OU, O)}, "exactly one"),
        ({"subject": subject(CN, OU, OU, O)}, "exactly one"),
        ({"subject": subject(CN, OU, O, O)}, "exactly one"),
        ({"subject": subject(CN, OU)}, "exactly one"),
        ({"subject": subject(CN, O)}, "exactly one"),
        (
            {"subject": subject(CN, O, (NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-ca"))},
            "no role of a swarm .*swarm-ca",
        ),
        ({"constraints": (MAY_SIGN, True)}, "a CA's"),
        ({"uses": None}, "servers and clients both"),
        (
            {"uses": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)},
            "servers and clients both",
        ),
        (
            {"uses": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)},
            "servers and clients both",
        ),
        ({"usage": (SIGNING, True)}, "may not sign"),
        (
            {
                "odd": (
                    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
                    True,
                )
            },
            r"critical extension 1\.2\.3 is not understood",
        ),
        ({"digest": hashes.SHA224()}, "unsupported kind .sha224"),
    ],
)
def test_a_leaf_that_is_no_nodes_is_refused(given, says):
    leaf = strange(**given)
    with pytest.raises(UnauthorizedError, match=says):
        identify(der(leaf, ROOT.cert_pem), NOW_MS)
    with pytest.raises(UnauthorizedError):
        verify_chain(leaf, ROOT.cert_pem, NOW_MS)


def test_weak_keys_of_nodes_are_refused():
    short = strange(key=rsa.generate_private_key(65537, 1024))
    with pytest.raises(UnauthorizedError, match="RSA key of 1024 bits"):
        identify(der(short), NOW_MS)
    odd = strange(key=ec.derive_private_key(7, ec.SECP256K1()))
    with pytest.raises(UnauthorizedError, match="curve secp256k1"):
        identify(der(odd), NOW_MS)


@pytest.mark.parametrize("chain", [[], [b""], [b"\x30\x03\x02\x01\x01"]])
def test_no_certificate_or_garbage_is_refused(chain):
    with pytest.raises(UnauthorizedError):
        identify(chain, NOW_MS)


def test_a_leaf_that_has_not_begun_is_refused_and_one_that_has_ended_is_not():
    with pytest.raises(UnauthorizedError, match="only valid from"):
        identify(der(PLAIN, ROOT.cert_pem), NOW_MS - 3_600_001)
    identify(der(PLAIN, ROOT.cert_pem), NOW_MS - 3_600_000)
    found = identify(der(PLAIN, ROOT.cert_pem), NOW_MS + 400 * DAY_MS)
    assert found.ends_ms < NOW_MS + 400 * DAY_MS


@pytest.mark.parametrize("at", ["root", "intermediate"])
def test_every_ca_of_the_chain_is_within_its_dates(at):
    brief = users_root(new_key(entropy), entropy, validity=timedelta(days=3))
    old, new = (brief, NEW) if at == "root" else (ROOT, brief)
    chain, _ = node(rotated(old, new, entropy), entropy)
    whole = der(chain, old.cert_pem)
    identify(whole, NOW_MS)
    for now_ms in (NOW_MS + 3 * DAY_MS, NOW_MS - 2 * DAY_MS):
        with pytest.raises(UnauthorizedError, match=r"only valid from|CA certificate behind"):
            identify(whole, now_ms)
    verify_chain(chain, old.cert_pem, None)
    with pytest.raises(UnauthorizedError, match="CA certificate behind"):
        verify_chain(chain, old.cert_pem, NOW_MS + 3 * DAY_MS)


def test_in_a_rotation_the_chain_is_good_under_the_old_root_and_the_new():
    by_old = verify_chain(TURNED, ROOT.cert_pem, NOW_MS)
    assert by_old == verify_chain(TURNED, NEW.cert_pem, NOW_MS)
    assert by_old == verify_chain(LEAF, NEW.cert_pem, NOW_MS)
    assert by_old == verify_chain(TURNED, OTHER.cert_pem + ROOT.cert_pem, NOW_MS)
    for chain, root in ((LEAF, ROOT), (TURNED, OTHER), (PLAIN, NEW)):
        with pytest.raises(UnauthorizedError, match="not signed by this swarm's root"):
            verify_chain(chain, root.cert_pem, NOW_MS)


def test_the_signer_of_a_leaf_is_told_the_same_during_a_rotation_and_after():
    assert leaf_issuer(PLAIN, ROOT.cert_pem) == issuer_facts(ROOT.cert_pem)
    assert leaf_issuer(TURNED, ROOT.cert_pem) == issuer_facts(NEW.cert_pem)
    assert leaf_issuer(TURNED, NEW.cert_pem) == issuer_facts(NEW.cert_pem)
    assert issuer_facts(ROOT.cert_pem) != issuer_facts(NEW.cert_pem)


def test_an_intermediate_may_write_its_name_in_another_encoding():
    """As cfssl does: what was UTF8String comes back as PrintableString."""
    step, old = (x509.load_pem_x509_certificate(pem) for pem in (STEP, ROOT.cert_pem))
    (common,) = step.subject
    printable = x509.NameAttribute(common.oid, common.value, _ASN1Type.PrintableString)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([printable]))
        .issuer_name(old.subject)
        .public_key(step.public_key())
        .serial_number(step.serial_number)
        .not_valid_before(step.not_valid_before_utc)
        .not_valid_after(step.not_valid_after_utc)
    )
    for extension in step.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = sign_certificate(builder, signing_key_from_pem(ROOT.key_pem))
    assert made.subject.public_bytes() != step.subject.public_bytes()
    chain = LEAF + made.public_bytes(serialization.Encoding.PEM)
    assert verify_chain(chain, ROOT.cert_pem, NOW_MS).node_id == "node1"
    assert leaf_issuer(chain, ROOT.cert_pem) == issuer_facts(NEW.cert_pem)


def test_a_certificate_of_an_unknown_version_is_refused():
    raw = bytearray(der(LEAF)[0])
    at = raw.index(b"\xa0\x03\x02\x01\x02") + 4  # version 3 is written as 2
    raw[at] = 7
    with pytest.raises(UnauthorizedError, match="cannot be read"):
        identify([bytes(raw)], NOW_MS)


def test_the_leaf_comes_first():
    with pytest.raises(UnauthorizedError, match="a CA's"):
        verify_chain(STEP + LEAF, ROOT.cert_pem, NOW_MS)


def test_a_leaf_signs_no_other():
    leaf, key = node(ROOT, entropy)
    forger = MIDDLE.__class__(cert_pem=leaf, key_pem=key, intermediates_pem=leaf)
    forged, _ = node(forger, entropy, name="node2", role="manager")
    with pytest.raises(UnauthorizedError, match="not signed by"):
        verify_chain(forged, ROOT.cert_pem, NOW_MS)


def test_a_path_longer_than_a_ca_allows_is_refused():
    tight = users_root(
        key_of_kind("P-384", entropy),
        entropy,
        constraints=x509.BasicConstraints(ca=True, path_length=0),
    )
    direct, _ = node(tight, entropy)
    verify_chain(direct, tight.cert_pem, NOW_MS)
    user = users_root(new_key(entropy), entropy, subject=name_of("another"))
    through, _ = node(rotated(tight, user, entropy), entropy)
    with pytest.raises(UnauthorizedError, match="not signed by"):
        verify_chain(through, tight.cert_pem, NOW_MS)


def test_more_certificates_than_anybody_needs_are_refused():
    with pytest.raises(UnauthorizedError, match="more than"):
        verify_chain(PLAIN + OTHER.cert_pem * CHAIN_MAX, ROOT.cert_pem, NOW_MS)


@pytest.mark.parametrize("old", ["rsa", "P-256", "P-384", "P-521"])
@pytest.mark.parametrize("new", ["rsa", "P-256", "P-384", "P-521"])
def test_roots_of_every_accepted_kind_lead_to_each_other(old, new):
    before, after = (
        users_root(key_of_kind(kind, entropy), entropy, subject=name_of(name))
        for kind, name in ((old, "before"), (new, "after"))
    )
    chain, _ = node(rotated(before, after, entropy), entropy)
    assert verify_chain(chain, before.cert_pem, NOW_MS).node_id == "node1"
    assert leaf_issuer(chain, before.cert_pem) == issuer_facts(after.cert_pem)


JUNK = [ROOT.cert_pem, NEW.cert_pem, OTHER.cert_pem, STEP, PLAIN]


@given(st.lists(st.sampled_from(JUNK), max_size=CHAIN_MAX - 2), st.integers(0, CHAIN_MAX))
def test_certificates_that_lead_nowhere_change_nothing_wherever_they_stand(others, at):
    chain = b"".join([LEAF, *others[:at], STEP, *others[at:]])
    assert verify_chain(chain, ROOT.cert_pem, NOW_MS).node_id == "node1"


@given(st.lists(st.sampled_from([OTHER.cert_pem, NEW.cert_pem, PLAIN]), max_size=CHAIN_MAX - 1))
def test_nothing_but_the_intermediate_leads_to_the_old_root(others):
    with pytest.raises(UnauthorizedError, match="not signed by"):
        verify_chain(LEAF + b"".join(others), ROOT.cert_pem, NOW_MS)


TURNED_DER = der(TURNED)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=150)
@given(st.data())
def test_a_chain_with_any_byte_changed_is_refused(data):
    which = data.draw(st.integers(0, 1))
    raw = bytearray(TURNED_DER[which])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = x509.load_der_x509_certificate(bytes(raw))
    except (ValueError, TypeError, x509.InvalidVersion):
        return  # not even a certificate any more
    before = x509.load_der_x509_certificate(TURNED_DER[which])
    if (changed.tbs_certificate_bytes, changed.signature, changed.signature_algorithm_oid) == (
        before.tbs_certificate_bytes,
        before.signature,
        before.signature_algorithm_oid,
    ):
        return  # the count of unused bits behind the signature: the same words, signed the same
    chain = [LEAF, STEP]
    chain[which] = changed.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(UnauthorizedError):
        verify_chain(b"".join(chain), ROOT.cert_pem, NOW_MS)


def test_same_names_and_another_signature_are_refused():
    forged = sign_certificate(
        x509.CertificateBuilder()
        .subject_name(Subject("node1", "manager", "cluster1").name())
        .issuer_name(x509.load_pem_x509_certificate(ROOT.cert_pem).subject)
        .public_key(new_key(entropy).public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(moment(NOW_MS))
        .not_valid_after(moment(NOW_MS) + timedelta(days=90)),
        new_key(entropy),
    )
    with pytest.raises(UnauthorizedError, match="not signed by"):
        verify_chain(forged.public_bytes(serialization.Encoding.PEM), ROOT.cert_pem, NOW_MS)


def test_issuing_is_the_same_for_the_same_entropy():
    key, subject = new_key(entropy), Subject("node1", "worker", "cluster1")
    first, second = (
        issue(MIDDLE, key.public_key(), subject, now_ms=NOW_MS, expiry_ns=0, entropy=seeded(5))
        for _ in range(2)
    )
    assert first == second
