"""From a certificate to an identity: the one place where names, dates and uses of a certificate are
judged."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PSS, PKCS1v15
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from swarmlet.ca.issuer import MANAGER_OU, WORKER_OU
from swarmlet.ca.keys import key_problem, signature_problem
from swarmlet.ca.root import issuer_facts, moment
from swarmlet.core.errors import UnauthorizedError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID, NodeID

CHAIN_MAX: Final = 5  # certificates a node may show: its own, a rotation's one, and room for users'
_ROLES: Final = {MANAGER_OU: "manager", WORKER_OU: "worker"}
_USES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_UNDERSTOOD: Final = (  # RFC 5280 §4.2: a critical extension that is not understood refuses
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
)


def identify(chain_der: Sequence[bytes], now_ms: int) -> Identity:
    """The holder of a chain whose signatures TLS has verified: leaf first, the trusted root last.

    TLS judges no dates here, so all but the leaf's end are judged: every CA of the chain within its
    own, the leaf begun. Whether an expired leaf is let in depends on what it asks for, and is the
    gatekeeper's. Raises UnauthorizedError.
    """
    try:
        chain = [x509.load_der_x509_certificate(der) for der in chain_der]
    except _UNREADABLE as error:
        raise UnauthorizedError("the certificate cannot be read") from error
    return _identity(chain, now_ms)


def verify_chain(chain_pem: bytes, root_pem: bytes, now_ms: int | None) -> Identity:
    """The holder of a chain (leaf first) that leads to a root of this bundle: what TLS verifies,
    then `identify`. With None no dates are judged at all. Certificates that lead nowhere are passed
    over. Raises UnauthorizedError.
    """
    return _identity(_path(chain_pem, root_pem), now_ms)


def leaf_issuer(chain_pem: bytes, root_pem: bytes) -> tuple[bytes, bytes]:
    """Subject and public key (DER) of the CA that signed the leaf, which tells a node that a root
    rotation has reached. Raises UnauthorizedError."""
    leaf, authority, *_ = _path(chain_pem, root_pem)
    _, public_key = issuer_facts(authority.public_bytes(serialization.Encoding.PEM))
    return leaf.issuer.public_bytes(), public_key  # an intermediate may write the name otherwise


def check_dates(identity: Identity, now_ms: int) -> None:
    """Raises UnauthorizedError outside the certificate's dates."""
    check_begun(identity, now_ms)
    if now_ms > identity.ends_ms:
        raise UnauthorizedError(
            f"the certificate of node {identity.node_id} expired at "
            f"{moment(identity.ends_ms):%F %T} UTC"
        )


def begins_ms(chain_pem: bytes) -> int | None:
    """Since when the leaf counts, None where there is none. Nothing is verified."""
    try:
        leaf = x509.load_pem_x509_certificate(chain_pem)
    except _UNREADABLE:
        return None
    return _ms(leaf.not_valid_before_utc)


def check_self_signed(root_pem: bytes) -> None:
    """Raises ValueError where a root of the bundle that names itself as its issuer was not signed
    by itself."""
    for root in x509.load_pem_x509_certificates(root_pem):
        try:
            if root.issuer == root.subject:
                root.verify_directly_issued_by(root)
        except InvalidSignature as error:
            raise ValueError("the root certificate's signature is wrong") from error


def belongs_to(cert_pem: bytes, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate (the first, of a chain) is for this key."""
    return x509.load_pem_x509_certificate(cert_pem).public_key() == key.public_key()


def ca_problem(certificate: x509.Certificate) -> str:
    """Why this certificate may sign no other in a swarm, or empty. Dates are not judged."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return "it is no CA certificate"
    except _UNREADABLE:
        return "its extensions cannot be read"
    if not constraints.ca:
        return "it is no CA certificate"
    usage = _usage(certificate)
    if usage is not None and not usage.key_cert_sign:
        return "it may not sign certificates"
    return _strange_extension(certificate) or _has(key_problem(certificate.public_key()))


def _identity(chain: Sequence[x509.Certificate], now_ms: int | None) -> Identity:
    if not chain:
        raise UnauthorizedError("no certificate was shown")
    leaf = chain[0]
    try:
        problem = _leaf_problem(leaf)
    except _UNREADABLE as error:
        raise UnauthorizedError("the certificate's extensions cannot be read") from error
    if problem:
        raise UnauthorizedError(f"the certificate is not a node's: {problem}")
    ou = _one(leaf, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if ou not in _ROLES:
        raise UnauthorizedError(f"the certificate names no role of a swarm (OU {ou!r})")
    identity = Identity(
        node_id=NodeID(_one(leaf, NameOID.COMMON_NAME)),
        role=_ROLES[ou],
        cluster_id=ClusterID(_one(leaf, NameOID.ORGANIZATION_NAME)),
        begins_ms=_ms(leaf.not_valid_before_utc),
        ends_ms=_ms(leaf.not_valid_after_utc),
        fingerprint=hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest(),
    )
    if now_ms is not None:
        check_begun(identity, now_ms)
        for authority in chain[1:]:
            _check_authority_dates(authority, now_ms)
    return identity


def _leaf_problem(leaf: x509.Certificate) -> str:
    extensions = leaf.extensions
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            return "it is a CA's"
    uses = next((e.value for e in extensions if isinstance(e.value, x509.ExtendedKeyUsage)), ())
    if any(use not in uses for use in _USES):
        return "it is not for TLS servers and clients both"
    usage = _usage(leaf)
    if usage is not None and not usage.digital_signature:
        return "its key may not sign"
    return (
        _strange_extension(leaf)
        or _has(key_problem(leaf.public_key()))
        or _has(signature_problem(leaf))
    )


def _has(problem: str) -> str:
    return f"it has {problem}" if problem else ""


def _strange_extension(certificate: x509.Certificate) -> str:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            return f"its critical extension {extension.oid.dotted_string} is not understood"
    return ""


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _one(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    if len(found) != 1 or not found[0].value or not isinstance(found[0].value, str):
        raise UnauthorizedError("the certificate does not name exactly one node, role and cluster")
    return found[0].value


def _ms(when: datetime) -> int:
    return int(when.timestamp()) * 1000


def check_begun(identity: Identity, now_ms: int) -> None:
    """Raises UnauthorizedError before that."""
    if now_ms < identity.begins_ms:
        raise UnauthorizedError(
            f"the certificate of node {identity.node_id} is only valid from "
            f"{moment(identity.begins_ms):%F %T} UTC, and it is {moment(now_ms):%F %T} here",
            remedy="Compare the clocks of the two hosts.",
        )


def _check_authority_dates(authority: x509.Certificate, now_ms: int) -> None:
    begins, ends = authority.not_valid_before_utc, authority.not_valid_after_utc
    if not begins <= moment(now_ms) <= ends:
        raise UnauthorizedError(
            f"the CA certificate behind the node's is valid from {begins:%F %T} to {ends:%F %T} "
            f"UTC, and it is {moment(now_ms):%F %T} here",
            remedy="Compare the clocks of the two hosts; a CA at its end must be rotated.",
        )


def _path(chain_pem: bytes, root_pem: bytes) -> list[x509.Certificate]:
    """Leaf, intermediates, root: each signed by the next."""
    try:
        leaf, *others = x509.load_pem_x509_certificates(chain_pem)
        roots = x509.load_pem_x509_certificates(root_pem)
    except _UNREADABLE as error:
        raise UnauthorizedError("the certificate cannot be read") from error
    if len(others) >= CHAIN_MAX:
        raise UnauthorizedError(f"the certificate comes with more than {CHAIN_MAX - 1} others")
    found = _lead([leaf], others, roots)
    if found is None:
        raise UnauthorizedError("the certificate was not signed by this swarm's root CA")
    return found


def _lead(
    path: list[x509.Certificate],
    others: list[x509.Certificate],
    roots: list[x509.Certificate],
) -> list[x509.Certificate] | None:
    """The path on to a root, depth first; at most CHAIN_MAX! tries, for `others` shrinks."""
    for root in roots:
        if _may_follow(path, root):
            return [*path, root]
    for at, other in enumerate(others):
        if _may_follow(path, other):
            found = _lead([*path, other], [*others[:at], *others[at + 1 :]], roots)
            if found is not None:
                return found
    return None


def _check_issued_by(signed: x509.Certificate, authority: x509.Certificate) -> None:
    """As `verify_directly_issued_by`, but that names are equal however their text is encoded (RFC
    5280 §7.1): cfssl writes a subject as PrintableString that was UTF8String. Raises ValueError,
    InvalidSignature."""
    if signed.issuer != authority.subject:
        raise ValueError("issued by another")
    public_key, how = authority.public_key(), signed.signature_algorithm_parameters
    found, what = signed.signature, signed.tbs_certificate_bytes
    if isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
        public_key.verify(found, what, how)
    elif isinstance(public_key, rsa.RSAPublicKey) and isinstance(how, PKCS1v15 | PSS):
        assert signed.signature_hash_algorithm is not None, "signature_problem looked"
        public_key.verify(found, what, how, signed.signature_hash_algorithm)
    else:
        raise TypeError("signed with another kind of key")


def _may_follow(path: list[x509.Certificate], authority: x509.Certificate) -> bool:
    """Whether `authority` signed the path's last certificate, and might (RFC 5280 §6.1.4)."""
    signed = path[-1]
    try:
        if signature_problem(signed) or ca_problem(authority):
            return False
        _check_issued_by(signed, authority)
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (InvalidSignature, *_UNREADABLE):
        return False
    between = sum(1 for each in path[1:] if each.subject != each.issuer)
    return constraints.path_length is None or between <= constraints.path_length
