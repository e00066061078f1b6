"""How an update begins and ends: completed, paused, or turned back into a rollback.

What is decided is written into the service's row in one entry, with the version that was seen, and
nothing else remembers it: a leader that is killed before the entry leaves an update that goes on,
one that is killed after it a verdict. A rollback is an update to the spec before, with the rollback
settings of that spec (SwarmKit's rule), and is never itself rolled back.
"""

from collections.abc import Sequence

import msgspec

from swarmlet.model.change import Change, Update
from swarmlet.model.revision import back_to
from swarmlet.model.service import Service, SpecVersion, UpdateStatus, spec_version_id
from swarmlet.model.task import Task
from swarmlet.model.update_status import (
    COMPLETED,
    PAUSED,
    ROLLBACK_COMPLETED,
    ROLLBACK_ENDED,
    ROLLBACK_PAUSED,
    ROLLBACK_STARTED,
    UPDATE_BEGUN,
    UPDATE_COMPLETED,
    UPDATING,
    is_rolling_back,
)
from swarmlet.model.view import View
from swarmlet.reconcile.base import Decision, Moment
from swarmlet.reconcile.rollout import Rollout

_replace = msgspec.structs.replace


def too_many_failed(rollout: Rollout) -> Task | None:
    """The last task that failed, if with it more failed than may."""
    if rollout.settings.failure_action == "continue" or not rollout.failed:
        return None
    dirty_at_start = len(rollout.tried) + rollout.fresh_count
    if len(rollout.failed) / dirty_at_start <= rollout.settings.max_failure_ratio:
        return None
    return max(rollout.failed.values(), key=lambda t: (t.status.applied_at_ms, t.id))


def begin(service: Service, moment: Moment) -> Update:
    """Of an update; a rollback is begun by whoever decides on it. One that goes on after it was
    completed, with tasks that could not follow before, keeps the time of that."""
    before = service.update_status
    status = UpdateStatus(
        state=UPDATING,
        started_ms=moment.now_ms,
        completed_ms=0 if before is None else before.completed_ms,
        message=UPDATE_BEGUN,
    )
    return _write(service, status)


def fail(view: View, service: Service, rollout: Rollout, failed: Task) -> Decision:
    """What becomes of an update, or of a rollback, in which too many tasks failed. What was once
    completed is not turned back any more: the spec before may be long out of date, and one node
    that comes back late must not undo it on all others."""
    why = f"due to failure or early termination of task {failed.id}"
    if is_rolling_back(service):
        return _end(service, ROLLBACK_PAUSED, f"rollback paused {why}")
    if rollout.settings.failure_action != "rollback":
        return _end(service, PAUSED, f"update paused {why}")
    if service.update_status is not None and service.update_status.completed_ms:
        return _end(service, PAUSED, f"update paused {why}: it was completed before")
    before = _before(view, service)
    if before is None:
        return _end(service, PAUSED, f"update paused {why}: there is no previous spec")
    return _turn_back(view, service, before, f"update rolled back {why}")


def complete(service: Service, moment: Moment) -> Decision:
    """Every instance was tried and watched long enough."""
    if is_rolling_back(service):
        return _end(service, ROLLBACK_COMPLETED, ROLLBACK_ENDED, moment.now_ms)
    return _end(service, COMPLETED, UPDATE_COMPLETED, moment.now_ms)


def _before(view: View, service: Service) -> SpecVersion | None:
    """The spec an update came from; None after a rollback, which forgets it."""
    return view.specs.get(spec_version_id(service.id, service.previous_spec_version))


def _turn_back(view: View, service: Service, before: SpecVersion, message: str) -> Decision:
    """SwarmKit's rollback: it knows no previous spec, so that nobody returns to the bad one by
    rolling back once more."""
    assert service.update_status is not None
    status = _replace(service.update_status, state=ROLLBACK_STARTED, message=message)
    row = _replace(service, previous_spec_version=0)
    changes: Sequence[Change] = back_to(view, row, before, status=status, cause=message)
    return Decision(changes=tuple(changes), reasons=(message,))


def _end(service: Service, state: str, message: str, completed_ms: int = 0) -> Decision:
    assert service.update_status is not None
    status = _replace(
        service.update_status, state=state, message=message, completed_ms=completed_ms
    )
    return Decision(changes=(_write(service, status),), reasons=(message,))


def _write(service: Service, status: UpdateStatus) -> Update:
    return Update(obj=_replace(service, update_status=status), seen=service.version)
