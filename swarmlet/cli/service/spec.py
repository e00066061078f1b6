"""A service's spec from the flags of `service create`, field by field as docker sends it."""

import shlex
from collections.abc import Callable, Mapping
from typing import Final

import click

from swarmlet.cli.client import Client, Json, Object
from swarmlet.cli.options import pairs_of
from swarmlet.cli.service import references, values
from swarmlet.cli.service.flags import (
    CONTAINER,
    FLAGS,
    HEALTH,
    RESERVATIONS,
    TASK,
    Path,
    at,
    set_flags,
)

MODES: Final = ("replicated", "global", "replicated-job", "global-job")

# Flags that may be repeated: where their values go, and how a value reads.
_LISTS: Final[Mapping[str, tuple[Path, Callable[[str], Json]]]] = {
    "constraint": ((*TASK, "Placement", "Constraints"), str),
    "placement_pref": ((*TASK, "Placement", "Preferences"), values.preference_of),
    "mount": ((*CONTAINER, "Mounts"), values.mount_of),
    "group": ((*CONTAINER, "Groups"), str),
    "extra_host": ((*CONTAINER, "Hosts"), values.host_of),
    "dns": ((*CONTAINER, "DNSConfig", "Nameservers"), str),
    "dns_search": ((*CONTAINER, "DNSConfig", "Search"), str),
    "dns_option": ((*CONTAINER, "DNSConfig", "Options"), str),
    "cap_add": ((*CONTAINER, "CapabilityAdd"), values.capability_of),
    "cap_drop": ((*CONTAINER, "CapabilityDrop"), values.capability_of),
    "ulimit": ((*CONTAINER, "Ulimits"), values.ulimit_of),
    "generic_resource": ((*RESERVATIONS, "GenericResources"), values.resource_of),
}
_HEALTH: Final = ("health_cmd", *(f.key for f in FLAGS if f.path[:-1] == HEALTH))
_MAPS: Final[Mapping[str, Path]] = {
    "label": ("Labels",),
    "container_label": (*CONTAINER, "Labels"),
    "sysctl": (*CONTAINER, "Sysctls"),
    "log_opt": (*TASK, "LogDriver", "Options"),
}


def build(
    client: Client, image: str, arguments: tuple[str, ...], options: dict[str, Json]
) -> Object:
    """The spec. Asks the daemon only for the ids of what is named. Raises click.UsageError."""
    spec: Object = {
        "Name": options["name"],
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": references.tagged(image), "Init": False, "DNSConfig": {}},
            "Resources": {"Limits": {}, "Reservations": {}},
            "Placement": {},
            "ForceUpdate": 0,
        },
        "Mode": mode_of(options),
        "EndpointSpec": {"Mode": "vip"},
    }
    container = at(spec, CONTAINER)
    if arguments:
        container["Args"] = list(arguments)
    if options["entrypoint"]:
        container["Command"] = words_of(options["entrypoint"])
    if env := values.environment(options["env"], options["env_file"]):
        container["Env"] = env
    set_flags(spec, options)
    check_job(spec)
    _set_repeated(spec, options)
    set_health(spec, options)
    if ports := [port for text in options["publish"] for port in values.ports_of(text)]:
        at(spec, ("EndpointSpec",))["Ports"] = ports
    _set_references(client, spec, options)
    return spec


def words_of(text: str) -> list[str]:
    """A command line as a shell splits it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"Invalid command {text!r}: {error}.") from None


def mode_of(options: Mapping[str, Json]) -> Object:
    """Docker's Mode object. Raises click.UsageError where flags contradict the mode."""
    mode, replicas, most = options["mode"], options["replicas"], options["max_concurrent"]
    if mode in ("global", "global-job"):
        given = {"--replicas": replicas, "--max-concurrent": most}
        for flag, value in given.items():
            if value is not None:
                raise click.UsageError(f"{flag} does not go with --mode {mode}.")
        if options["replicas_max_per_node"] is not None:
            raise click.UsageError(f"--replicas-max-per-node does not go with --mode {mode}.")
        return {"Global" if mode == "global" else "GlobalJob": {}}
    if mode == "replicated-job":
        total = 1 if replicas is None else replicas
        concurrent = total if most is None else most
        return {"ReplicatedJob": {"MaxConcurrent": concurrent, "TotalCompletions": total}}
    if most is not None:
        raise click.UsageError("--max-concurrent goes with --mode replicated-job alone.")
    return {"Replicated": {} if replicas is None else {"Replicas": replicas}}


def check_job(spec: Object) -> None:
    """Raises click.UsageError for a job with settings of an update."""
    mode = spec.get("Mode") or {}
    is_job = mode.get("ReplicatedJob") is not None or mode.get("GlobalJob") is not None
    if is_job and (spec.get("UpdateConfig") or spec.get("RollbackConfig")):
        raise click.UsageError(
            "The --update-... and --rollback-... flags do not go with a job: every update of it "
            "begins its next iteration."
        )


def set_health(spec: Object, options: Mapping[str, Json]) -> None:
    """--health-cmd and --no-healthcheck; after `set_flags`."""
    command = options.get("health_cmd")
    is_touched = any(options.get(key) not in (None, "") for key in _HEALTH)
    if options.get("no_healthcheck"):
        if is_touched:
            raise click.UsageError("--no-healthcheck does not go with the --health-... flags.")
        at(spec, CONTAINER)["Healthcheck"] = {"Test": ["NONE"]}
    elif is_touched:
        health = at(spec, HEALTH)
        if command:
            health["Test"] = ["CMD-SHELL", command]
        elif health.get("Test") == ["NONE"]:  # the image's own check, with these settings
            del health["Test"]


def _set_repeated(spec: Object, options: Mapping[str, Json]) -> None:
    for key, (path, read) in _LISTS.items():
        if texts := options[key]:
            at(spec, path[:-1])[path[-1]] = [read(text) for text in texts]
    for key, path in _MAPS.items():
        if texts := options[key]:
            at(spec, path).update(pairs_of(texts))


def _set_references(client: Client, spec: Object, options: Mapping[str, Json]) -> None:
    container, task = at(spec, CONTAINER), at(spec, TASK)
    if networks := references.networks_of(client, options["network"]):
        task["Networks"] = networks
    if secrets := references.secrets_of(client, options["secret"]):
        container["Secrets"] = secrets
    if configs := references.configs_of(client, options["config"]):
        container["Configs"] = configs
