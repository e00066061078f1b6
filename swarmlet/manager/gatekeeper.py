"""Who may call what on the node port: a verified certificate, judged by what it says and by what
the store says of its node.

A certificate that is shown is judged on every route, on those that are open to anybody too: a
caller who wants to be nobody shows none.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from swarmlet.ca.identity import begins_ms, check_dates
from swarmlet.core.errors import ForbiddenError, UnauthorizedError, node_removed
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID
from swarmlet.core.limits import RENEWABLE_AFTER_EXPIRY_MS
from swarmlet.env.base import Clock
from swarmlet.model.node import Node
from swarmlet.model.view import View
from swarmlet.store.store import Store
from swarmlet.wire.routes import RAFT, SNAPSHOT, PortRoute

NOBODY: Final = ""
BETWEEN_MEMBERS: Final = (RAFT, SNAPSHOT)  # of the Raft group


class CertificateGatekeeper:
    """Judges the certificate alone; where that is not enough, whoever leads judges again."""

    def __init__(self, cluster_id: ClusterID, clock: Clock) -> None:
        self._cluster_id, self._clock = cluster_id, clock

    def admit(self, peer: Identity | None, route: PortRoute) -> None:
        """Raises UnauthorizedError, ForbiddenError."""
        if peer is not None:
            self._check_certificate(peer, route)
        check_role(NOBODY if peer is None else peer.role, route)

    def _check_certificate(self, peer: Identity, route: PortRoute) -> None:
        check_cluster(peer, self._cluster_id)
        check_time(peer, route, self._clock.wall_ms())


class Standing(Enum):
    """How much a manager may make of what its store does not say."""

    LEADS = "leads"  # the store says all there is
    FOLLOWS = "follows"  # others may know more, and the leader is asked in the end
    ALONE = "alone"  # no leader is known: who leads may be somebody never heard of here


class StoreGatekeeper(CertificateGatekeeper):
    """Judges by the store too: a removed node is nobody's any more, and a manager's certificate is
    worth no more than its node's role.

    A store may be behind, or empty still. So a manager that does not lead takes a node without a
    row for one that is new, unless the swarm remembers that it was removed; and passes what the
    leader decides on by the certificate, for the leader judges again. Without a leader it lets
    a demoted node in among the members by a certificate that was issued after all it knows of: the
    node may have become a manager again since, and lead. The one it was demoted with opens nothing.
    """

    def __init__(
        self,
        store: Store,
        cluster_id: ClusterID,
        clock: Clock,
        standing: Callable[[], Standing] = lambda: Standing.LEADS,
    ) -> None:
        super().__init__(cluster_id, clock)
        self._store, self._standing = store, standing

    def admit(self, peer: Identity | None, route: PortRoute) -> None:
        """Raises UnauthorizedError, ForbiddenError."""
        if peer is None:
            check_role(NOBODY, route)
            return
        check_cluster(peer, self._cluster_id)
        role = self._role_of(peer, route)
        check_time(peer, route, self._clock.wall_ms())
        check_role(role, route, is_demoted=role != peer.role)

    def _role_of(self, peer: Identity, route: PortRoute) -> str:
        """What the certificate counts as. Raises ForbiddenError for a removed node."""
        view, standing = self._store.view(), self._standing()
        if not len(view.nodes):
            return peer.role  # nothing is known here yet
        node = view.nodes.get(peer.node_id)
        if node is None:
            if standing is Standing.LEADS or self._was_removed(view, peer):
                raise node_removed(peer.node_id)
            return peer.role
        is_demoted = peer.role == "manager" and node.role != "manager"
        may_be_behind = standing is Standing.FOLLOWS and route.needs_leader
        if standing is Standing.ALONE and route in BETWEEN_MEMBERS:
            may_be_behind = _is_newer(peer, node)
        return "worker" if is_demoted and not may_be_behind else peer.role

    @staticmethod
    def _was_removed(view: View, peer: Identity) -> bool:
        return any(
            removed.node_id == peer.node_id
            for cluster in view.clusters.all()
            for removed in cluster.removed_certificates
        )


def _is_newer(peer: Identity, node: Node) -> bool:
    """Whether the certificate is of a time after the last one that the store knows of."""
    known_ms = begins_ms(node.certificate.certificate)
    return known_ms is not None and peer.begins_ms > known_ms


def check_cluster(peer: Identity, cluster_id: ClusterID) -> None:
    """Raises UnauthorizedError for another swarm's certificate."""
    if peer.cluster_id != cluster_id:
        raise UnauthorizedError(
            f"The certificate of node {peer.node_id} is for swarm {peer.cluster_id}; this is swarm "
            f"{cluster_id}.",
            remedy="Compare the addresses: the node belongs to another swarm.",
        )


def check_time(peer: Identity, route: PortRoute, now_ms: int) -> None:
    """Raises UnauthorizedError outside of the certificate's dates; where the route allows it, an
    expired one counts as it did at its end, between managers for as long as it can be renewed."""
    is_excused = route.allows_expired
    if route in BETWEEN_MEMBERS and now_ms - peer.ends_ms >= RENEWABLE_AFTER_EXPIRY_MS:
        is_excused = False
    check_dates(peer, min(now_ms, peer.ends_ms) if is_excused else now_ms)


def check_role(role: str, route: PortRoute, *, is_demoted: bool = False) -> None:
    """Raises UnauthorizedError where a certificate is needed, ForbiddenError where another is."""
    if role in route.roles:
        return
    if role == NOBODY:
        raise UnauthorizedError(
            f"`{route.name}` needs a node's certificate, and none was shown.",
            remedy="Only nodes of the swarm may ask this.",
        )
    if is_demoted:
        raise ForbiddenError(
            f"`{route.name}` is for managers; this node was demoted, and its certificate counts as "
            "a worker's.",
            remedy="Ask on a manager.",
        )
    raise ForbiddenError(
        f"`{route.name}` is for managers; this certificate is a {role}'s.",
        remedy="Ask on a manager.",
    )
