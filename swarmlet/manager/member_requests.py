"""What a manager that joins or leaves the Raft group changes: the pure half of `members`."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import TypeAlias

from msgspec.structs import replace

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.identity import Identity
from swarmlet.core.ids import NodeID
from swarmlet.model.address import Address, is_ip, parse_address
from swarmlet.model.change import Change, Guard, Update
from swarmlet.model.view import View
from swarmlet.reconcile.roles import WORKER, Seat
from swarmlet.store.proposer import Member
from swarmlet.wire.messages import PROTOCOL_VERSION
from swarmlet.wire.node_api import MemberRequest, PortHello

Transaction: TypeAlias = tuple[Sequence[Change], Sequence[Guard]]


def member_at(seat: Seat) -> Member:
    return Member(
        raft_id=seat.raft_id, node_id=seat.node_id, address=seat.addr, is_voter=seat.is_voter
    )


def is_lost(request: MemberRequest, member: Member) -> bool:
    """Whether the node cannot go on as this member: it says so, or it does not know that it is one
    that others may rely on. A learner's data never counted, so an empty one may begin anew."""
    if request.raft_id == member.raft_id:
        return request.is_lost
    return member.is_voter or request.raft_id != 0


def address_of(addr: str, source: str) -> str:
    """The address to dial. Raises InvalidArgumentError."""
    address = parse_address(addr, "AdvertiseAddr")
    if not _is_unspecified(address.host):
        return str(address)
    if not source:
        raise InvalidArgumentError(
            f"invalid AdvertiseAddr {addr!r}: it must be a non-zero IP address",
            remedy="Name the address other managers reach this node at: --advertise-addr.",
        )
    return str(Address(host=source, port=address.port))


def problem_of(hello: PortHello, peer: Identity) -> str:
    """Why this is not the node that asks; nothing where it is."""
    if hello.node_id != peer.node_id:
        return f"node {hello.node_id or 'without a name'} answers there"
    if hello.cluster_id != peer.cluster_id:
        return f"a node of another swarm ({hello.cluster_id}) answers there"
    if abs(hello.protocol - PROTOCOL_VERSION) > 1:
        return f"it speaks protocol {hello.protocol}, this manager {PROTOCOL_VERSION}"
    return ""


def demotion(view: View, node_id: NodeID) -> Transaction:
    """The node shall be a worker."""
    node = view.nodes.get(node_id)
    if node is None or node.spec.role == WORKER:
        return (), ()
    return [Update(obj=replace(node, spec=replace(node.spec, role=WORKER)), seen=node.version)], ()


def displacement(view: View, node_id: NodeID) -> Transaction:
    """The node has no place in the group: it is on its way in again."""
    node = view.nodes.get(node_id)
    if node is None or node.manager is None:
        return (), ()
    return [Update(obj=replace(node, manager=None), seen=node.version)], ()


def _is_unspecified(host: str) -> bool:
    return is_ip(host) and ip_address(host).is_unspecified
