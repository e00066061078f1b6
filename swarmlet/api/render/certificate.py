"""Certificates of nodes, for people."""

from typing import Final

from cryptography import x509

from swarmlet.api.engine import OwnCertificate
from swarmlet.api.render.common import rfc3339
from swarmlet.core.limits import MS_PER_S
from swarmlet.model.node import IssuanceState, NodeCertificate

_STATES: Final = {int(state): state.name.lower() for state in IssuanceState}


def read_certificate(chain_pem: bytes, role: str) -> OwnCertificate:
    """What the leaf says. Raises ValueError where it cannot be read."""
    leaf = x509.load_pem_x509_certificate(chain_pem)
    return OwnCertificate(
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        begins_ms=int(leaf.not_valid_before_utc.timestamp()) * MS_PER_S,
        ends_ms=int(leaf.not_valid_after_utc.timestamp()) * MS_PER_S,
        role=role,
    )


def render_certificate(certificate: OwnCertificate) -> dict[str, str]:
    return {
        "Subject": certificate.subject,
        "Issuer": certificate.issuer,
        "NotBefore": rfc3339(certificate.begins_ms),
        "NotAfter": rfc3339(certificate.ends_ms),
        "Role": certificate.role,
    }


def render_issuance(row: NodeCertificate) -> dict[str, str]:
    """A node's row: the last certificate, where there is one, and how far the next is."""
    progress = {"State": _STATES.get(row.state, "unknown"), "Err": row.err, "Role": row.role}
    if not row.certificate:
        return progress
    return {**render_certificate(read_certificate(row.certificate, row.role)), **progress}
