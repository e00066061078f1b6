"""When a task's health is looked at, and what follows from what was found: pure, like Docker's
daemon/health.go.

Times are seconds of one monotonic clock. The first probe comes an interval after the start. What
fails within the start period is not counted; the first success ends it. After `retries` failures in
a row the task is unhealthy for good: whoever waits for it stops it.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from swarmlet.core.limits import NS_PER_S
from swarmlet.model.container import HealthConfig
from swarmlet.runtime.base import RuntimeProblemError

INTERVAL_S: Final = 30.0  # Docker's defaults, where a spec says 0
TIMEOUT_S: Final = 30.0
START_INTERVAL_S: Final = 5.0
RETRIES: Final = 3


class HealthStatus(Enum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """How often, how long, how many."""

    interval_s: float = INTERVAL_S
    timeout_s: float = TIMEOUT_S
    start_period_s: float = 0.0
    start_interval_s: float = START_INTERVAL_S
    retries: int = RETRIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of a task's health, and when it is looked at next."""

    rules: HealthRules
    begun_s: float
    due_s: float
    status: HealthStatus = HealthStatus.STARTING
    failures: int = 0  # in a row, that count


def begin(rules: HealthRules, now_s: float) -> Health:
    """A task that starts now, or is taken over now."""
    health = Health(rules=rules, begun_s=now_s, due_s=now_s)
    return replace(health, due_s=now_s + _interval_s(health, now_s))


def after_probe(health: Health, began_s: float, ended_s: float, *, was_healthy: bool) -> Health:
    """A probe ran from `began_s` to `ended_s`."""
    if was_healthy:
        found = replace(health, status=HealthStatus.HEALTHY, failures=0)
    elif health.status is HealthStatus.STARTING and _is_starting(health, began_s):
        found = health
    else:
        found = replace(health, failures=health.failures + 1)
        if found.failures >= health.rules.retries:
            found = replace(found, status=HealthStatus.UNHEALTHY)
    return replace(found, due_s=ended_s + _interval_s(found, ended_s))


def _is_starting(health: Health, at_s: float) -> bool:
    return at_s - health.begun_s < health.rules.start_period_s


def _interval_s(health: Health, at_s: float) -> float:
    if health.status is HealthStatus.STARTING and _is_starting(health, at_s):
        return health.rules.start_interval_s
    return health.rules.interval_s


def health_rules(config: HealthConfig) -> HealthRules:
    """With Docker's default for every 0."""
    return HealthRules(
        interval_s=config.interval / NS_PER_S or INTERVAL_S,
        timeout_s=config.timeout / NS_PER_S or TIMEOUT_S,
        start_period_s=config.start_period / NS_PER_S,
        start_interval_s=config.start_interval / NS_PER_S or START_INTERVAL_S,
        retries=config.retries or RETRIES,
    )


def health_command(config: HealthConfig | None) -> tuple[str, ...]:
    """What is run to see whether a task is well; nothing where nobody asks, for the image host
    brings no check to inherit. Raises RuntimeProblemError."""
    if config is None or not config.test or config.test == ["NONE"]:
        return ()
    kind, *words = config.test
    if kind == "CMD" and words and words[0]:
        return tuple(words)
    if kind == "CMD-SHELL" and len(words) == 1:
        return "/bin/sh", "-c", words[0]
    raise RuntimeProblemError(
        f"The health check {config.test!r} has no command this node understands.",
        remedy='Write ["CMD", PROGRAM, ARGUMENT...], ["CMD-SHELL", LINE] or ["NONE"].',
    )
