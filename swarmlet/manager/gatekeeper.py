"""Who may call what on the node port: a verified certificate, judged by what it says and by what
the store says of its node.

A certificate that is shown is judged on every route, on those that are open to anybody too: a
caller who wants to be nobody shows none.
"""

from typing import Final

from swarmlet.ca.identity import check_dates
from swarmlet.core.errors import ForbiddenError, UnauthorizedError, node_removed
from swarmlet.core.identity import Identity
from swarmlet.core.ids import ClusterID
from swarmlet.env.base import Clock
from swarmlet.store.store import Store
from swarmlet.wire.routes import PortRoute

NOBODY: Final = ""


class CertificateGatekeeper:
    """Of a manager without a store: it judges the certificate alone, and passes what needs the
    swarm's knowledge on to the leader, who judges again."""

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


class StoreGatekeeper(CertificateGatekeeper):
    """Of a manager with a store: a removed node is nobody's any more, and a manager's certificate
    is worth no more than its node's role."""

    def __init__(self, store: Store, cluster_id: ClusterID, clock: Clock) -> None:
        super().__init__(cluster_id, clock)
        self._store = store

    def admit(self, peer: Identity | None, route: PortRoute) -> None:
        """Raises UnauthorizedError, ForbiddenError."""
        if peer is None:
            check_role(NOBODY, route)
            return
        check_cluster(peer, self._cluster_id)
        node = self._store.view().nodes.get(peer.node_id)
        if node is None:
            raise node_removed(peer.node_id)
        check_time(peer, route, self._clock.wall_ms())
        is_demoted = peer.role == "manager" and node.role != "manager"
        check_role("worker" if is_demoted else peer.role, route, is_demoted=is_demoted)


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
    expired one counts as it did at its end."""
    check_dates(peer, min(now_ms, peer.ends_ms) if route.allows_expired else now_ms)


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
