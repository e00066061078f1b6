"""`/swarmlet/v1/tasks/{id}/exec` and `/forward`: bytes between a client and a task on any node.

Local: the connection is this daemon's, which carries it on to the manager that leads where that is
another.
"""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Route
from swarmlet.api.task_streams import SIZE_MAX, stream_into_task
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import PORT_MAX
from swarmlet.model.base import ApiStruct, hidden
from swarmlet.model.parse import parse
from swarmlet.wire.messages import DialRequest, ExecRequest


class ExecBody(ApiStruct, frozen=True, kw_only=True):
    """As Docker's ExecConfig has them; `console_size`: rows and columns."""

    cmd: list[str] = []
    env: list[str] = []
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    attach_stdin: bool = False
    console_size: list[int] = []

    __repr__ = hidden


async def exec_in_task(call: Call) -> web.StreamResponse:
    """Run a program beside a task, as the task sees the world."""
    body = parse(ExecBody, await call.body())
    rows, columns = _size(body.console_size)
    request = ExecRequest(
        argv=tuple(body.cmd),
        env=tuple(body.env),
        user=body.user,
        workdir=body.working_dir,
        is_tty=body.tty,
        has_stdin=body.attach_stdin,
        rows=rows,
        columns=columns,
    )
    return await stream_into_task(call, request)


async def forward_to_task(call: Call) -> web.StreamResponse:
    """Connect to a TCP port that the task's service declares."""
    text = call.query.get("port", "")
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) <= PORT_MAX):
        raise InvalidArgumentError(f"invalid port {text!r}", remedy="?port= from 1 to 65535")
    return await stream_into_task(call, DialRequest(port=int(text)))


def _size(console: list[int]) -> tuple[int, int]:
    """Raises InvalidArgumentError."""
    if not console:
        return 0, 0
    if len(console) != 2 or not all(0 <= number <= SIZE_MAX for number in console):
        raise InvalidArgumentError("ConsoleSize has two numbers: rows and columns")
    return console[0], console[1]


ROUTES: Final = (
    Route("POST", "/swarmlet/v1/tasks/{id}/exec", exec_in_task),
    Route("POST", "/swarmlet/v1/tasks/{id}/forward", forward_to_task),
)
