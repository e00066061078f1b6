"""What the two sides of a connection in memory hold: one end of it, and what a port makes of it."""

import asyncio
from typing import TYPE_CHECKING, Any

from swarmlet.wire.channel import ChannelClosedError
from swarmlet.wire.messages import LogBatch, Message, TaskStreamAsk, decode_stream_ask

if TYPE_CHECKING:
    from tests.wire.memory_link import Connection


class End:
    """AgentChannel, LogSink, LogSource and StreamChannel at once."""

    def __init__(self, connection: "Connection", inner: Any) -> None:
        self.connection, self.inner = connection, inner
        self.used = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.used.set()
        await self.connection.passable()
        await self.inner.send(message)

    async def receive(self) -> Any:
        self.used.set()
        return await self.inner.receive()

    async def left(self, *, or_closed: bool = True) -> None:
        await self.inner.left(or_closed=or_closed)

    def shut(self, *, drops: bool) -> None:
        if drops:
            self.inner._inbox.clear()
        self.inner.close()

    def close(self) -> None:
        if self.connection.is_passable():
            self.connection.close()
        else:
            self.inner._is_closed = True  # the other side hears of it later, or never
            self.inner._changed.set()


class Asked:
    """The far end of a stream that was asked for: the ask, then frames."""

    def __init__(self, end: End, asked: bytes) -> None:
        self._end, self._asked = end, asked
        self.send, self.receive = end.send, end.receive
        self.left, self.close = end.left, end.close

    async def ask(self) -> TaskStreamAsk:
        self._end.used.set()
        ask: TaskStreamAsk = decode_stream_ask(self._asked)
        return ask


class Source:
    """A log stream's far end: batches only."""

    def __init__(self, end: End) -> None:
        self._end = end

    async def receive(self) -> LogBatch:
        batch = await self._end.receive()
        if not isinstance(batch, LogBatch):
            raise ChannelClosedError
        return batch

    def close(self) -> None:
        self._end.close()
