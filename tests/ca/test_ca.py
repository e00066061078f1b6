"""The root, leaves, tokens and a node's own files."""

import random

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from swarmlet.ca.csr import new_csr, public_key_of
from swarmlet.ca.identity import check_dates, verify_chain
from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.join_token import cert_digest, new_join_token, parse_join_token
from swarmlet.ca.key_file import new_node_keys
from swarmlet.ca.keys import key_from_pem, new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.root import new_root
from swarmlet.core.errors import DamagedError, InvalidArgumentError, UnauthorizedError
from swarmlet.core.limits import NODE_CERT_EXPIRY_NS
from swarmlet.env.real import RealDisk

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
entropy = random.Random(7).randbytes
ROOT = new_root(NOW_MS, entropy)


def leaf(role="manager", expiry_ns=NODE_CERT_EXPIRY_NS, root=ROOT, key=None):
    key = key or new_key(entropy)
    subject = Subject("node1", role, "cluster1")
    return issue(
        root, key.public_key(), subject, now_ms=NOW_MS, expiry_ns=expiry_ns, entropy=entropy
    )


def test_root_is_an_ec_p256_ca_of_twenty_years():
    root = x509.load_pem_x509_certificate(ROOT.cert_pem)
    assert root.public_key().curve.name == "secp256r1"
    assert (root.not_valid_after_utc - root.not_valid_before_utc).total_seconds() == 630_720_000
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    root.verify_directly_issued_by(root)


def test_leaf_names_node_role_and_cluster():
    identity = verify_chain(leaf(), ROOT.cert_pem, None)
    assert (identity.node_id, identity.role, identity.cluster_id) == (
        "node1",
        "manager",
        "cluster1",
    )
    assert identity.ends_ms - identity.begins_ms == 90 * DAY_MS + 3_600_000


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("manager", ["swarm-manager", "node1", "swarm-ca"]),
        ("worker", ["swarm-worker", "node1"]),
    ],
)
def test_only_managers_answer_as_the_ca(role, names):
    certificate = x509.load_pem_x509_certificate(leaf(role))
    found = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert found.value.get_values_for_type(x509.DNSName) == names


def test_leaf_of_less_than_an_hour_gets_the_default():
    identity = verify_chain(leaf(expiry_ns=60), ROOT.cert_pem, None)
    assert identity.ends_ms - identity.begins_ms == 90 * DAY_MS + 3_600_000


def test_leaf_of_another_root_is_refused():
    other = new_root(NOW_MS, entropy)
    with pytest.raises(UnauthorizedError, match="not signed by this swarm's root"):
        verify_chain(leaf(root=other), ROOT.cert_pem, None)


def test_dates_are_judged_apart_from_names():
    identity = verify_chain(leaf(), ROOT.cert_pem, None)
    check_dates(identity, NOW_MS)
    with pytest.raises(UnauthorizedError, match="expired"):
        check_dates(identity, NOW_MS + 91 * DAY_MS)
    with pytest.raises(UnauthorizedError, match="only valid from"):
        check_dates(identity, NOW_MS - DAY_MS)


def test_only_the_public_key_of_a_request_is_believed():
    key = new_key(entropy)
    assert public_key_of(new_csr(key)) == key.public_key()


@pytest.mark.parametrize("csr", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"\xff"])
def test_unreadable_request_is_refused_with_a_sentence(csr):
    with pytest.raises(InvalidArgumentError, match="request"):
        public_key_of(csr)


def test_same_entropy_gives_the_same_root():
    first, second = (new_root(NOW_MS, random.Random(3).randbytes) for _ in range(2))
    assert first == second


def test_token_carries_the_digest_and_hides_its_secret():
    token = new_join_token(cert_digest(ROOT.cert_pem), entropy)
    parsed = parse_join_token(token)
    assert len(token) == len("SWMTKN-1-") + 50 + 1 + 25
    assert parsed.cert_digest == cert_digest(ROOT.cert_pem)
    assert parsed.secret not in repr(parsed)


@pytest.mark.parametrize("text", ["", "SWMTKN-1-abc-def", "SWMTKN-2-" + "a" * 50 + "-" + "b" * 25])
def test_malformed_token_is_refused_without_repeating_it(text):
    with pytest.raises(InvalidArgumentError) as refused:
        parse_join_token(text)
    assert not text or text not in str(refused.value)


def test_a_token_that_was_cut_off_says_so():
    token = new_join_token(cert_digest(ROOT.cert_pem), entropy)
    with pytest.raises(InvalidArgumentError, match="cut off after 70 of 85 characters"):
        parse_join_token(token[:70])
    with pytest.raises(InvalidArgumentError, match="FIPS"):
        parse_join_token("SWMTKN-2-1" + token[8:])


def stored(tmp_path):
    files = NodeFiles(RealDisk(), str(tmp_path / "certificates"))
    key = new_key(entropy)
    keys = new_node_keys(key, entropy(48), entropy(48))
    files.write(ROOT.cert_pem, leaf(key=key), keys)
    return files, keys


def test_node_files_come_back_as_written_and_the_key_is_private(tmp_path):
    files, keys = stored(tmp_path)
    root_pem, _, read = files.read()
    assert (root_pem, read) == (ROOT.cert_pem, keys)
    assert (tmp_path / "certificates/swarm-node.key").stat().st_mode & 0o777 == 0o600
    assert "***" in repr(read)
    assert key_from_pem(read.tls_key_pem)
    assert files.identity().node_id == "node1"


def test_node_files_that_do_not_belong_together_are_damaged(tmp_path):
    files, _ = stored(tmp_path)
    (tmp_path / "certificates/swarm-node.crt").write_bytes(leaf())
    with pytest.raises(DamagedError, match="does not belong"):
        files.read()


@pytest.mark.parametrize("name", ["swarm-root-ca.crt", "swarm-node.crt", "swarm-node.key"])
def test_missing_node_file_is_named(tmp_path, name):
    files, _ = stored(tmp_path)
    (tmp_path / "certificates" / name).unlink()
    with pytest.raises(DamagedError, match=name):
        files.read()


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", ["swarm-root-ca.crt", "swarm-node.crt", "swarm-node.key"])
def test_node_files_with_any_byte_changed_are_damaged_or_say_the_same(tmp_path, name):
    files, _ = stored(tmp_path)
    good, path = files.read(), tmp_path / "certificates" / name
    raw, refused = path.read_bytes(), 0
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x21]) + raw[at + 1 :])
        try:
            files.read()
        except DamagedError as error:
            assert "certificates/" in error.message  # noqa: PT017 - a PEM has some slack
            refused += 1
    assert refused > len(raw) * 0.6
    path.write_bytes(raw)
    assert files.read() == good


@pytest.mark.parametrize("header", [b"kek-version: x", b"kek-version: -1", b"keg-version: 0"])
def test_key_file_with_headers_nobody_understands_is_damaged(tmp_path, header):
    files, _ = stored(tmp_path)
    path = tmp_path / "certificates/swarm-node.key"
    path.write_bytes(path.read_bytes().replace(b"kek-version: 0", header))
    with pytest.raises(DamagedError, match=r"swarm-node\.key"):
        files.read()


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\n"])
def test_unreadable_key_file_is_damaged(tmp_path, content):
    files, _ = stored(tmp_path)
    (tmp_path / "certificates/swarm-node.key").write_bytes(content)
    with pytest.raises(DamagedError, match=r"swarm-node\.key"):
        files.read()
