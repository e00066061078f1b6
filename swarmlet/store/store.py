"""The store: tables driven by the log, transactions proposed to it."""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from swarmlet.core.errors import (
    InvalidArgumentError,
    OutcomeUnknownError,
    StaleVersionError,
    UnavailableError,
)
from swarmlet.core.limits import (
    ENTRY_CHANGES_MAX,
    ENTRY_SIZE_MAX_B,
    OUTCOMES_MAX,
)
from swarmlet.env.base import Env
from swarmlet.model.change import TABLE_NUMBERS, TABLES, Change, Event, Guard
from swarmlet.model.view import View
from swarmlet.store.apply import Outcome, notes_of, resolve
from swarmlet.store.batch import pieces
from swarmlet.store.codec import (
    Entry,
    decode_entry,
    encode_change,
    encode_entry,
    new_proposal_id,
    proposal_id_of,
)
from swarmlet.store.flight import Ahead, BlockedError, Flight
from swarmlet.store.history import History
from swarmlet.store.memory import OverlaidView, Overlay, StoreView, live_tables
from swarmlet.store.proposer import RaftLog
from swarmlet.store.refusal import REFUSALS, Refusal, RefusedError, forgotten
from swarmlet.store.schema import WORDS
from swarmlet.store.snapshot import decode_snapshot, encode_snapshot
from swarmlet.store.tables import Table

log = logging.getLogger("swarmlet.store")

Subscriber: TypeAlias = Callable[[Sequence[Event]], None]
Build: TypeAlias = Callable[[View], tuple[Sequence[Change], Sequence[Guard]]]

FLIGHTS_MAX: Final = OUTCOMES_MAX // 2  # so that what a flight builds on is still remembered
UPDATE_TRIES_MAX: Final = 5  # of a build that others overtake
BLOCKED_MAX: Final = 2  # waits for writes in flight, then the log decides


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """For metrics: `rows` by kind of object, and all that is bounded but could pile up."""

    index: int
    rows: dict[str, int]
    in_flight: int
    views_held: int
    outcomes: int
    events: int
    events_size_b: int


class Store:
    """Implements StateMachine for the log; everything else reads views and commits changes."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._log: RaftLog | None = None
        self._subscribers: tuple[Subscriber, ...] = ()
        self._at_restore: tuple[Subscriber, ...] = ()  # those of them that hear of it
        self.history = History()
        self._held = _no_held()
        self._outcomes: dict[int, Outcome] = {}  # oldest first; the oldest are forgotten
        self._forgotten_index = 0  # no outcome from up to here is sure to be remembered
        self._tables = live_tables()
        self._live = StoreView(self._tables, 0)
        self.stamp_ms = 0  # of the last entry applied, by its proposer's clock
        self._ahead = Ahead(self._live, self._tables, self._outcomes)

    def attach(self, log: RaftLog) -> None:
        """Where commits are proposed. Called once, before the first commit."""
        assert self._log is None, "a store has one log"
        self._log = log

    @property
    def index(self) -> int:
        """Index of the last entry applied."""
        return self._live.index

    def view(self) -> View:
        """The live tables: consistent until the next await, free of cost."""
        return self._live

    def hold(self) -> View:
        """A view that stays as it is across awaits, while somebody holds it. Keep few, keep them
        short."""
        return self._hold()

    async def commit(
        self,
        changes: Sequence[Change],
        guards: Sequence[Guard] = (),
        *,
        proposal_id: int | None = None,
        since_index: int = 0,
    ) -> int:
        """Propose all changes as one entry; its index, once applied here. Nothing to do returns at
        once.

        Refused whole with StaleVersionError (a row moved on), ConflictError (name or id taken),
        NotFoundError (row or guarded object gone), FailedPreconditionError or InvalidArgumentError
        (guard); too large a transaction is InvalidArgumentError. NotLeaderError, DiskFullError,
        OutcomeUnknownError as the log says. Who wants to repeat a commit whose outcome is unknown
        chooses a `proposal_id` (`codec.new_proposal_id`) before the first try, takes down `index`,
        and repeats it with both, at whatever manager: it is applied once. Where the outcome of the
        first try may be forgotten already, the repeat is refused with OutcomeUnknownError.
        """
        if not changes:
            return self.index
        raws = [encode_change(change) for change in changes]
        if proposal_id is not None:
            # It may be applied already, and would stand in its own way if looked at ahead.
            flight = self._repeat(raws, guards, proposal_id, since_index)
            return _index_of(await self._settle(flight))
        return await self._commit(raws, guards)

    async def update(self, build: Build) -> int:
        """Build a transaction on what is applied plus what is in flight, and commit it.

        `build` is synchronous and may be called again where a write that it built on got lost. A
        row in flight has a version below zero, good for `seen` and nothing else; what `build`
        relies on without writing it needs a guard. Raises as `commit` does, and whatever `build`
        raises.
        """
        for _ in range(UPDATE_TRIES_MAX):
            changes, guards = build(self._ahead.view)
            if not changes:
                return self.index
            try:
                flight = self._begin([encode_change(change) for change in changes], guards)
            except BlockedError as blocked:
                await blocked.by.settled.wait()
                continue
            outcome = await self._settle(flight)
            if isinstance(outcome, int) or outcome.code != StaleVersionError.code:
                return _index_of(outcome)
        raise StaleVersionError

    async def batch(self, changes: Iterable[Change]) -> None:
        """Commit any number of independent changes in pieces, each atomic; refused pieces are
        cut in halves until what is refused alone is found: that is dropped."""
        for piece in pieces(changes):
            await self._commit_piece(piece)

    def subscribe(self, subscriber: Subscriber, *, at_restore: bool = True) -> Callable[[], None]:
        """Call `subscriber` with the events of every applied entry, synchronously and in order, and
        with all differences at once where the state is replaced; returns the way to end it. A
        subscriber must be quick and must not raise."""
        self._subscribers = (*self._subscribers, subscriber)
        if at_restore:
            self._at_restore = (*self._at_restore, subscriber)

        def unsubscribe() -> None:
            self._subscribers = tuple(one for one in self._subscribers if one is not subscriber)
            self._at_restore = tuple(one for one in self._at_restore if one is not subscriber)

        return unsubscribe

    def gauges(self) -> Gauges:
        """How much the store holds at this moment."""
        return Gauges(
            index=self.index,
            rows={word: len(table) for word, table in zip(WORDS, self._tables, strict=True)},
            in_flight=len(self._ahead.flights),
            views_held=max(len(overlays) for overlays in self._held),
            outcomes=len(self._outcomes),
            events=len(self.history),
            events_size_b=self.history.size_b(),
        )

    # What the log calls ---------------------------------------------------------------------------
    def apply(self, index: int, entry: bytes) -> None:
        """Apply one committed entry: the only writer of the tables. Raises DamagedError (cannot
        be read)."""
        assert index > self.index, f"entry {index} after {self.index}"
        decoded, flight = self._decode(entry)
        self._live.index = self._ahead.view.index = index
        self.stamp_ms = decoded.stamp_ms
        events: Sequence[Event] = ()
        outcome = self._outcomes.get(decoded.proposal_id)
        if outcome is None:
            outcome, events = self._resolved(decoded, index)
            self._remember(decoded.proposal_id, outcome)
            self._write(events)
            if outcome == index:
                self._record(decoded, events)
        if flight is not None:
            flight.outcome = outcome
            self._ahead.settle(flight)
        if events:
            for subscriber in self._subscribers:
                subscriber(events)

    def snapshot(self) -> Iterator[bytes]:
        """The whole state as it is now, in chunks that may be taken while entries are applied."""
        outcomes, history = tuple(self._outcomes.items()), self.history.parts()
        return encode_snapshot(self._hold(), outcomes, self._forgotten_index, history)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state, or nothing (DamagedError). Subscribers get all that differs as
        one, but for those who asked not to. Held views stay as they are; live views must be asked
        for again."""
        content = decode_snapshot(chunks)
        before, flights = self._tables, tuple(self._ahead.flights.values())
        self._tables, self._outcomes = content.tables, content.outcomes
        self.history.replace(content.history)
        self._forgotten_index = content.forgotten_index
        self._live = StoreView(self._tables, content.index)
        self._held = _no_held()
        ahead, self._ahead = self._ahead, Ahead(self._live, self._tables, self._outcomes)
        for flight in flights:
            flight.outcome = self._outcomes.get(flight.proposal_id)
            ahead.settle(flight)
        if self._at_restore:
            events = list(_differences(before, self._tables))
            for subscriber in self._at_restore:
                subscriber(events)

    # Proposing ------------------------------------------------------------------------------------
    async def _commit(self, raws: Sequence[msgspec.Raw], guards: Sequence[Guard]) -> int:
        return _index_of(await self._settle(await self._launch(raws, guards)))

    async def _launch(self, raws: Sequence[msgspec.Raw], guards: Sequence[Guard]) -> Flight:
        for _ in range(BLOCKED_MAX):
            try:
                return self._begin(raws, guards)
            except BlockedError as blocked:
                await blocked.by.settled.wait()  # at most that flight's own deadline
        return self._repeat(raws, guards, new_proposal_id(self._env.entropy))

    async def _commit_piece(self, piece: Sequence[msgspec.Raw]) -> None:
        try:
            await self._commit(piece, ())
        except REFUSALS as error:
            if len(piece) == 1:
                log.debug("store.change_dropped", extra={"reason": error.message})
                return
            middle = len(piece) // 2
            await self._commit_piece(piece[:middle])
            await self._commit_piece(piece[middle:])

    def _repeat(
        self,
        raws: Sequence[msgspec.Raw],
        guards: Sequence[Guard],
        proposal_id: int,
        since_index: int = 0,
    ) -> Flight:
        """Without looking ahead: apply alone decides."""
        self._check_room()
        data = self._entry(raws, guards, proposal_id, since_index)
        return self._ahead.repeat(data, decode_entry(data))

    def _begin(self, raws: Sequence[msgspec.Raw], guards: Sequence[Guard]) -> Flight:
        self._check_room()
        return self._ahead.begin(self._entry(raws, guards, new_proposal_id(self._env.entropy)))

    def _entry(
        self,
        raws: Sequence[msgspec.Raw],
        guards: Sequence[Guard],
        proposal_id: int,
        since_index: int = 0,
    ) -> bytes:
        stamp_ms = self._env.clock.wall_ms()
        data = encode_entry(proposal_id, stamp_ms, raws, guards, since_index=since_index)
        if len(data) > ENTRY_SIZE_MAX_B or len(raws) > ENTRY_CHANGES_MAX:
            raise InvalidArgumentError(
                f"A transaction of {len(raws)} changes and {len(data)} bytes is too large; "
                f"the limits are {ENTRY_CHANGES_MAX} changes and {ENTRY_SIZE_MAX_B} bytes.",
                remedy="Make the object smaller.",
            )
        return data

    def _check_room(self) -> None:
        if len(self._ahead.flights) >= FLIGHTS_MAX:
            raise UnavailableError(
                f"{FLIGHTS_MAX} writes are under way already.", remedy="Try again in a moment."
            )

    async def _settle(self, flight: Flight) -> Outcome:
        """Propose, and wait for what becomes of it. Nothing is awaited before the proposal is
        made, so that proposals reach the log in the order they were looked at."""
        assert self._log is not None, "the store has no log yet"
        try:
            await self._log.propose(flight.bytes, flight.proposal_id)
        except OutcomeUnknownError as error:
            if flight.outcome is None:
                raise _unknown() from error
        finally:
            self._ahead.settle(flight)
        assert flight.outcome is not None, "the log answered before it applied the entry"
        return flight.outcome

    # Applying -------------------------------------------------------------------------------------
    def _decode(self, data: bytes) -> tuple[Entry, Flight | None]:
        """The entry, and the flight here that it belongs to. What was decoded to look ahead is
        not decoded again: equal bytes say the same."""
        flight = self._ahead.flights.get(proposal_id_of(data))
        if flight is not None and flight.bytes == data:
            return flight.entry, flight
        return decode_entry(data), flight

    def _resolved(self, entry: Entry, index: int) -> tuple[Outcome, Sequence[Event]]:
        if 0 < entry.since_index < self._forgotten_index:
            return forgotten(), ()
        try:
            return index, resolve(entry, self._live, self._outcomes, index)
        except RefusedError as refused:
            return refused.refusal, ()

    def _remember(self, proposal_id: int, outcome: Outcome) -> None:
        if len(self._outcomes) >= OUTCOMES_MAX:
            oldest = self._outcomes.pop(next(iter(self._outcomes)))
            # Of a refusal it is only known that the outcomes remembered since have indexes too.
            index = self.index - OUTCOMES_MAX if isinstance(oldest, Refusal) else oldest
            self._forgotten_index = max(self._forgotten_index, index)
        self._outcomes[proposal_id] = outcome

    def _write(self, events: Sequence[Event]) -> None:
        for event in events:
            number, row_id = TABLE_NUMBERS[event.table], event.id
            held = self._held[number]
            if held:  # walking an empty set costs more than a put
                for overlay in held:  # in any order: each keeps its own
                    overlay.keep(row_id, event.old)
            if event.new is None:
                self._tables[number].remove(row_id)
            else:
                self._tables[number].put(event.new)

    def _record(self, entry: Entry, events: Sequence[Event]) -> None:
        """Keep what the entry told, if it did. Each change of an entry makes an event at most, and
        a note none."""
        notes = notes_of(entry) if len(events) < len(entry.changes) else ()
        if events or notes:
            self.history.add(self._live, entry.stamp_ms, events, notes)

    def _hold(self) -> OverlaidView:
        held = OverlaidView(self._tables, self.index)
        for overlays, overlay in zip(self._held, held.overlays, strict=True):
            overlays.add(overlay)
        return held


def _no_held() -> tuple[weakref.WeakSet[Overlay[Any]], ...]:
    """Held tables, by table: whoever has a table or iterates over one holds it, view or not."""
    return tuple(weakref.WeakSet() for _ in TABLES)


def _differences(before: Sequence[Table[Any]], after: Sequence[Table[Any]]) -> Iterator[Event]:
    """What turned one state into the other; a row's version says whether it was written."""
    for kind, old_rows, new_rows in zip(TABLES, before, after, strict=True):
        for new in new_rows.all():
            old = old_rows.get(new.id)
            if old is None or old.version != new.version:
                yield Event(kind, old, new)
        for old in old_rows.all():
            if new_rows.get(old.id) is None:
                yield Event(kind, old, None)


def _index_of(outcome: Outcome) -> int:
    if isinstance(outcome, Refusal):
        raise outcome.error()
    return outcome


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "The change was proposed, but nobody can say yet whether it was committed.",
        remedy="Look whether it is there before you repeat it.",
    )
