"""What TLS between nodes agrees to, and where a node's key goes."""

import ssl
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from swarmlet.core.errors import InvalidArgumentError, NotLeaderError, UnavailableError
from swarmlet.wire.forward import (
    Origin,
    decode_origin,
    decode_problem,
    encode_origin,
    encode_problem,
    problem_of,
)
from swarmlet.wire.gate import plain_source
from swarmlet.wire.tls import (
    CA_NAME,
    MANAGER_NAME,
    Trust,
    client_context,
    new_front,
    server_context,
    unverified_context,
    verified_chain,
)
from tests.wire.port_world import MANAGER, OTHERS, OURS, STRANGER, WORKER, expired, not_begun

ROOT = Path(__file__).parent.parent.parent


def shake(server, client, name=MANAGER_NAME, session=None):
    """Both ends after a handshake in memory. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name, session=session),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends


def test_server_gets_the_verified_chain_of_a_client_and_nothing_of_one_without():
    """Guards the private call that Python below 3.13 needs."""
    client, server = shake(server_context(MANAGER), client_context(WORKER))
    leaf, root = verified_chain(server)
    assert leaf == ssl.PEM_cert_to_DER_cert(WORKER.chain_pem.decode()) == server.getpeercert(True)
    assert root == ssl.PEM_cert_to_DER_cert(OURS.root_pem.decode())
    assert len(verified_chain(client)) == 2
    _, server = shake(server_context(MANAGER), client_context(STRANGER))
    assert verified_chain(server) == ()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_uses_forward_secret_authenticated_ciphers_and_resumes_nothing(version):
    context = client_context(WORKER)
    context.minimum_version = context.maximum_version = version
    server_side = server_context(MANAGER)
    client, server = shake(server_side, context)
    name, *_ = client.cipher()
    assert "GCM" in name or "CHACHA20" in name
    assert name.startswith(("ECDHE", "TLS_"))
    assert client.compression() is None
    assert len(verified_chain(server)) == 2
    assert server_side.num_tickets == 0


def test_server_refuses_ciphers_without_forward_secrecy():
    context = client_context(WORKER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA")
    with pytest.raises(ssl.SSLError):
        shake(server_context(MANAGER), context)


def test_connection_that_resumes_another_is_nobodys():
    """TLS 1.2 can, by the session's number; then no chain was verified."""
    context = client_context(WORKER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = server_context(MANAGER)
    first, served_first = shake(server, context)
    assert len(verified_chain(served_first)) == 2
    client, served = shake(server, context, session=first.session)
    assert client.session_reused
    assert served.getpeercert(True)  # which says who it was, and is not asked
    assert verified_chain(served) == ()


@pytest.mark.parametrize("name", [MANAGER_NAME, CA_NAME])
def test_client_takes_a_manager_by_each_of_its_names_and_no_other_node(name):
    shake(server_context(MANAGER), client_context(WORKER), name)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server_context(OURS.credentials("w9")), client_context(WORKER), name)


def test_client_looks_at_dates_unless_it_renews():
    for manager in (expired("m1", "manager"), not_begun("m1", "manager")):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(server_context(manager), client_context(WORKER))
        shake(server_context(manager), client_context(WORKER, checks_dates=False))


def test_client_trusts_its_own_root_alone_unless_it_asks_for_nothing():
    theirs = server_context(OTHERS.credentials("m1", "manager"))
    for credentials in (WORKER, STRANGER):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(theirs, client_context(credentials, checks_dates=False))
    shake(theirs, unverified_context())


def test_server_takes_expired_certificates_and_none_of_another_root():
    shake(server_context(MANAGER), client_context(expired("w1")))
    stranger = msgspec.structs.replace(OTHERS.credentials("w1"), root_pem=OURS.root_pem)
    with pytest.raises(ssl.SSLError):
        shake(server_context(MANAGER), client_context(stranger))


def test_front_stands_for_the_credentials_of_the_moment():
    trust = Trust(OTHERS.credentials("m1", "manager"))
    front = new_front(trust)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(front, client_context(WORKER))
    trust.replace(MANAGER)
    shake(front, client_context(WORKER))
    assert trust.credentials is MANAGER


@pytest.mark.parametrize(
    "change",
    [
        {"key_pem": WORKER.key_pem},
        {"chain_pem": b""},
        {"chain_pem": b"nonsense"},
        {"root_pem": b""},
        {"root_pem": b"nonsense"},
        {"root_pem": "ä".encode()},
    ],
    ids=str,
)
def test_credentials_that_do_not_belong_together_are_refused(change):
    with pytest.raises(ValueError, match=r".+"):
        server_context(msgspec.structs.replace(MANAGER, **change))


HARDENED = """
import ctypes, encodings.idna, os, sys
import tests.wire.test_tls as test
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
opened = []
sys.addaudithook(lambda name, given: opened.append(given) if name == "open" else None)
test.shake(test.server_context(test.MANAGER), test.client_context(test.WORKER))
writable = [given for given in opened if isinstance(given[2], int) and given[2] & 3]
assert writable == [], writable
"""


def test_key_reaches_tls_without_a_file_in_a_process_that_cannot_be_dumped_and_is_not_roots():
    done = subprocess.run(
        [sys.executable, "-c", HARDENED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# What travels in headers


def test_origin_and_problem_survive_their_header():
    for origin in (
        Origin(identity=OURS.own("w1").identity, source="fe80::1"),
        Origin(identity=None, source=""),
    ):
        assert decode_origin(encode_origin(origin)) == origin
    problem = problem_of(NotLeaderError("Ä", "try", managers=("a:1", "b:2")))
    assert decode_problem(encode_problem(problem)) == problem
    long = problem_of(UnavailableError("ä" * 10_000, "x" * 10_000))
    assert len(encode_problem(long)) < 8000


@pytest.mark.parametrize("text", ["", "%", "bm9wZQ==", "e30=", "Ä", "A" * 10_000, "W10=" * 3])
def test_header_that_cannot_be_read_is_refused(text):
    with pytest.raises(InvalidArgumentError):
        decode_origin(text)


def test_ipv4_address_on_an_ipv6_socket_is_itself():
    assert [plain_source(host) for host in ("::ffff:10.0.0.1", "10.0.0.1", "::1", "fe80::1")] == [
        "10.0.0.1",
        "10.0.0.1",
        "::1",
        "fe80::1",
    ]
