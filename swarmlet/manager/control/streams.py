"""Streams into tasks: `service exec` and `service port-forward`."""

from swarmlet.manager.control.base import ControlBase
from swarmlet.wire.channel import StreamChannel
from swarmlet.wire.messages import TaskStreamAsk


class StreamVerbs(ControlBase):
    """On any manager: one that does not lead asks the leader, once."""

    async def open_task_stream(self, ask: TaskStreamAsk) -> StreamChannel:
        """A stream that is ready: the program runs, or the connection is made; else its first frame
        is the StreamExit that says why it does not. Whoever has it closes it. Raises
        NotLeaderError where nothing was done, else as `StreamBroker.open`."""
        return await self.streams.open(ask)
