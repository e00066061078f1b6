"""Nodes."""

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.core.ids import RaftID
from swarmlet.model.base import ApiStruct, always
from swarmlet.model.node import (
    NODE_STATE_NAMES,
    Node,
    NodeDescription,
    NodeSpec,
)
from swarmlet.store.proposer import Leadership, Member


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
    """Who is in the Raft group and who leads it, for the column MANAGER STATUS."""

    def __init__(self, leadership: Leadership, members: tuple[Member, ...]) -> None:
        self._leader: RaftID | None = leadership.leader
        self._voters = {member.raft_id for member in members if member.is_voter}

    def status(self, node: Node) -> ManagerStatusJson | None:
        """A voter counts as reachable; one that is still catching up is unknown, and so is one that
        keeps no copy of the swarm's state."""
        manager = node.manager
        if manager is None:
            return ManagerStatusJson() if node.role == "manager" else None
        is_voter = manager.raft_id in self._voters
        return ManagerStatusJson(
            leader=manager.raft_id == self._leader,
            reachability="reachable" if is_voter else "unknown",
            addr=manager.addr,
        )


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
