"""Log streams: one frame a line, as Docker's multiplexed stream has it."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from swarmlet.api.call import Call, stream
from swarmlet.api.query import flag, tail_lines, time_ns
from swarmlet.api.render.common import rfc3339_fixed
from swarmlet.api.streams import SYSTEM_ERROR, frame, output_type, saying_problems, while_read
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import ServiceID, TaskID
from swarmlet.model.task import Task
from swarmlet.wire.messages import LogLine, LogOptions

if TYPE_CHECKING:
    from swarmlet.manager.control import Control

STDERR: Final = 2  # where the lines go that a manager says itself

CONTEXTS_MAX: Final = 4096
"""Tasks remembered by one stream: a service that crashes for months brings ever new ones."""


def log_options(call: Call) -> LogOptions:
    """Raises InvalidArgumentError, also where neither stream is asked for."""
    stdout, stderr = flag(call.query, "stdout"), flag(call.query, "stderr")
    if not stdout and not stderr:
        raise InvalidArgumentError("must specify at least one of 'stdout' or 'stderr'")
    return LogOptions(
        follow=flag(call.query, "follow"),
        stdout=stdout,
        stderr=stderr,
        tail=tail_lines(call.query),
        since_ns=time_ns(call.query, "since"),
        until_ns=time_ns(call.query, "until"),
    )


def _context_of(task: Task) -> bytes:
    """What `details` puts before a line: the CLI finds node, service and task by it."""
    return (
        f"com.docker.swarm.node.id={task.node_id},"
        f"com.docker.swarm.service.id={task.service_id},"
        f"com.docker.swarm.task.id={task.id} "
    ).encode()


class Contexts:
    """Tasks' contexts; a followed service brings tasks that were not there at first."""

    def __init__(self, control: "Control", tasks: Iterable[Task]) -> None:
        self._control = control
        self._known = {task.id: _context_of(task) for task in tasks}

    async def of(self, task_id: TaskID) -> bytes:
        context = self._known.get(task_id)
        if context is None:
            task = (await self._control.read()).tasks.get(task_id)
            context = _context_of(task or Task(id=task_id, service_id=ServiceID("")))
            if len(self._known) >= CONTEXTS_MAX:
                del self._known[next(iter(self._known))]
            self._known[task_id] = context
        return context


@dataclass(frozen=True, slots=True)
class LineFormat:
    """How a line is printed; `contexts` is None without `details`."""

    is_raw: bool
    has_times: bool
    contexts: Contexts | None

    async def encode(self, line: LogLine) -> bytes:
        time = rfc3339_fixed(line.at_ns).encode() + b" " if self.has_times else b""
        context = b"" if self.contexts is None else await self.contexts.of(line.task_id)
        payload = time + context + line.data
        return payload if self.is_raw else frame(line.stream or STDERR, payload)

    def encode_error(self, message: str) -> bytes:
        text = f"Error grabbing logs: {message}\n".encode()
        return text if self.is_raw else frame(SYSTEM_ERROR, text)


async def _copy(lines: AsyncIterator[LogLine], out: web.StreamResponse, form: LineFormat) -> None:
    async def say(message: str) -> None:
        await out.write(form.encode_error(message))

    try:
        async with saying_problems(say):
            async for line in lines:
                await out.write(await form.encode(line))
    finally:
        if isinstance(lines, AsyncGenerator):
            await lines.aclose()


async def stream_logs(
    call: Call,
    control: "Control",
    tasks: Sequence[Task],
    services: Sequence[ServiceID] = (),
    *,
    is_tty: bool,
) -> web.StreamResponse:
    """The lines of these tasks, and of all of `services`, as they come. A terminal's output is sent
    as it is, without frames."""
    options = log_options(call)
    out = stream(output_type(call, is_tty=is_tty))
    form = LineFormat(
        is_raw=is_tty,
        has_times=flag(call.query, "timestamps"),
        contexts=Contexts(control, tasks) if flag(call.query, "details") else None,
    )
    await out.prepare(call.request)
    await while_read(call, _copy(control.read_logs(tasks, options, services), out, form))
    await out.write_eof()
    return out
