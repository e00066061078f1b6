"""What a manager's keys on its own disk follow: the lock that the swarm asks of its managers.

Runs on every manager, not only on the one that leads, over what is applied here. Each step is one
atomic write of the key file, so a crash at any point leaves keys that open with the unlock key
before or after it, and the next start goes on: what is still to be done is in the key file itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from swarmlet.ca.key_file import NodeKeys
from swarmlet.ca.node_files import LockChange, NodeFiles
from swarmlet.ca.unlock_key import kek_of
from swarmlet.core.errors import SwarmError
from swarmlet.env.base import Env
from swarmlet.env.sealed import SealKey, new_seal_key, seal_key
from swarmlet.model.change import Event
from swarmlet.model.cluster import Cluster
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

RETRY_MIN_S: Final = 1.0  # after a full disk, doubling
RETRY_MAX_S: Final = 60.0
_WAS_CLEAR: Final = "its key was on the disk in the clear"


class KeyKeeper:
    """Component `run`. `rotate` seals all of the Raft log's files by another key and returns once
    none is sealed by an older one; `renew` asks for another certificate, for a reason."""

    def __init__(
        self,
        env: Env,
        store: Store,
        files: NodeFiles,
        *,
        rotate: Callable[[SealKey], Awaitable[None]],
        renew: Callable[[str], None],
    ) -> None:
        self._env, self._store, self._files = env, store, files
        self._rotate_log, self._renew = rotate, renew
        self._changed, self._stale = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        self._changed.set()
        self._stale.set()
        unsubscribe = self._store.subscribe(self._applied)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="lock")
                group.create_task(self._refresh(), name="keys")
        finally:
            unsubscribe()

    def _applied(self, events: Sequence[Event]) -> None:
        if any(event.table is Cluster for event in events):
            self._changed.set()

    # The lock

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._patiently("lock", self._take)

    async def _take(self) -> None:
        for kek in [kek_of(cluster) for cluster in self._store.view().clusters.all()]:
            change = await self._env.blocking(partial(self._files.take_kek, kek))
            if change is not LockChange.NONE:
                fields = {"change": change.value, "version": kek.version}
                log.info("autolock.keys_sealed", extra=fields)
            if change is LockChange.LOCKED:
                self._stale.set()

    # Keys that were on the disk in the clear

    async def _refresh(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            await self._patiently("keys", self._renew_certificate)
            await self._patiently("keys", self._rotate)

    async def _renew_certificate(self) -> None:
        _, _, keys = await self._env.blocking(self._files.read)
        if keys.tls_key_needs_rotation:
            self._renew(_WAS_CLEAR)

    async def _rotate(self) -> None:
        """Until the DEK is one that never was in the clear; also the rest of a rotation that a
        restart interrupted."""
        _, _, keys = await self._env.blocking(self._files.read)
        while keys.raft_dek_needs_rotation or keys.raft_dek_pending:
            keys = await self._rotated()

    async def _rotated(self) -> NodeKeys:
        fresh = new_seal_key(self._env.entropy)
        begin = partial(self._files.change_keys, partial(_begun, fresh=fresh))
        keys = await self._env.blocking(begin)
        await self._rotate_log(seal_key(keys.raft_dek_pending))
        end = partial(_ended, done=keys.raft_dek_pending)
        keys = await self._env.blocking(partial(self._files.change_keys, end))
        log.info("autolock.data_key_rotated")
        return keys

    async def _patiently(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        """Again, until the disk has room for it."""
        pause_s = RETRY_MIN_S
        while True:
            try:
                await step()
            except (SwarmError, OSError) as problem:
                fields = {"step": what, "cause": str(problem), "retry_in_s": round(pause_s)}
                log.warning("autolock.not_yet", extra=fields)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)


def _begun(keys: NodeKeys, *, fresh: bytes) -> NodeKeys:
    """With a key that everything is written with from now on; one at a time."""
    if keys.raft_dek_pending:
        return keys
    return replace(keys, raft_dek_pending=fresh, raft_dek_needs_rotation=False)


def _ended(keys: NodeKeys, *, done: bytes) -> NodeKeys:
    """Nothing is sealed by the key before any more."""
    if keys.raft_dek_pending != done:
        return keys
    return replace(keys, raft_dek=done, raft_dek_pending=b"")
