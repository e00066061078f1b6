"""The root certificate: made once, by the first manager; its key is kept in the store alone."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from swarmlet.ca.keys import key_to_pem, new_key, new_serial
from swarmlet.core.ids import Entropy

ROOT_NAME: Final = "swarm-ca"  # SwarmKit ca/certificates.go
ROOT_VALIDITY_S: Final = 630_720_000  # 20 years; SwarmKit ca/certificates.go
BACKDATE_S: Final = 3_600  # clocks of nodes may be an hour behind; SwarmKit ca/certificates.go


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A root's certificate and key, both PEM."""

    cert_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return "Root(***)"


def moment(wall_ms: int) -> datetime:
    """Wall time as certificates have it: UTC, whole seconds."""
    return datetime.fromtimestamp(wall_ms // 1000, UTC)


def new_root(now_ms: int, entropy: Entropy) -> Root:
    """A fresh self-signed root: ECDSA P-256, 20 years, may sign certificates and nothing else."""
    key = new_key(entropy)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ROOT_NAME)])
    begins = moment(now_ms) - timedelta(seconds=BACKDATE_S)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(seconds=ROOT_VALIDITY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_signing_only(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return Root(
        cert_pem=certificate.public_bytes(serialization.Encoding.PEM), key_pem=key_to_pem(key)
    )


def issuer_facts(root_pem: bytes) -> tuple[bytes, bytes]:
    """The root's subject and public key as DER, as a node's TLS info shows them."""
    certificate = x509.load_pem_x509_certificate(root_pem)
    public_key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return certificate.subject.public_bytes(), public_key


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
