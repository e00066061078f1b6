"""Reading logs through any manager: here while it leads, else from the one that does, and on with
the next one where that changes."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from swarmlet.core.errors import NotLeaderError, UnavailableError
from swarmlet.core.ids import ServiceID, TaskID
from swarmlet.core.limits import NS_PER_MS
from swarmlet.env.base import Env
from swarmlet.manager.log_broker import SIZE_B, LogBroker, TooManyReadersError
from swarmlet.manager.log_progress import Progress, Skip
from swarmlet.model.task import Task
from swarmlet.wire.channel import ChannelClosedError, StreamChannel
from swarmlet.wire.messages import (
    LOG_MARKS_MAX,
    DialRequest,
    LogLine,
    LogOptions,
    ReadLogs,
    StreamData,
    StreamExit,
    TaskStreamAsk,
)

LEADERLESS_MAX_S: Final = 30.0  # that a followed log waits for somebody to lead
BEGIN_MAX_S: Final = 3.0  # that one waits which has not begun yet
AGAIN_MIN_S: Final = 0.05  # between two tries; doubles
AGAIN_MAX_S: Final = 1.0
BATCH_SIZE_MAX_B: Final = 8 * 1024 * 1024  # a node's frame has less

_decode_lines: Final = msgspec.msgpack.Decoder(list[LogLine]).decode


class Streams(Protocol):
    """The way to the manager that leads."""

    async def open(self, ask: TaskStreamAsk) -> StreamChannel: ...


class LogReader:
    """One reading. `streams` leads to another manager where this one does not lead."""

    def __init__(self, broker: LogBroker, streams: Streams, env: Env) -> None:
        self._broker, self._streams, self._env = broker, streams, env

    async def read(
        self, tasks: Sequence[Task], options: LogOptions, services: Sequence[ServiceID] = ()
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of these tasks and of all of `services`, as `LogBroker.batches` has them, on any
        manager. While following, another leader is no end: each line comes once. Raises
        UnavailableError where nobody leads for long, or the leader was lost and the log is not
        followed; TooManyReadersError."""
        progress = Progress(options, self._env.clock.wall_ms() * NS_PER_MS)
        patience, has_begun, is_over = _Patience(self._env), False, False
        wanted = ReadLogs(
            task_ids=tuple(task.id for task in tasks),
            services=tuple(services),
            options=options,
            began_ns=progress.began_ns,
        )
        while not is_over:
            skip = Skip(progress.marks())
            try:
                async with aclosing(self._batches(wanted)) as batches:
                    async for lines in batches:
                        has_begun = True
                        patience.renew()
                        for line in filter(skip.passes, lines):
                            progress.note(line)
                            yield line
                        progress.forget_gone(self._broker.is_there)
                is_over = True
            except UnavailableError as problem:
                if isinstance(problem, TooManyReadersError) or (has_begun and not options.follow):
                    raise
                await patience.wait(LEADERLESS_MAX_S if has_begun else BEGIN_MAX_S, problem)
                marks = tuple(progress.marks()[-LOG_MARKS_MAX:])
                wanted = replace(wanted, is_resumed=has_begun, marks=marks)

    async def _batches(self, wanted: ReadLogs) -> AsyncGenerator[Sequence[LogLine], None]:
        """Until the end, or until whoever leads does so no more (UnavailableError)."""
        has_begun = False
        try:
            async with aclosing(self._broker.batches(wanted)) as batches:
                async for lines in batches:
                    has_begun = True
                    yield lines
        except NotLeaderError:
            if has_begun:
                raise
        else:
            return
        async with aclosing(self._from_leader(wanted)) as batches:
            async for lines in batches:
                yield lines

    async def _from_leader(self, wanted: ReadLogs) -> AsyncGenerator[Sequence[LogLine], None]:
        if wanted.services:
            wanted = replace(wanted, task_ids=())  # it knows them, and they are many
        ask = TaskStreamAsk(task_id=TaskID(""), request=DialRequest(port=0), who="", logs=wanted)
        channel, parser = await self._streams.open(ask), _Parser()
        try:
            yield ()
            while not isinstance(frame := await channel.receive(), StreamExit):
                if isinstance(frame, StreamData):
                    for lines in parser.feed(frame.data):
                        yield lines
            if frame.problem:
                raise TooManyReadersError(frame.problem)
        except ChannelClosedError as end:
            raise NotLeaderError(
                "The manager that led the swarm is lost, and the log breaks off here.",
                remedy="Ask again.",
            ) from end
        finally:
            channel.close()


class _Parser:
    """Batches, however they were cut."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, data: bytes) -> Iterator[list[LogLine]]:
        """Raises NotLeaderError for what is no batch: whoever sent it is not to be believed."""
        self._raw += data
        while len(self._raw) >= SIZE_B:
            end = SIZE_B + int.from_bytes(self._raw[:SIZE_B], "big")
            if end > BATCH_SIZE_MAX_B:
                raise NotLeaderError("The manager that leads sent what is no log.")
            if len(self._raw) < end:
                return
            batch = bytes(self._raw[SIZE_B:end])
            del self._raw[:end]
            try:
                yield _decode_lines(batch)
            except (ValueError, RecursionError) as error:
                raise NotLeaderError("The manager that leads sent what is no log.") from error


class _Patience:
    """How long it is tried again, and how often."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self.renew()

    def renew(self) -> None:
        self._since_s: float | None = None
        self._pause_s = AGAIN_MIN_S

    async def wait(self, limit_s: float, problem: UnavailableError) -> None:
        """A moment, longer each time. Raises `problem` once it was tried for `limit_s`."""
        now_s = self._env.clock.mono_s()
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s >= limit_s:
            raise problem
        await asyncio.sleep(self._pause_s * (0.5 + 0.5 * self._env.rng.random()))
        self._pause_s = min(2 * self._pause_s, AGAIN_MAX_S)
