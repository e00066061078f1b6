"""A stream into a task, carried between a client's connection and a channel to the task's node.

Both ways the connection carries the frames of `core.framing`. A program that cannot be started has
a problem and an exit code, one that ended an exit code, what broke off a problem alone.
"""

import asyncio
from collections.abc import Iterator
from functools import partial

from aiohttp import web

from swarmlet.api.call import Call
from swarmlet.api.caller import caller_of
from swarmlet.api.hijack import RawStream, hijack
from swarmlet.api.leading import while_electing
from swarmlet.core.errors import InvalidArgumentError, UnavailableError, first_of
from swarmlet.core.framing import (
    END,
    EXIT,
    INPUT,
    PROBLEM,
    RESIZE,
    Frame,
    FramingError,
    Unpacker,
    pack,
)
from swarmlet.wire.channel import ChannelClosedError, StreamChannel
from swarmlet.wire.messages import (
    STREAM_DATA_MAX_B,
    StreamData,
    StreamEnd,
    StreamExit,
    StreamFrame,
    StreamRequest,
    StreamResize,
    TaskStreamAsk,
)

SIZE_MAX = 65_535
"""Rows and columns: the kernel's struct winsize."""


async def stream_into_task(call: Call, request: StreamRequest) -> web.StreamResponse:
    """Answer with the stream, once it is ready. Raises what is in the way of it."""
    who = await caller_of(call)

    async def attempt() -> StreamChannel:
        control = call.engine.control()
        task = control.find_task(await control.read(), call.name)
        return await control.open_task_stream(
            TaskStreamAsk(task_id=task.id, request=request, who=who)
        )

    channel = await while_electing(call, attempt)
    try:
        return await hijack(call, partial(_serve, channel), is_tty=False)
    finally:
        channel.close()


async def _serve(channel: StreamChannel, raw: RawStream) -> None:
    is_over = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            others = (
                group.create_task(_take_in(raw, channel)),
                group.create_task(_until_lost(channel, is_over)),
            )
            await _give_out(channel, raw, is_over)
            for other in others:
                other.cancel()
    except* FramingError as problems:
        raise InvalidArgumentError(f"The client sent {first_of(problems)}.") from problems


async def _take_in(raw: RawStream, channel: StreamChannel) -> None:
    """What the client sends, until it sends no more. Raises FramingError."""
    frames, has_ended = Unpacker(), False
    try:
        while data := await raw.read():
            for frame in frames.feed(data):
                has_ended = has_ended or frame.kind == END
                for part in _parts(frame):
                    await channel.send(part)
        if not has_ended:
            await channel.send(StreamEnd())
    except ChannelClosedError:
        return  # what is given out says why


async def _give_out(channel: StreamChannel, raw: RawStream, is_over: asyncio.Event) -> None:
    while True:
        try:
            frame = await channel.receive()
        except ChannelClosedError as end:
            raise _lost() from end
        match frame:
            case StreamData(stream=stream, data=data):
                await raw.write(pack(stream, data))
            case StreamEnd():
                await raw.write(pack(END))
            case StreamExit():
                is_over.set()
                await raw.write(b"".join(_last(frame)))
                return
            case _:
                raise _lost()  # nobody who is understood is there


def _last(frame: StreamExit) -> Iterator[bytes]:
    if frame.problem:
        yield pack(PROBLEM, frame.problem.encode(errors="replace"))
    if frame.exit_code or not frame.problem:
        yield pack(EXIT, str(frame.exit_code).encode())


async def _until_lost(channel: StreamChannel, is_over: asyncio.Event) -> None:
    """Raises UnavailableError where the other manager is gone, though nothing comes of it."""
    await channel.left(or_closed=False)
    if not is_over.is_set():
        raise _lost()


def _lost() -> UnavailableError:
    return UnavailableError("The connection to the manager that leads the swarm was lost.")


def _parts(frame: Frame) -> Iterator[StreamFrame]:
    """Raises FramingError."""
    match frame.kind:
        case kind if kind == INPUT:
            for start in range(0, len(frame.payload), STREAM_DATA_MAX_B):
                yield StreamData(stream=0, data=frame.payload[start : start + STREAM_DATA_MAX_B])
        case kind if kind == END:
            yield StreamEnd()
        case kind if kind == RESIZE:
            yield _resize(frame.payload)
        case kind:
            raise FramingError(f"a frame of kind {kind}, which is the daemon's to send")


def _resize(payload: bytes) -> StreamResize:
    numbers = payload.split()
    if len(numbers) != 2 or not all(number.isdigit() and len(number) < 6 for number in numbers):
        raise FramingError("a size that is none")
    rows, columns = (min(int(number), SIZE_MAX) for number in numbers)
    return StreamResize(rows=rows, columns=columns)
