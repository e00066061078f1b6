"""External certificate authorities: cfssl's sign request over https (SwarmKit ca/external.go).

Whatever comes back is checked against what was asked for before anybody gets it. An authority that
cannot be reached is worth another try (UnavailableError); one that refuses, or answers with another
certificate, is not (FailedPreconditionError).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from swarmlet.ca.cfssl import Extension, SignRequest, SignSubject, certificate_in, subject_of
from swarmlet.ca.csr import ca_csr, public_key_of
from swarmlet.ca.identity import ca_problem, check_dates, leaf_issuer, verify_chain
from swarmlet.ca.issuer import ROLE_OUS, Subject
from swarmlet.ca.keys import signature_problem, signing_key_from_pem
from swarmlet.ca.root import Signer, issuer_facts, normal_pem
from swarmlet.core.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    SwarmError,
    UnauthorizedError,
    UnavailableError,
)
from swarmlet.model.address import HOST_LABEL_MAX
from swarmlet.model.cluster import CAConfig, ExternalCA, RootCA
from swarmlet.wire.credentials import Credentials
from swarmlet.wire.outgoing import HttpsAnswer, HttpsRequest

log = logging.getLogger("swarmlet.ca")

PROTOCOL: Final = "cfssl"  # the only one there is
CA_PROFILE: Final = "CA"  # asked for a cross-signed root; SwarmKit ExternalCrossSignProfile
PROFILE_OPTION: Final = "profile"  # of an external CA's options: the profile for nodes

Exchange: TypeAlias = Callable[[HttpsRequest], Awaitable[HttpsAnswer]]
"""`wire.outgoing.exchange`, or the simulation's."""


class Authorities(msgspec.Struct, frozen=True, kw_only=True):
    """The external CAs that sign as one CA certificate, and what leads from that to the root nodes
    trust. Their servers are known by the same certificate."""

    ca_pem: bytes
    members: tuple[ExternalCA, ...] = ()
    intermediates_pem: bytes = b""


def authorities_of(root_ca: RootCA, config: CAConfig, ca_pem: bytes) -> Authorities:
    """The external CAs for this CA certificate; one that names none is for the present root.

    Raises InvalidArgumentError where a named certificate cannot be read.
    """
    wanted = normal_pem(ca_pem) if config.external_cas else ca_pem
    members = tuple(
        authority
        for authority in config.external_cas
        if _certificate_of(authority, root_ca.cert_pem) == wanted
    )
    return Authorities(ca_pem=ca_pem, members=members)


def check_external_ca(authority: ExternalCA) -> None:
    """Raises InvalidArgumentError for one that could never be asked."""
    if authority.protocol.lower() != PROTOCOL:
        raise InvalidArgumentError(
            f'invalid protocol: "{authority.protocol}"', remedy=f"The only one is {PROTOCOL}."
        )
    if not _is_https(authority.url):
        raise InvalidArgumentError(
            f'invalid address of an external CA: "{authority.url}"',
            remedy="External CAs are asked over https: "
            "--external-ca protocol=cfssl,url=https://HOST:PORT/api/v1/cfssl/sign",
        )
    if authority.ca_cert:
        _certificate_of(authority, b"")


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    is_host = all(0 < len(each) <= HOST_LABEL_MAX for each in host.removesuffix(".").split("."))
    return parts.scheme == "https" and is_host and port != 0


def signing_authorities(root_ca: RootCA, config: CAConfig) -> Authorities:
    """The external CAs that sign leafs now: of a rotation's new root while one runs."""
    rotation = root_ca.rotation
    if rotation is None:
        return authorities_of(root_ca, config, root_ca.cert_pem)
    found = authorities_of(root_ca, config, rotation.cert_pem)
    return msgspec.structs.replace(found, intermediates_pem=rotation.cross_signed_pem)


def _certificate_of(authority: ExternalCA, root_pem: bytes) -> bytes:
    try:
        return normal_pem(authority.ca_cert.encode() or root_pem)
    except ValueError as error:
        raise InvalidArgumentError(
            f"the CA certificate given for the external CA {authority.url} cannot be read",
            remedy="Give one certificate as PEM.",
        ) from error


class ExternalSigner:
    """Asks external CAs, one after the other until one does it. `credentials` are the manager's of
    now; it shows its certificate to whom it asks."""

    def __init__(self, exchange: Exchange, credentials: Callable[[], Credentials]) -> None:
        self._exchange, self._credentials = exchange, credentials

    async def sign(
        self, authorities: Authorities, csr_pem: bytes, subject: Subject, now_ms: int
    ) -> bytes:
        """A node's certificate and what leads to the trusted root, PEM. Raises UnavailableError,
        FailedPreconditionError, InvalidArgumentError for a request that cannot be read."""
        public_key = public_key_of(csr_pem)
        request = SignRequest(
            certificate_request=csr_pem.decode(),
            subject=SignSubject(
                common_name=subject.node_id, names=[{"O": subject.cluster_id, "OU": subject.ou}]
            ),
            hosts=subject.dns_names(),
        )

        def check(answer_pem: bytes) -> None:
            identity = verify_chain(answer_pem, authorities.ca_pem, now_ms)
            check_dates(identity, now_ms)
            if leaf_issuer(answer_pem, authorities.ca_pem) != issuer_facts(authorities.ca_pem):
                raise UnauthorizedError("it was signed with an intermediate of the CA's own")
            named = (identity.node_id, ROLE_OUS[identity.role], identity.cluster_id)
            if named != (subject.node_id, subject.ou, subject.cluster_id):
                raise UnauthorizedError("its subject is not the one asked for")
            leaf = x509.load_pem_x509_certificate(answer_pem)
            if leaf.public_key() != public_key:
                raise UnauthorizedError("it is for another key")
            if _alternative_names(leaf) != sorted(subject.dns_names()):
                raise UnauthorizedError("its alternative names are not those asked for")

        chain = await self._first(authorities, request, check)
        return chain + authorities.intermediates_pem

    async def cross_sign(self, authorities: Authorities, new: Signer) -> bytes:
        """The intermediate that leads from a new root to the one these authorities sign for, PEM.
        Raises as `sign`."""
        target = x509.load_pem_x509_certificate(new.cert_pem)
        csr = ca_csr(target, signing_key_from_pem(new.key_pem))
        constraints = target.extensions.get_extension_for_class(x509.BasicConstraints)
        extension = Extension(
            id=constraints.oid.dotted_string,
            critical=constraints.critical,
            value=constraints.value.public_bytes().hex(),
        )
        request = SignRequest(
            certificate_request=csr.decode(),
            subject=subject_of(target),
            profile=CA_PROFILE,
            extensions=[extension],
        )

        def check(answer_pem: bytes) -> None:
            check_cross_signed(answer_pem, authorities.ca_pem, new.cert_pem)

        return await self._first(authorities, request, check)

    async def is_one_reachable(self, authorities: Authorities) -> bool:
        """Whether one of them answers at all, as a server this certificate vouches for."""
        for authority in authorities.members:
            try:
                await self._ask(authority, authorities, b"")
            except (UnavailableError, InvalidArgumentError) as problem:
                _tell(authority, problem)
            else:
                return True
        return False

    async def _first(
        self, authorities: Authorities, request: SignRequest, check: Callable[[bytes], None]
    ) -> bytes:
        problems: list[SwarmError] = []
        for authority in authorities.members:
            try:
                return await self._signed(authority, authorities, request, check)
            except (UnavailableError, FailedPreconditionError, InvalidArgumentError) as error:
                _tell(authority, error)
                problems.append(error)
        for problem in problems:
            if isinstance(problem, UnavailableError):
                raise problem  # who could not be asked may do it the next time
        if problems:
            raise problems[-1]
        raise UnavailableError("no external CA signs for this swarm's root certificate")

    async def _signed(
        self,
        authority: ExternalCA,
        authorities: Authorities,
        request: SignRequest,
        check: Callable[[bytes], None],
    ) -> bytes:
        profile = request.profile or authority.options.get(PROFILE_OPTION, "")
        body = msgspec.json.encode(msgspec.structs.replace(request, profile=profile))
        answer = certificate_in(await self._ask(authority, authorities, body), authority.url)
        try:
            check(answer)
            return normal_pem(answer)
        except (UnauthorizedError, ValueError, InvalidSignature) as error:
            raise FailedPreconditionError(
                f"the external CA {authority.url} answered with a certificate that cannot be used: "
                f"{error}"
            ) from error

    async def _ask(
        self, authority: ExternalCA, authorities: Authorities, body: bytes
    ) -> HttpsAnswer:
        own = self._credentials()
        return await self._exchange(
            HttpsRequest(
                method="POST" if body else "GET",
                url=authority.url,
                body=body,
                credentials=Credentials(
                    root_pem=authorities.ca_pem, chain_pem=own.chain_pem, key_pem=own.key_pem
                ),
            )
        )


def check_cross_signed(pem: bytes, old_pem: bytes, new_pem: bytes) -> None:
    """Whether an intermediate leads from the new root to the old one. Raises UnauthorizedError,
    ValueError, InvalidSignature."""
    found = x509.load_pem_x509_certificate(pem)
    old, new = (x509.load_pem_x509_certificate(each) for each in (old_pem, new_pem))
    if (found.subject, found.public_key()) != (new.subject, new.public_key()):
        raise UnauthorizedError("the intermediate is for another subject or key")
    if _key_id(new) is not None and _key_id(found) != _key_id(new):
        raise UnauthorizedError("the intermediate names its key otherwise than the new root")
    problem = ca_problem(found) or signature_problem(found)
    if problem:
        raise UnauthorizedError(f"the intermediate cannot sign: {problem}")
    found.verify_directly_issued_by(old)


def _key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value.digest
    except x509.ExtensionNotFound:
        return None


def _alternative_names(leaf: x509.Certificate) -> list[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    names = found.get_values_for_type(x509.DNSName)
    return sorted(names) if len(names) == len(list(found)) else []


def _tell(authority: ExternalCA, problem: SwarmError) -> None:
    log.warning("ca.external_failed", extra={"url": authority.url, "cause": problem.message})
