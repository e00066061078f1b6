"""From a spec to what the shim is told: pure, but for looking up accounts.

A plan is everything but the ports and the uid, which are chosen when the task is started.
"""

import math
import re
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarmlet.model.base import Driver
from swarmlet.model.container import ContainerSpec, HealthConfig
from swarmlet.model.service import TaskSpec
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.process.accounts import Account, AccountRules, find_account
from swarmlet.runtime.process.deliveries import FilePlan, plan_files, variables_of
from swarmlet.runtime.process.health import HealthRules, health_command, health_rules
from swarmlet.runtime.process.host import LOG_DRIVERS, Host
from swarmlet.runtime.process.mounts import MountPlan, PlacedMount, mount_pairs, plan_mounts
from swarmlet.runtime.process.ports import Port, check_protocols
from swarmlet.runtime.process.refusals import refuse_options
from swarmlet.runtime.process.spawn import encode_config
from swarmlet.runtime.process.supervisor import KEPT_FD
from swarmlet.wire.messages import AssignedTask

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WORLD_KEYS: Final = ("dir", "env", "limit", "oom_score_adj", "uid", "gid", "group")
TASK_ID: Final = "SWARMLET_TASK_ID"  # in a task's environment: how what it left is found
LOG_SIZE_MAX_B: Final = 10 * 1024 * 1024  # of one file; kubelet's containerLogMaxSize
LOG_FILES_MAX: Final = 3
LOG_FILES_ROOF: Final = 100
UNLIMITED_B: Final = 1 << 62  # max-size=-1, as in Docker
_SIZE: Final = re.compile(r"([0-9]{1,12})([kmg]?)b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_RESOURCES: Final = {
    name.removeprefix("RLIMIT_").lower(): int(getattr(resource, name))
    for name in sorted(dir(resource))
    if name.startswith("RLIMIT_")
} | {"locks": 10, "rttime": 15}  # of Linux; Python has no name for them
_SIGNALS: Final = {s.name: int(s) for s in signal.Signals} | {"SIGSTKFLT": 16, "SIGCLD": 17}
_SIGNAL: Final = re.compile(r"(?:SIG)?([A-Z0-9]+)([+-][0-9]{1,2})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`account` None: one of the task's own. `limits` are (resource, soft, hard), -1 for none."""

    task_id: str
    account: Account | None
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    hostname: str
    ports: tuple[Port, ...]
    limits: tuple[tuple[int, int, int], ...]
    oom_score_adj: int
    log_size_b: int
    log_files: int
    mounts: tuple[MountPlan, ...]
    files: tuple[FilePlan, ...]
    health: tuple[str, ...]  # the command of the check; empty for none
    health_rules: HealthRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is settled as late as at the start. `hidden` None: no namespaces. `files`: pairs for the
    shim (deliveries.file_pairs); `folder`: where files are that need no namespaces, "" for none."""

    bundle: str
    account: Account
    ports: tuple[Port, ...] = ()
    hidden: tuple[str, ...] | None = None
    mounts: tuple[PlacedMount, ...] = ()
    files: Sequence[tuple[str, str]] = ()
    folder: str = ""


def plan_task(
    task: AssignedTask, host: Host, rules: AccountRules, hidden: Sequence[str] = ()
) -> Plan:
    """What to start; no mount may touch what is `hidden`. Raises RuntimeProblemError with the
    first thing that cannot be done."""
    container = refuse_options(task.spec)
    _refuse_bare_root(host, rules)
    parse_signal(container.stop_signal or "SIGTERM")
    account = find_account(container.user, container.groups, rules)
    _refuse_weaker_root(container, account)
    ports = tuple(Port(protocol, target, given) for _, protocol, target, given in task.ports)
    check_protocols(ports)
    _refuse_privileged_ports(ports, account, host)
    size_b, files = _log_options(task.spec.log_driver)
    return Plan(
        task_id=task.id,
        account=account,
        arguments=_arguments(container),
        environment=_environment(container.env),
        folder=container.dir or "/",
        hostname=container.hostname,
        ports=ports,
        limits=_limits(task.spec, container, account, host),
        oom_score_adj=container.oom_score_adj,
        log_size_b=size_b,
        log_files=files,
        mounts=plan_mounts(container.mounts, host, hidden),
        files=plan_files(container, host, account, hidden),
        health=_health(container.healthcheck),
        health_rules=health_rules(container.healthcheck or HealthConfig()),
    )


def shim_config(plan: Plan, place: Place, host: Host) -> bytes:
    """What the shim is told (sandbox.Config)."""
    pairs = [("bundle", place.bundle), ("last_fd", str(KEPT_FD))]
    pairs += [("log_size_b", str(plan.log_size_b)), ("log_files", str(plan.log_files))]
    pairs += [("arg", argument) for argument in plan.arguments]
    pairs += _world(plan, place, host)
    if place.hidden is not None:
        pairs += [("isolate", "1"), ("hostname", plan.hostname)]
        pairs += [("hide", path) for path in place.hidden]
        pairs += mount_pairs(place.mounts, place.account)
        pairs += place.files
    return encode_config(pairs)


def kept_config(plan: Plan, place: Place, host: Host) -> bytes:
    """What a program that goes beside the task is told of its world; what a probe is told besides,
    and when to probe (health.HealthRules), where its health is checked."""
    pairs = _world(plan, place, host)
    if plan.health:
        pairs += _check(plan)
    return encode_config(pairs)


def _check(plan: Plan) -> list[tuple[str, str]]:
    rules = plan.health_rules
    pairs = [("check", "1"), ("retries", str(rules.retries))]
    pairs += [
        (f"{name}_ms", str(math.ceil(seconds * 1000)))
        for name, seconds in (
            ("interval", rules.interval_s),
            ("timeout", rules.timeout_s),
            ("start_period", rules.start_period_s),
            ("start_interval", rules.start_interval_s),
        )
    ]
    return pairs + [("arg", argument) for argument in plan.health]


def _world(plan: Plan, place: Place, host: Host) -> list[tuple[str, str]]:
    """What the task and all that goes beside it have in common (WORLD_KEYS)."""
    account, pairs = place.account, [("dir", plan.folder)]
    environment = variables_of(plan.files, place.folder)
    environment |= task_environment(plan, account, place.ports, host)
    pairs += [("env", f"{name}={value}") for name, value in environment.items()]
    pairs += [("limit", " ".join(map(str, limit))) for limit in plan.limits]
    pairs.append(("oom_score_adj", str(plan.oom_score_adj)))
    if host.is_root:
        pairs += [("uid", str(account.uid)), ("gid", str(account.gid))]
        pairs += [("group", str(group)) for group in account.groups]
    return pairs


def task_environment(
    plan: Plan, account: Account, ports: Sequence[Port], host: Host
) -> dict[str, str]:
    """The whole environment of a task. What the spec sets is never replaced."""
    given = {"PATH": PATH, "HOME": account.home, "HOSTNAME": plan.hostname or host.hostname}
    given[TASK_ID] = plan.task_id
    if ports:
        given["PORT"] = str(ports[0].published)
    for port in reversed(ports):  # of two with the same target the first counts
        given[f"PORT_{port.target}"] = str(port.published)
    return given | plan.environment


def parse_signal(text: str) -> int:
    """The number of `SIGTERM`, `term`, `SIGRTMIN+3` or `15`. Raises RuntimeProblemError."""
    if text.isdecimal():
        number = int(text)
    else:
        match = _SIGNAL.fullmatch(text.upper())
        number = _SIGNALS.get(f"SIG{match[1]}", 0) if match else 0
        if match and match[2]:
            number += int(match[2])
            number = number if number >= signal.SIGRTMIN else 0
    if not 1 <= number <= signal.SIGRTMAX:
        raise RuntimeProblemError(
            f'"{text}" is no signal.', remedy="Write a name such as SIGTERM, or a number."
        )
    return number


def _arguments(container: ContainerSpec) -> tuple[str, ...]:
    arguments = (*container.command, *container.args)
    if not arguments or not arguments[0]:
        raise RuntimeProblemError(
            "The task has no command, and the image host brings none.",
            remedy="Give one: `swarmlet service create host COMMAND [ARG...]`.",
        )
    _refuse_nul((*arguments, *container.env, container.dir, container.hostname))
    return arguments


def _refuse_nul(texts: Sequence[str]) -> None:
    if any("\0" in text for text in texts):
        raise RuntimeProblemError(
            "A command, a variable or a folder holds a NUL character: the kernel takes none.",
            remedy="Take it out.",
        )


def _health(config: HealthConfig | None) -> tuple[str, ...]:
    command = health_command(config)
    _refuse_nul(command)
    return command


def _environment(entries: Sequence[str]) -> dict[str, str]:
    """A name without a value is nothing: there is no image to inherit one from."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, sign, value in pairs if name and sign}


def _refuse_bare_root(host: Host, rules: AccountRules) -> None:
    """Without namespaces a task could look for the daemon's secrets: only if it may anyway."""
    if host.isolation_problem and not rules.allow_root:
        raise RuntimeProblemError(
            "This node's daemon runs as root but cannot isolate tasks here "
            f"({host.isolation_problem}).",
            remedy="Run the daemon as an ordinary user, give it CAP_SYS_ADMIN, "
            "or start it with --allow-root-tasks.",
        )


def _refuse_weaker_root(container: ContainerSpec, account: Account | None) -> None:
    """No other account has capabilities that could be dropped."""
    if account is not None and account.uid == 0 and container.capability_drop:
        raise RuntimeProblemError(
            "The process runtime cannot drop capabilities of a task that runs as root.",
            remedy="Leave out --user: a task of its own account has none.",
        )


def _refuse_privileged_ports(ports: Sequence[Port], account: Account | None, host: Host) -> None:
    if account is not None and account.uid == 0:
        return
    for port in ports:
        if 0 < port.published < host.unprivileged_port_min:
            raise RuntimeProblemError(
                f"Port {port.published}/{port.protocol} is below {host.unprivileged_port_min}: "
                "only root may open it, and the task does not run as root.",
                remedy="Publish a higher port, or lower net.ipv4.ip_unprivileged_port_start.",
            )


def _limits(
    spec: TaskSpec, container: ContainerSpec, account: Account | None, host: Host
) -> tuple[tuple[int, int, int], ...]:
    """Ulimits as given; a memory limit bounds the private memory of each process (RLIMIT_DATA), a
    limit of processes those of the task's own account (RLIMIT_NPROC)."""
    found: dict[int, tuple[int, int, int]] = {}
    if host.open_files:
        found[resource.RLIMIT_NOFILE] = (resource.RLIMIT_NOFILE, *host.open_files)
    limits = spec.resources.limits if spec.resources else None
    if limits and (size_b := limits.memory_bytes):
        found[resource.RLIMIT_DATA] = (resource.RLIMIT_DATA, size_b, size_b)
    if limits and limits.pids > 0:
        if account is not None:
            raise RuntimeProblemError(
                "The process runtime can limit the processes of a task only where each task has an "
                "account of its own.",
                remedy="Run the daemon as root and leave out --user, or leave out --limit-pids.",
            )
        found[resource.RLIMIT_NPROC] = (resource.RLIMIT_NPROC, limits.pids, limits.pids)
    for one in container.ulimits:
        kind = _RESOURCES.get(one.name)
        if kind is None:
            raise RuntimeProblemError(
                f'"{one.name}" is no limit of this kernel.',
                remedy=f"Known are {', '.join(sorted(_RESOURCES))}.",
            )
        found[kind] = (kind, one.soft, one.hard)
    if container.oom_score_adj < 0 and not host.is_root:
        raise RuntimeProblemError(
            "Only root may lower a task's OOM score.",
            remedy="Leave out --oom-score-adj, or run the daemon as root.",
        )
    return tuple(found.values())


def _log_options(driver: Driver | None) -> tuple[int, int]:
    """(size of a file in bytes, number of files); size 0 keeps nothing."""
    if driver is None:
        return LOG_SIZE_MAX_B, LOG_FILES_MAX
    if driver.name not in LOG_DRIVERS:
        raise RuntimeProblemError(
            f'The process runtime has no log driver "{driver.name}".',
            remedy=f"Use one of {', '.join(filter(None, LOG_DRIVERS))}.",
        )
    if unknown := sorted(set(driver.options) - {"max-size", "max-file"}):
        raise RuntimeProblemError(
            f'The process runtime knows no log option "{unknown[0]}".',
            remedy="Use max-size and max-file.",
        )
    if driver.name == "none":
        return 0, 1
    return (
        _log_size_b(driver.options.get("max-size", "")),
        _log_files(driver.options.get("max-file", "")),
    )


def _log_size_b(text: str) -> int:
    if text in ("", "-1"):
        return LOG_SIZE_MAX_B if not text else UNLIMITED_B
    match = _SIZE.fullmatch(text)
    size_b = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not size_b:
        raise RuntimeProblemError(
            f"The log option max-size={text} is no size.", remedy="Write it as in 500k or 10m."
        )
    return size_b


def _log_files(text: str) -> int:
    files = LOG_FILES_MAX if not text else int(text) if text.isdecimal() else 0
    if not 1 <= files <= LOG_FILES_ROOF:
        raise RuntimeProblemError(
            f"The log option max-file={text} is not a number from 1 to {LOG_FILES_ROOF}.",
            remedy="Leave it out for 3.",
        )
    return files
