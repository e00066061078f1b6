"""`swarmlet service inspect`."""

import click

from swarmlet.cli.client import Client, Object, quote
from swarmlet.cli.format import ago, human_size
from swarmlet.cli.lazy import example
from swarmlet.cli.names import complete_service
from swarmlet.cli.options import inspect_format_option, pretty_option
from swarmlet.cli.output import check_pretty_alone, inspect
from swarmlet.cli.service.listing import mode_of
from swarmlet.cli.stale import may_be_stale
from swarmlet.cli.world import wall_s
from swarmlet.model.duration import format_duration

_NANO = 1_000_000_000


@click.command(
    "inspect",
    epilog=example(
        "swarmlet service inspect --pretty web",
        "swarmlet service inspect --format '{{json .Spec.Labels}}' web",
    ),
)
@click.argument(
    "names", metavar="SERVICE...", nargs=-1, required=True, shell_complete=complete_service
)
@inspect_format_option
@pretty_option
@click.pass_obj
@may_be_stale
def show(client: Client, *, names: tuple[str, ...], form: str, pretty: bool) -> None:
    """Show all that is known of services."""
    check_pretty_alone(form, pretty=pretty)

    def find(name: str) -> Object:
        found: Object = client.get(f"/services/{quote(name)}", insertDefaults="true")
        return found

    inspect(names, find, form, print_service if pretty else None)


def print_service(service: Object) -> None:
    """Print one service, line by line as docker does."""
    spec = service["Spec"]
    template = spec.get("TaskTemplate") or {}
    lines = [
        "",
        *_head(service),
        *_update_status(service.get("UpdateStatus")),
        *_placement(template.get("Placement") or {}),
        *_policy("UpdateConfig", "Update", spec.get("UpdateConfig")),
        *_policy("RollbackConfig", "Rollback", spec.get("RollbackConfig")),
        *_container(template.get("ContainerSpec") or {}),
        *_resources(template.get("Resources") or {}),
        *_endpoint(service),
    ]
    click.echo("\n".join(lines))


def _head(service: Object) -> list[str]:
    spec = service["Spec"]
    lines = [f"ID:\t\t{service['ID']}", f"Name:\t\t{spec['Name']}"]
    if labels := spec.get("Labels"):
        lines += ["Labels:", *(f" {key}={labels[key]}" for key in sorted(labels))]
    lines.append(f"Service Mode:\t{mode_of(spec).title()}")
    mode = spec.get("Mode") or {}
    if (replicated := mode.get("Replicated")) is not None:
        lines.append(f" Replicas:\t{replicated.get('Replicas', 1)}")
    if (job := mode.get("ReplicatedJob")) is not None:
        lines.append(f" Max Concurrent:\t{job.get('MaxConcurrent', 1)}")
        lines.append(f" Total Completions:\t{job.get('TotalCompletions', 1)}")
    if status := service.get("JobStatus"):
        lines.append(f" Iteration:\t{(status.get('JobIteration') or {}).get('Index', 0)}")
    return lines


def _update_status(status: Object | None) -> list[str]:
    if not status or not status.get("State"):
        return []
    lines = ["UpdateStatus:", f" State:\t\t{status['State']}"]
    for field, text in (("StartedAt", "Started"), ("CompletedAt", "Completed")):
        if status.get(field):
            lines.append(f" {text}:\t{ago(status[field], wall_s())}")
    return [*lines, f" Message:\t{status.get('Message', '')}"]


def _placement(placement: Object) -> list[str]:
    lines = ["Placement:"]
    if constraints := placement.get("Constraints"):
        lines.append(f" Constraints:\t[{' '.join(constraints)}]")
    spreads = [p["Spread"]["SpreadDescriptor"] for p in placement.get("Preferences") or []]
    if spreads:
        lines.append(f" Preferences:\t[{' '.join(map(_preference, spreads))}]")
    if placement.get("MaxReplicas"):
        lines.append(f" Max Replicas Per Node:\t{placement['MaxReplicas']}")
    return lines


def _preference(descriptor: str) -> str:
    """As the command line says it."""
    beside = descriptor.lower().startswith(("service==", "service!="))
    return descriptor if beside else f"spread={descriptor}"


def _policy(title: str, word: str, policy: Object | None) -> list[str]:
    if not policy:
        return []
    lines = [f"{title}:", f" Parallelism:\t{policy.get('Parallelism', 0)}"]
    if policy.get("Delay"):
        lines.append(f" Delay:\t\t{format_duration(policy['Delay'])}")
    lines.append(f" On failure:\t{policy.get('FailureAction', '')}")
    if policy.get("Monitor"):
        lines.append(f" Monitoring Period: {format_duration(policy['Monitor'])}")
    lines.append(f" Max failure ratio: {policy.get('MaxFailureRatio', 0):g}")
    order = f" {word} order:".ljust(20)
    return [*lines, f"{order}{policy.get('Order', '')}"]


def _container(container: Object) -> list[str]:
    lines = ["ContainerSpec:", f" Image:\t\t{container.get('Image', '')}"]
    for field, text in (("Command", "Command"), ("Args", "Args"), ("Env", "Env")):
        if values := container.get(field):
            lines.append(f" {text}:\t\t{' '.join(values)} ")
    for field, text in (("Init", "Init"), ("Dir", "Dir"), ("User", "User")):
        value = container.get(field)
        if value is not None and value != "":
            shown = str(value).lower() if isinstance(value, bool) else value
            lines.append(f" {text}:\t\t{shown}")
    return [*lines, *_references(container, "Config"), *_references(container, "Secret")]


def _references(container: Object, kind: str) -> list[str]:
    lines = []
    for one in container.get(f"{kind}s") or []:
        file = one.get("File") or {}
        lines += [f" Target:\t{file.get('Name', '')}", f"  Source:\t{one.get(f'{kind}Name', '')}"]
    return [f"{kind}s:", *lines] if lines else []


def _resources(resources: Object) -> list[str]:
    lines = ["Resources:"]
    for field in ("Reservations", "Limits"):
        amounts = resources.get(field) or {}
        if amounts.get("NanoCPUs") or amounts.get("MemoryBytes"):
            lines.append(f" {field}:")
        if amounts.get("NanoCPUs"):
            lines.append(f"  CPU:\t\t{amounts['NanoCPUs'] / _NANO:g}")
        if amounts.get("MemoryBytes"):
            lines.append(f"  Memory:\t{human_size(amounts['MemoryBytes'])}")
    return lines


def _endpoint(service: Object) -> list[str]:
    spec, endpoint = service["Spec"], service.get("Endpoint") or {}
    lines = [f"Endpoint Mode:\t{(spec.get('EndpointSpec') or {}).get('Mode', 'vip')}"]
    ports = endpoint.get("Ports") or []
    if ports:
        lines.append("Ports:")
    for port in ports:
        lines += [
            f" PublishedPort = {port.get('PublishedPort', 0)}",
            f"  Protocol = {port.get('Protocol', '')}",
            f"  TargetPort = {port.get('TargetPort', 0)}",
            f"  PublishMode = {port.get('PublishMode', '')}",
        ]
    return [*lines, ""]
