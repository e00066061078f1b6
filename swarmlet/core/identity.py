"""Who a node is: what its certificate says, once the certificate has been verified."""

import msgspec

from swarmlet.core.ids import ClusterID, NodeID


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A verified certificate's holder. `role` is worker or manager; the dates are the leaf's own,
    wall time; `fingerprint` is the SHA-256 of the leaf as DER."""

    node_id: NodeID
    role: str
    cluster_id: ClusterID
    begins_ms: int
    ends_ms: int
    fingerprint: bytes = b""
