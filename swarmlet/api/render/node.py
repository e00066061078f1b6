"""Nodes."""

from typing import TYPE_CHECKING

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.node import (
    NODE_STATE_NAMES,
    Node,
    NodeDescription,
    NodeSpec,
)

if TYPE_CHECKING:
    from swarmlet.store.proposer import GroupHealth, MemberHealth


class NodeStatusJson(ApiStruct, frozen=True, kw_only=True):
    state: str
    message: str = ""
    addr: str = ""


class ManagerStatusJson(ApiStruct, frozen=True, kw_only=True):
    leader: bool = False
    reachability: str = always("unknown")
    addr: str = ""


class NodeJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    spec: NodeSpec
    description: NodeDescription
    status: NodeStatusJson
    manager_status: ManagerStatusJson | None = None


class Managers:
    """Who is in the Raft group and who leads it, for the column MANAGER STATUS: as the manager that
    is asked hears it itself, or from the one that leads."""

    def __init__(self, health: "GroupHealth") -> None:
        self._leader = health.leader
        self._members = {one.member.node_id: one for one in health.members}

    def status(self, node: Node) -> ManagerStatusJson | None:
        """None of a worker. A manager that is not in the group (yet) is unknown."""
        health = self._members.get(node.id)
        if health is None:
            if node.role != "manager":
                return None
            return ManagerStatusJson(addr="" if node.manager is None else node.manager.addr)
        return ManagerStatusJson(
            leader=health.member.raft_id == self._leader,
            reachability=reachability(health),
            addr=health.member.address,
        )


def reachability(health: "MemberHealth") -> str:
    """In Docker's words. A learner is unknown: it stands in for nobody yet."""
    if not health.is_known or not health.member.is_voter:
        return "unknown"
    return "reachable" if health.answers else "unreachable"


def render_node(node: Node, managers: Managers) -> NodeJson:
    return NodeJson(
        id=node.id,
        version=ObjectVersion(index=node.version),
        created_at=rfc3339(node.created_ms),
        updated_at=rfc3339(node.updated_ms),
        spec=node.spec,
        description=node.description,
        status=NodeStatusJson(
            state=NODE_STATE_NAMES[node.status.state],
            message=node.status.message,
            addr=node.status.addr,
        ),
        manager_status=managers.status(node),
    )
