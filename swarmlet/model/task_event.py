"""What happens to tasks, as events: pure. There are many of them, so a row's change is first cut
down to what is told of it (`happened`, on every manager, for every entry), and put into words only
where somebody reads (`message_of`)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from swarmlet.model.change import Event
from swarmlet.model.event_message import EventMessage
from swarmlet.model.task import STATE_NAMES, Task, TaskState

NOTHING: Final = -1
"""In the place of a state: there was no task before, or there is none any more."""

TASK: Final = "task"
_MESSAGE_LENGTH_MAX: Final = 256  # of what is said of a state; kept for days
_ENDED: Final = (TaskState.COMPLETE, TaskState.FAILED)


class TaskEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One change of one task. Positional: append with defaults, never reorder. States are
    TaskState; `was` and `was_desired` are NOTHING for a new task, `state` for one removed."""

    id: str
    service_id: str
    slot: int
    node_id: str
    was: int
    state: int
    was_desired: int
    desired: int
    message: str = ""
    err: str = ""
    exit_code: int = 0


Row: TypeAlias = tuple[str, str, int, str, int, int, int, int, str, str, int] | TaskEvent
"""A TaskEvent that is only to be encoded, which a plain tuple is for a third of the time."""


def happened(events: Iterable[Event]) -> list[Row]:
    """What of an entry's events is told of tasks: that one is there or gone, its observed and its
    desired state, and the first reason why it cannot go on. The rest (addresses, ports, another
    wording of the same reason) is not."""
    rows: list[Row] = []
    for event in events:
        if event.table is not Task:
            continue
        new: Any = event.new  # a Task or None; asserting so takes as long as all the rest
        old: Any = event.old
        if new is None:
            rows.append(_gone(old))
            continue
        status = new.status
        state, desired, err = status.state, new.desired, status.err
        if old is None:
            was = was_desired = NOTHING
        else:
            before = old.status
            was, was_desired = before.state, old.desired
            if was == state and was_desired == desired and (before.err or not err):
                continue
        rows.append((
            new.id, new.service_id, new.slot, new.node_id, was, state, was_desired, desired,
            status.message[:_MESSAGE_LENGTH_MAX], err and err[:_MESSAGE_LENGTH_MAX],
            status.exit_code,
        ))  # fmt: skip
    return rows


def _gone(task: Task) -> Row:
    return (
        *(task.id, task.service_id, task.slot, task.node_id),
        *(task.status.state, NOTHING, task.desired, NOTHING, "", "", 0),
    )


def message_of(event: TaskEvent, at_ms: int, name_of: Callable[[str, str], str]) -> EventMessage:
    """An event in words. `name_of` knows the name of a service or node by its kind and id, "" where
    nobody does any more."""
    return EventMessage(
        kind=TASK,
        action=_action(event),
        id=event.id,
        attributes=dict(_attributes(event, name_of)),
        at_ms=at_ms,
    )


def _action(event: TaskEvent) -> str:
    if event.state == NOTHING:
        return "remove"
    return "create" if event.was == NOTHING else "update"


def _attributes(event: TaskEvent, name_of: Callable[[str, str], str]) -> Iterator[tuple[str, str]]:
    service = name_of("service", event.service_id)
    yield "name", f"{service or event.service_id}.{event.slot or event.node_id}"
    yield "service.id", event.service_id
    if service:
        yield "service.name", service
    if event.node_id:
        yield "node.id", event.node_id
        node = name_of("node", event.node_id)
        if node:
            yield "node.name", node
    yield from _pair("state", event.was, event.state)
    yield from _pair("desired", event.was_desired, event.desired)
    if event.state == event.was and event.desired != event.was_desired:
        return  # what is said of the state was told with the state
    if event.message:
        yield "message", event.message
    if event.err:
        yield "err", event.err
    if event.exit_code or event.state in _ENDED:
        yield "exitcode", str(event.exit_code)


def _pair(key: str, was: int, now: int) -> Iterator[tuple[str, str]]:
    if was == now:
        return
    for suffix, state in (("old", was), ("new", now)):
        if state != NOTHING:
            yield f"{key}.{suffix}", STATE_NAMES.get(state, str(state))
