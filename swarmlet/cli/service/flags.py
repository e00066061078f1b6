"""The flags of `service create` and `update` that set one field of the spec, as a table."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import click

from swarmlet.cli.client import Json, Object
from swarmlet.cli.units import CPUS_NANO, DURATION_NS, RATIO, SIZE_B
from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import RESTART_DELAY_NS

F = TypeVar("F", bound=Callable[..., Any])
Path = tuple[str, ...]

TASK: Final[Path] = ("TaskTemplate",)
CONTAINER: Final[Path] = (*TASK, "ContainerSpec")
LIMITS: Final[Path] = (*TASK, "Resources", "Limits")
RESERVATIONS: Final[Path] = (*TASK, "Resources", "Reservations")
RESTART: Final[Path] = (*TASK, "RestartPolicy")
HEALTH: Final[Path] = (*CONTAINER, "Healthcheck")
UPDATE: Final[Path] = ("UpdateConfig",)
ROLLBACK: Final[Path] = ("RollbackConfig",)

STRATEGY: Final = "swarmlet.strategy"  # the service label that says how nodes are chosen
ON_DISCONNECT: Final = "swarmlet.on-disconnect"  # the service label that says it
SCHEDULE: Final = "swarmlet.schedule"  # of schedules; longer ones of what belongs to one
REBALANCE: Final = "swarmlet.rebalance"  # the same of rebalancing

# What docker fills in as soon as one flag of a policy is given. The monitoring period is left out:
# the cluster works out a better one than Docker's five seconds for a service that names none.
POLICY_DEFAULTS: Final[dict[Path, Object]] = {
    RESTART: {"Condition": "any", "Delay": RESTART_DELAY_NS, "MaxAttempts": 0},
    UPDATE: {
        "Parallelism": 1,
        "FailureAction": "pause",
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    },
    ROLLBACK: {
        "Parallelism": 1,
        "FailureAction": "pause",
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    },
}

_COUNT: Final = click.IntRange(min=0)
_ORDER: Final = click.Choice(["start-first", "stop-first"])
_CONDITION: Final = click.Choice(["none", "on-failure", "any"])


timeout_option = click.option(
    "--timeout",
    type=DURATION_NS,
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="How long to wait for it; 0 for ever. Without a place for its tasks, 30s at most.",
)


class Flag(NamedTuple):
    """`names` as click takes them; `path` is the field's place in the spec."""

    names: str
    path: Path
    kind: Json
    text: str
    metavar: str | None = None

    @property
    def key(self) -> str:
        """The parameter's name."""
        return self.names.split()[0].removeprefix("--").replace("-", "_")


def rebalance(text: str) -> str:
    """The way as it was given, if it is one; "" for the swarm's."""
    from swarmlet.model.rebalance import rebalance_said_by

    try:
        rebalance_said_by({REBALANCE: text})
    except InvalidArgumentError as error:
        raise click.BadParameter(
            f"{text!r} is none of on-join, continuous and off; the first two may be followed by "
            "even-single."
        ) from error
    return text


def on_disconnect(text: str) -> str:
    """The rule as it was given, if it is one; "" for the default."""
    from swarmlet.model.on_disconnect import said_by

    try:
        said_by({ON_DISCONNECT: text})
    except InvalidArgumentError as error:
        raise click.BadParameter(
            f"{text!r} is none of keep, never-replace and 'stop-after 30s' (a second at least)."
        ) from error
    return text


FLAGS: Final[tuple[Flag, ...]] = (
    Flag("--limit-cpu", (*LIMITS, "NanoCPUs"), CPUS_NANO, "CPUs at most, such as 0.5.", "CPUS"),
    Flag("--limit-memory", (*LIMITS, "MemoryBytes"), SIZE_B, "Memory at most: 64M.", "BYTES"),
    Flag("--limit-pids", (*LIMITS, "Pids"), _COUNT, "Processes at most; 0 for any.", "N"),
    Flag("--reserve-cpu", (*RESERVATIONS, "NanoCPUs"), CPUS_NANO, "CPUs to keep free.", "CPUS"),
    Flag(
        "--reserve-memory", (*RESERVATIONS, "MemoryBytes"), SIZE_B, "Memory to keep free.", "BYTES"
    ),
    Flag("--restart-condition", (*RESTART, "Condition"), _CONDITION, "When to restart a task."),
    Flag("--restart-delay", (*RESTART, "Delay"), DURATION_NS, "Wait before it: 5s.", "DURATION"),
    Flag("--restart-max-attempts", (*RESTART, "MaxAttempts"), _COUNT, "Then give up.", "N"),
    Flag("--restart-window", (*RESTART, "Window"), DURATION_NS, "To count them in.", "DURATION"),
    Flag("--stop-signal", (*CONTAINER, "StopSignal"), str, "The signal to stop with.", "SIGNAL"),
    Flag(
        "--stop-grace-period",
        (*CONTAINER, "StopGracePeriod"),
        DURATION_NS,
        "Wait before the kill: 10s.",
        "DURATION",
    ),
    Flag(
        "--strategy",
        ("Labels", STRATEGY),
        click.Choice(["spread", "binpack"]),
        "Emptiest node first, or the fullest with room.",
    ),
    Flag(
        "--on-disconnect",
        ("Labels", ON_DISCONNECT),
        on_disconnect,
        "On an unreachable node: keep, 'stop-after 30s', never-replace.",
        "RULE",
    ),
    Flag("--schedule", ("Labels", SCHEDULE), str, "When a job runs: '0 */6 * * *'.", "CRON"),
    Flag(
        "--schedule-timezone",
        ("Labels", f"{SCHEDULE}.timezone"),
        str,
        "Whose clock that is: Europe/Berlin. UTC where nothing is said.",
        "ZONE",
    ),
    Flag(
        "--concurrency",
        ("Labels", f"{SCHEDULE}.concurrency"),
        click.Choice(["allow", "forbid", "replace"]),
        "What a scheduled run does while an earlier one goes on.",
    ),
    Flag(
        "--starting-deadline",
        ("Labels", f"{SCHEDULE}.starting-deadline"),
        str,
        "How late it may still start: 10m.",
        "DURATION",
    ),
    Flag(
        "--rebalance",
        ("Labels", REBALANCE),
        rebalance,
        "Move running tasks for balance: on-join, continuous, off.",
        "WAY",
    ),
    Flag("--update-parallelism", (*UPDATE, "Parallelism"), _COUNT, "Tasks at once; 0: all.", "N"),
    Flag("--update-delay", (*UPDATE, "Delay"), DURATION_NS, "Wait between them.", "DURATION"),
    Flag("--update-monitor", (*UPDATE, "Monitor"), DURATION_NS, "Watch a new one.", "DURATION"),
    Flag(
        "--update-failure-action",
        (*UPDATE, "FailureAction"),
        click.Choice(["pause", "continue", "rollback"]),
        "What a failed update does.",
    ),
    Flag("--update-max-failure-ratio", (*UPDATE, "MaxFailureRatio"), RATIO, "To bear.", "RATIO"),
    Flag("--update-order", (*UPDATE, "Order"), _ORDER, "Stop the old or start the new first."),
    Flag("--rollback-parallelism", (*ROLLBACK, "Parallelism"), _COUNT, "Tasks at once.", "N"),
    Flag("--rollback-delay", (*ROLLBACK, "Delay"), DURATION_NS, "Wait between them.", "DURATION"),
    Flag("--rollback-monitor", (*ROLLBACK, "Monitor"), DURATION_NS, "Watch one.", "DURATION"),
    Flag(
        "--rollback-failure-action",
        (*ROLLBACK, "FailureAction"),
        click.Choice(["pause", "continue"]),
        "What a failed rollback does.",
    ),
    Flag(
        "--rollback-max-failure-ratio", (*ROLLBACK, "MaxFailureRatio"), RATIO, "To bear.", "RATIO"
    ),
    Flag("--rollback-order", (*ROLLBACK, "Order"), _ORDER, "Stop the new or start the old first."),
    Flag("--user -u", (*CONTAINER, "User"), str, "Run as this user: UID or name[:group].", "USER"),
    Flag("--workdir -w", (*CONTAINER, "Dir"), str, "Run in this directory.", "DIR"),
    Flag("--hostname", (*CONTAINER, "Hostname"), str, "The task's host name.", "NAME"),
    Flag("--isolation", (*CONTAINER, "Isolation"), str, "The isolation technology.", "NAME"),
    Flag("--init", (*CONTAINER, "Init"), bool, "Run an init that reaps processes."),
    Flag("--read-only", (*CONTAINER, "ReadOnly"), bool, "Mount the root file system read-only."),
    Flag("--oom-score-adj", (*CONTAINER, "OomScoreAdj"), int, "-1000 (never) to 1000.", "N"),
    Flag("--tty -t", (*CONTAINER, "TTY"), bool, "Give the task a terminal."),
    Flag("--log-driver", (*TASK, "LogDriver", "Name"), str, "The log driver.", "NAME"),
    Flag("--replicas-max-per-node", (*TASK, "Placement", "MaxReplicas"), _COUNT, "0 for any.", "N"),
    Flag(
        "--endpoint-mode",
        ("EndpointSpec", "Mode"),
        click.Choice(["vip", "dnsrr"]),
        "How clients find the tasks.",
    ),
    Flag("--health-interval", (*HEALTH, "Interval"), DURATION_NS, "Between checks.", "DURATION"),
    Flag("--health-timeout", (*HEALTH, "Timeout"), DURATION_NS, "For one check.", "DURATION"),
    Flag("--health-retries", (*HEALTH, "Retries"), _COUNT, "Failures to be unhealthy.", "N"),
    Flag("--health-start-period", (*HEALTH, "StartPeriod"), DURATION_NS, "At first.", "DURATION"),
    Flag("--health-start-interval", (*HEALTH, "StartInterval"), DURATION_NS, "In it.", "DURATION"),
)


def flag_options(command: F) -> F:
    """Give `command` every flag of the table; one that is not given is None."""
    for flag in reversed(FLAGS):
        is_switch = flag.kind is bool
        command = click.option(
            *flag.names.split(),
            type=flag.kind,
            is_flag=is_switch,
            default=None,
            metavar=flag.metavar,
            help=flag.text,
        )(command)
    return command


def set_flags(spec: Object, options: dict[str, Json]) -> None:
    """Write the flags that were given into `spec`, and the defaults of the policies they touch."""
    for flag in FLAGS:
        value = options.get(flag.key)
        if value is None:
            continue
        place = at(spec, flag.path[:-1])
        for field, default in POLICY_DEFAULTS.get(flag.path[:-1], {}).items():
            place.setdefault(field, default)
        place[flag.path[-1]] = value
    if options.get("schedule") == "":  # with all that belongs to it
        labels = spec["Labels"]
        kept = (key for key in labels if key != SCHEDULE and not key.startswith(f"{SCHEDULE}."))
        spec["Labels"] = {key: labels[key] for key in kept}


def at(spec: Object, path: Path) -> Object:
    """The object at `path`, made where it is missing."""
    for field in path:
        if spec.get(field) is None:
            spec[field] = {}
        spec = spec[field]
    return spec
