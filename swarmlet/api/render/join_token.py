"""Extra join tokens. Their secret is not known to anybody any more."""

from swarmlet.api.render.common import rfc3339
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.join_token import NEVER_EXPIRES, JoinToken


class JoinTokenJson(ApiStruct, frozen=True, kw_only=True):
    """`state`: valid, expired or used-up. `expires_at` is null for a token that never does,
    `uses_max` 0 for one that may be used for ever."""

    id: str
    created_at: str
    role: str
    labels: dict[str, str] = always({})
    expires_at: str | None = always(None)
    uses: int = always(0)
    uses_max: int = always(0)
    state: str


class JoinTokenCreatedJson(ApiStruct, frozen=True, kw_only=True):
    """Told once, to whoever asked for the token."""

    id: str
    token: str


def render_join_token(row: JoinToken, state: str) -> JoinTokenJson:
    return JoinTokenJson(
        id=row.id,
        created_at=rfc3339(row.created_ms),
        role=row.role,
        labels=row.labels,
        expires_at=None if row.expires_ms == NEVER_EXPIRES else rfc3339(row.expires_ms),
        uses=row.uses,
        uses_max=row.uses_max,
        state=state,
    )
