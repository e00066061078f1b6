"""From a certificate to an identity: the one place where dates and names of a certificate are
judged."""

from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swarmlet.ca.issuer import MANAGER_OU, WORKER_OU
from swarmlet.ca.root import moment
from swarmlet.core.errors import UnauthorizedError
from swarmlet.core.ids import ClusterID, NodeID


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a certificate says its holder is, and until when (wall time)."""

    node_id: NodeID
    role: str
    cluster_id: ClusterID
    begins: datetime
    ends: datetime


def identity_of(cert_pem: bytes, root_pem: bytes) -> Identity:
    """The identity of a certificate signed by this root, whatever its dates; `check_dates` judges
    those.

    Raises UnauthorizedError where another root signed it, or it does not name a node, role and
    cluster.
    """
    certificate = x509.load_pem_x509_certificate(cert_pem)
    root = x509.load_pem_x509_certificate(root_pem)
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise UnauthorizedError("the certificate was not signed by this swarm's root CA") from error
    ou = _one(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if ou not in (MANAGER_OU, WORKER_OU):
        raise UnauthorizedError(f"the certificate names no role of a swarm (OU {ou!r})")
    return Identity(
        node_id=NodeID(_one(certificate, NameOID.COMMON_NAME)),
        role="manager" if ou == MANAGER_OU else "worker",
        cluster_id=ClusterID(_one(certificate, NameOID.ORGANIZATION_NAME)),
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
    )


def check_dates(identity: Identity, now_ms: int) -> None:
    """Raises UnauthorizedError outside the certificate's dates."""
    now = moment(now_ms)
    if now < identity.begins:
        raise UnauthorizedError(
            f"the certificate of node {identity.node_id} is only valid from {identity.begins:%F}",
            remedy="Compare the clocks of the two hosts.",
        )
    if now > identity.ends:
        raise UnauthorizedError(
            f"the certificate of node {identity.node_id} expired at {identity.ends:%F %T} UTC"
        )


def check_self_signed(root_pem: bytes) -> None:
    """Raises ValueError where a root that names itself as its issuer was not signed by itself."""
    root = x509.load_pem_x509_certificate(root_pem)
    try:
        if root.issuer == root.subject:
            root.verify_directly_issued_by(root)
    except InvalidSignature as error:
        raise ValueError("the root certificate's signature is wrong") from error


def belongs_to(cert_pem: bytes, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate is for this key."""
    return x509.load_pem_x509_certificate(cert_pem).public_key() == key.public_key()


def _one(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    if len(found) != 1:
        raise UnauthorizedError("the certificate does not name exactly one node, role and cluster")
    return str(found[0].value)
