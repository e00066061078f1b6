"""`swarmlet service ls` and `ps`."""

from typing import Final

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.format import natural, short_id, without_digest
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import (
    filter_option,
    filters_query,
    format_option,
    no_resolve_option,
    no_trunc_option,
    quiet_option,
)
from swarmlet.cli.output import Row, print_ids, print_rows
from swarmlet.cli.stale import may_be_stale

HEADINGS: Final = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}
NOT_FOUND: Final = 404
_MODES: Final = {
    "Replicated": "replicated",
    "Global": "global",
    "ReplicatedJob": "replicated job",
    "GlobalJob": "global job",
}


@click.command("ls", epilog=example("swarmlet service ls --filter label=team=shop"))
@filter_option
@format_option
@quiet_option
@no_trunc_option
@click.pass_obj
@may_be_stale
def ls(client: Client, *, filters: tuple[str, ...], form: str, quiet: bool, no_trunc: bool) -> None:
    """List the services."""
    query = filters_query(filters)
    if not quiet or form:
        query["status"] = "true"
    services = client.get("/services", **query)
    services.sort(key=lambda found: (natural(found["Spec"]["Name"]), found["ID"]))
    if quiet and not form:
        print_ids(services)
        return
    rows = [_row(found, no_trunc=no_trunc) for found in services]
    print_rows(rows, HEADINGS, tuple(HEADINGS), form)


def _row(service: Object, *, no_trunc: bool) -> Row:
    spec = service["Spec"]
    container = (spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}
    return {
        "ID": short_id(service["ID"], no_trunc=no_trunc),
        "Name": spec["Name"],
        "Mode": mode_of(spec),
        "Replicas": _replicas(service),
        "Image": without_digest(container.get("Image", ""), no_trunc=no_trunc),
        "Ports": _ports((service.get("Endpoint") or {}).get("Ports") or []),
    }


def mode_of(spec: Object) -> str:
    """The service's mode in docker's words."""
    mode = spec.get("Mode") or {}
    return next((text for key, text in _MODES.items() if mode.get(key) is not None), "replicated")


def _replicas(service: Object) -> str:
    """3/3, or 1/3 (max 2 per node), or 0/1 (2/2 completed)."""
    status, spec = service.get("ServiceStatus") or {}, service["Spec"]
    running, desired = status.get("RunningTasks", 0), status.get("DesiredTasks", 0)
    completed, mode = status.get("CompletedTasks", 0), spec.get("Mode") or {}
    text = f"{running}/{desired}"
    looping = status.get("CrashLoopingTasks", 0)
    if (job := mode.get("ReplicatedJob")) is not None:
        return f"{text} ({completed}/{job.get('TotalCompletions', 0)} completed)"
    if mode.get("GlobalJob") is not None:
        return f"{text} ({completed}/{desired + completed} completed)"
    most = ((spec.get("TaskTemplate") or {}).get("Placement") or {}).get("MaxReplicas", 0)
    notes = [f"max {most} per node"] if most else []
    notes += [f"{looping} crash-looping"] if looping else []
    return f"{text} ({', '.join(notes)})" if notes else text


def _ports(ports: list[Object]) -> str:
    """*:80->80/tcp, with runs collapsed; what only a task's own host publishes is in `ps`."""
    shared = sorted(
        (port.get("Protocol", ""), port.get("PublishedPort", 0), port.get("TargetPort", 0))
        for port in ports
        if port.get("PublishMode", "ingress") == "ingress"
    )
    runs: list[list[tuple[str, int, int]]] = []
    for protocol, published, target in shared:
        if runs and runs[-1][-1] == (protocol, published - 1, target - 1):
            runs[-1].append((protocol, published, target))
        else:
            runs.append([(protocol, published, target)])
    return ", ".join(_run(run) for run in runs)


def _run(run: list[tuple[str, int, int]]) -> str:
    (protocol, first, target), (_, last, target_last) = run[0], run[-1]
    if len(run) == 1:
        return f"*:{first}->{target}/{protocol}"
    return f"*:{first}-{last}->{target}-{target_last}/{protocol}"


@click.command("ps", epilog=example("swarmlet service ps --filter desired-state=running web"))
@click.argument(
    "names", metavar="SERVICE...", nargs=-1, required=True, shell_complete=complete_service
)
@filter_option
@format_option
@no_resolve_option
@no_trunc_option
@quiet_option
@click.pass_obj
@may_be_stale
def ps(
    client: Client, /, *, names: tuple[str, ...], filters: tuple[str, ...], **style: Json
) -> None:
    """List the tasks of services, with those they replaced."""
    from swarmlet.cli.tasks import Style, print_tasks_of

    print_tasks_of(client, "service", names, find, filters, Style(**style))


def find(client: Client, name: str) -> Object:
    """The service of this name or id."""
    try:
        found: Object = client.get(f"/services/{quote(name)}")
    except ApiError as error:
        if error.status == NOT_FOUND:
            raise CommandError(
                f"There is no service {name!r}.", "`swarmlet service ls` lists what there is."
            ) from None
        raise
    return found
