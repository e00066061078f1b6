"""What a join token grants: worker's, manager's, or an extra one."""

import hashlib
import hmac
from typing import Final

import msgspec

from swarmlet.ca.join_token import parse_join_token
from swarmlet.core.errors import ForbiddenError, UnauthorizedError
from swarmlet.model.join_token import JoinToken
from swarmlet.model.view import View, cluster_of

_TAKE_ANOTHER: Final = "`swarmlet join-token worker` on a manager prints the present one."


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """`extra`: the row of the extra token that was shown, with its use still to be counted."""

    role: str
    extra: JoinToken | None = None


def secret_hash(secret: str) -> bytes:
    """By which an extra token is found. Its secret has 128 random bits, so a plain SHA-256 is not
    to be turned back, and looking it up tells nobody how close a guess was."""
    return hashlib.sha256(secret.encode()).digest()


def find_grant(view: View, text: str) -> Grant:
    """What this token stands for, used up and expired ones too.

    Raises InvalidArgumentError where it is no token or another swarm's, UnauthorizedError where it
    is none of the present ones. No sentence repeats the token.
    """
    token = parse_join_token(text)
    root = cluster_of(view).root_ca
    if token.cert_digest != root.cert_digest:
        raise UnauthorizedError(
            "The join token is for another root CA: it belongs to another swarm, or is from before "
            "this swarm's root CA was rotated.",
            remedy=_TAKE_ANOTHER,
        )
    shown = text.strip().encode()
    is_manager = hmac.compare_digest(shown, root.tokens.manager.encode())
    is_worker = hmac.compare_digest(shown, root.tokens.worker.encode())
    if is_manager or is_worker:
        return Grant(role="manager" if is_manager else "worker")
    for extra in view.join_tokens.scan("secret", secret_hash(token.secret)):
        return Grant(role=extra.role, extra=extra)
    raise UnauthorizedError(
        "The join token is not (or no longer) valid: it was mistyped, rotated, or revoked.",
        remedy=_TAKE_ANOTHER,
    )


def check_grant(grant: Grant, now_ms: int) -> None:
    """Raises ForbiddenError for an extra token that lets nobody in any more."""
    extra = grant.extra
    if extra is None:
        return
    if extra.is_expired(now_ms):
        ago_s = (now_ms - extra.expires_ms) // 1000
        raise ForbiddenError(
            f"The join token {extra.id} expired {ago_s} s ago.", remedy=_TAKE_ANOTHER
        )
    if extra.is_used_up():
        times = "once" if extra.uses_max == 1 else f"{extra.uses_max} times"
        raise ForbiddenError(
            f"The join token {extra.id} is used up: it was good for joining {times}.",
            remedy=_TAKE_ANOTHER,
        )
