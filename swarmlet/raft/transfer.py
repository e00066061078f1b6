"""Leadership handed over: proposals wait, a voter catches up, and is asked to stand at once."""

import asyncio
import logging
from typing import Final

from swarmlet.core.errors import FailedPreconditionError, UnavailableError
from swarmlet.core.ids import RaftID
from swarmlet.raft.background import Background
from swarmlet.raft.driver import Driver
from swarmlet.raft.group_view import GroupView

log = logging.getLogger("swarmlet.raft")

TRANSFER_S: Final = 2.0  # all in all; proposals wait meanwhile
LOOK_S: Final = 0.02
FULL_RETRY_S: Final = 10.0  # after nobody took over from a leader whose disk is full
ANSWER_ELECTIONS: Final = 1.0  # election timeouts until a voter that was asked is given up


class Transfer:
    """One at a time; `held` is awaited by proposals."""

    def __init__(self, driver: Driver, view: GroupView) -> None:
        self._driver, self._view = driver, view
        self._lock = asyncio.Lock()
        self._free = asyncio.Event()
        self._free.set()

    @property
    def is_held(self) -> bool:
        """Whether no proposal may be made at this moment."""
        return not self._free.is_set()

    async def released(self) -> None:
        """Return once proposals may be made again, here or elsewhere."""
        await self._free.wait()

    def end(self) -> None:
        """The member ends: nobody waits."""
        self._free.set()

    async def run(self, to: RaftID | None) -> None:
        """See RaftLog.transfer."""
        async with self._lock:
            await self._view.ready()
            self._check(to)
            self._free.clear()
            try:
                async with asyncio.timeout(TRANSFER_S):
                    await self._hand_over(to)
            except TimeoutError as error:
                raise UnavailableError(
                    f"No other manager took over within {TRANSFER_S:g} s; this one leads on.",
                    remedy="`swarmlet node ls` shows which managers answer. Try again in a moment.",
                ) from error
            finally:
                self._free.set()
        log.info("raft.transferred", extra={"leader": f"{self._driver.leadership.leader or 0:x}"})

    async def tried(self) -> None:
        """Hand over if one can take over: before the end, or where the disk is full."""
        if not self._driver.leadership.is_ready or not self._driver.has_other_voters():
            return
        try:
            await self.run(None)
        except UnavailableError as problem:
            log.info("raft.not_transferred", extra={"problem": problem.message})

    def _check(self, to: RaftID | None) -> None:
        driver = self._driver
        voters = driver.members().voters()
        if to is not None and (to not in voters or to == driver.me.raft_id):
            raise FailedPreconditionError(
                f"Member {to:x} cannot take over: it is not another voting manager.",
                remedy="A manager that joined just now votes once it has caught up.",
            )
        if not driver.has_other_voters():
            raise UnavailableError(
                "There is no other manager that could take over.",
                remedy="Add managers with `swarmlet join` and the manager token.",
            )

    async def _hand_over(self, to: RaftID | None) -> None:
        driver = self._driver
        term = driver.leadership.term
        asked: dict[RaftID, float] = {}  # and when: one that does not stand is passed over
        while driver.leadership.is_ready and driver.leadership.term == term:
            target = to if to is not None else self._furthest(asked)
            if target is not None and self._may_ask(asked, target) and not driver.proposals.size_b:
                if driver.core.transfer_to(target):
                    asked[target] = driver.env.clock.mono_s()
                driver.wake()
            await self._pause()
        while driver.leadership.leader in (None, driver.me.raft_id):
            if driver.is_stopping:
                raise self._view.elsewhere()
            if driver.leadership.is_ready:
                raise UnavailableError(
                    "No other manager was elected, and this one leads again.",
                    remedy="Try again in a moment.",
                )
            await self._pause()

    def _may_ask(self, asked: dict[RaftID, float], target: RaftID) -> bool:
        again_s = ANSWER_ELECTIONS * self._driver.timing.election_min_s
        return self._driver.env.clock.mono_s() - asked.get(target, float("-inf")) > again_s

    def _furthest(self, asked: dict[RaftID, float]) -> RaftID | None:
        """Of the connected voters the one with the longest log, those asked before last."""
        driver = self._driver
        found: list[tuple[float, int, RaftID]] = []
        for raft_id in driver.members().voters():
            progress = driver.core.progress(raft_id)
            if raft_id != driver.me.raft_id and progress.is_connected:
                found.append((asked.get(raft_id, 0.0), -progress.match_index, raft_id))
        return min(found)[2] if found else None

    async def _pause(self) -> None:
        """Until leadership changes, or a moment."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._driver.changed().wait()
        except TimeoutError:
            return


class FullDisk:
    """A leader of several whose disk has no room lets another lead."""

    def __init__(self, driver: Driver, transfer: Transfer) -> None:
        self._driver, self._transfer = driver, transfer
        self._is_wanted = self._is_busy = False
        self._not_before_s = float("-inf")

    def look(self) -> bool:
        """There is no room for a proposal: whether another member is asked to take over."""
        if self._driver.env.clock.mono_s() < self._not_before_s:
            return False
        self._is_wanted = self._driver.has_other_voters()
        return self._is_wanted

    def begin(self, background: Background) -> None:
        """Ask, if that is wanted and not done already."""
        if self._is_wanted and not self._is_busy:
            self._is_busy = background.begin(self._hand_over, name="hand-over")

    async def _hand_over(self) -> None:
        try:
            await self._transfer.tried()
        finally:
            self._not_before_s = self._driver.env.clock.mono_s() + FULL_RETRY_S
            self._is_wanted = self._is_busy = False
            self._driver.wake()
