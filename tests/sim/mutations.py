"""The Raft room with one piece of its hardening taken out: some seed must notice.

`without(pieces)` changes the product's classes while it lasts. What each piece is for:
docs/design/raft-protocol.md; which seeds notice: docs/reliability.md.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from swarmlet.raft.acquaintance import Acquaintances
from swarmlet.raft.core import Core
from swarmlet.raft.group_view import GroupView
from swarmlet.raft.hardening import Corrected
from swarmlet.raft.journal import Journal
from swarmlet.raft.member_changes import MemberChanges
from swarmlet.raft.messages import Append
from swarmlet.raft.proposals import not_leader
from swarmlet.raft.transport import Transport

_in_turn = MemberChanges._in_turn
Replacement = tuple[type | ModuleType, str, Any]


def _store_all(core: Any, raft_id: Any, append: Append) -> None:
    """Whatever comes replaces what is there."""
    prev = append.prev_index
    new = [(e[0], prev + 1 + at, e[1]) for at, e in enumerate(append.entries)]
    core._feed_append(raft_id, append, prev, new)


def _read_here(core: Any, done: Callable[[int | None], None]) -> None:
    """Who believes to lead answers by itself."""
    done(core.commit_index if core.is_leader else None)


def _may_always_change(core: Any, change: Any) -> bool:
    members = core._journal.newest_members
    return bool(core.is_leader and members.after(change) != members)


async def _out_of_turn(changes: Any, change: Any) -> None:
    """Callers do not wait for each other."""
    changes._turn = asyncio.Lock()
    await _in_turn(changes, change)


def _beat_unlimited(core: Any, raft_id: Any, append: Append, *, match: int) -> None:
    """Heartbeats commit what is there, whether it is the leader's or not."""
    core._feed_append(raft_id, append, core._end()[0], [])


def _forget_vote(journal: Any, term: int, vote: int | None) -> None:
    """Until the next entry, nobody writes down for whom this member voted."""
    journal.term, journal.vote = term, vote


def _trust(*_: Any, **__: Any) -> None:
    """Whoever comes back is believed."""


def _send_now(transport: Any, to: Any, message: Any) -> None:
    """Acks and votes leave before what they promise is on disk."""
    transport.put(to, message)
    transport.flush()


async def _wait_for_leader(view: Any) -> Any:
    """However long it takes."""
    driver = view._driver
    while True:
        led = driver.leadership
        if led.is_ready or led.leader not in (None, driver.me.raft_id):
            return led
        if driver.is_stopping or driver.is_single():
            raise not_leader()
        await driver.changed().wait()


MUTATIONS: dict[str, tuple[Replacement, ...]] = {
    "hold acks until fsync": ((Transport, "hold", _send_now),),
    "hold acks until fsync, and memory of acknowledgements": (
        (Transport, "hold", _send_now),
        (Acquaintances, "_check_memory", _trust),
    ),
    "trim": ((Core, "_store", _store_all),),
    "read index": ((Core, "begin_read", _read_here),),
    "one-change gate": (
        (Corrected, "_may_change", _may_always_change),
        (MemberChanges, "_in_turn", _out_of_turn),
    ),
    "the core's one-change gate": ((Corrected, "_may_change", _may_always_change),),
    "commit clamp": ((Core, "_beat", _beat_unlimited),),
    "durable vote": ((Journal, "setCurrentTerm", _forget_vote),),
    "a lost majority is said": ((GroupView, "leader", _wait_for_leader),),
    "memory of acknowledgements": ((Acquaintances, "_check_memory", _trust),),
}


@contextmanager
def without(pieces: Iterable[Replacement] = ()) -> Iterator[None]:
    """While this lasts, these are missing."""
    pieces = tuple(pieces)
    before = [(of, method, of.__dict__[method]) for of, method, _ in pieces]
    try:
        for of, method, replacement in pieces:
            setattr(of, method, replacement)
        yield
    finally:
        for of, method, original in before:
            setattr(of, method, original)
