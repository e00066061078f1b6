"""Tasks: one run of one slot on one node, bound to it for ever."""

from enum import IntEnum

from swarmlet.core.ids import NodeID, ServiceID, TaskID
from swarmlet.model.base import Record
from swarmlet.model.service import GenericResource, PortConfig


class TaskState(IntEnum):
    """The order is the contract: observed and desired state never decrease."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832


STATE_NAMES = {int(state): state.name.lower() for state in TaskState}
"""The API's word for each state."""


class TaskStatus(Record, frozen=True, kw_only=True):
    """What was last observed of a task. Written by the agent (from ACCEPTED on), before that by the
    allocator and the scheduler. `state` is a TaskState kept as a plain int: a member costs a lookup
    per decode."""

    state: int = TaskState.NEW
    at_ms: int = 0
    message: str = ""
    err: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0
    ports: tuple[PortConfig, ...] = ()
    applied_by: str = ""
    applied_at_ms: int = 0
    running_ms: int = 0  # when it was first observed RUNNING (the agent's clock), kept from then on


class NetworkAttachment(Record, frozen=True, kw_only=True):
    network_id: str
    addresses: tuple[str, ...] = ()


class Task(Record, frozen=True, kw_only=True):
    """A task's row; its spec is SpecVersion (service_id, spec_version), never a copy.

    `desired` is written by the orchestrator alone, `status` as TaskStatus says, `node_id` once, by
    the scheduler (or at creation for global services). `attempt` counts the failed runs in a row
    before it; `start_at_ms` (wall) is the earliest moment it may be promoted to RUNNING and
    `replaces` the predecessor whose end is awaited first: both shown to users as the next attempt.
    `updated_from` is set on the task that an update puts in a slot: the spec version of the task it
    replaces. A restart's successor has 0 there, unless it brings a new spec while an update is
    under way. `move_ms` is set by the rebalancer on a task that is to make place for one elsewhere;
    `moved_ms` on the one that came for it (the other's `move_ms`), and on one that nothing came for
    in time: neither is moved again soon. `short_runs` counts the runs in a row before it that ended
    by themselves, well or not, within ten minutes.
    """

    id: TaskID
    service_id: ServiceID
    spec_version: int = 1
    slot: int = 0
    node_id: NodeID = NodeID("")
    desired: int = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    networks: tuple[NetworkAttachment, ...] = ()
    job_iteration: int = 0
    attempt: int = 0
    start_at_ms: int = 0
    replaces: TaskID = TaskID("")
    generic_resources: tuple[GenericResource, ...] = ()
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    updated_from: int = 0
    move_ms: int = 0
    moved_ms: int = 0
    short_runs: int = 0


def task_name(service_name: str, task: Task) -> str:
    """`<service>.<slot>.<task id>`; the node id stands for the slot of a global task."""
    return f"{service_name}.{task.slot or task.node_id}.{task.id}"
