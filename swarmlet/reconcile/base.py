"""The form of every decision: a view, a key and a moment in; changes, reasons and an alarm out."""

from collections.abc import Callable, Generator, Iterable
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec

from swarmlet.model.change import Change, Event, Guard
from swarmlet.model.view import View

T = TypeVar("T")

START_ROWS: Final = 50  # looked at between two breaths of a start: less than a millisecond

Steps: TypeAlias = Generator[None, None, T]
"""Work that yields after every few milliseconds, and returns its result: what costs O(all) is done
so, on a view that holds still."""

Key: TypeAlias = tuple[str, ...]
"""What a decider decides one at a time: ("service", id), ("slot", service id, "3"), ("pending",).
"""


class Moment(msgspec.Struct, frozen=True):
    """Time and chance as arguments. `now_ms` is wall time; `new_id` gives a fresh object id."""

    now_ms: int
    new_id: Callable[[], str]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to change and why. Empty means: this key is at rest.

    `changes` are committed atomically (a decider keeps them below ENTRY_CHANGES_MAX and says
    `has_more` where work is left; without changes it says that only a part was looked at, and the
    key is decided again after others had a turn); `wake_at_ms` (wall) asks to decide this key again
    then.
    """

    changes: tuple[Change, ...] = ()
    guards: tuple[Guard, ...] = ()
    reasons: tuple[str, ...] = ()
    wake_at_ms: int | None = None
    has_more: bool = False


REST = Decision()


class Decider(Protocol):
    """A pure, level-triggered part of the leader; `manager/loop.py` runs it.

    An event says only which keys to look at again. Deciding twice on the same view gives the same
    changes, and deciding on the view with those changes applied gives none.
    """

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> frozenset[type]:
        """The rows whose changes it wants to hear of: others do not wake it."""
        ...

    def start(self, view: View) -> Iterable[Key | None]:
        """Every key to decide when leadership begins; an indexing decider fills its index here.

        What costs O(all) is done while the keys are taken, on a view that holds still, with None (a
        breath) after every START_ROWS rows that gave no key; a key may come twice. The decider is
        asked nothing else before the last. A start may be given up for another."""
        ...

    def keys_of(self, event: Event, view: View) -> Iterable[Key]:
        """The keys that an applied change makes worth deciding again. `view` is already past it."""
        ...

    def decide(self, view: View, key: Key, moment: Moment) -> Decision: ...


def started(decider: Decider, view: View) -> tuple[Key, ...]:
    """Start a decider at once; its keys, each once."""
    return tuple(dict.fromkeys(key for key in decider.start(view) if key is not None))
