"""Extra join tokens: what a manager grants to whoever shows one."""

from typing import Final

from swarmlet.core.ids import JoinTokenID
from swarmlet.model.base import ApiStruct, Record, always

USES_UNLIMITED: Final = 0
NEVER_EXPIRES: Final = 0


class JoinTokenSpec(ApiStruct, frozen=True, kw_only=True):
    """What a user asks for. `expires_in` is nanoseconds from now; 0 in it, or in `uses`, means
    without a bound. `labels` become those of every node that joins with the token."""

    role: str = ""
    labels: dict[str, str] = always({})
    expires_in: int = 0
    uses: int = 0


class JoinToken(Record, frozen=True, kw_only=True):
    """An extra token. `secret_hash` is the SHA-256 of the token's secret, which is stored nowhere;
    `expires_ms` is wall time. Written by the API; `uses` by the CA, with the node it let in."""

    id: JoinTokenID
    role: str
    secret_hash: bytes
    labels: dict[str, str] = {}
    expires_ms: int = NEVER_EXPIRES
    uses_max: int = USES_UNLIMITED
    uses: int = 0
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0

    def is_expired(self, now_ms: int) -> bool:
        return self.expires_ms != NEVER_EXPIRES and now_ms >= self.expires_ms

    def is_used_up(self) -> bool:
        return self.uses_max != USES_UNLIMITED and self.uses >= self.uses_max

    def state(self, now_ms: int) -> str:
        """Whether it lets nodes in: "valid", or "expired" or "used-up"."""
        if self.is_expired(now_ms):
            return "expired"
        return "used-up" if self.is_used_up() else "valid"
