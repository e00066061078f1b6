"""What stands behind a manager's node port for streams into tasks."""

from collections.abc import Callable

from swarmlet.core.errors import NotLeaderError
from swarmlet.core.identity import Identity
from swarmlet.manager.stream_broker import StreamBroker
from swarmlet.wire.channel import AskedStream, StreamChannel


class StreamPort:
    """Implements `wire.port.StreamService`: a part of `ManagerPort`."""

    def __init__(self, streams: StreamBroker, leader_addr: Callable[[], str | None]) -> None:
        self._streams, self._leader_addr = streams, leader_addr

    async def take_stream(self, channel: StreamChannel, peer: Identity, stream_id: str) -> None:
        check_leads(self._leader_addr())
        await self._streams.take(channel, peer.node_id, stream_id)

    async def serve_task_stream(self, channel: AskedStream, peer: Identity) -> None:
        check_leads(self._leader_addr())
        await self._streams.serve(channel, peer.node_id)


def check_leads(leader_addr: str | None) -> None:
    """Sessions, their logs and streams are not passed on: who wants one goes to the leader itself.
    Raises NotLeaderError."""
    if leader_addr is not None:
        raise NotLeaderError(
            "This manager does not lead the swarm.",
            remedy="Ask the manager that leads.",
            managers=(leader_addr,),
        )
