"""cfssl's words: a sign request and what is answered to it, as JSON (cfssl api/signhandler)."""

from typing import Final

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from swarmlet.core.errors import FailedPreconditionError, UnavailableError
from swarmlet.wire.outgoing import HttpsAnswer

_HTTP_OK: Final = 200
_HTTP_BAD_REQUEST: Final = 400  # cfssl's status for what it will not sign
_NAMES: Final = {  # that cfssl can be asked for
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
}


class SignSubject(msgspec.Struct, frozen=True, kw_only=True):
    common_name: str = msgspec.field(name="CN")
    names: list[dict[str, str]]


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    critical: bool
    value: str  # hexadecimal DER


class SignRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    certificate_request: str
    subject: SignSubject
    hosts: list[str] = []
    profile: str = ""
    extensions: list[Extension] = []


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    message: str = ""


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    certificate: str = ""


class _SignAnswer(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = False
    result: _Result | None = None
    errors: list[_Problem] = []


def subject_of(certificate: x509.Certificate) -> SignSubject:
    common, names = "", list[dict[str, str]]()
    for attribute in certificate.subject:
        if attribute.oid == NameOID.COMMON_NAME:
            common = str(attribute.value)
        elif attribute.oid in _NAMES:
            names.append({_NAMES[attribute.oid]: str(attribute.value)})
    return SignSubject(common_name=common, names=names)


def certificate_in(answer: HttpsAnswer, url: str) -> bytes:
    """The certificate of an answer. Raises UnavailableError for what no cfssl says, and
    FailedPreconditionError for a refusal."""
    if answer.status not in (_HTTP_OK, _HTTP_BAD_REQUEST):
        raise UnavailableError(f"the external CA {url} answered with HTTP status {answer.status}")
    try:
        said = msgspec.json.decode(answer.body, type=_SignAnswer)
    except msgspec.DecodeError as error:
        raise UnavailableError(f"the external CA {url} did not answer as cfssl does") from error
    if not said.success or said.result is None or not said.result.certificate:
        causes = "; ".join(problem.message for problem in said.errors) or "no cause given"
        raise FailedPreconditionError(f"the external CA {url} refuses to sign: {causes}")
    return said.result.certificate.encode()
