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


class PortProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal: `SwarmError`'s code, sentence and remedy. `managers`: who may be asked instead
    (host:port)."""

    code: str
    message: str
    remedy: str = ""
    managers: tuple[str, ...] = ()
