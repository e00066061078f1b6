"""Signing on the leader: every node whose row waits for a signature gets one, or is told why not
(behaviour of SwarmKit's ca/server.go).

What waits is in the store, so a new leader goes on where the last one stopped. Where nobody can
sign at the moment (no key, an external CA that does not answer) rows stay as they are.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import DiskFullError, NotLeaderError, SwarmError, UnavailableError
from swarmlet.core.ids import NodeID
from swarmlet.env.base import Env
from swarmlet.manager.ca_requests import WAITING
from swarmlet.model.change import Event, Update
from swarmlet.model.cluster import Cluster
from swarmlet.model.node import IssuanceState, Node, NodeCertificate
from swarmlet.model.view import cluster_of
from swarmlet.store.store import Store

log = logging.getLogger("swarmlet.manager")

RETRY_S: Final = 10.0  # after a failure that may pass; SwarmKit ca/server.go
PAUSE_S: Final = 1.0  # after a full disk or an unknown outcome
ROUND_MAX: Final = 50  # signatures that are committed together


class CertificateAuthority(Protocol):
    """`ca.signing.SwarmAuthority`: signs with the swarm's own key or an external CA's."""

    async def sign(self, cluster: Cluster, csr_pem: bytes, node_id: NodeID, role: str) -> bytes:
        """The chain, leaf first, PEM. Raises UnavailableError where another try may succeed, any
        other SwarmError where none will."""
        ...


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request; it holds while the row still asks for just that."""

    asked: NodeCertificate
    certificate: NodeCertificate


class CertificateSigner:
    """Runs on the leader. Work is proportional to the nodes that wait, not to the nodes there
    are, but once at the start."""

    def __init__(self, store: Store, env: Env, authority: CertificateAuthority) -> None:
        self._store, self._env, self._authority = store, env, authority
        self.issued = self.failed = 0
        self._forget()

    def _forget(self) -> None:
        self._waiting: dict[NodeID, None] = {}  # in the order they came
        self._problem = ""  # why nobody could sign, when it was last tried
        self._has_work, self._ca_changed = asyncio.Event(), asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """Until cancelled."""
        self._forget()
        unsubscribe = self._store.subscribe(self._on_events)
        try:
            self._gather()
            while True:
                await self._has_work.wait()
                await self._round()
        finally:
            unsubscribe()
            self._forget()

    def _gather(self) -> None:
        for node in sorted(self._store.view().nodes.all(), key=lambda node: node.id):
            self._note(node)

    def _note(self, node: Node) -> None:
        if node.certificate.state in WAITING:
            self._waiting[node.id] = None
            self._has_work.set()

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event.new, Node):
                self._note(event.new)
            elif event.table is Cluster and _signs_otherwise(event):
                self._ca_changed.set()

    async def _round(self) -> None:
        """Sign for some of those who wait, and write that down."""
        self._ca_changed.clear()
        verdicts: dict[NodeID, _Verdict] = {}
        problem: UnavailableError | None = None
        for node_id in tuple(self._waiting)[:ROUND_MAX]:
            node = self._store.view().nodes.get(node_id)
            if node is None or node.certificate.state not in WAITING:
                self._done(node_id)
                continue
            try:
                verdicts[node_id] = await self._judge(node)
            except UnavailableError as error:
                problem = error
                break
            await asyncio.sleep(0)  # a signature takes about a millisecond
        await self._write(verdicts)
        if problem is not None:
            await self._wait_for_signer(problem)

    def _done(self, node_id: NodeID) -> None:
        self._waiting.pop(node_id, None)
        if not self._waiting:
            self._has_work.clear()

    async def _judge(self, node: Node) -> _Verdict:
        """Raises UnavailableError where nobody can sign now."""
        asked = node.certificate
        cluster = cluster_of(self._store.view())
        try:
            chain = await self._authority.sign(cluster, asked.csr, node.id, asked.role)
        except UnavailableError:
            raise
        except SwarmError as refusal:
            state, err = IssuanceState.FAILED, refusal.message
            return _Verdict(asked=asked, certificate=replace(asked, state=int(state), err=err))
        issued = replace(asked, state=int(IssuanceState.ISSUED), certificate=chain, err="")
        return _Verdict(asked=asked, certificate=issued)

    async def _write(self, verdicts: Mapping[NodeID, _Verdict]) -> None:
        """Others may write the same rows at the same moment: what was refused is tried on the rows
        as they are then."""
        while changes := self._changes(verdicts):
            try:
                await self._store.batch(changes)
            except NotLeaderError:  # the next leader signs
                await asyncio.sleep(PAUSE_S)
                return
            except (DiskFullError, UnavailableError) as problem:
                log.warning("ca.not_written", extra={"cause": problem.message})
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(0)  # what others wrote is applied in a turn of its own
        for node_id, verdict in verdicts.items():
            self._tell(node_id, verdict)

    def _changes(self, verdicts: Mapping[NodeID, _Verdict]) -> list[Update]:
        """What is not in the store yet and is still asked for."""
        nodes = self._store.view().nodes
        rows = ((nodes.get(node_id), verdict) for node_id, verdict in verdicts.items())
        return [
            Update(obj=replace(node, certificate=verdict.certificate), seen=node.version)
            for node, verdict in rows
            if node is not None and node.certificate == verdict.asked
        ]

    def _tell(self, node_id: NodeID, verdict: _Verdict) -> None:
        node = self._store.view().nodes.get(node_id)
        if node is None or node.certificate != verdict.certificate:
            return  # it is gone, or asks for something else already
        self._done(node_id)
        self._problem = ""
        certificate = verdict.certificate
        if certificate.state == IssuanceState.ISSUED:
            self.issued += 1
            log.info("ca.issued", extra={"node_id": node_id, "role": certificate.role})
        else:
            self.failed += 1
            log.warning("ca.failed", extra={"node_id": node_id, "cause": certificate.err})

    async def _wait_for_signer(self, problem: UnavailableError) -> None:
        """For the next try, or until the CA's settings change."""
        if problem.message != self._problem:
            self._problem = problem.message
            fields = {"cause": problem.message, "waiting": len(self._waiting)}
            log.warning("ca.cannot_sign", extra=fields)
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._ca_changed.wait()


def _signs_otherwise(event: Event) -> bool:
    """Whether the cluster's row says something new on who signs."""
    old, new = event.old, event.new
    if not isinstance(old, Cluster) or not isinstance(new, Cluster):
        return True
    return (old.root_ca, old.spec.ca_config) != (new.root_ca, new.spec.ca_config)
