"""How far a job's iteration is, and when there is nothing more to wait for: pure.

Words are docker/cli's (service/progress); its end is not: docker waits for ever for a task that was
given up, here the wait ends and says so.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from swarmlet.cli.client import Object
from swarmlet.cli.errors import CommandError
from swarmlet.cli.format import epoch_s
from swarmlet.cli.service.convergence import STATES, Line, Progress

_WAITING: Final = ("new", "allocated", "pending")
_WANTED: Final = STATES[: STATES.index("complete") + 1]
NEVER: Final = "0001-"  # how a time that never was begins
_FAILURES: Final = ("failed", "rejected", "orphaned")


class JobProgress(NamedTuple):
    """`given_up`: places whose last task failed and is not restarted; `places`: how many there are,
    `active`: how many have a task with something to do."""

    shown: Progress
    completed: int
    active: int
    given_up: int
    places: int

    @property
    def is_over(self) -> bool:
        return not self.active and self.completed + self.given_up >= self.places > 0


def is_job(service: Object) -> bool:
    mode = service["Spec"].get("Mode") or {}
    return mode.get("ReplicatedJob") is not None or mode.get("GlobalJob") is not None


def has_schedule(service: Object) -> bool:
    labels = service["Spec"].get("Labels") or {}
    return bool(labels.get("swarmlet.schedule", "").strip())


def runs_at_all(service: Object) -> bool:
    """Whether there is something to wait for: a job that may run nothing has no end, one that has a
    schedule runs when that says so, and one that has lost its schedule may never have run."""
    if has_schedule(service):
        return False
    job = (service["Spec"].get("Mode") or {}).get("ReplicatedJob")
    most = (1, 1) if job is None else (job.get("MaxConcurrent", 1), job.get("TotalCompletions", 1))
    status = service.get("JobStatus")
    has_begun = status is not None and not status.get("LastExecution", "").startswith(NEVER)
    return has_begun and all(most)


def job_progress_of(service: Object, tasks: Iterable[Object]) -> JobProgress:
    """The present iteration's; a global job has the places that its orchestrator made."""
    name, job = service["Spec"]["Name"], (service["Spec"].get("Mode") or {}).get("ReplicatedJob")
    iteration = _iteration(service.get("JobStatus") or {})
    by_place: dict[str | int, list[Object]] = {}
    for task in tasks:
        place = task.get("NodeID", "") if job is None else task.get("Slot") or 0
        if _iteration(task) == iteration and task.get("DesiredState") != "remove":
            by_place.setdefault(place, []).append(task)
    last = {place: _last(by_place[place]) for place in sorted(by_place)}
    active = [task for task in last.values() if _is_active(task)]
    completed = sum(_state(task) == "complete" for task in last.values())
    places = len(last) if job is None else int(job["TotalCompletions"])
    most = places if job is None else int(job["MaxConcurrent"])
    lines = tuple(_line(name, place, task) for place, task in last.items())
    shown = Progress(
        lines=lines,
        running=sum(_state(task) == "running" for task in active),
        wanted=places,
        verb="",
        blocked=_blocked(lines, is_global=job is None),
        trouble=_trouble(name, by_place),
        title=f"job progress: {completed} out of {places} complete, "
        f"{len(active)} active out of {min(most, max(0, places - completed))}",
    )
    given_up = sum(not _is_active(t) and _state(t) != "complete" for t in last.values())
    return JobProgress(shown, completed, len(active), given_up, places)


def _blocked(lines: Sequence[Line], *, is_global: bool) -> str:
    if is_global and not lines:
        return "no node is up, active and within its constraints"
    return next((line.error for line in lines if line.error and line.state in _WAITING), "")


def check_job(service: Object, progress: JobProgress) -> bool:
    """Whether the job is complete. Raises CommandError where it is over without that."""
    if not progress.is_over:
        return False
    if not progress.given_up:
        return True
    name, why = service["Spec"]["Name"], progress.shown.trouble
    raise CommandError(
        f"The job {name} ended with {progress.completed} of {progress.places} tasks complete; "
        f"{progress.given_up} failed and are not restarted{f': {why}' if why else ''}",
        f"`swarmlet service ps {name}` and `swarmlet service logs {name}` say more; "
        f"`swarmlet service update --force {name}` runs it again.",
    )


def _iteration(found: Object) -> int:
    return int((found.get("JobIteration") or {}).get("Index", 0))


def _state(task: Object) -> str:
    return str((task.get("Status") or {}).get("State", ""))


def _is_active(task: Object) -> bool:
    return task.get("DesiredState") in _WANTED and _state(task) != "complete"


def _last(tasks: Sequence[Object]) -> Object:
    """What a place comes down to: a task that has ended well, else one with something to do, else
    the newest."""
    return max(
        tasks,
        key=lambda t: (_state(t) == "complete", _is_active(t), epoch_s(t["CreatedAt"]), t["ID"]),
    )


def _line(service_name: str, place: str | int, task: Object) -> Line:
    state = _state(task)
    error = str((task.get("Status") or {}).get("Err", ""))
    return Line(f"{service_name}.{place}", state if state in STATES else "failed", error)


def _trouble(name: str, by_place: dict[str | int, list[Object]]) -> str:
    """The last failure in a place that has not ended well."""
    failed = [
        (epoch_s(task["Status"]["Timestamp"]), task["ID"], place, task)
        for place, tasks in by_place.items()
        if _state(_last(tasks)) != "complete"
        for task in tasks
        if _state(task) in _FAILURES and task["Status"].get("Err")
    ]
    if not failed:
        return ""
    _, _, place, task = max(failed, key=lambda one: one[:2])
    return f"{name}.{place} {_state(task)}: {task['Status']['Err']}"
