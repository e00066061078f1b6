"""Root rotation on the leader: nodes are asked to renew round by round, and when all show the new
signer the new root takes the old one's place (behaviour of SwarmKit's ca/reconciler.go).

Everything that counts is in the store: the rotation in the cluster's row, who was asked and who
signed in the nodes' rows. A new leader goes on where the last one stopped. Where a rotation was
given up, nodes that show the abandoned signer are brought back in the same way.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from swarmlet.ca.join_token import cert_digest, new_join_token
from swarmlet.ca.root import issuer_facts
from swarmlet.core.errors import DiskFullError, StaleVersionError, UnavailableError
from swarmlet.core.ids import Entropy
from swarmlet.env.base import Env
from swarmlet.model.change import Change, Event, Guard, Remove, Update
from swarmlet.model.cluster import Cluster, JoinTokens, RootCA, RootRotation
from swarmlet.model.join_token import JoinToken
from swarmlet.model.node import Node
from swarmlet.model.view import View, cluster_of
from swarmlet.reconcile.ca_rotation import Aim, Issuer, Progress, Turning, shows
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

ROUND_S: Final = 3.0  # between rounds; SwarmKit ca/reconciler.go
TELL_S: Final = 60.0  # between two log lines on a rotation that waits
TOLD_NODES_MAX: Final = 10  # in such a line


class RootRotator:
    """Runs on the leader. Between rotations it costs one comparison a node event."""

    name: Final = "root-rotation"

    def __init__(self, store: Store, env: Env) -> None:
        self._store, self._env = store, env
        self._forget()

    def _forget(self) -> None:
        self._turning: Turning | None = None
        self._rotation: RootRotation | None = None  # that the aim comes from
        self._must_aim = True
        self._told_s: float | None = None
        self._is_waiting = False  # for others, without a timer
        self._changed = asyncio.Event()

    def is_at_rest(self) -> bool:
        """Whether it waits for others: nobody is to be asked, and nothing to be finished."""
        return self._is_waiting and not self._changed.is_set()

    def gauges(self) -> dict[str, float]:
        left = 0 if self._turning is None else len(self._turning)
        return {
            "swarmlet_root_rotation": float(self._rotation is not None),
            "swarmlet_root_rotation_nodes_left": float(left),
        }

    async def run(self) -> None:
        """Until cancelled."""
        self._forget()
        unsubscribe = self._store.subscribe(self._on_events)
        try:
            while True:
                self._changed.clear()
                if self._must_aim:
                    self._take_aim()
                await self._round()
                await self._wait()
        finally:
            unsubscribe()
            self._forget()

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.table is Node:
                self._on_node(event)
            elif event.table is Cluster and _aims_differ(event):
                self._must_aim = True
                self._changed.set()

    def _on_node(self, event: Event) -> None:
        turning = self._turning
        if turning is None:
            return
        is_work = turning.see(event, self._env.clock.mono_s())
        if is_work and (self._is_waiting or turning.is_complete):
            self._changed.set()

    def _take_aim(self) -> None:
        """Linear in the nodes, at the start and where rotations begin and end."""
        self._must_aim = False
        view = self._store.view()
        cluster = cluster_of(view)
        aim = aim_of(cluster)
        self._turning = None if aim is None else Turning(view, aim)
        began = cluster.root_ca.rotation
        if began is not None and began != self._rotation and self._turning is not None:
            log.info("rotation.began", extra=_fields(self._turning.progress(view)))
        self._rotation, self._told_s = began, None

    async def _round(self) -> None:
        turning = self._turning
        if turning is None or self._is_reached(turning):
            return
        try:
            if turning.is_complete:
                await self._finish(turning.aim)
                return
            requests = turning.requests(self._store.view(), self._env.clock.mono_s())
            await self._store.batch(requests)  # rows that moved meanwhile wait for the next round
        except (DiskFullError, UnavailableError, StaleVersionError) as problem:
            log.warning("rotation.not_written", extra={"cause": problem.message})

    async def _wait(self) -> None:
        """For the next round where there is somebody to ask or the end could not be written, else
        until something changed."""
        turning, is_rounds = self._turning, False
        if turning is not None and not self._is_reached(turning):
            is_rounds = turning.is_complete or not turning.waits(self._store.view())
            self._tell(turning)
        self._is_waiting = not is_rounds
        with suppress(TimeoutError):
            async with asyncio.timeout(ROUND_S if is_rounds else None):
                await self._changed.wait()
        self._is_waiting = False

    @staticmethod
    def _is_reached(turning: Turning) -> bool:
        return turning.is_complete and not turning.aim.is_rotation

    def _tell(self, turning: Turning) -> None:
        """Say now and then who cannot be hoped for."""
        now_s = self._env.clock.mono_s()
        if self._rotation is None or (self._told_s is not None and now_s - self._told_s < TELL_S):
            return
        progress = turning.progress(self._store.view())
        if progress.silent or progress.away:
            self._told_s = now_s
            log.info("rotation.waiting", extra=_fields(progress))

    async def _finish(self, aim: Aim) -> None:
        """In one entry, on what is applied and what is in flight: a node that joins at this moment
        counts, and a rotation that was changed is left alone."""
        rotation, did = self._rotation, False

        def build(view: View) -> tuple[Sequence[Change], Sequence[Guard]]:
            nonlocal did
            cluster = cluster_of(view)
            did = cluster.root_ca.rotation == rotation and all(
                shows(node, aim.issuer) for node in view.nodes.all()
            )
            return (finishing(cluster, view, self._env.entropy), ()) if did else ((), ())

        await self._store.update(build)
        if did:
            log.info("rotation.finished", extra={"nodes": len(self._store.view().nodes)})


def aim_of(cluster: Cluster) -> Aim | None:
    """Whose certificates nodes should have; None in a swarm without a CA."""
    root = cluster.root_ca
    if root.rotation is not None:
        return Aim(issuer=issuer_of(root.rotation.cert_pem), is_rotation=True)
    if not root.cert_pem:
        return None
    return Aim(issuer=issuer_of(root.cert_pem), is_rotation=False)


def issuer_of(cert_pem: bytes) -> Issuer:
    subject, public_key = issuer_facts(cert_pem)
    return Issuer(subject=subject, public_key=public_key)


def finishing(cluster: Cluster, view: View, entropy: Entropy) -> list[Change]:
    """The new root in the old one's place. Every token names its root: all are new, or gone."""
    row = replace(cluster, root_ca=_finished(cluster, entropy))
    extra = sorted(token.id for token in view.join_tokens.all())
    return [
        Update(obj=row, seen=cluster.version),
        *(Remove(table=JoinToken, id=token_id) for token_id in extra),
    ]


def _finished(cluster: Cluster, entropy: Entropy) -> RootCA:
    rotation = cluster.root_ca.rotation
    assert rotation is not None, "there is a rotation to finish"
    digest = cert_digest(rotation.cert_pem)
    return RootCA(
        cert_pem=rotation.cert_pem,
        key_pem=rotation.key_pem,
        cert_digest=digest,
        tokens=JoinTokens(
            worker=new_join_token(digest, entropy), manager=new_join_token(digest, entropy)
        ),
        last_forced_rotation=cluster.root_ca.last_forced_rotation,
    )


def _aims_differ(event: Event) -> bool:
    """Whether the cluster's row says something new on who signs; join tokens say nothing."""
    old, new = event.old, event.new
    if not isinstance(old, Cluster) or not isinstance(new, Cluster):
        return True
    return replace(old.root_ca, tokens=JoinTokens()) != replace(new.root_ca, tokens=JoinTokens())


def _fields(progress: Progress) -> dict[str, object]:
    return {
        "nodes": progress.total,
        "turned": progress.turned,
        "silent": progress.silent[:TOLD_NODES_MAX],
        "away": progress.away[:TOLD_NODES_MAX],
    }
