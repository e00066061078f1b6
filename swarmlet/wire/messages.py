"""The vocabulary of a node's session with a manager."""

from typing import Final, TypeAlias

import msgspec

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.base import hidden
from swarmlet.model.node import NodeDescription
from swarmlet.model.service import GenericResource, TaskSpec
from swarmlet.model.task import NetworkAttachment, TaskStatus

PROTOCOL_VERSION: Final = 1
"""Spoken by this release; a peer one behind is still understood."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, tag=True):
    pass


class Hello(_Message, frozen=True, kw_only=True):
    """Agent: I am here, this is what I am. `session_id` of the last session, or empty. `problem`:
    as in Condition, for a runtime that is away already."""

    protocol: int
    node_id: NodeID
    description: NodeDescription
    session_id: str = ""
    problem: str = ""


class Welcome(_Message, frozen=True, kw_only=True):
    """Manager: registered; beat every `heartbeat_period_s`. Where `refusal` says why not, the
    session ends."""

    protocol: int
    session_id: str
    heartbeat_period_s: float
    refusal: str = ""


class ManagerAddr(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A manager that may be asked: its node and where its port is (host:port)."""

    node_id: NodeID
    addr: str
    weight: int = 1


class SwarmInfo(_Message, frozen=True, kw_only=True):
    """Manager: what a node should know of the swarm, whole: behind the Welcome and on each change.

    `managers` replaces what the node knew. `root_pem`: to be trusted where the node's present
    certificate is valid under it. `certificate_state` (model.node.IssuanceState) of the node's
    row: ROTATE asks it to renew; `role`: what its certificate should say.
    """

    managers: tuple[ManagerAddr, ...]
    root_pem: bytes
    certificate_state: int
    role: str


class Heartbeat(_Message, frozen=True, kw_only=True):
    """Both ways: still here."""


class Condition(_Message, frozen=True, kw_only=True):
    """Agent: why its runtime cannot run tasks now, "" once it can again. Until one is sent, what
    the Hello said holds."""

    problem: str


class Goodbye(_Message, frozen=True, kw_only=True):
    """Agent: stopping in order, back within `back_in_s` (its tasks run on); 0: for good, or because
    its host shuts down, and its tasks with it."""

    back_in_s: float
    is_host_stopping: bool = False


class AssignedTask(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """All an agent needs to run a task: body of an item of kind "task". `ports`: host mode."""

    id: TaskID
    service_id: ServiceID
    service_name: str
    service_labels: dict[str, str]
    slot: int
    node_id: NodeID
    desired: int
    spec: TaskSpec
    ports: tuple[tuple[str, str, int, int], ...] = ()  # name, protocol, target, published
    networks: tuple[NetworkAttachment, ...] = ()
    status: TaskStatus = TaskStatus()  # what the manager knows; the agent's own memory wins
    task_name: str = ""
    registry_auth: str = ""  # X-Registry-Auth for the image's registry, as the client gave it
    network_mode: str = ""  # the node's own network to join (host); "": the default one
    generic_resources: tuple[GenericResource, ...] = ()  # what it got of the node's
    is_numbered: bool = False  # slot 0 is a slot, as the first of a replicated job


class AssignedPayload(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A secret or config that a task of the node needs: body of an item of kind "secret" or
    "config", kept in memory alone. `templating`: its driver, "" or golang."""

    id: str
    name: str
    data: bytes
    templating: str = ""

    __repr__ = hidden


class Item(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One thing a node should hold: kind (task, secret or config), id, body."""

    kind: str
    id: str
    body: bytes

    __repr__ = hidden


class Assignments(_Message, frozen=True, kw_only=True):
    """Manager: what this node should hold. Complete replaces all; otherwise a difference.

    `applies_to` and `results_in` number the states, so that a gap is noticed (then the agent asks
    again with a new session). A complete list too large for a frame comes in parts, all but the
    last with `has_more`.
    """

    is_complete: bool
    applies_to: int
    results_in: int
    put: tuple[Item, ...] = ()
    gone: tuple[tuple[str, str], ...] = ()  # (kind, id)
    has_more: bool = False


class StatusReport(_Message, frozen=True, kw_only=True):
    """Agent: what its tasks do now; answered by StatusAck once it is in the store."""

    number: int
    statuses: tuple[tuple[TaskID, TaskStatus], ...]


class StatusAck(_Message, frozen=True, kw_only=True):
    number: int


class LogOptions(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """`tail` lines per task (-1: all); `since_ns`/`until_ns` wall time, 0 for no bound."""

    follow: bool = False
    stdout: bool = True
    stderr: bool = True
    tail: int = -1
    since_ns: int = 0
    until_ns: int = 0


class OpenLogs(_Message, frozen=True, kw_only=True):
    """Manager: open a log stream for this subscription and send these tasks' logs."""

    subscription: str
    task_ids: tuple[TaskID, ...]
    options: LogOptions


class CloseLogs(_Message, frozen=True, kw_only=True):
    """Manager: nobody reads this subscription any more."""

    subscription: str


class LogLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line (or part of one) as the task wrote it. `stream`: 1 stdout, 2 stderr."""

    task_id: TaskID
    at_ns: int
    stream: int
    data: bytes


class LogBatch(_Message, frozen=True, kw_only=True):
    """Agent, on a log stream: lines; `is_last` ends it, `problem` says what could not be read."""

    lines: tuple[LogLine, ...] = ()
    is_last: bool = False
    problem: str = ""


LOG_BATCH_MAX_B: Final = (1024 + 256) * 1024
"""Encoded: what an agent gathers has 64 KiB and one line more, the longest an engine may give."""


class LogMark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far a task's log was read: the newest line's time, and how many lines of that time
    (-1: all that there were)."""

    task_id: TaskID
    at_ns: int
    count: int


class ReadLogs(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A manager to the one that leads: the logs of these tasks and services, for its own caller.
    What comes back are `StreamData` of stream 1: batches of `LogLine`, each behind its size in four
    bytes. `began_ns`: when the caller began to read; `marks`: what it has from an earlier leader,
    the newest of them where there are too many."""

    task_ids: tuple[TaskID, ...]
    services: tuple[ServiceID, ...]
    options: LogOptions
    began_ns: int
    is_resumed: bool = False
    marks: tuple[LogMark, ...] = ()


LOG_MARKS_MAX: Final = 2_000
"""That fit a message of a stream; without its mark a task's lines are sent again, and dropped."""


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True, gc=False):
    """Run a program beside a task, as that task would see the world. `user`: "" for the task's own;
    `rows` and `columns` of a terminal, 0 where the client has said none yet."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    is_tty: bool = False
    has_stdin: bool = False
    rows: int = 0
    columns: int = 0

    __repr__ = hidden


class DialRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True, gc=False):
    """Connect to a TCP port that the task's service declares (its target port)."""

    port: int


StreamRequest: TypeAlias = ExecRequest | DialRequest


class OpenStream(_Message, frozen=True, kw_only=True):
    """Manager: open a stream of this id into this task. The agent opens a connection of its own for
    it, also to say that it cannot be done."""

    stream_id: str
    task_id: TaskID
    request: StreamRequest


class _Frame(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, tag=True):
    pass


class StreamReady(_Frame, frozen=True, kw_only=True):
    """The task's side: the program runs, or the connection is made; the first frame, unless it is
    a StreamExit."""


class StreamData(_Frame, frozen=True, kw_only=True):
    """Bytes. `stream`: 0 input; 1 output; 2 a program's stderr. At most STREAM_DATA_MAX_B."""

    stream: int
    data: bytes

    __repr__ = hidden


class StreamEnd(_Frame, frozen=True, kw_only=True):
    """No more data comes from this side; the other may go on."""


class StreamResize(_Frame, frozen=True, kw_only=True):
    """The client's terminal has another size."""

    rows: int
    columns: int


class StreamExit(_Frame, frozen=True, kw_only=True):
    """The task's side, the last frame: how the program ended (0 for a connection), or in `problem`
    why it could not be begun or broke off (a sentence for people)."""

    exit_code: int = 0
    problem: str = ""


class StreamRefused(_Frame, frozen=True, kw_only=True):
    """The manager that leads, to one that passes a stream on, as the first and only frame: the
    SwarmError that stands in the way. With `managers` (host:port) it says that it does not lead and
    has done nothing."""

    code: str
    message: str
    remedy: str = ""
    managers: tuple[str, ...] = ()


StreamFrame: TypeAlias = (
    StreamReady | StreamData | StreamEnd | StreamResize | StreamExit | StreamRefused
)

STREAM_DATA_MAX_B: Final = 32 * 1024
EXEC_SIZE_MAX_B: Final = 128 * 1024
"""Of an ExecRequest, encoded: Linux takes no longer argument, nor environment variable."""

STREAM_MESSAGE_MAX_B: Final = EXEC_SIZE_MAX_B + 4096
"""Of whatever travels on a stream's connection."""


class TaskStreamAsk(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A manager to the one that leads: a stream into a task, for its own caller. `who` is that
    caller as the event log names it. Where there is `logs`, these are asked for instead, and
    nothing else counts."""

    task_id: TaskID
    request: StreamRequest
    who: str
    logs: ReadLogs | None = None


Message: TypeAlias = (
    Hello
    | Welcome
    | SwarmInfo
    | Heartbeat
    | Condition
    | Goodbye
    | Assignments
    | StatusReport
    | StatusAck
    | OpenLogs
    | CloseLogs
    | LogBatch
    | OpenStream
)

encode = msgspec.msgpack.Encoder().encode
decode_message = msgspec.msgpack.Decoder(Message).decode
decode_assigned_task = msgspec.msgpack.Decoder(AssignedTask).decode
decode_payload = msgspec.msgpack.Decoder(AssignedPayload).decode
decode_frame = msgspec.msgpack.Decoder(StreamFrame).decode
decode_stream_ask = msgspec.msgpack.Decoder(TaskStreamAsk).decode
