"""What may be asked of a task's container or process: SwarmKit's rules, the kernel's limits."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.limits import HEALTH_PERIOD_MIN_NS
from swarmlet.model.container import (
    ConfigReference,
    ContainerSpec,
    FileTarget,
    HealthConfig,
    Privileges,
    SecretReference,
    Ulimit,
)
from swarmlet.model.reference import parse_reference
from swarmlet.model.validate import check_labels
from swarmlet.model.validate_mount import check_mounts

HEALTH_TESTS: Final = ("NONE", "CMD", "CMD-SHELL")
SECCOMP_MODES: Final = ("", "default", "unconfined", "custom")
APP_ARMOR_MODES: Final = ("", "default", "disabled")
ISOLATIONS: Final = ("", "default", "process", "hyperv")
UNLIMITED: Final = -1
OOM_SCORE_MAX: Final = 1000  # proc(5), oom_score_adj

# setrlimit(2), as Docker names them
_ULIMITS: Final = re.compile(
    "core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack"
)
# signal(7); numbers go up to 64 on Linux
_SIGNAL: Final = re.compile(
    "(?:SIG)?(?:HUP|INT|QUIT|ILL|TRAP|ABRT|IOT|BUS|FPE|KILL|USR1|SEGV|USR2|PIPE|ALRM|TERM|STKFLT"
    "|CHLD|CLD|CONT|STOP|TSTP|TTIN|TTOU|URG|XCPU|XFSZ|VTALRM|PROF|WINCH|IO|POLL|PWR|SYS"
    r"|RTMIN(?:\+(?:[0-9]|1[0-5]))?|RTMAX(?:-(?:[0-9]|1[0-4]))?)|[1-9]|[1-5][0-9]|6[0-4]",
    re.IGNORECASE | re.ASCII,
)


def check_container(spec: ContainerSpec) -> None:
    """Raises InvalidArgumentError with the first rule that is broken."""
    _check_image(spec.image)
    check_labels(spec.labels, "ContainerSpec.Labels")
    _check_texts(spec)
    _check_env(spec.env)
    _check_signal(spec.stop_signal)
    if spec.stop_grace_period is not None and spec.stop_grace_period < 0:
        raise InvalidArgumentError(
            f"StopGracePeriod must not be negative, but is {spec.stop_grace_period}"
        )
    if spec.healthcheck is not None:
        _check_health(spec.healthcheck)
    if spec.isolation not in ISOLATIONS:
        raise InvalidArgumentError(
            f'invalid isolation: "{spec.isolation}"', remedy="Leave it out: it is for Windows."
        )
    if not -OOM_SCORE_MAX <= spec.oom_score_adj <= OOM_SCORE_MAX:
        raise InvalidArgumentError(
            f"invalid OomScoreAdj {spec.oom_score_adj}: it must be -1000 to 1000"
        )
    check_mounts(spec.mounts)
    if spec.privileges is not None:
        _check_privileges(spec.privileges)
    _check_ulimits(spec.ulimits)
    _check_secrets(spec.secrets)
    _check_configs(spec.configs)


def _check_image(image: str) -> None:
    if not image:
        raise InvalidArgumentError(
            "ContainerSpec: image reference must be provided",
            remedy="Give an image; `host` runs the command as a plain process.",
        )
    parse_reference(image)


def _check_texts(spec: ContainerSpec) -> None:
    """The kernel takes these as C strings: a NUL would cut them short."""
    texts: tuple[tuple[str, Iterable[str]], ...] = (
        ("Command", spec.command),
        ("Args", spec.args),
        ("Env", spec.env),
        ("Dir, User or Hostname", (spec.dir, spec.user, spec.hostname)),
        ("Groups", spec.groups),
    )
    for name, values in texts:
        if any("\0" in value for value in values):
            raise InvalidArgumentError(f"ContainerSpec: {name} must not contain a NUL character")
    if spec.dir and not spec.dir.startswith("/"):
        raise InvalidArgumentError(
            f"the working directory '{spec.dir}' is invalid, it needs to be an absolute path",
            remedy="Begin it with a slash.",
        )


def _check_env(env: Sequence[str]) -> None:
    for entry in env:
        if not entry.partition("=")[0]:
            raise InvalidArgumentError(
                "ContainerSpec.Env: an entry has no name before its '='",
                remedy="Write entries as NAME=value.",
            )


def _check_signal(name: str) -> None:
    if name and not _SIGNAL.fullmatch(name):
        raise InvalidArgumentError(
            f"invalid stop signal: {name!r}", remedy="Write a name such as SIGTERM, or a number."
        )


def _check_health(health: HealthConfig) -> None:
    periods = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, period_ns in periods.items():
        if period_ns and period_ns < HEALTH_PERIOD_MIN_NS:
            raise InvalidArgumentError(
                f"ContainerSpec: {name} in HealthConfig cannot be less than one millisecond"
            )
    if health.retries < 0:
        raise InvalidArgumentError("ContainerSpec: Retries in HealthConfig cannot be negative")
    _check_health_test(health.test)


def _check_health_test(test: Sequence[str]) -> None:
    """The engine would run no check at all for a kind it does not know."""
    if not test:
        return
    if test[0] not in HEALTH_TESTS:
        raise InvalidArgumentError(
            f'ContainerSpec: unknown type "{test[0]}" of the Test in HealthConfig',
            remedy=f"It must be one of {', '.join(HEALTH_TESTS)}.",
        )
    if test[0] != "NONE" and not any(test[1:]):
        raise InvalidArgumentError(f"ContainerSpec: {test[0]} in HealthConfig needs a command")
    if any("\0" in word for word in test):
        raise InvalidArgumentError("ContainerSpec: Healthcheck must not contain a NUL character")


# Limits, privileges, references ------------------------------------------------------------------
def _check_privileges(privileges: Privileges) -> None:
    seccomp, app_armor = privileges.seccomp, privileges.app_armor
    if seccomp is not None and seccomp.mode not in SECCOMP_MODES:
        raise InvalidArgumentError(
            f'invalid seccomp mode: "{seccomp.mode}"',
            remedy=f"It must be one of {', '.join(SECCOMP_MODES[1:])}.",
        )
    if app_armor is not None and app_armor.mode not in APP_ARMOR_MODES:
        raise InvalidArgumentError(
            f'invalid AppArmor mode: "{app_armor.mode}"',
            remedy=f"It must be one of {', '.join(APP_ARMOR_MODES[1:])}.",
        )


def _check_ulimits(ulimits: Sequence[Ulimit]) -> None:
    names: set[str] = set()
    for limit in ulimits:
        if not _ULIMITS.fullmatch(limit.name):
            raise InvalidArgumentError(
                f"invalid ulimit type: {limit.name!r}",
                remedy=f"Known are {_ULIMITS.pattern.replace('|', ', ')}.",
            )
        if limit.name in names:
            raise InvalidArgumentError(f"the ulimit {limit.name} is given twice")
        names.add(limit.name)
        if min(limit.soft, limit.hard) < UNLIMITED:
            raise InvalidArgumentError(
                f"the ulimit {limit.name} must not be negative (-1 is unlimited)"
            )
        if _above(limit.soft, limit.hard):
            raise InvalidArgumentError(
                "ulimit soft limit must be less than or equal to hard limit: "
                f"{limit.name} {limit.soft} > {limit.hard}"
            )


def _above(soft: int, hard: int) -> bool:
    return hard != UNLIMITED and (soft == UNLIMITED or soft > hard)


def _check_secrets(references: Sequence[SecretReference]) -> None:
    targets: set[str] = set()
    for one in references:
        if not one.secret_id or not one.secret_name:
            raise InvalidArgumentError("malformed secret reference: ID and name must be given")
        _check_target(one.file, f"secret {one.secret_name}", targets)


def _check_configs(references: Sequence[ConfigReference]) -> None:
    targets: set[str] = set()
    for one in references:
        if not one.config_id or not one.config_name:
            raise InvalidArgumentError("malformed config reference: ID and name must be given")
        if one.runtime is None:
            _check_target(one.file, f"config {one.config_name}", targets)


def _check_target(file: FileTarget | None, what: str, targets: set[str]) -> None:
    if file is None or not file.name:
        raise InvalidArgumentError(f"malformed reference to {what}: no target provided")
    if file.name in targets:
        raise InvalidArgumentError(
            f"{what} is not the only one with the target {file.name}: targets must be unique",
            remedy="Give one of them another `target=`.",
        )
    targets.add(file.name)
