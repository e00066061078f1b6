"""THE control loop: runs any decider of `reconcile` against the store until nothing is left to
decide.

An applied change is told to the decider, which marks keys dirty; a dirty key is decided on the live
view; its changes are committed with nothing awaited in between. Small decisions of independent keys
share one entry; where that entry is refused each key is decided and committed alone. A committed or
refused key is always decided again: a key is at rest only when its decision is empty. Keys of one
decider may claim the same thing (a name, a port) only under a guard, since decisions that share an
entry do not see each other.
"""

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from typing import Final

from swarmlet.core.errors import (
    ConflictError,
    DiskFullError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    StaleVersionError,
    UnavailableError,
)
from swarmlet.core.ids import new_id
from swarmlet.core.limits import ENTRY_CHANGES_MAX, MS_PER_S
from swarmlet.env.base import Env
from swarmlet.model.change import Change, Event, Guard
from swarmlet.reconcile.base import Decider, Decision, Key, Moment
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

ROUNDS_MAX: Final = 100  # decisions of one key in a row, caused by nothing but its own changes
LOOKS_MAX: Final = 10_000  # of one key in a row that only looked at a part: 5 million slots
REFUSALS_MAX: Final = 100  # of one key in a row; with the delays below about a minute and a half
REFUSAL_DELAY_MIN_MS: Final = 1  # what stands in the way may be decided but not yet applied
REFUSAL_DELAY_MAX_MS: Final = 1_000
TURN_MAX_S: Final = (
    0.002  # of deciding before the entry is closed; a turn of the loop stays below 5 ms
)
TURN_KEYS_MAX: Final = 100  # the same for clocks that stand still while code runs
TURN_EVENTS_MAX: Final = 200  # told to the decider in one turn
START_STEPS_MAX: Final = 1_000  # in one turn, for clocks that stand still
START_EVENTS_MAX: Final = 100_000  # applied during a start; more, and it begins again
STARTS_MAX: Final = 3  # the last of them in one turn, so that it ends
PAUSE_S: Final = 1.0  # after a full disk or an unknown outcome
NO_LEADER_PAUSE_S: Final = 0.1  # the end of leadership is on its way
CLOCK_CHECK_S: Final = 10.0  # wall time may be set: timers are looked at no later than this

OWN_ENTRIES_MAX: Final = 1_000  # remembered, to tell our own changes from others'

STALE_TIMERS_MAX: Final = 1_000  # replaced ones in the heap before it is swept
REASONS_MAX: Final = 20  # of one decision in one log line

REFUSALS: Final = (
    StaleVersionError,
    ConflictError,
    NotFoundError,
    FailedPreconditionError,
    InvalidArgumentError,
)


class RestlessKeyError(AssertionError):
    """A key that never rests: a bug in its decider."""

    def __init__(self, decider: str, key: Key, reasons: Sequence[str]) -> None:
        super().__init__(
            f"{decider} never rests on {key}: {'; '.join(reasons) or 'no reasons given'}"
        )


class _Entry:
    """Decisions that are committed together."""

    def __init__(self) -> None:
        self.decisions: dict[Key, Decision] = {}
        self.changes: list[Change] = []
        self.guards: list[Guard] = []

    def has_room_for(self, decision: Decision) -> bool:
        return not self.changes or len(self.changes) + len(decision.changes) <= ENTRY_CHANGES_MAX

    def add(self, key: Key, decision: Decision) -> None:
        self.decisions[key] = decision
        self.changes += decision.changes
        self.guards += decision.guards


class ControlLoop:
    """One decider's loop on the leader. `run` may be started again after it ended.

    Loops with the same `turnstile` start one after the other: a start keeps a view.
    """

    def __init__(
        self, decider: Decider, store: Store, env: Env, turnstile: asyncio.Lock | None = None
    ) -> None:
        self._decider, self._store, self._env = decider, store, env
        self._turnstile = turnstile or asyncio.Lock()
        self._forget_all()
        self._rounds_total = self._refusals_total = 0

    def _forget_all(self) -> None:
        self._queue: deque[Key] = deque()  # dirty keys, each once, in the order they became dirty
        self._dirty: set[Key] = set()
        self._stirred: dict[Key, set[int]] = {}  # indices of entries since the key was decided
        self._own: deque[int] = deque(maxlen=OWN_ENTRIES_MAX)
        self._timers: list[tuple[int, int, Key]] = []  # wall ms, number, key
        self._wake: dict[Key, int] = {}  # the timer that counts
        self._timer_number = 0
        self._seen_ms = 0  # of the clock, when timers were last looked at
        self._rounds: dict[Key, int] = {}
        self._looks: dict[Key, int] = {}
        self._refused: dict[Key, int] = {}
        self._is_starting = self._is_committing = False
        self._events: deque[tuple[int, Event]] = deque()  # not yet told to the decider
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        return self._decider.name

    def is_at_rest(self) -> bool:
        """Whether nothing is left to decide until something changes or a timer fires."""
        nothing_known = not self._dirty and not self._refused and not self._events
        return nothing_known and not self._is_committing and not self._is_starting

    def next_wake_ms(self) -> int | None:
        """Wall time of the next timer."""
        return min(self._wake.values(), default=None)

    def gauges(self) -> dict[str, float]:
        label = f'{{loop="{self.name}"}}'
        return {
            f"swarmlet_loop_rounds_total{label}": float(self._rounds_total),
            f"swarmlet_loop_refusals_total{label}": float(self._refusals_total),
            f"swarmlet_loop_dirty{label}": float(len(self._dirty)),
            f"swarmlet_loop_timers{label}": float(len(self._wake)),
        }

    async def run(self) -> None:
        """Until cancelled. Raises RestlessKeyError, or what the decider raised."""
        self._forget_all()
        self._is_starting = True
        with ExitStack() as at_end:
            at_end.callback(self._forget_all)
            async with self._turnstile:
                at_end.callback(self._store.subscribe(self._on_events))
                await self._start()
            while True:
                await self._take_events()
                self._fire_timers()
                if self._dirty:
                    await self._turn()
                else:
                    await self._wait()

    async def _start(self) -> None:
        """Start the decider on a view that holds still, a few milliseconds a turn. What is applied
        meanwhile is told to it afterwards, in order: each change is in the view or among these."""
        for left in reversed(range(STARTS_MAX)):
            if await self._start_in_turns(is_last=left == 0):
                break
            log.warning("loop.start_overtaken", extra={"loop": self.name})
        self._is_starting = False

    async def _start_in_turns(self, *, is_last: bool) -> bool:
        """Whether it came to its end before too much was applied; the last try is one turn."""
        self._events.clear()
        self._queue.clear()
        self._dirty.clear()
        view = self._store.view() if is_last else self._store.hold()
        clock = self._env.clock
        end_s = clock.mono_s() + TURN_MAX_S
        for step, key in enumerate(self._decider.start(view), 1):
            if key is not None:
                self._mark(key)
            if is_last:
                continue
            if step % START_STEPS_MAX == 0 or clock.mono_s() >= end_s:
                await asyncio.sleep(0)
                if len(self._events) > START_EVENTS_MAX:
                    return False
                end_s = clock.mono_s() + TURN_MAX_S
        return True

    def _on_events(self, events: Sequence[Event]) -> None:
        tables = self._decider.tables
        wanted = [event for event in events if event.table in tables]
        if wanted:
            index = self._store.index
            self._events.extend((index, event) for event in wanted)
            self._changed.set()

    async def _take_events(self) -> None:
        """Ask the decider which keys to look at again, a few events a turn. Nothing is awaited
        after the last, so that whoever decides next does so with every event told."""
        for taken in count(1):
            if not self._events:
                return
            index, event = self._events.popleft()
            for key in self._decider.keys_of(event, self._store.view()):
                self._mark(key)
                self._stirred.setdefault(key, set()).add(index)
            if taken % TURN_EVENTS_MAX == 0:
                await asyncio.sleep(0)

    def _mark(self, key: Key) -> None:
        if key not in self._dirty:
            self._dirty.add(key)
            self._queue.append(key)

    async def _turn(self) -> None:
        entry = self._decide_some()
        if entry.changes and not await self._commit(entry):
            await self._one_by_one(entry)
        await asyncio.sleep(0)

    async def _one_by_one(self, entry: _Entry) -> None:
        """Decide and commit each key of a refused entry alone; who is refused alone waits a
        little."""
        for key in entry.decisions:
            await self._take_events()
            alone = _Entry()
            alone.add(key, self._decide(key))
            self._note(key, alone.decisions[key])
            if alone.changes and not await self._commit(alone):
                await self._take_events()
                self._postpone(key, alone.decisions[key])
            await asyncio.sleep(0)

    def _decide_some(self) -> _Entry:
        entry, clock = _Entry(), self._env.clock
        end_s = clock.mono_s() + TURN_MAX_S
        for _ in range(min(len(self._queue), TURN_KEYS_MAX)):
            decision = self._decide(self._queue[0])
            if not entry.has_room_for(decision):
                break
            key = self._queue.popleft()
            self._dirty.remove(key)
            self._note(key, decision)
            if decision.changes:
                entry.add(key, decision)
            if clock.mono_s() >= end_s:
                break
        return entry

    def _decide(self, key: Key) -> Decision:
        moment = Moment(self._env.clock.wall_ms(), partial(new_id, self._env.entropy))
        return self._decider.decide(self._store.view(), key, moment)

    def _note(self, key: Key, decision: Decision) -> None:
        """Keep the books of a key that was just decided. Raises RestlessKeyError."""
        self._rounds_total += 1
        self._set_timer(key, decision.wake_at_ms)
        if not decision.changes and decision.has_more:
            self._mark(key)
            self._count(key, self._looks, LOOKS_MAX, decision)
            return
        self._looks.pop(key, None)
        stirred = self._stirred.pop(key, ())
        if not decision.changes:
            self._rounds.pop(key, None)
            self._refused.pop(key, None)
        elif not decision.has_more and all(index in self._own for index in stirred):
            self._count(key, self._rounds, ROUNDS_MAX, decision)

    def _count(self, key: Key, counts: dict[Key, int], most: int, decision: Decision) -> None:
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > most:
            raise RestlessKeyError(self.name, key, decision.reasons)

    async def _commit(self, entry: _Entry) -> bool:
        """Whether the entry was not refused. Its keys are dirty again, whatever became of it."""
        self._is_committing = True
        try:
            self._own.append(await self._store.commit(entry.changes, entry.guards))
        except REFUSALS as refusal:
            self._refusals_total += 1
            log.info("loop.refused", extra={"loop": self.name, "cause": refusal.message})
            return False
        except (DiskFullError, UnavailableError) as problem:
            log.warning("loop.not_committed", extra={"loop": self.name, "cause": problem.message})
            no_leader = isinstance(problem, NotLeaderError)
            await asyncio.sleep(NO_LEADER_PAUSE_S if no_leader else PAUSE_S)
        else:
            self._tell(entry)
        finally:
            self._is_committing = False
            for key in entry.decisions:
                self._mark(key)
        return True

    def _tell(self, entry: _Entry) -> None:
        for key, decision in entry.decisions.items():
            self._refused.pop(key, None)
            if decision.reasons:
                fields = {"loop": self.name, "key": key, "reasons": decision.reasons[:REASONS_MAX]}
                log.info("loop.decided", extra=fields)

    def _postpone(self, key: Key, decision: Decision) -> None:
        """A key refused alone: what stands in its way may not be applied yet."""
        times = self._refused[key] = self._refused.get(key, 0) + 1
        if times > REFUSALS_MAX:
            raise RestlessKeyError(self.name, key, decision.reasons)
        if key in self._stirred:
            return  # it moved already: look again at once
        delay_ms = min(REFUSAL_DELAY_MIN_MS << min(times, 16), REFUSAL_DELAY_MAX_MS)
        self._dirty.discard(key)
        self._queue.remove(key)
        self._set_timer(key, self._env.clock.wall_ms() + delay_ms)

    def _set_timer(self, key: Key, wake_at_ms: int | None) -> None:
        if wake_at_ms is None:
            self._wake.pop(key, None)
        elif self._wake.get(key) != wake_at_ms:
            self._wake[key] = wake_at_ms
            self._timer_number += 1
            heapq.heappush(self._timers, (wake_at_ms, self._timer_number, key))
            if len(self._timers) > 2 * len(self._wake) + STALE_TIMERS_MAX:
                self._timers = [
                    entry for entry in self._timers if self._wake.get(entry[2]) == entry[0]
                ]
                heapq.heapify(self._timers)

    def _fire_timers(self) -> None:
        """Those that are due; all of them where the clock was set back, for their times are of the
        old one.
        """
        now_ms = self._env.clock.wall_ms()
        was_set_back, self._seen_ms = now_ms < self._seen_ms, now_ms
        while self._timers and (was_set_back or self._timers[0][0] <= now_ms):
            at_ms, _, key = heapq.heappop(self._timers)
            if self._wake.get(key) == at_ms:
                del self._wake[key]
                self._mark(key)

    async def _wait(self) -> None:
        """Until something changed or the next timer is due."""
        self._changed.clear()
        delay_s = None
        if self._timers:
            due_s = (self._timers[0][0] - self._env.clock.wall_ms()) / MS_PER_S
            delay_s = min(max(due_s, 0.0), CLOCK_CHECK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._changed.wait()
