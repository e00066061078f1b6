"""Whose connections end with the entry that took its rights."""

from msgspec.structs import replace

from swarmlet.core.ids import NodeID
from swarmlet.manager.removals import follow_removals, loses_rights
from swarmlet.model.change import Create, Event, Remove, SetNodeStatus, Update
from swarmlet.model.node import Node, NodeSpec, NodeStatus
from swarmlet.store.store import Store
from tests.store.worlds import new_store


def member(name: str, role: str = "worker") -> Node:
    return Node(id=NodeID(name), spec=NodeSpec(role=role), role=role)


def row(store: Store, name: str) -> Node:
    found = store.view().nodes.get(name)
    assert found is not None
    return found


async def test_removed_and_demoted_nodes_are_closed_with_the_entry_and_nobody_else():
    store, _ = new_store()
    closed: list[str] = []
    await store.commit([Create(obj=member("w")), Create(obj=member("m", "manager"))])
    with follow_removals(store, closed.append):
        await store.commit([Create(obj=member("x"))])
        await store.commit([SetNodeStatus(id=NodeID("w"), status=NodeStatus(state=1))])
        wanted = replace(row(store, "m"), spec=NodeSpec(role="worker"))
        await store.commit([Update(obj=wanted, seen=row(store, "m").version)])
        promoted = replace(row(store, "x"), role="manager")
        await store.commit([Update(obj=promoted, seen=row(store, "x").version)])
        assert closed == []
        demoted = replace(row(store, "m"), role="worker")
        await store.commit([Update(obj=demoted, seen=row(store, "m").version)])
        assert closed == ["m"]
        await store.commit([Remove(table=Node, id="w"), Remove(table=Node, id="x")])
        assert closed == ["m", "w", "x"]
    await store.commit([Remove(table=Node, id="m")])
    assert closed == ["m", "w", "x"]


def test_new_node_has_nothing_to_lose():
    assert not loses_rights(Event(Node, None, member("w")))
