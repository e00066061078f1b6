"""The group as this member sees it, and how long a call waits for a leader."""

import asyncio
from collections.abc import Callable
from typing import Final

from swarmlet.core.errors import NotLeaderError, QuorumLostError
from swarmlet.core.ids import RaftID
from swarmlet.core.limits import LEADERLESS_S, MS_PER_S
from swarmlet.raft.driver import Driver
from swarmlet.raft.health import Sign, judged, leader_address, leaderless, quorum_of
from swarmlet.raft.proposals import not_leader
from swarmlet.store.proposer import GroupHealth, Leadership, Member, MemberHealth

PATIENCE_ELECTIONS: Final = 2  # election timeouts of silence: then a member does not answer


class GroupView:
    """What the driver knows, in words for others."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._seen_s: dict[RaftID, float] = {}  # since when each member is listened for
        self.hostname_of: Callable[[str], str] = _nameless  # by node id

    def listen(self) -> None:
        """Whenever the members have changed: who is new is listened for from now on."""
        now_s, members = self._driver.env.clock.mono_s(), self._driver.members().members
        self._seen_s = {one.raft_id: self._seen_s.get(one.raft_id, now_s) for one in members}

    def health(self) -> GroupHealth:
        """See RaftLog."""
        driver, now_ms = self._driver, self._driver.env.clock.wall_ms()
        now_s, members = driver.env.clock.mono_s(), driver.members()
        leader = driver.leadership.leader
        led_s = driver.lost_s if leader is None else driver.led_until_s(leader)
        since_ms = now_ms - int((now_s - led_s) * MS_PER_S)
        return GroupHealth(
            leader=leader,
            members=tuple(self._judged(one, now_s, now_ms) for one in members.members),
            quorum=quorum_of(len(members.voters())),
            lost_since_ms=since_ms if leader is None else 0,
            as_of_ms=since_ms,
        )

    async def leader(self) -> Leadership:
        """The present leadership, once somebody leads: another member, or this one and it is ready.

        Waits no longer than LEADERLESS_S after the last leader was heard. Raises QuorumLostError,
        NotLeaderError.
        """
        driver = self._driver
        while True:
            led = driver.leadership
            if led.is_ready or led.leader not in (None, driver.me.raft_id):
                return led
            if driver.is_stopping or driver.is_single():
                raise not_leader()
            left_s = driver.lost_s + LEADERLESS_S - driver.env.clock.mono_s()
            if left_s <= 0:
                raise self._leaderless()
            try:
                async with asyncio.timeout(left_s):
                    await driver.changed().wait()
            except TimeoutError:
                continue

    async def ready(self) -> None:
        """Return once this member leads and may propose. Raises QuorumLostError, NotLeaderError."""
        led = self._driver.leadership
        if not led.is_ready:
            led = await self.leader()
        if not led.is_ready or self._driver.is_stopping:
            raise self.elsewhere()

    def elsewhere(self) -> NotLeaderError:
        """Another member leads, and this one says where."""
        members = self._driver.members().members
        return not_leader(leader_address(members, self._driver.leadership.leader))

    def _leaderless(self) -> QuorumLostError | NotLeaderError:
        return leaderless(self.health(), self._driver.env.clock.wall_ms())

    def _judged(self, member: Member, now_s: float, now_ms: int) -> MemberHealth:
        driver, raft_id = self._driver, member.raft_id
        hostname = self.hostname_of(member.node_id)
        if raft_id == driver.me.raft_id:
            return MemberHealth(member=member, answers=True, hostname=hostname)
        progress = driver.core.progress(raft_id)
        is_told = driver.leadership.leader not in (None, driver.me.raft_id)
        sign = Sign(
            member=member,
            hostname=hostname,
            silent_s=None if progress.heard_s is None else max(0.0, now_s - progress.heard_s),
            listened_s=now_s - self._seen_s.get(raft_id, now_s),
            is_open=is_told or progress.is_connected,
        )
        return judged(sign, now_ms, PATIENCE_ELECTIONS * driver.timing.election_max_s)


def _nameless(_node_id: str) -> str:
    return ""
