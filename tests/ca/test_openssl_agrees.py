"""What `verify_chain` lets through is what TLS lets through; and the fixtures are as listed."""

import re
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from swarmlet.ca.identity import identify, verify_chain
from swarmlet.ca.root import new_root
from swarmlet.core.errors import UnauthorizedError
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.tls import MANAGER_NAME, client_context, server_context, verified_chain
from tests.ca.fixtures import (
    all_fixtures,
    key_of_kind,
    name_of,
    node,
    rotated,
    seeded,
    users_root,
    write,
)

entropy = seeded()
TODAY_MS = int(time.time() * 1000)  # TLS judges a manager's dates by the wall clock
README = Path(__file__).parent.parent.parent / "certs/README.md"
KINDS = ["fresh", "rsa", "P-256", "P-384", "P-521"]


def root_of(kind, name):
    if kind == "fresh":
        return new_root(TODAY_MS, entropy)
    key = key_of_kind(kind, entropy)
    return users_root(key, entropy, subject=name_of(name), begins_ms=TODAY_MS - 1000)


def shaken(trusted, manager, worker):
    """What each side verified of the other: a handshake in memory. Raises ssl.SSLError."""
    here, there = (ssl.MemoryBIO() for _ in range(2))
    client = client_context(credentials(trusted, worker)).wrap_bio(
        here, there, server_hostname=MANAGER_NAME
    )
    server = server_context(credentials(trusted, manager)).wrap_bio(there, here, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return verified_chain(server), verified_chain(client)


def credentials(root_pem, pair):
    return Credentials(root_pem=root_pem, chain_pem=pair[0], key_pem=pair[1])


def nodes(signer):
    return (
        node(signer, entropy, name="manager1", role="manager", now_ms=TODAY_MS),
        node(signer, entropy, name="worker1", now_ms=TODAY_MS),
    )


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_nodes_of_every_moment_of_a_rotation_shake_hands(old, new):
    before, after = root_of(old, "before"), root_of(new, "after")
    turned = rotated(before, after, entropy)
    for trusted in (before.cert_pem, after.cert_pem, after.cert_pem + before.cert_pem):
        manager, worker = nodes(turned)
        seen_worker, seen_manager = shaken(trusted, manager, worker)
        for chain, (pem, _) in ((seen_worker, worker), (seen_manager, manager)):
            assert identify(chain, TODAY_MS) == verify_chain(pem, trusted, TODAY_MS)
    early, late = nodes(before)[0], nodes(turned)[1]
    assert identify(shaken(before.cert_pem, early, late)[0], TODAY_MS).node_id == "worker1"


def test_what_leads_to_no_trusted_root_is_refused_by_both():
    before, after, other = (new_root(TODAY_MS, entropy) for _ in range(3))
    turned = rotated(before, after, entropy)
    for trusted, signer in ((other, turned), (after, before), (before, after)):
        manager, worker = nodes(signer)
        with pytest.raises(ssl.SSLCertVerificationError):
            shaken(trusted.cert_pem, manager, worker)
        with pytest.raises(UnauthorizedError):
            verify_chain(manager[0], trusted.cert_pem, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("certs")
    write(found, all_fixtures(TODAY_MS, entropy))
    return found


def test_fixtures_are_those_the_page_lists_and_their_keys_are_private(folder):
    listed = set(re.findall(r"`([a-z-]+\.crt)`", README.read_text())) - {"swarm-root-ca.crt"}
    assert listed - {"swarm-node.crt"} == {path.name for path in folder.glob("*.crt")}
    for path in folder.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600
    write(folder, {"root": (b"again", b"")})
    assert (folder / "root.crt").read_bytes() == b"again"
    write(folder, all_fixtures(TODAY_MS, entropy))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program here")
@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("manager", True),
        ("worker", True),
        ("rotated", True),
        ("external-server", True),
        ("expired", False),
        ("not-yet-valid", False),
        ("other-manager", False),
    ],
)
def test_openssl_judges_the_fixtures_as_their_names_say(folder, name, is_good):
    command = ["openssl", "verify", "-CAfile", "root.crt", "-untrusted", "intermediate.crt"]
    done = subprocess.run([*command, f"{name}.crt"], cwd=folder, capture_output=True, check=False)
    assert (done.returncode == 0) is is_good
