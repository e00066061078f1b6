"""Certificates for tests: in memory, or written to a folder by `scripts/make-certs`."""

import ipaddress
import itertools
import os
import random
import sys
import time
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.keys import key_to_pem, new_key, new_serial, sign_certificate, signing_key_from_pem
from swarmlet.ca.root import Root, Signer, authority_key, moment, new_root, signing_only
from swarmlet.ca.rotation import cross_sign

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
YEAR = timedelta(days=365)
CLUSTER_ID = "cluster1"
MAY_SIGN = x509.BasicConstraints(ca=True, path_length=None)
SIGNING = signing_only()


def seeded(seed=7):
    """Entropy that repeats itself."""
    return random.Random(seed).randbytes


def node(signer, entropy, *, name="node1", role="worker", now_ms=NOW_MS, cluster_id=CLUSTER_ID):
    """A node's chain and key, PEM."""
    key = new_key(entropy)
    chain = issue(
        signer,
        key.public_key(),
        Subject(name, role, cluster_id),
        now_ms=now_ms,
        expiry_ns=0,
        entropy=entropy,
    )
    return chain, key_to_pem(key)


def rotated(old, new, entropy):
    """Who signs in the middle of a rotation."""
    return Signer(
        cert_pem=new.cert_pem,
        key_pem=new.key_pem,
        intermediates_pem=cross_sign(old, new.cert_pem, entropy),
    )


def name_of(common, **others):
    oids = {"organization": NameOID.ORGANIZATION_NAME, "country": NameOID.COUNTRY_NAME}
    attributes = [x509.NameAttribute(oids[kind], value) for kind, value in others.items()]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def rsa_keys():
    """Two of them by turns: each takes a good part of a second."""
    keys = []
    while len(keys) < 2:
        keys.append(rsa.generate_private_key(65537, 2048))
        yield keys[-1]
    yield from itertools.cycle(keys)


RSA_KEYS = rsa_keys()


def key_of_kind(kind, entropy):
    """rsa, P-256, P-384 or P-521."""
    if kind == "rsa":
        return next(RSA_KEYS)
    curve = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}[kind]()
    secret = int.from_bytes(entropy(20), "big") + 1
    return ec.derive_private_key(secret, curve)


def users_root(
    key,
    entropy,
    *,
    subject=None,
    begins_ms=NOW_MS - DAY_MS,
    validity=10 * YEAR,
    constraints=MAY_SIGN,
    usage=SIGNING,
    extra=(),
):
    """A root as somebody makes it elsewhere, PEM with its key; None leaves an extension out."""
    subject = subject or name_of("Our CA", country="CH", organization="We")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(moment(begins_ms))
        .not_valid_after(moment(begins_ms) + validity)
    )
    extensions = [(constraints, True), (usage, True), *extra]
    for extension, is_critical in extensions:
        if extension is not None:
            builder = builder.add_extension(extension, is_critical)
    made = sign_certificate(builder, key)
    return Root(cert_pem=made.public_bytes(serialization.Encoding.PEM), key_pem=key_to_pem(key))


def server(signer, entropy, now_ms=NOW_MS):
    """Certificate and key of an https server on this host, PEM."""
    issuer = x509.load_pem_x509_certificate(signer.cert_pem)
    key = new_key(entropy)
    addresses = [ipaddress.ip_address(text) for text in ("127.0.0.1", "::1")]
    names = [x509.DNSName("localhost"), *map(x509.IPAddress, addresses)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of("localhost"))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(moment(now_ms) - timedelta(hours=1))
        .not_valid_after(moment(now_ms) + YEAR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(authority_key(issuer), critical=False)
    )
    made = sign_certificate(builder, signing_key_from_pem(signer.key_pem))
    return made.public_bytes(serialization.Encoding.PEM), key_to_pem(key)


def all_fixtures(now_ms, entropy):
    """File name without ending -> certificate and key, PEM; the key may be empty."""
    root, new, other = (new_root(now_ms, entropy) for _ in range(3))
    middle = rotated(root, new, entropy)
    return {
        "root": (root.cert_pem, root.key_pem),
        "manager": node(root, entropy, name="manager1", role="manager", now_ms=now_ms),
        "worker": node(root, entropy, name="worker1", now_ms=now_ms),
        "expired": node(root, entropy, name="worker2", now_ms=now_ms - 120 * DAY_MS),
        "not-yet-valid": node(root, entropy, name="worker3", now_ms=now_ms + 30 * DAY_MS),
        "new-root": (new.cert_pem, new.key_pem),
        "intermediate": (middle.intermediates_pem, b""),
        "rotated": node(middle, entropy, name="worker4", now_ms=now_ms),
        "other-root": (other.cert_pem, other.key_pem),
        "other-manager": node(other, entropy, name="manager1", role="manager", now_ms=now_ms),
        "external-server": server(root, entropy, now_ms),
    }


def write(folder, fixtures):
    """Certificates for everybody to read, keys for the owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (certificate, key) in fixtures.items():
        for path, content, mode in (
            (folder / f"{name}.crt", certificate, 0o644),
            (folder / f"{name}.key", key, 0o600),
        ):
            if content:
                path.unlink(missing_ok=True)
                with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
                    file.write(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]), all_fixtures(int(time.time() * 1000), os.urandom))
