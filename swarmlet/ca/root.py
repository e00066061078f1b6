"""The root certificate and whoever signs with it; its key is kept in the store alone."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from swarmlet.ca.keys import key_to_pem, new_key, new_serial, sign_certificate
from swarmlet.core.ids import Entropy

ROOT_NAME: Final = "swarm-ca"  # SwarmKit ca/certificates.go
ROOT_VALIDITY_S: Final = 630_720_000  # 20 years; SwarmKit ca/certificates.go
BACKDATE_S: Final = 3_600  # clocks of nodes may be an hour behind; SwarmKit ca/certificates.go


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """A CA's certificate and key, and what leads from it to the root that nodes trust: nothing,
    except while a root rotation runs. All PEM."""

    cert_pem: bytes
    key_pem: bytes
    intermediates_pem: bytes = b""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class Root(Signer, frozen=True, kw_only=True):
    """A self-signed one."""


def moment(wall_ms: int) -> datetime:
    """Wall time as certificates have it: UTC, whole seconds."""
    return datetime.fromtimestamp(wall_ms // 1000, UTC)


def new_root(now_ms: int, entropy: Entropy) -> Root:
    """A fresh self-signed root: ECDSA P-256, 20 years, may sign certificates and nothing else."""
    key = new_key(entropy)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ROOT_NAME)])
    begins = moment(now_ms) - timedelta(seconds=BACKDATE_S)
    certificate = sign_certificate(
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(seconds=ROOT_VALIDITY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(signing_only(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False),
        key,
    )
    return Root(
        cert_pem=certificate.public_bytes(serialization.Encoding.PEM), key_pem=key_to_pem(key)
    )


def normal_pem(pem: bytes) -> bytes:
    """The certificates of a bundle and nothing around them, so that equal ones are equal bytes.
    Raises ValueError where there is none, or one cannot be read."""
    return b"".join(
        certificate.public_bytes(serialization.Encoding.PEM)
        for certificate in x509.load_pem_x509_certificates(pem)
    )


def issuer_facts(ca_pem: bytes) -> tuple[bytes, bytes]:
    """A CA's subject and public key as DER, as a node's TLS info shows its issuer. The intermediate
    of a rotation has the same facts as the root that follows."""
    certificate = x509.load_pem_x509_certificate(ca_pem)
    public_key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return certificate.subject.public_bytes(), public_key


def authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Names the issuer's key as the issuer itself does: a user's root may count it otherwise."""
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        public_key = issuer.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key)  # type: ignore[arg-type]  # RSA or EC
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)


def signing_only() -> x509.KeyUsage:
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
