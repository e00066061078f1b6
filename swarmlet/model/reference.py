"""Image references: `busybox:1`, `reg:5000/a/b@sha256:...` (distribution/reference's grammar)."""

import re
from typing import Final

import msgspec

from swarmlet.core.errors import InvalidArgumentError

HOST_IMAGES: Final = ("host", "host:latest")  # the docker CLI writes the tag out
"""No image but the node's own files, which the process runtime alone runs."""
NAME_LENGTH_MAX: Final = 255  # characters of domain and path; distribution/reference
_TEXT_LENGTH_MAX: Final = 1_024  # name, tag of 128 and the longest digest in use fit twice
_HEX_ID: Final = re.compile(r"[a-f0-9]{64}")
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_DIGEST_DIGITS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """An image's name in its parts. `domain` is empty where the user gave none."""

    domain: str = ""
    path: str
    tag: str = ""
    digest: str = ""


def parse_reference(text: str) -> Reference:
    """Raises InvalidArgumentError with the rule that is broken."""
    if len(text) > _TEXT_LENGTH_MAX:
        raise _invalid(text[:40] + "...", "it is too long")
    rest, at, digest = text.partition("@")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # the colon, if any, belongs to the registry's port
        name, colon, tag = rest, "", ""
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"the tag {tag!r} is not of letters, digits, '_', '.' and '-'")
    if at:
        _check_digest(text, digest)
    domain, path = _split(name)
    _check_name(text, domain, path)
    return Reference(domain=domain, path=path, tag=tag, digest=digest)


def _split(name: str) -> tuple[str, str]:
    """A first component is a registry where it looks like a host and could be no path."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or first != first.lower() or set(first) & set(".:[")):
        return first, rest
    return "", name


def _check_name(text: str, domain: str, path: str) -> None:
    if not path:
        raise _invalid(text, "the image's name is missing")
    if domain and not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{domain!r} is not a registry's host name")
    if path != path.lower():
        raise _invalid(text, "repository name must be lowercase")
    if not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        raise _invalid(
            text, "a name is of lower-case letters and digits, parted by '.', '_' or '-'"
        )
    if len(domain) + len(path) > NAME_LENGTH_MAX:
        raise _invalid(text, f"a name has at most {NAME_LENGTH_MAX} characters")
    if not domain and _HEX_ID.fullmatch(path):
        raise _invalid(text, "a name cannot be 64 hexadecimal digits: that is an image's id")


def _check_digest(text: str, digest: str) -> None:
    algorithm, _, digits = digest.partition(":")
    expected = _DIGEST_DIGITS.get(algorithm, len(digits))
    if not _DIGEST.fullmatch(digest) or len(digits) != expected:
        raise _invalid(text, "what follows '@' must be a digest such as sha256:<64 hex digits>")


def _invalid(text: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"invalid image reference {text!r}: {why}",
        remedy="Write [registry/]name[:tag][@digest], such as busybox:1.36; "
        "`host` runs the command as a plain process.",
    )
