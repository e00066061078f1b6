"""What one node is told to hold, as its session on the leader sends it: everything at first, then
what changed.

Secrets and configs go ahead of the tasks that need them, and are taken back behind their last
user's end. Their bytes are looked up as they are sent and kept by nobody here.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from msgspec.structs import replace

from swarmlet.core.ids import NodeID, TaskID
from swarmlet.core.limits import ASSIGNMENT_BATCH_MAX
from swarmlet.model.service import TaskSpec
from swarmlet.model.task import Task, task_name
from swarmlet.model.view import View, cluster_of, task_spec_version_of
from swarmlet.reconcile.dispatch import (
    Fingerprint,
    PayloadKey,
    PayloadUsers,
    fingerprint,
    plan,
)
from swarmlet.store.store import Store
from swarmlet.wire.messages import (
    AssignedPayload,
    AssignedTask,
    Assignments,
    Item,
    Message,
    encode,
)

PART_SIZE_MAX_B: Final = 1024 * 1024  # of an assignment message, but for a single larger item


class AssignmentFeed:
    """One session's: `send` passes a message on to the node, and returns once it has been taken.
    `is_listed` once the complete list was sent."""

    __slots__ = (
        "_dirty",
        "_node_id",
        "_send_message",
        "_sent",
        "_state",
        "_store",
        "_users",
        "is_listed",
    )

    def __init__(
        self, node_id: NodeID, store: Store, send: Callable[[Message], Awaitable[None]]
    ) -> None:
        self._node_id, self._store, self._send_message = node_id, store, send
        self._dirty: dict[TaskID, None] = {}
        self._sent: dict[TaskID, Fingerprint] = {}
        self._users = PayloadUsers()
        self._state = 0
        self.is_listed = False

    def touch(self, task_id: TaskID) -> None:
        """A task that is, was or will be this node's has changed."""
        self._dirty[task_id] = None

    @property
    def has_changes(self) -> bool:
        return bool(self._dirty)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that it should not wait for more."""
        return len(self._dirty) >= ASSIGNMENT_BATCH_MAX

    async def send_all(self, between: Callable[[], Awaitable[None]]) -> None:
        """The complete list, in as many parts as it needs, with `between` awaited behind each."""
        view = self._store.view()
        tasks = plan(view, self._node_id, {}, None).put
        payloads = self._users.turn(view, self._node_id, tasks)
        waiting = deque(_keys(payloads.put, tasks))
        has_more = True
        while has_more:
            items = tuple(self._take_part(waiting))
            has_more = bool(waiting)
            await self._send(is_complete=True, put=items, has_more=has_more)
            await between()
        self.is_listed = True

    async def send_changes(self) -> bool:
        """Whether there was anything to tell."""
        dirty, self._dirty = self._dirty, {}
        view = self._store.view()
        put, gone = plan(view, self._node_id, self._sent, dirty)
        payloads = self._users.turn(view, self._node_id, dirty)
        for task_id in gone:
            del self._sent[task_id]
        waiting, taken_back = deque(_keys(payloads.put, put)), _keys(payloads.gone, gone)
        has_news = bool(waiting or taken_back)
        while waiting or taken_back:
            await self._send(
                is_complete=False, put=tuple(self._take_part(waiting)), gone=taken_back
            )
            taken_back = ()
        return has_news

    def _take_part(self, waiting: deque[tuple[str, str]]) -> Iterator[Item]:
        """The next items as they are now, as many as one message should carry."""
        view, size_b = self._store.view(), 0
        for _ in range(ASSIGNMENT_BATCH_MAX):
            if not waiting or size_b >= PART_SIZE_MAX_B:
                return
            kind, item_id = waiting.popleft()
            body = (
                self._task_body(view, item_id) if kind == "task" else _payload(view, kind, item_id)
            )
            if body:  # else removed while earlier parts were sent
                size_b += len(body)
                yield Item(kind=kind, id=item_id, body=body)

    def _task_body(self, view: View, task_id: str) -> bytes:
        task = view.tasks.get(task_id)
        if task is None:
            return b""
        self._sent[task.id] = fingerprint(task)
        return encode(assigned_task(view, task))

    async def _send(
        self,
        *,
        is_complete: bool,
        put: tuple[Item, ...],
        gone: tuple[tuple[str, str], ...] = (),
        has_more: bool = False,
    ) -> None:
        before, self._state = self._state, self._state + 1
        await self._send_message(
            Assignments(
                is_complete=is_complete,
                applies_to=before,
                results_in=self._state,
                put=put,
                gone=gone,
                has_more=has_more,
            )
        )


def _keys(payloads: tuple[PayloadKey, ...], tasks: tuple[TaskID, ...]) -> tuple[PayloadKey, ...]:
    """Kinds and ids, payloads first."""
    return (*payloads, *(("task", task_id) for task_id in tasks))


def _payload(view: View, kind: str, payload_id: str) -> bytes:
    """b"" where it was removed: its tasks say so when they look for it."""
    row = view.secrets.get(payload_id) if kind == "secret" else view.configs.get(payload_id)
    if row is None:
        return b""
    spec = row.spec
    return encode(
        AssignedPayload(
            id=row.id,
            name=spec.name,
            data=spec.data,
            templating=spec.templating.name if spec.templating is not None else "",
        )
    )


def assigned_task(view: View, task: Task) -> AssignedTask:
    """All an agent needs to run the task, from the spec version it was made of; the swarm's log
    driver where that names none."""
    version = task_spec_version_of(view, task)
    spec = version.spec
    template, defaults = spec.task_template, cluster_of(view).spec.task_defaults
    published = spec.endpoint_spec.ports if spec.endpoint_spec else []
    return AssignedTask(
        id=task.id,
        service_id=task.service_id,
        service_name=spec.name,
        service_labels=spec.labels,
        slot=task.slot,
        node_id=task.node_id,
        desired=task.desired,
        spec=replace(template, log_driver=template.log_driver or defaults.log_driver),
        ports=tuple(
            (port.name, port.protocol or "tcp", port.target_port, port.published_port)
            for port in published
            if port.publish_mode == "host"
        ),
        networks=task.networks,
        status=task.status,
        task_name=task_name(spec.name, task),
        registry_auth=version.registry_auth,
        network_mode=_network_mode(view, template),
        generic_resources=task.generic_resources,
        is_numbered=spec.mode.replicated_job is not None,
    )


def _network_mode(view: View, template: TaskSpec) -> str:
    """The name of the node's own network the tasks join; they join one at most."""
    rows = [view.networks.get(wanted.target) for wanted in template.networks]
    return next((row.spec.name for row in rows if row is not None and row.predefined), "")
