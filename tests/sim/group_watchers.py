"""A client that reads from whoever believes to lead, rightly or not."""

import asyncio

from tests.sim.group_member import Manager
from tests.sim.group_users import Client

DEPOSED_S = 1.2  # of a pause: others lead by now


class Watcher(Client):
    """Reads only, and often: of leaders that are cut off, until they notice, and of one that stood
    still and goes on. The request waits at it meanwhile; the answer must be as new as any that was
    given before it was sent."""

    async def run(self, mean_s: float) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / mean_s))
            await self.read()

    def _member(self) -> Manager | None:
        leading = [one for one in self.group.all_in() if self._may_lead(one)]
        return self.rng.choice(leading) if len(leading) > 1 else None

    def _may_lead(self, member: Manager) -> bool:
        if not member.is_up or not member.looked.state or not member.looked.state[1]:
            return False
        paused_s = self.group.clock.now_s - member.pauses_since_s
        return not self.group.loop.is_paused(member.name) or paused_s > DEPOSED_S
