"""When a job runs by itself: labels of the service, so that every client and every compose file can
say it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import MS_PER_S, NS_PER_S
from swarmlet.model.cron import Cron, parse_cron
from swarmlet.model.duration import parse_duration
from swarmlet.model.job import first_iteration, is_job, next_iteration, no_iteration_yet
from swarmlet.model.service import JobHistory, JobStatus, Service, ServiceSpec

LABEL: Final = "swarmlet.schedule"
TIMEZONE: Final = f"{LABEL}.timezone"
CONCURRENCY: Final = f"{LABEL}.concurrency"
STARTING_DEADLINE: Final = f"{LABEL}.starting-deadline"
LABELS: Final = (LABEL, TIMEZONE, CONCURRENCY, STARTING_DEADLINE)

ALLOW: Final = "allow"
FORBID: Final = "forbid"
REPLACE: Final = "replace"
CONCURRENCIES: Final = (ALLOW, FORBID, REPLACE)
"""What a fire does while an earlier run still goes on: run beside it, not run, or run in its place;
the first where nothing is said."""

DEADLINE_MIN_MS: Final = 10 * MS_PER_S
"""A shorter one would let fires go by with every change of the leader."""

_NS_PER_MS: Final = NS_PER_S // MS_PER_S


class Schedule(NamedTuple):
    """`deadline_ms`: how late a run may still start; None: however late, the last of several."""

    cron: Cron
    concurrency: str = ALLOW
    deadline_ms: int | None = None

    @property
    def key(self) -> str:
        """What fire times depend on: with another key, the past is not looked at."""
        return f"{self.cron.expression} {self.cron.zone}"


def is_scheduled(spec: ServiceSpec) -> bool:
    """Whether the service runs when a schedule says so, and not because it was made or changed."""
    return bool(spec.labels.get(LABEL, "").strip())


def schedule_of(spec: ServiceSpec) -> Schedule | None:
    """What the labels of a service say, None where it has no schedule.

    Raises InvalidArgumentError.
    """
    labels = spec.labels
    if not is_scheduled(spec):
        return None
    return _parsed(*(labels.get(label, "").strip() for label in LABELS))


def next_fire_ms(schedule: Schedule, history: JobHistory, since_ms: int) -> int | None:
    """When it comes due next, wall ms; in the past where a run waits for its turn. `since_ms`: the
    service's last change, from which a schedule counts that is new."""
    is_known = history.schedule == schedule.key
    return schedule.cron.next_after(history.decided_ms if is_known else since_ms)


def check_schedule(spec: ServiceSpec) -> None:
    """Raises InvalidArgumentError for a schedule that means nothing, or that is none of a job."""
    _check_labels(spec.labels)
    if schedule_of(spec) is not None and not is_job(spec.mode):
        raise InvalidArgumentError(
            f"{LABEL} is for jobs, whose tasks run to an end, and this service is none",
            remedy="Use --mode replicated-job, or global-job.",
        )


def _check_labels(labels: Mapping[str, str]) -> None:
    for label in sorted(labels):
        if label in LABELS[1:] and labels[label].strip() and not labels.get(LABEL, "").strip():
            raise InvalidArgumentError(
                f"{label} is given without {LABEL}",
                remedy="Say when the job is to run: --schedule '0 */6 * * *'.",
            )


@lru_cache(maxsize=1024)
def _parsed(expression: str, zone: str, concurrency: str, deadline: str) -> Schedule:
    if concurrency not in ("", *CONCURRENCIES):
        raise InvalidArgumentError(
            f"{CONCURRENCY} is {concurrency!r}", remedy=f"It is one of {_list(CONCURRENCIES)}."
        )
    return Schedule(
        cron=parse_cron(expression, zone or "UTC"),
        concurrency=concurrency or ALLOW,
        deadline_ms=_deadline_ms(deadline),
    )


def _deadline_ms(text: str) -> int | None:
    if not text:
        return None
    try:
        deadline_ms = parse_duration(text) // _NS_PER_MS
    except InvalidArgumentError:
        deadline_ms = 0
    if deadline_ms < DEADLINE_MIN_MS:
        raise InvalidArgumentError(
            f"{STARTING_DEADLINE} is {text!r}, and must be a duration of at least "
            f"{DEADLINE_MIN_MS // MS_PER_S}s",
            remedy="Say how late a run may still start, such as 10m.",
        )
    return deadline_ms


def _list(words: tuple[str, ...]) -> str:
    return ", ".join(words)


# What making and updating a service begins -------------------------------------------------------
def status_at_first(spec: ServiceSpec, now_ms: int) -> JobStatus | None:
    """Of a service that is made: the first iteration of a job begins, unless a schedule says when.
    None of what is no job."""
    if not is_job(spec.mode):
        return None
    return no_iteration_yet() if is_scheduled(spec) else first_iteration(now_ms)


def with_update(service: Service, old: ServiceSpec, new: ServiceSpec, now_ms: int) -> Service:
    """The row of a service that gets a new spec: the next iteration of a job begins, unless a
    schedule says when, or did. What has begun goes on then."""
    if not is_job(new.mode) or is_scheduled(old) or is_scheduled(new):
        return service
    return next_iteration(service, now_ms)
