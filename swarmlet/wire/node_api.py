"""The bodies of the node port's plain requests, as JSON."""

import msgspec


class PortHello(msgspec.Struct, frozen=True, kw_only=True):
    """What a port says of itself to anybody. `now_ms`: its clock, to be compared."""

    protocol: int
    node_id: str
    cluster_id: str
    now_ms: int


class CertificateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`token` of a node that joins, with the availability it asks for; a renewal has neither: who
    asks is who its certificate says."""

    csr: str
    token: str = ""
    availability: str = ""

    def __repr__(self) -> str:
        return "CertificateRequest(***)"


class CertificateTicket(msgspec.Struct, frozen=True, kw_only=True):
    """The request was taken down for this node; ask for its status."""

    node_id: str


class CertificateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is `model.node.IssuanceState`; `chain` (PEM) belongs to `csr` once it is ISSUED or
    ROTATE; `err` says why it FAILED."""

    state: int
    role: str = ""
    csr: str = ""
    chain: str = ""
    err: str = ""


class MemberRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Of a manager that wants to become a member of the Raft group, or to be one no more; who asks
    its certificate says. `addr`: where its port is reached, host:port; an unspecified host stands
    for where the call comes from. `raft_id`: of the member that leaves or moved, or whose data are
    lost or refused and that must not come back (`is_lost`); 0 for a node that never was one."""

    addr: str = ""
    raft_id: int = 0
    is_lost: bool = False


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A member, as in `store.proposer.Member`."""

    raft_id: int
    node_id: str
    addr: str


class MemberGrant(msgspec.Struct, frozen=True, kw_only=True):
    """`raft_id`: the caller's, from now on. `members`: all there are, the caller too."""

    raft_id: int
    members: tuple[MemberInfo, ...] = ()


class SnapshotHead(msgspec.Struct, frozen=True, kw_only=True):
    """Of a snapshot on its way: from which member, to which, in which term of the sender; `facts`
    are the Raft room's own (msgpack). Where a `node_id` is named, nothing is sent unless the
    certificate at the other end is that node's: it is all that the swarm has."""

    sender: int
    receiver: int
    term: int
    facts: bytes
    node_id: str = ""


class SnapshotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`index`: up to where the receiver's log reaches now, whatever became of the snapshot."""

    index: int


class UnlockKeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`key`: base 64, empty where the swarm does not lock its managers. `version`: of the key."""

    key: str = ""
    version: int = 0

    def __repr__(self) -> str:
        return "UnlockKeyAnswer(***)"


class PortProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal: `SwarmError`'s code, sentence and remedy. `managers`: who may be asked instead
    (host:port)."""

    code: str
    message: str
    remedy: str = ""
    managers: tuple[str, ...] = ()
