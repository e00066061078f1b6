"""`swarmlet node`."""

from collections.abc import Callable
from typing import Final

import click

from swarmlet.cli.client import Client, Json, Object, quote
from swarmlet.cli.errors import ApiError, CommandError
from swarmlet.cli.format import capital, natural, one_line
from swarmlet.cli.lazy import LazyGroup, example
from swarmlet.cli.names import complete_node
from swarmlet.cli.options import (
    filter_option,
    filters_query,
    format_option,
    inspect_format_option,
    no_resolve_option,
    no_trunc_option,
    pairs_of,
    pretty_option,
    quiet_option,
)
from swarmlet.cli.output import (
    Row,
    check_pretty_alone,
    for_each,
    inspect,
    print_ids,
    print_rows,
)
from swarmlet.cli.stale import may_be_stale

HEADINGS: Final = {
    "ID": "ID",
    "Self": "",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "TLSStatus": "TLS STATUS",
    "EngineVersion": "ENGINE VERSION",
    "Message": "MESSAGE",
}
CHANGE_ATTEMPTS_MAX: Final = 5
STALE_VERSION: Final = "out-of-sequence"  # of core/errors.py
COLUMNS: Final = ("_ID", "Hostname", "Status", "Availability", "ManagerStatus", "EngineVersion")

node: Final = LazyGroup(
    "node",
    lazy={
        "ls": "node:ls",
        "ps": "node:ps",
        "inspect": "node:show",
        "update": "node:update",
        "promote": "node_roles:promote",
        "demote": "node_roles:demote",
        "drain": "node_drain:drain",
        "rebalance": "node_rebalance:rebalance",
        "rm": "node:rm",
        "why": "why:node",
    },
    text="Look at the swarm's nodes and change them.",
    epilog=example("swarmlet node ls", "swarmlet node update --availability drain node1"),
)


@click.command("ls", epilog=example("swarmlet node ls --filter role=manager"))
@filter_option
@format_option
@quiet_option
@click.pass_obj
@may_be_stale
def ls(client: Client, *, filters: tuple[str, ...], form: str, quiet: bool) -> None:
    """List the nodes."""
    nodes = client.get("/nodes", **filters_query(filters))
    nodes.sort(key=lambda found: (natural(_hostname(found)), found["ID"]))
    if quiet and not form:
        print_ids(nodes)
        return
    swarm = client.get("/info").get("Swarm") or {}
    rows = [_row(found, swarm) for found in nodes]
    has_more = any(row["Message"] for row in rows)  # docker has neither column nor key for it
    columns = (*COLUMNS, "Message") if has_more else COLUMNS
    if form == "json" and not has_more:
        rows = [{key: row[key] for key in row if key != "Message"} for row in rows]
    print_rows(rows, HEADINGS, columns, form)


def _row(found: Object, swarm: Object) -> Row:
    is_self = found["ID"] == swarm.get("NodeID")
    manager = found.get("ManagerStatus") or {}
    description = found.get("Description") or {}
    return {
        "_ID": f"{found['ID']} *" if is_self else found["ID"],
        "ID": found["ID"],
        "Self": is_self,
        "Hostname": _hostname(found),
        "Status": capital((found.get("Status") or {}).get("State", "")),
        "Availability": capital((found.get("Spec") or {}).get("Availability", "")),
        "ManagerStatus": _manager_status(manager),
        "TLSStatus": _tls_status(description.get("TLSInfo"), swarm.get("Cluster") or {}),
        "EngineVersion": (description.get("Engine") or {}).get("EngineVersion", ""),
        "Message": one_line((found.get("Status") or {}).get("Message", "")),
    }


def _hostname(found: Object) -> str:
    return str((found.get("Description") or {}).get("Hostname", ""))


def _manager_status(manager: Object) -> str:
    return "Leader" if manager.get("Leader") else capital(manager.get("Reachability", ""))


def _tls_status(info: Json, cluster: Object) -> str:
    if not info or not cluster.get("TLSInfo"):
        return "Unknown"
    return "Ready" if info == cluster["TLSInfo"] else "Needs Rotation"


@click.command("inspect", epilog=example("swarmlet node inspect self --pretty"))
@click.argument(
    "names", metavar="self|NODE...", nargs=-1, required=True, shell_complete=complete_node
)
@inspect_format_option
@pretty_option
@click.pass_obj
@may_be_stale
def show(client: Client, *, names: tuple[str, ...], form: str, pretty: bool) -> None:
    """Show all that is known of nodes."""
    from swarmlet.cli.certificate import certificate_of_node
    from swarmlet.cli.node_pretty import print_node

    def printed(found: Object) -> None:
        print_node(found, certificate_of_node(client, found["ID"]))

    check_pretty_alone(form, pretty=pretty)
    inspect(names, lambda name: find(client, name), form, printed if pretty else None)


def find(client: Client, name: str) -> Object:
    """The node of this name or id; `self` is the one the daemon is."""
    found: Object = client.get(f"/nodes/{quote(resolved(client, name))}")
    return found


def resolved(client: Client, name: str) -> str:
    """`name`, or this node's id for `self` (the name itself where it is in no swarm)."""
    if name != "self":
        return name
    return str((client.get("/info").get("Swarm") or {}).get("NodeID") or name)


@click.command("ps", epilog=example("swarmlet node ps", "swarmlet node ps node1 node2"))
@click.argument("names", metavar="[self|NODE...]", nargs=-1, shell_complete=complete_node)
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
    """List the tasks on nodes, this one if none is named."""
    from swarmlet.cli.tasks import Style, print_tasks_of

    print_tasks_of(client, "node", names or ("self",), find, filters, Style(**style))


@click.command(epilog=example("swarmlet node update --label-add zone=a --availability drain node1"))
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option(
    "--availability",
    type=click.Choice(["active", "pause", "drain"]),
    help="Whether it takes tasks: all, no new ones, none.",
)
@click.option(
    "--role",
    type=click.Choice(["worker", "manager"]),
    help="Whether it is a manager; `promote` and `demote` do the same.",
)
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or change a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label.")
@click.pass_obj
def update(
    client: Client,
    *,
    name: str,
    availability: str | None,
    role: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
) -> None:
    """Change a node's labels, availability and role."""

    def change(spec: Object) -> None:
        if availability:
            spec["Availability"] = availability
        if role:
            spec["Role"] = role
        spec["Labels"] = _changed_labels(spec.get("Labels") or {}, label_add, label_rm)

    change_spec(client, name, change)
    click.echo(name)
    if role:
        from swarmlet.cli.node_roles import warn_of_managers

        warn_of_managers(client)


def _changed_labels(
    labels: dict[str, str], add: tuple[str, ...], remove: tuple[str, ...]
) -> dict[str, str]:
    """As docker does it for nodes: what is added and removed is gone, what is not there cannot be
    removed."""
    changed = {**labels, **pairs_of(add)}
    for key in remove:
        if key not in changed:
            raise CommandError(
                f"key {key} doesn't exist in node's labels",
                "`swarmlet node inspect --pretty` shows the labels; nothing was changed.",
            )
    return {key: changed[key] for key in changed if key not in remove}


def change_spec(client: Client, name: str, change: Callable[[Object], object]) -> Object:
    """Read a node, `change` its spec and send it back; again where somebody else, such as the
    manager that watches it, wrote it meanwhile. `change` may answer False: nothing is to be sent.
    The node as it was read last."""
    for attempt in range(1, CHANGE_ATTEMPTS_MAX + 1):
        found = find(client, name)
        if change(found["Spec"]) is False:
            return found
        version = str(found["Version"]["Index"])
        try:
            client.post(f"/nodes/{quote(found['ID'])}/update", found["Spec"], version=version)
        except ApiError as error:
            if error.problem != STALE_VERSION or attempt == CHANGE_ATTEMPTS_MAX:
                raise
        else:
            return found
    raise AssertionError("the last attempt returns or raises")


@click.command("rm", epilog=example("swarmlet node rm w3", "swarmlet node rm --force w3"))
@click.argument("names", metavar="NODE...", nargs=-1, required=True, shell_complete=complete_node)
@click.option("-f", "--force", is_flag=True, help="Also where it is not down.")
@click.pass_obj
def rm(client: Client, *, names: tuple[str, ...], force: bool) -> None:
    """Remove nodes from the swarm: from then on their certificates are refused."""
    query = {"force": "1"} if force else {}
    for_each(names, lambda name: client.delete(f"/nodes/{quote(resolved(client, name))}", **query))
