"""What a port says of its node, a manager's or not: apart from all that only managers load."""

from swarmlet.env.base import Clock
from swarmlet.wire.messages import PROTOCOL_VERSION
from swarmlet.wire.node_api import PortHello


def hello_of(node_id: str, cluster_id: str, clock: Clock) -> PortHello:
    """What a port says of its node."""
    return PortHello(
        protocol=PROTOCOL_VERSION, node_id=node_id, cluster_id=cluster_id, now_ms=clock.wall_ms()
    )
