"""Leaf certificates: CN node id, OU role, O cluster id, signed by whoever signs now."""

from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmlet.ca.keys import new_serial, sign_certificate, signing_key_from_pem
from swarmlet.ca.root import BACKDATE_S, ROOT_NAME, Signer, authority_key, moment
from swarmlet.core.ids import Entropy
from swarmlet.core.limits import CERT_EXPIRY_MIN_NS, NODE_CERT_EXPIRY_NS, NS_PER_S

MANAGER_OU: Final = "swarm-manager"  # SwarmKit ca/certificates.go
WORKER_OU: Final = "swarm-worker"  # SwarmKit ca/certificates.go
ROLE_OUS: Final = {"manager": MANAGER_OU, "worker": WORKER_OU}


class Subject:
    """Who a certificate is for."""

    def __init__(self, node_id: str, role: str, cluster_id: str) -> None:
        self.node_id, self.ou, self.cluster_id = node_id, ROLE_OUS[role], cluster_id

    def name(self) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.cluster_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.ou),
                x509.NameAttribute(NameOID.COMMON_NAME, self.node_id),
            ]
        )

    def dns_names(self) -> list[str]:
        """OU and CN; managers also answer as the CA."""
        return [self.ou, self.node_id, *([ROOT_NAME] if self.ou == MANAGER_OU else [])]


def issue(
    signer: Signer,
    public_key: ec.EllipticCurvePublicKey,
    subject: Subject,
    *,
    now_ms: int,
    expiry_ns: int,
    entropy: Entropy,
) -> bytes:
    """A node's certificate, PEM, then what leads from its signer to the trusted root. Under an
    hour, `expiry_ns` means the default (90 days)."""
    validity_ns = expiry_ns if expiry_ns >= CERT_EXPIRY_MIN_NS else NODE_CERT_EXPIRY_NS
    now = moment(now_ms)
    issuer = x509.load_pem_x509_certificate(signer.cert_pem)
    certificate = sign_certificate(
        x509.CertificateBuilder()
        .subject_name(subject.name())
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(new_serial(entropy))
        .not_valid_before(now - timedelta(seconds=BACKDATE_S))
        .not_valid_after(now + timedelta(seconds=validity_ns // NS_PER_S))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_leaf_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in subject.dns_names()]),
            critical=False,
        )
        .add_extension(authority_key(issuer), critical=False),
        signing_key_from_pem(signer.key_pem),
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + signer.intermediates_pem


def _leaf_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
