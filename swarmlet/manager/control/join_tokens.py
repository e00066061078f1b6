"""Extra join tokens: created, listed, revoked. Their uses are counted by the CA."""

from typing import Final

import msgspec

from swarmlet.ca.join_token import new_join_token, parse_join_token
from swarmlet.core.errors import InvalidArgumentError, NotFoundError, UnavailableError
from swarmlet.core.ids import JoinTokenID
from swarmlet.core.limits import NS_PER_MS
from swarmlet.manager.control.base import ControlBase
from swarmlet.manager.join_grant import secret_hash
from swarmlet.model.change import Create, Remove
from swarmlet.model.join_token import JoinToken, JoinTokenSpec
from swarmlet.model.validate import ROLES, check_labels
from swarmlet.model.view import View, cluster_of

TOKENS_MAX: Final = 500  # a swarm; expired ones count till removed. One entry can remove them all
EXPIRES_IN_MIN_NS: Final = 1_000 * NS_PER_MS


class JoinTokenCreated(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is told this once, and stored nowhere."""

    id: JoinTokenID
    token: str

    def __repr__(self) -> str:
        return f"JoinTokenCreated(id={self.id!r}, token=***)"


class JoinTokenVerbs(ControlBase):
    """Writes join token rows, but for their uses."""

    async def create_join_token(self, spec: JoinTokenSpec) -> JoinTokenCreated:
        """A token that lets in nodes of this role, with these labels, until it expires or is used
        up."""
        check_join_token(spec)
        view = await self.read()
        if len(view.join_tokens) >= TOKENS_MAX:
            raise UnavailableError(
                f"The swarm has {TOKENS_MAX} extra join tokens already.",
                remedy="Remove those that are expired or used up: `swarmlet join-token ls`.",
            )
        token = new_join_token(cluster_of(view).root_ca.cert_digest, self._env.entropy)
        now_ms = self._env.clock.wall_ms()
        row = JoinToken(
            id=JoinTokenID(self._new_id()),
            role=spec.role,
            secret_hash=secret_hash(parse_join_token(token).secret),
            labels=spec.labels,
            expires_ms=now_ms + spec.expires_in // NS_PER_MS if spec.expires_in else 0,
            uses_max=spec.uses,
        )
        await self._commit(f"join token {row.id}", [Create(obj=row)])
        return JoinTokenCreated(id=row.id, token=token)

    def join_tokens(self, view: View) -> list[tuple[JoinToken, str]]:
        """Each with its state by this manager's clock, oldest first; those that let nobody in any
        more too."""
        rows = view.join_tokens.all()
        now_ms = self._env.clock.wall_ms()
        oldest_first = sorted(rows, key=lambda row: (row.created_ms, row.id))
        return [(row, row.state(now_ms)) for row in oldest_first]

    async def remove_join_token(self, ref: str) -> None:
        """Revoke by id or its beginning. Nodes that joined with it stay. Raises NotFoundError."""
        rows = (await self.read()).join_tokens
        found = [row.id for row in rows.all() if row.id == ref or (ref and row.id.startswith(ref))]
        row_id = ref if ref in found else next(iter(found), "")
        if not row_id:
            raise NotFoundError("join token", ref, "`swarmlet join-token ls` lists what there is.")
        if row_id != ref and len(found) > 1:
            raise InvalidArgumentError(
                f"join token {ref} is ambiguous ({len(found)} matches found)",
                remedy="Give more of its id.",
            )
        await self._commit(f"join token {row_id}", [Remove(table=JoinToken, id=row_id)])


def check_join_token(spec: JoinTokenSpec) -> None:
    """Raises InvalidArgumentError."""
    if spec.role not in ROLES:
        raise InvalidArgumentError(
            f"invalid role {spec.role!r} for a join token",
            remedy=f"It is one of {', '.join(ROLES)}.",
        )
    check_labels(spec.labels)
    if spec.expires_in and spec.expires_in < EXPIRES_IN_MIN_NS:
        raise InvalidArgumentError(
            "a join token must expire in the future, at least a second from now",
            remedy="Give a time such as 24h, or none for a token that does not expire.",
        )
    if spec.uses < 0:
        raise InvalidArgumentError(
            "a join token must be good for at least one use",
            remedy="Give a number from 1 on, or none for a token without a bound.",
        )
