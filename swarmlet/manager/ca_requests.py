"""What a certificate request changes in the store: the pure half of the CA's verbs."""

import hashlib
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from swarmlet.core.errors import ForbiddenError, InvalidArgumentError, node_removed
from swarmlet.core.identity import Identity
from swarmlet.core.ids import NodeID
from swarmlet.core.limits import RENEWABLE_AFTER_EXPIRY_MS
from swarmlet.manager.join_grant import Grant, check_grant, find_grant
from swarmlet.model.change import Change, Create, Guard, Update
from swarmlet.model.node import IssuanceState, Node, NodeCertificate, NodeSpec
from swarmlet.model.view import View
from swarmlet.wire.node_api import CertificateRequest, CertificateStatus

WAITING: Final = frozenset({IssuanceState.RENEW, IssuanceState.PENDING})
FINAL: Final = frozenset({IssuanceState.ISSUED, IssuanceState.FAILED, IssuanceState.ROTATE})

Transaction: TypeAlias = tuple[Sequence[Change], Sequence[Guard]]
NOTHING: Final[Transaction] = ((), ())


class TakenDown(msgspec.Struct, frozen=True, kw_only=True):
    """The row of a node that joins and what to write. `token_id` names an extra token."""

    row: Node
    changes: Sequence[Change]
    token_id: str = ""


def status_of(node: Node) -> CertificateStatus:
    """What a node is told of its certificate; the chain belongs to the request beside it."""
    certificate = node.certificate
    is_signed = certificate.state in (IssuanceState.ISSUED, IssuanceState.ROTATE)
    return CertificateStatus(
        state=certificate.state,
        role=certificate.role,
        csr=certificate.csr.decode(errors="replace"),
        chain=certificate.certificate.decode(errors="replace") if is_signed else "",
        err=certificate.err,
    )


def node_of(view: View, csr: bytes) -> Node | None:
    """The node whose last request this is."""
    return next(view.nodes.scan("csr", csr), None)


def join(
    view: View, request: CertificateRequest, *, node_id: NodeID, csr: bytes, now_ms: int
) -> TakenDown:
    """What to write of a node that joins. A request that is taken down already changes nothing, or
    waits anew for the signature it was refused; its token's use is counted by then.

    Raises InvalidArgumentError, UnauthorizedError and ForbiddenError for the token.
    """
    row = node_of(view, csr)
    if row is None:
        grant = find_grant(view, request.token)
        check_grant(grant, now_ms)
        row = _new_node(node_id, csr, grant, request.availability)
        token_id = grant.extra.id if grant.extra is not None else ""
        return TakenDown(row=row, changes=[Create(obj=row), *_use_of(grant)], token_id=token_id)
    if row.certificate.state == IssuanceState.FAILED:
        check_same_role(row, find_grant(view, request.token))
        return TakenDown(row=row, changes=[_asked_anew(row)])
    if row.version < 0:  # in flight: written again, so that the answer waits until it is durable
        return TakenDown(row=row, changes=[Update(obj=row, seen=row.version)])
    return TakenDown(row=row, changes=[])


def _new_node(node_id: NodeID, csr: bytes, grant: Grant, availability: str) -> Node:
    labels = grant.extra.labels if grant.extra is not None else {}
    return Node(
        id=node_id,
        spec=NodeSpec(role=grant.role, labels=labels, availability=availability or "active"),
        role=grant.role,
        certificate=NodeCertificate(state=int(IssuanceState.PENDING), csr=csr, role=grant.role),
    )


def check_same_role(node: Node, grant: Grant) -> None:
    """Raises ForbiddenError where a request that is taken down comes with a token of another
    role."""
    if grant.role != node.certificate.role:
        raise ForbiddenError(
            f"This request was taken down with a {node.certificate.role}'s join token; the one "
            f"shown now is a {grant.role}'s.",
            remedy="Let the node leave (`swarmlet leave --force`), then join with this token.",
        )


def _use_of(grant: Grant) -> list[Change]:
    """Of two joins that want a token's last use the later one finds the row changed."""
    extra = grant.extra
    if extra is None:
        return []
    return [Update(obj=replace(extra, uses=extra.uses + 1), seen=extra.version)]


def _asked_anew(node: Node) -> Update:
    asked = replace(node.certificate, state=int(IssuanceState.PENDING), err="")
    return Update(obj=replace(node, certificate=asked), seen=node.version)


def renewal(view: View, node_id: NodeID, csr: bytes) -> Transaction:
    """What to write of a node that renews; it keeps the role it has by its row. The last
    certificate stays in the row until the next is signed: it is who an expired node may still be.

    Raises ForbiddenError for a removed node, and InvalidArgumentError for the request of another
    node, which would stand between that one and its own row.
    """
    node = view.nodes.get(node_id)
    if node is None:
        raise node_removed(node_id)
    certificate = node.certificate
    if certificate.csr == csr and certificate.state in WAITING:
        return NOTHING
    if any(other.id != node_id for other in view.nodes.scan("csr", csr)):
        raise InvalidArgumentError(
            "the certificate request is another node's",
            remedy="Let the node make a new request: restart its daemon.",
        )
    asked = replace(certificate, state=int(IssuanceState.RENEW), csr=csr, role=node.role, err="")
    return [Update(obj=replace(node, certificate=asked), seen=node.version)], ()


def is_answered(certificate: NodeCertificate, csr: bytes, peer: Identity) -> bool:
    """Whether this request was taken down already, and what was signed for it is not what the peer
    shows: a node that asks again with its newest certificate wants another."""
    if certificate.csr != csr or certificate.state == IssuanceState.FAILED:
        return False
    return certificate.state in WAITING or not _is_leaf(certificate.certificate, peer.fingerprint)


def _is_leaf(chain_pem: bytes, fingerprint: bytes) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(chain_pem)
    except ValueError:
        return False
    return hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest() == fingerprint


def check_last(node: Node, peer: Identity, now_ms: int) -> None:
    """Raises ForbiddenError for an expired certificate that may not even renew."""
    remedy = "Remove the node, let it leave (`swarmlet leave --force`) and join again."
    if now_ms - peer.ends_ms >= RENEWABLE_AFTER_EXPIRY_MS:
        raise ForbiddenError(
            f"The certificate of node {peer.node_id} expired more than a year ago; it cannot be "
            "renewed any more.",
            remedy=remedy,
        )
    if not _is_leaf(node.certificate.certificate, peer.fingerprint):
        raise ForbiddenError(
            f"The expired certificate is not the last one that node {peer.node_id} was issued; "
            "only that one can be renewed.",
            remedy=f"Look whether the node's files were copied or rolled back. {remedy}",
        )
