"""Join tokens: `SWMTKN-1-<digest of the root, 50 base 36>-<secret, 25 base 36>` (SwarmKit
ca/config.go)."""

import hashlib
import re
from typing import Final

import msgspec

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import Entropy, base36

_DIGEST_LENGTH: Final = 50  # base 36 digits of a SHA-256
_SECRET_LENGTH: Final = 25  # base 36 digits of 16 bytes
_SECRET_B: Final = 16
_LENGTH: Final = len("SWMTKN-1-") + _DIGEST_LENGTH + 1 + _SECRET_LENGTH
_FORM: Final = re.compile(r"SWMTKN-1-([0-9a-z]{50})-([0-9a-z]{25})")


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed token: which root to trust, and the secret that says the role."""

    cert_digest: str
    secret: str

    def __repr__(self) -> str:
        return f"JoinToken(cert_digest={self.cert_digest!r}, secret=***)"


def cert_digest(root_pem: bytes) -> str:
    """SHA-256 of the whole root bundle, base 36, 50 digits."""
    return base36(int.from_bytes(hashlib.sha256(root_pem).digest(), "big"), _DIGEST_LENGTH)


def new_join_token(digest: str, entropy: Entropy) -> str:
    """A fresh token for the root with this digest."""
    secret = base36(int.from_bytes(entropy(_SECRET_B), "big"), _SECRET_LENGTH)
    return f"SWMTKN-1-{digest}-{secret}"


def parse_join_token(text: str) -> JoinToken:
    """Raises InvalidArgumentError; the sentence never repeats the token."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidArgumentError(
            f"invalid join token: {_fault(text.strip())}",
            remedy="Copy the whole token that `swarmlet join-token worker` prints on a manager.",
        )
    return JoinToken(cert_digest=found[1], secret=found[2])


def _fault(text: str) -> str:
    form = "it must look like SWMTKN-1-<50 characters>-<25 characters>"
    if text.startswith("SWMTKN-2-"):
        return "it is of a swarm in FIPS mode, which is not supported"
    if text.startswith("SWMTKN-1-") and len(text) < _LENGTH:
        return f"it is cut off after {len(text)} of {_LENGTH} characters; {form}"
    return form
