"""Who loses its rights by what the store just applied: its connections end in the same moment."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from swarmlet.core.ids import NodeID
from swarmlet.model.change import Event
from swarmlet.model.node import Node
from swarmlet.store.store import Store


@contextmanager
def follow_removals(store: Store, close_node: Callable[[NodeID], None]) -> Iterator[None]:
    """Call `close_node` for every node that is removed, or is no manager any more, while this
    context lasts; on followers as on the leader. A demoted node comes back as what it is now.

    `close_node` must be quick and must not raise.
    """

    def on_events(events: Sequence[Event]) -> None:
        for event in events:
            if event.table is Node and loses_rights(event):
                close_node(NodeID(event.id))

    unsubscribe = store.subscribe(on_events)
    try:
        yield
    finally:
        unsubscribe()


def loses_rights(event: Event) -> bool:
    """Whether a change of a node's row takes from it what its open connections were let in by."""
    old, new = event.old, event.new
    if not isinstance(old, Node):
        return False
    return not isinstance(new, Node) or (old.role == "manager" and new.role != "manager")
