"""Tasks are moved for balance once, because a user asks for it."""

from typing import Final

from msgspec.structs import replace

from swarmlet.core.errors import StaleVersionError, UnavailableError
from swarmlet.manager.control.base import ControlBase, worked_out
from swarmlet.model.change import Update
from swarmlet.model.view import cluster_of
from swarmlet.reconcile.balance_plan import PlannedMove, planned_moves

TRIES_MAX: Final = 10  # against others who write the cluster's row at the same moment


class RebalanceVerbs(ControlBase):
    """Writes when it was last asked for."""

    async def rebalance_moves(self) -> tuple[PlannedMove, ...]:
        """What `rebalance` would do, without doing it; also what is hindered, and why."""
        return await worked_out(planned_moves(await self.read(hold=True), self.now_ms()))

    async def rebalance(self) -> tuple[PlannedMove, ...]:
        """Move tasks until every service is even that does not forbid it, a few a minute. What will
        be moved, as it looks now."""
        for _ in range(TRIES_MAX):
            before, now_ms = await self.read(hold=True), self.now_ms()
            cluster = cluster_of(before)
            row = replace(cluster, rebalance_asked_ms=now_ms)
            try:
                await self._commit("the swarm", [Update(obj=row, seen=cluster.version)])
            except StaleVersionError:
                continue
            return await worked_out(planned_moves(before, now_ms))
        raise UnavailableError(
            "The swarm's own row is written by others all the time.", remedy="Try again."
        )
