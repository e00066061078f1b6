"""Proposals under way, and the view ahead of the log: what is applied plus what is in flight.

A row in flight has no log index yet. In the view ahead its version is minus the proposal's id; a
change built on it carries that as `seen`, and apply looks up in the remembered outcomes which index
it became.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from swarmlet.core.errors import SwarmError
from swarmlet.model.change import TABLE_NUMBERS
from swarmlet.store.apply import Outcome, resolve
from swarmlet.store.codec import Entry, decode_entry
from swarmlet.store.memory import OverlaidView, StoreView
from swarmlet.store.refusal import RefusedError
from swarmlet.store.tables import Table


class Flight:
    """One proposal between `Ahead.begin` and `Ahead.settle`; `outcome` once it was applied here."""

    __slots__ = ("bytes", "entry", "outcome", "settled", "touched")

    def __init__(self, data: bytes, entry: Entry) -> None:
        self.bytes, self.entry = data, entry
        self.outcome: Outcome | None = None
        self.settled = asyncio.Event()
        self.touched: list[tuple[int, str]] = []

    @property
    def proposal_id(self) -> int:
        return self.entry.proposal_id


class BlockedError(Exception):
    """Refused only because of writes in flight: not final before `by` is settled."""

    def __init__(self, by: Flight) -> None:
        super().__init__()
        self.by = by


class Ahead:
    """The flights in the order they began, and the view that shows them all."""

    def __init__(
        self, live: StoreView, tables: Sequence[Table[Any]], outcomes: Mapping[int, Outcome]
    ) -> None:
        self._live, self._outcomes = live, outcomes
        self.view = OverlaidView(tables, live.index)
        self.flights: dict[int, Flight] = {}
        self._writers: dict[tuple[int, str], Flight] = {}

    def begin(self, data: bytes) -> Flight:
        """Look ahead what the entry will do and show it in the view.

        Raises the refusal where the entry is refused on what is applied as well (that is durable,
        so it is final), and BlockedError where it is refused only because of what is in flight.
        """
        entry = decode_entry(data)  # what cannot be read back must not get into the log
        try:
            events = resolve(entry, self.view, self._outcomes, -entry.proposal_id)
        except RefusedError as refused:
            raise self._final(entry, refused) from None
        flight = self.repeat(data, entry)
        for event in events:
            key = (TABLE_NUMBERS[event.table], event.id)
            flight.touched.append(key)
            self._writers[key] = flight
            self.view.overlays[key[0]].write(key[1], event.new)
        return flight

    def repeat(self, data: bytes, entry: Entry) -> Flight:
        """A flight that shows nothing: of an entry that may be applied already."""
        flight = Flight(data, entry)
        self.flights[flight.proposal_id] = flight
        return flight

    def settle(self, flight: Flight) -> None:
        """Take the flight out of the view: it was applied, or nobody waits for it any more."""
        if self.flights.get(flight.proposal_id) is not flight:
            return
        del self.flights[flight.proposal_id]
        for key in flight.touched:
            if self._writers.get(key) is flight:
                del self._writers[key]
                self.view.overlays[key[0]].unmask(key[1])
        flight.settled.set()

    def _final(self, entry: Entry, refused: RefusedError) -> SwarmError | BlockedError:
        if not self.flights:
            return refused.refusal.error()
        try:
            resolve(entry, self._live, self._outcomes, 0)
        except RefusedError as without:
            # A reason of its own may be what the entry builds on: a row that is only in flight yet.
            if without.refusal == refused.refusal:
                return refused.refusal.error()
        return BlockedError(next(reversed(self.flights.values())))
