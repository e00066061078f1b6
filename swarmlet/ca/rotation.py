"""Root rotation: what the swarm's trust becomes when its CA settings change (SwarmKit
manager/controlapi/ca_rotation.go).

A rotation begins with the new root signed across by the old one. From then on leafs are signed with
the new key and lead through that intermediate to the old root, which nodes go on trusting until
everybody has such a leaf.
"""

from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace

from swarmlet.ca.external import (
    Authorities,
    ExternalSigner,
    authorities_of,
    check_cross_signed,
    check_external_ca,
)
from swarmlet.ca.identity import ca_problem
from swarmlet.ca.keys import (
    PrivateKey,
    key_to_pem,
    new_serial,
    sign_certificate,
    signature_problem,
    signing_key_from_pem,
)
from swarmlet.ca.root import Root, Signer, authority_key, issuer_facts, moment, new_root, normal_pem
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import Entropy
from swarmlet.model.cluster import CAConfig, RootCA, RootRotation

ROOT_VALIDITY_MIN: Final = timedelta(days=365)  # left to a given root; SwarmKit ca_rotation.go
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)


def signer_of(root_ca: RootCA) -> Signer | None:
    """Who signs leafs now; None where only an external CA can."""
    rotation = root_ca.rotation
    if rotation is None:
        found = Signer(cert_pem=root_ca.cert_pem, key_pem=root_ca.key_pem)
    else:
        found = Signer(
            cert_pem=rotation.cert_pem,
            key_pem=rotation.key_pem,
            intermediates_pem=rotation.cross_signed_pem,
        )
    return found if found.key_pem else None


async def plan_rotation(
    root_ca: RootCA, config: CAConfig, *, now_ms: int, entropy: Entropy, external: ExternalSigner
) -> RootCA:
    """The swarm's trust under new CA settings; the same where nothing changes.

    - neither certificate nor another ForceRotate: nothing changes;
    - another ForceRotate alone: a rotation to a fresh root begins;
    - the present root's certificate: a running rotation is given up, the key is replaced;
    - the running rotation's certificate: it goes on with the given key;
    - another certificate: a rotation to it begins, in place of one that runs.

    A certificate without key needs an external CA that can be reached; so does the present root
    where the swarm has no key for it and is given none. Nothing else is awaited. Raises
    InvalidArgumentError, and UnavailableError or FailedPreconditionError where the external CA of
    the present root does not sign across.
    """
    if config.signing_ca_key and not config.signing_ca_cert:
        raise InvalidArgumentError(
            "if a signing CA key is provided, the signing CA cert must also be provided"
        )
    for authority in config.external_cas:
        check_external_ca(authority)
    step = _Step(root_ca, config, external)
    given = None
    if config.signing_ca_cert:
        given = accepted_root(
            config.signing_ca_cert.encode(), config.signing_ca_key.encode(), now_ms
        )
    if not root_ca.key_pem and not _is_key_for(given, root_ca):
        await step.need_external(root_ca.cert_pem, "current")
    if given is not None:
        return await _towards(step, given, entropy)
    if config.force_rotate != root_ca.last_forced_rotation:
        return await _begun(step, new_root(now_ms, entropy), entropy)
    if root_ca.rotation is not None and not root_ca.rotation.key_pem:
        await step.need_external(root_ca.rotation.cert_pem, "next")
    return root_ca


def accepted_root(cert_pem: bytes, key_pem: bytes, now_ms: int) -> Root:
    """A root that a user gives, with its key or without. Raises InvalidArgumentError for one that
    no swarm could live under."""
    try:
        found = x509.load_pem_x509_certificates(cert_pem)
    except _UNREADABLE as error:
        raise InvalidArgumentError(
            "could not parse the desired CA certificate", remedy="Give one certificate as PEM."
        ) from error
    if len(found) != 1:
        raise InvalidArgumentError(
            "the desired CA certificate cannot contain multiple certificates"
        )
    problem = _root_problem(found[0])
    if problem:
        raise InvalidArgumentError(f"the desired CA certificate cannot be used: {problem}")
    now = moment(now_ms)
    if found[0].not_valid_after_utc < now + ROOT_VALIDITY_MIN:
        raise InvalidArgumentError(
            "CA certificate expires too soon",
            remedy=f"Give one that is valid for at least {ROOT_VALIDITY_MIN.days} more days.",
        )
    if found[0].not_valid_before_utc > now:
        raise InvalidArgumentError(
            f"the desired CA certificate is only valid from {found[0].not_valid_before_utc:%F %T} "
            "UTC",
            remedy="Compare this host's clock with the one that made the certificate.",
        )
    key = _key_of(found[0], key_pem) if key_pem else None
    return Root(
        cert_pem=found[0].public_bytes(serialization.Encoding.PEM),
        key_pem=key_to_pem(key) if key is not None else b"",
    )


def cross_sign(old: Signer, new_cert_pem: bytes, entropy: Entropy) -> bytes:
    """The intermediate with the new root's subject, key and dates, signed by the old root, PEM."""
    new = x509.load_pem_x509_certificate(new_cert_pem)
    issuer = x509.load_pem_x509_certificate(old.cert_pem)
    builder = (
        x509.CertificateBuilder()
        .subject_name(new.subject)
        .issuer_name(issuer.subject)
        .public_key(new.public_key())
        .serial_number(new_serial(entropy))
        .not_valid_before(new.not_valid_before_utc)
        .not_valid_after(new.not_valid_after_utc)
        .add_extension(authority_key(issuer), critical=False)
    )
    for extension in new.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    made = sign_certificate(builder, signing_key_from_pem(old.key_pem))
    return made.public_bytes(serialization.Encoding.PEM)


class _Step:
    """The settings a plan starts from."""

    def __init__(self, root_ca: RootCA, config: CAConfig, external: ExternalSigner) -> None:
        self.root_ca, self.config, self.external = root_ca, config, external

    async def need_external(self, ca_pem: bytes, which: str) -> None:
        """Raises InvalidArgumentError where no external CA for this certificate answers."""
        if not await self.external.is_one_reachable(self.authorities(ca_pem)):
            raise InvalidArgumentError(
                "there must be at least one valid, reachable external CA corresponding to the "
                f"{which} CA certificate",
                remedy="Give its https address with --external-ca, or the CA's key with --ca-key; "
                "ca.external_failed in the daemon's log says why one cannot be asked.",
            )

    def authorities(self, ca_pem: bytes) -> Authorities:
        return authorities_of(self.root_ca, self.config, ca_pem)


def _is_key_for(given: Root | None, root_ca: RootCA) -> bool:
    """Whether the present root comes with its key: then no external CA is needed any more."""
    return (
        given is not None and bool(given.key_pem) and given.cert_pem == normal_pem(root_ca.cert_pem)
    )


async def _towards(step: _Step, given: Root, entropy: Entropy) -> RootCA:
    """To the root that a user gave."""
    root_ca, rotation = step.root_ca, step.root_ca.rotation
    if not given.key_pem:
        await step.need_external(given.cert_pem, "desired")
    forced = step.config.force_rotate
    if given.cert_pem == normal_pem(root_ca.cert_pem):
        return replace(root_ca, key_pem=given.key_pem, rotation=None, last_forced_rotation=forced)
    if rotation is not None and given.cert_pem == normal_pem(rotation.cert_pem):
        swapped = replace(rotation, key_pem=given.key_pem)
        return replace(root_ca, rotation=swapped, last_forced_rotation=forced)
    if issuer_facts(given.cert_pem)[1] == issuer_facts(root_ca.cert_pem)[1]:
        raise InvalidArgumentError(
            "the desired CA certificate has the same key as the current one",
            remedy="Make the new root with a new key; nothing is gained by changing its "
            "certificate alone.",
        )
    return await _begun(step, given, entropy)


async def _begun(step: _Step, target: Root, entropy: Entropy) -> RootCA:
    """A rotation at its start: always from the present root, also in the middle of another one."""
    root_ca = step.root_ca
    if root_ca.key_pem:
        old = Signer(cert_pem=root_ca.cert_pem, key_pem=root_ca.key_pem)
        crossed = cross_sign(old, target.cert_pem, entropy)
    elif target.key_pem:
        authorities = step.authorities(root_ca.cert_pem)
        crossed = await step.external.cross_sign(authorities, target)
    else:
        raise InvalidArgumentError(
            "rotating from one external CA to a different external CA is not supported",
            remedy="Give the key of one of the two, or rotate to a root of the swarm's own between "
            "them.",
        )
    check_cross_signed(crossed, root_ca.cert_pem, target.cert_pem)
    rotation = RootRotation(
        cert_pem=target.cert_pem, key_pem=target.key_pem, cross_signed_pem=crossed
    )
    return replace(root_ca, rotation=rotation, last_forced_rotation=step.config.force_rotate)


def _root_problem(root: x509.Certificate) -> str:
    """Beside dates and key."""
    if root.subject != root.issuer:
        return "it is not self-signed"
    try:
        root.verify_directly_issued_by(root)
    except (InvalidSignature, *_UNREADABLE):
        return "it is not self-signed"
    problem = ca_problem(root)
    if problem:
        return problem
    weak = signature_problem(root)
    if weak:
        return f"it has {weak}"
    if root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0:
        return "it allows no intermediate (path length 0), so the swarm could never leave it again"
    return ""


def _key_of(certificate: x509.Certificate, key_pem: bytes) -> PrivateKey:
    try:
        key = signing_key_from_pem(key_pem)
    except ValueError as error:
        raise InvalidArgumentError(
            f"could not read the signing CA key: {error}",
            remedy="Give an RSA or ECDSA key as PEM, without a passphrase.",
        ) from error
    if key.public_key() != certificate.public_key():
        raise InvalidArgumentError(
            "certificate key mismatch: the signing CA key does not belong to the signing CA "
            "certificate"
        )
    return key
