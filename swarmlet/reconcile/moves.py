"""The changes that put one task in another's place, and what they hang on."""

import msgspec

from swarmlet.model.change import Exists, Guard, SetDesired, Update
from swarmlet.model.service import Service, SpecVersion, spec_version_id
from swarmlet.model.task import Task, TaskState


def stop(task: Task) -> SetDesired:
    """Shut the task down; skipped where that is wanted already."""
    return SetDesired(id=task.id, desired=TaskState.SHUTDOWN)


def hand_over(task: Task) -> Update:
    """Stop the task only if its row is still the one decided upon: a verb would be skipped where
    somebody was faster, and a second successor would come through with it."""
    stopped = msgspec.structs.replace(task, desired=int(TaskState.SHUTDOWN))
    return Update(obj=stopped, seen=task.version)


def keep(task: Task) -> Update:
    """Leave the task as it is, and refuse what is committed with this where it changed."""
    return Update(obj=task, seen=task.version)


def needs_of_new(service: Service) -> tuple[Guard, ...]:
    """A new task needs its service and its spec version, also by the time it is applied."""
    spec_id = spec_version_id(service.id, service.spec_version)
    return (Exists(table=Service, id=service.id), Exists(table=SpecVersion, id=spec_id))
